//! Parts and counts that a run takes from its base version, for the stage `reduce`.
//!
//! Reads parts of the base version and the etags of shards. Writes copies of parts, and their records in
//! `runs/<run>/projected/`.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::{PartWork, Plan, Projected, STORE_CONCURRENCY};
use crate::{
    ErrorKind, Result,
    dataset::{
        self, FileRef, Manifest, Part, PredictedPart, RunFigures, ShardEntry, contents, keys, manifest::shards_between,
        tables,
    },
    ids::ShardId,
    store::Store,
};

/// Copies the parts of the base version whose shards are in `work`; returns the rest of the work. Basis and classifier must
/// be those of the base version. With a CSV nothing is copied, because only the projection writes CSV rows.
pub(super) async fn copy_parts(
    output: &dyn Store,
    plan: &Plan,
    base: &Manifest,
    work: Vec<PartWork>,
) -> Result<Vec<PartWork>> {
    let same_form = plan.settings.partitions() == base.settings.partitions()
        && plan.settings.compression() == base.settings.compression();
    if plan.settings.writes_csv() || !same_form || base.released.is_some() {
        return Ok(work);
    }
    let parts = match contents::parts(output, base).await {
        // What is damaged is projected again.
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => return Ok(work),
        parts => parts?,
    };
    let parts: HashMap<&ShardId, &Part> = parts.iter().map(|part| (&part.shard, part)).collect();
    let copies = work.into_iter().map(|work| {
        let part = parts.get(&work.shard).copied();
        async move {
            let copied = match part {
                Some(part) => copy_part(output, base, &work, part).await?,
                None => false,
            };
            Ok((!copied).then_some(work))
        }
    });
    let copies: Vec<_> = copies.collect();
    let left: Vec<Option<PartWork>> = stream::iter(copies).buffered(STORE_CONCURRENCY).try_collect().await?;
    Ok(left.into_iter().flatten().collect())
}

/// Copies the files of one part; false if one of them is missing or damaged.
async fn copy_part(output: &dyn Store, base: &Manifest, work: &PartWork, part: &Part) -> Result<bool> {
    let mut scores = Vec::new();
    for file in &part.scores {
        let body = match file.read(output).await {
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => return Ok(false),
            body => body?,
        };
        let label = keys::parse_part(base.version, &file.key).and_then(|(label, _)| label);
        let key = keys::part(work.version, label, work.part);
        output.put(&key, body).await?;
        scores.push(FileRef { key, checksum: file.checksum.clone() });
    }
    let mut predictions = None;
    if let (Some(predicted), Some(_)) = (&part.predictions, &work.predict) {
        let body = match predicted.file.read(output).await {
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => return Ok(false),
            body => body?,
        };
        let key = keys::predictions(work.version, work.part);
        output.put(&key, body).await?;
        let file = FileRef { key, checksum: predicted.file.checksum.clone() };
        predictions = Some(PredictedPart { file, splits: predicted.splits.clone() });
    }
    let part = Part { part: work.part, shard: work.shard.clone(), rows: part.rows, scores, predictions };
    let projected = Projected { run: work.run.clone(), part, csv: None, timing: None };
    output.put(&keys::projected(&work.run, work.part), dataset::to_record(&projected)?).await?;
    Ok(true)
}

/// Counts the added and changed rows of those of the shards `found` that are not in the base version: they come from a run
/// that has not published.
pub(super) async fn count_changes(
    output: &dyn Store,
    plan: &Plan,
    base: Option<&Manifest>,
    found: &[ShardEntry],
    figures: &mut RunFigures,
) -> Result<()> {
    let Some(base) = base.filter(|base| base.extractor.id == plan.extractor.id) else {
        figures.added += found.iter().map(|shard| shard.rows).sum::<u64>();
        return Ok(());
    };
    if found.is_empty() || plan.base_is_unknown {
        return Ok(());
    }
    let shards = contents::shards(output, base).await?;
    let of_base: HashSet<&ShardId> = shards.iter().map(|shard| &shard.id).collect();
    for shard in found.iter().filter(|shard| !of_base.contains(&shard.id)) {
        let mut before = HashMap::new();
        for old in shards_between(&shards, &shard.first, &shard.last) {
            before.extend(tables::etags(output, old).await?);
        }
        for (path, etag) in tables::etags(output, shard).await? {
            match before.get(&path) {
                None => figures.added += 1,
                Some(old) => figures.changed += u64::from(*old != etag),
            }
        }
    }
    Ok(())
}
