//! The stage `report`, the last one: writes the report and the receipt of a run that has published a version.
//!
//! Reads `runs/<run>/plan.json`, `reduced.json`, the records of all pieces of work, and the manifest. Writes
//! `runs/<run>/report.html`, `receipt.json`, `scree.png` and `scatter.png`, and `report.html` for the newest version.

use std::iter;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::write;
use crate::{
    Error, ErrorKind, Result, compiled_once,
    cost::receipt::{Place, Receipt, StageRecords},
    dataset::{self, VersionState, keys, newest, timing::Timing},
    ids::RunId,
    stages::{
        Plan, Reduced, STORE_CONCURRENCY, ShardWork, Stores,
        records::{featurized, read_merged, read_projected, read_work_list},
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
    /// Key of its copy beside the folders of the output. None if that is of a newer version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub newest_report: Option<String>,
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
#[compiled_once]
pub async fn report(stores: &Stores, input: ReportInput) -> Result<Reported> {
    let output = stores.output.as_ref();
    let ReportInput { run, publish } = input;
    let plan = Plan::read(output, &run).await?;
    let reduced = Reduced::read(output, &run).await?;
    let VersionState::Published(manifest) = dataset::state(output, reduced.version).await? else {
        return Err(Error::new(ErrorKind::OutputNoVersion, "this run has not published a version").context("run", run));
    };
    let records = records(output, &plan, &reduced, publish).await?;
    let receipt = Receipt::new(&manifest, plan.merges().count() as u64, &records, Place::here())?;
    let written = write(stores.input.as_ref(), output, &manifest, &records, &receipt).await?;
    let is_newest = newest::put(output, manifest.version, written.page).await?;
    Ok(Reported {
        report: written.report,
        newest_report: is_newest.then(|| keys::REPORT.to_owned()),
        receipt: written.receipt,
        dollars: receipt.dollars.total,
        billed: receipt.billed(),
    })
}

/// Reads the timings of all pieces of work of a run, by stage.
async fn records(output: &dyn Store, plan: &Plan, reduced: &Reduced, publish: Timing) -> Result<[StageRecords; 6]> {
    let run = &plan.run;
    let work: Vec<ShardWork> = read_work_list(output, &keys::run(run, "featurize.jsonl")).await?;
    let featurize_calls = of_batches(work.len() as u64, |shards| plan.shards_per_call(shards));
    let all = (reduced.images, reduced.parts);
    let project_calls = of_batches(reduced.parts_to_project, |parts| plan.parts_per_call(parts, all));
    let made = stream::iter(work)
        .map(|work| featurized(output, run, work.shard))
        .buffered(STORE_CONCURRENCY)
        .try_filter_map(|made| async { Ok(made.map(|made| (made.shard.to_string(), made.timing))) });
    let merged = stream::iter(plan.merges()).map(|group| async move {
        let merged = read_merged(output, run, group).await?;
        let indexed =
            plan.indexed(output, &merged).await?.map(|indexed| (format!("index of group {group}"), indexed.timing));
        Ok::<_, Error>(iter::once((format!("group {group}"), merged.timing)).chain(indexed))
    });
    // A part without a timing was copied.
    let projected = read_projected(output, run, reduced.parts).try_filter_map(|projected| async move {
        Ok(projected.timing.map(|timing| (format!("part {}", projected.part.part), timing)))
    });
    let merged: Vec<_> = merged.buffered(STORE_CONCURRENCY).try_collect().await?;
    Ok([
        StageRecords::one("plan", plan.timing.clone()),
        StageRecords { calls: featurize_calls, ..StageRecords::new("featurize", made.try_collect().await?) },
        StageRecords::new("merge", merged.into_iter().flatten().collect()),
        StageRecords::one("reduce", reduced.timing.clone()),
        StageRecords { calls: project_calls, ..StageRecords::new("project", projected.try_collect().await?) },
        StageRecords::one("publish", publish),
    ])
}

/// Calls for so many pieces of work, of which each call takes several.
fn of_batches(pieces: u64, per_call: impl Fn(u64) -> u64) -> u64 {
    pieces.div_ceil(per_call(pieces).max(1))
}
