//! Parts of the PCA table that the new version shares with its parent.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::{PartWork, Plan, Projected, STORE_CONCURRENCY};
use crate::{
    ErrorKind, Result,
    dataset::{self, Manifest, keys},
    effort::Effort,
    shard::ShardId,
    store::Store,
};

/// Copies the parts whose shard has not changed, under a basis that has not either; gives the work that is left. The
/// rows of `result.csv` come from projecting, so with it all parts are left.
pub(super) async fn copy(
    output: &dyn Store,
    plan: &Plan,
    base: &Manifest,
    work: Vec<PartWork>,
) -> Result<Vec<PartWork>> {
    if plan.settings.csv || plan.settings.partition_by_label != base.settings.partition_by_label {
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

/// Rows and files of each part of a version: part i is that of the i-th shard that has rows.
fn files_by_shard(version: &Manifest) -> HashMap<&ShardId, (u64, Vec<&str>)> {
    let mut files: HashMap<u64, Vec<&str>> = HashMap::new();
    for key in &version.outputs.parts {
        if let Some(number) = part_number(key) {
            files.entry(number).or_default().push(key);
        }
    }
    let shards = version.shards.iter().filter(|shard| shard.rows > 0);
    shards.zip(0..).filter_map(|(shard, part)| Some((&shard.id, (shard.rows, files.remove(&part)?)))).collect()
}

fn part_number(key: &str) -> Option<u64> {
    key.rsplit_once("part-")?.1.strip_suffix(".parquet")?.parse().ok()
}

/// False when a file has been cleaned away.
async fn copy_part(output: &dyn Store, base: &Manifest, part: &PartWork, rows: u64, files: &[&str]) -> Result<bool> {
    let mut written = Vec::new();
    for file in files {
        let body = match output.get(file).await {
            Err(e) if e.is(ErrorKind::StoreNotFound) => return Ok(false),
            body => body?,
        };
        let folder = file.strip_prefix(&keys::pca(base.version)).and_then(|rest| rest.rsplit_once('/'));
        let label = folder.and_then(|(folder, _)| folder.strip_prefix("label="));
        let key = keys::part(part.version, label, part.part);
        output.put(&key, body).await?;
        written.push(key);
    }
    let projected = Projected { part: part.part, rows, keys: written, effort: Effort::default() };
    output.put(&keys::projected(&part.run, part.part), dataset::to_json(&projected)?).await?;
    Ok(true)
}
