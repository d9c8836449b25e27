//! The last stage: the report and the receipt of a run that has published.

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::write;
use crate::{
    Error, ErrorKind, Result,
    cost::receipt::{Place, Receipt, StageRecords},
    dataset::{self, VersionState, keys, timing::Timing},
    ids::RunId,
    stages::{Merged, Plan, Projected, Reduced, STORE_CONCURRENCY, Stores, records::featurized},
    store::Store,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportInput {
    pub run: RunId,
    /// What publishing took; it has no record of its own.
    pub publish: Timing,
}

/// Keys, relative to the output, and the sum of the receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    pub report: String,
    pub receipt: String,
    pub dollars: f64,
    /// Whether those dollars were billed; otherwise they are what AWS would have cost.
    pub billed: bool,
}

/// Writes the report of a run. The version is published already: a failure here does not change it.
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

/// The timings of all pieces of work of a run, by stage.
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
    let projected = stream::iter(0..reduced.parts).map(|part| async move {
        let projected: Projected = dataset::read_json(output, &keys::projected(run, part)).await?;
        Ok::<_, Error>(projected.timing.map(|timing| (format!("part {part}"), timing)))
    });
    let projected = projected.buffered(STORE_CONCURRENCY).try_filter_map(|part| async { Ok(part) });
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
