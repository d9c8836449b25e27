//! Counting what is new beside the parent version, where the stage that made a shard cannot have counted.

use std::collections::{HashMap, HashSet};

use super::Plan;
use crate::{
    Result,
    dataset::{Manifest, RunFigures, ShardEntry},
    diff,
    shard::ShardId,
    store::Store,
};

/// Adds the rows of shards that an earlier run, which never published, has made.
pub(super) async fn count(
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
            before.extend(diff::etags(output, &old.id).await?);
        }
        for (path, etag) in diff::etags(output, &shard.id).await? {
            match before.get(&path) {
                None => figures.added += 1,
                Some(old) => figures.changed += u64::from(*old != etag),
            }
        }
    }
    Ok(())
}
