//! Parts and counts that a run takes from its base version, for the stage `reduce`.
//!
//! Reads parts of the base version and the etags of shards. Writes copies of parts, and their records in
//! `runs/<run>/projected/`.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::{PartWork, Plan, Projected, STORE_CONCURRENCY};
use crate::{
    ErrorKind, Result,
    dataset::{self, Manifest, RunFigures, ShardEntry, keys, tables},
    ids::ShardId,
    store::Store,
};

/// Copies the parts of the base version whose shards are in `work`; returns the rest of the work. The basis must be that
/// of the base version. With a CSV nothing is copied, because only the projection writes CSV rows.
pub(super) async fn copy_parts(
    output: &dyn Store,
    plan: &Plan,
    base: &Manifest,
    work: Vec<PartWork>,
) -> Result<Vec<PartWork>> {
    if plan.settings.writes_csv() || plan.settings.partition_by_label != base.settings.partition_by_label {
        return Ok(work);
    }
    let files = files_by_shard(base);
    let copies = work.into_iter().map(|part| {
        let files = files.get(&part.shard);
        async move {
            let copied = match files {
                Some((rows, files)) => copy_part(output, base, &part, *rows, files).await?,
                None => false,
            };
            Ok((!copied).then_some(part))
        }
    });
    let copies: Vec<_> = copies.collect();
    let left: Vec<Option<PartWork>> = stream::iter(copies).buffered(STORE_CONCURRENCY).try_collect().await?;
    Ok(left.into_iter().flatten().collect())
}

/// Number of rows and files of each part, by shard. Part i belongs to the i-th shard that has rows.
fn files_by_shard(version: &Manifest) -> HashMap<&ShardId, (u64, Vec<&str>)> {
    let mut files: HashMap<u64, Vec<&str>> = HashMap::new();
    for key in &version.outputs.parts {
        if let Some((_, number)) = keys::parse_part(version.version, key) {
            files.entry(number).or_default().push(key);
        }
    }
    let shards = version.shards.iter().filter(|shard| shard.rows > 0);
    shards.zip(0..).filter_map(|(shard, part)| Some((&shard.id, (shard.rows, files.remove(&part)?)))).collect()
}

/// Copies the files of one part; false if one of them does not exist.
async fn copy_part(output: &dyn Store, base: &Manifest, part: &PartWork, rows: u64, files: &[&str]) -> Result<bool> {
    let mut written = Vec::new();
    for file in files {
        let body = match output.get(file).await {
            Err(e) if e.is(ErrorKind::StoreNotFound) => return Ok(false),
            body => body?,
        };
        let label = keys::parse_part(base.version, file).and_then(|(label, _)| label);
        let key = keys::part(part.version, label, part.part);
        output.put(&key, body).await?;
        written.push(key);
    }
    let projected = Projected { part: part.part, rows, keys: written, timing: None };
    output.put(&keys::projected(&part.run, part.part), dataset::to_json(&projected)?).await?;
    Ok(true)
}

/// Counts the added and changed rows of `found`: shards that are finished but were not computed by this run. Those that
/// are not in the base version come from a run that has not published.
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
    let of_base: HashSet<&ShardId> = base.shards.iter().map(|shard| &shard.id).collect();
    for shard in found.iter().filter(|shard| !of_base.contains(&shard.id)) {
        let mut before = HashMap::new();
        for old in base.shards_between(&shard.first, &shard.last) {
            before.extend(tables::etags(output, &old.id).await?);
        }
        for (path, etag) in tables::etags(output, &shard.id).await? {
            match before.get(&path) {
                None => figures.added += 1,
                Some(old) => figures.changed += u64::from(*old != etag),
            }
        }
    }
    Ok(())
}
