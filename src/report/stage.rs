//! The stage `report`, the last one: writes the report and the receipt of a run that has published a version.
//!
//! Reads `runs/<run>/plan.json`, `reduced.json`, the records of all pieces of work, and the manifest. Writes
//! `runs/<run>/report.html`, `receipt.json`, `scree.png` and `scatter.png`.

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::write;
use crate::{
    Error, ErrorKind, Result,
    cost::receipt::{Place, Receipt, StageRecords},
    dataset::{self, VersionState, keys, timing::Timing},
    ids::RunId,
    stages::{
        Merged, Plan, Reduced, STORE_CONCURRENCY, Stores,
        records::{featurized, read_projected},
    },
    store::Store,
};

/// Input of the stage `report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportInput {
    /// Id of the run.
    pub run: RunId,
    /// Timing of the stage `publish`, which no record contains.
    pub publish: Timing,
}

/// Answer of the stage `report`. Keys are relative to the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Key of the report.
    pub report: String,
    /// Key of the receipt.
    pub receipt: String,
    /// Total of the receipt in dollars.
    pub dollars: f64,
    /// Whether AWS bills these dollars; otherwise they are the estimated cost of the same work on AWS.
    pub billed: bool,
}

/// Writes the report of a run. An error does not affect the version, which is published before.
///
/// Fails with `Output.NoVersion` if the run has not published.
pub async fn report(stores: &Stores, input: ReportInput) -> Result<Reported> {
    let output = stores.output.as_ref();
    let ReportInput { run, publish } = input;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let reduced: Reduced = dataset::read_json(output, &Reduced::key(&run)).await?;
    let VersionState::Published(manifest) = dataset::state(output, reduced.version).await? else {
        return Err(Error::new(ErrorKind::OutputNoVersion, "this run has not published a version").context("run", run));
    };
    let records = records(output, &plan, &reduced, publish).await?;
    let receipt = Receipt::new(&manifest, plan.groups, &records, Place::here())?;
    let written = write(stores.input.as_ref(), output, &manifest, &records, &receipt).await?;
    Ok(Reported {
        report: written.report,
        receipt: written.receipt,
        dollars: receipt.dollars.total,
        billed: receipt.billed(),
    })
}

/// Reads the timings of all pieces of work of a run, by stage.
async fn records(output: &dyn Store, plan: &Plan, reduced: &Reduced, publish: Timing) -> Result<[StageRecords; 6]> {
    let run = &plan.run;
    let made = stream::iter(plan.shards.iter().filter(|shard| !shard.ready()))
        .map(|shard| featurized(output, run, shard))
        .buffered(STORE_CONCURRENCY)
        .try_filter_map(|made| async { Ok(made.map(|made| (made.shard.to_string(), made.timing))) });
    let merged = stream::iter(0..plan.groups).map(|group| async move {
        let merged: Merged = dataset::read_json(output, &keys::merge_record(run, group)).await?;
        Ok::<_, Error>((format!("group {group}"), merged.timing))
    });
    // A part without a timing was copied.
    let projected = read_projected(output, run, reduced.parts).try_filter_map(|projected| async move {
        Ok(projected.timing.map(|timing| (format!("part {}", projected.part), timing)))
    });
    let merged = merged.buffered(STORE_CONCURRENCY);
    Ok([
        StageRecords::one("plan", plan.timing.clone()),
        StageRecords { stage: "featurize", pieces: made.try_collect().await? },
        StageRecords { stage: "merge", pieces: merged.try_collect().await? },
        StageRecords::one("reduce", reduced.timing.clone()),
        StageRecords { stage: "project", pieces: projected.try_collect().await? },
        StageRecords::one("publish", publish),
    ])
}
