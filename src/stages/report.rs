//! The report and the receipt of a run that has published.

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{Merged, Plan, Projected, Reduced, STORE_CONCURRENCY, Site, merge};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, Fate, RunId, keys},
    effort::Effort,
    receipt::{Place, Receipt, StageRecords},
    report,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportInput {
    pub run: RunId,
    /// What publishing took; it has no record of its own.
    pub publish: Effort,
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

/// Writes the report of a run. The version is published: whatever fails here leaves it as it is.
pub async fn report(site: &Site, input: ReportInput) -> Result<Reported> {
    let output = site.output.as_ref();
    let ReportInput { run, publish } = input;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let reduced: Reduced = dataset::read_json(output, &Reduced::key(&run)).await?;
    let Fate::Published(manifest) = dataset::fate(output, reduced.version).await? else {
        return Err(Error::new(ErrorKind::OutputNoVersion, "this run has published nothing").context("run", run));
    };

    let made = stream::iter(plan.shards.iter().filter(|shard| !shard.ready()))
        .map(|shard| merge::featurized(output, &run, shard))
        .buffered(STORE_CONCURRENCY)
        .try_filter_map(|made| async { Ok(made.map(|made| (made.shard.to_string(), made.effort))) });
    let merged = stream::iter(0..plan.groups).map(|group| {
        let key = keys::merge_record(&run, group);
        async move {
            let merged: Merged = dataset::read_json(output, &key).await?;
            Ok::<_, Error>((format!("group {group}"), merged.effort))
        }
    });
    let projected = stream::iter(0..reduced.parts).map(|part| {
        let key = keys::projected(&run, part);
        async move {
            let projected: Projected = dataset::read_json(output, &key).await?;
            // A part that was copied took none of its own.
            let worked = !projected.effort.began.is_empty();
            Ok::<_, Error>(worked.then(|| (format!("part {part}"), projected.effort)))
        }
    });
    let records = [
        StageRecords::one("plan", plan.effort.clone()),
        StageRecords { stage: "featurize", pieces: made.try_collect().await? },
        StageRecords { stage: "merge", pieces: merged.buffered(STORE_CONCURRENCY).try_collect().await? },
        StageRecords::one("reduce", reduced.effort.clone()),
        StageRecords {
            stage: "project",
            pieces: projected
                .buffered(STORE_CONCURRENCY)
                .try_filter_map(|part| async { Ok(part) })
                .try_collect()
                .await?,
        },
        StageRecords::one("publish", publish),
    ];
    let receipt = Receipt::of(&manifest, plan.groups, &records, Place::here())?;
    let written = report::write(site.input.as_ref(), output, &manifest, &records, &receipt).await?;
    Ok(Reported {
        report: written.report,
        receipt: written.receipt,
        dollars: receipt.dollars.total,
        billed: receipt.billed(),
    })
}
