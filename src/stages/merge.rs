//! Sums of a group of shards, for data sets with too many shards for one reducer.
//!
//! Reads `runs/<run>/featurized/` and the moments of the group's shards. Writes `runs/<run>/merged/<group>.parquet` and
//! `.json`. Also defines how the stage `reduce` adds sums.

use futures::{StreamExt, TryStreamExt, stream};

use super::{MergeWork, Merged, PlannedShard, Stores, records::featurized};
use crate::{
    Result,
    dataset::{self, blocking::run_blocking, keys, tables, timing::Timer},
    ids::{RunId, ShardId},
    pca::moments::{ShardMoments, TotalMoments},
    store::Store,
};

/// Files of sums that are read at a time; each has several megabytes.
const READ_AT_A_TIME: usize = 4;

/// Adds the moments of one group of shards and writes their total.
///
/// Shards that failed within the tolerance of the map are left out. Fails with `Dataset.Corrupt` if a file of sums is
/// damaged.
pub async fn merge(stores: &Stores, work: MergeWork) -> Result<Merged> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let mut ids = Vec::with_capacity(work.shards.len());
    for shard in &work.shards {
        ids.extend(final_id(output, &work.run, shard).await?.map(|id| Sums::Shard(id, 1)));
    }
    let mut totals = TotalMoments::zero(work.columns);
    add(output, &mut totals, ids).await?;
    let file = tables::write_total_moments(&totals, work.extractor.as_str())?;
    output.put(&keys::merged(&work.run, work.group), file).await?;
    let merged = Merged { group: work.group, rows: totals.rows(), timing: timer.read() };
    output.put(&keys::merge_record(&work.run, work.group), dataset::to_json(&merged)?).await?;
    Ok(merged)
}

/// The id of the shard that was computed for a planned one; `None` if it failed within the tolerance of the map.
async fn final_id(output: &dyn Store, run: &RunId, planned: &PlannedShard) -> Result<Option<ShardId>> {
    if planned.ready() {
        return Ok(Some(planned.id.clone()));
    }
    Ok(featurized(output, run, planned).await?.map(|made| made.shard))
}

/// A file of sums to add.
pub(super) enum Sums {
    /// The total of several shards, by its key.
    Total(String),
    /// The sums of a shard, and how many times to add them; a negative number subtracts them.
    Shard(ShardId, i64),
}

/// Adds sums to `totals`, in the given order.
pub(super) async fn add(output: &dyn Store, totals: &mut TotalMoments, sums: Vec<Sums>) -> Result<()> {
    let columns = totals.columns();
    let reads: Vec<_> = sums
        .into_iter()
        .map(|sums| async move {
            let key = match &sums {
                Sums::Total(key) => key.clone(),
                Sums::Shard(id, _) => keys::moments(id),
            };
            let file = dataset::get_file(output, &key).await?;
            run_blocking(move || match sums {
                Sums::Total(_) => tables::read_total_moments(file, columns, &key).map(Read::Total),
                Sums::Shard(_, times) => {
                    tables::read_shard_moments(file, columns, &key).map(|read| Read::Shard(read, times))
                }
            })
            .await
        })
        .collect();
    let mut reads = stream::iter(reads).buffered(READ_AT_A_TIME);
    while let Some(read) = reads.try_next().await? {
        match read {
            Read::Total(sums) => totals.add(&sums)?,
            Read::Shard(sums, times) => {
                for _ in 0..times.unsigned_abs() {
                    if times > 0 { totals.add(&sums)? } else { totals.subtract(&sums)? }
                }
            }
        }
    }
    Ok(())
}

enum Read {
    Total(TotalMoments),
    Shard(ShardMoments, i64),
}
