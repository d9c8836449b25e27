//! Features and moments of one shard.
//!
//! Reads the shard's lines of `runs/<run>/objects-*.jsonl`, its images, and the features of shards whose rows can be
//! copied. Writes `shards/<id>/` and `runs/<run>/featurized/<shard>.json`. When the run is stopped, it writes the rows so
//! far to `partials/<shard>.parquet`, which the next run copies from.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use ndarray::{Array2, Axis};
use rayon::join;
use tokio::sync::Semaphore;

use super::{CancellationToken, Featurized, Monitor, ShardWork, Stores, records::read_objects, stopped};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, LabelCount, RejectedObject, ShardRecord,
        blocking::run_blocking,
        keys,
        partition::label_of,
        shard::ShardHasher,
        tables::{self, FeatureRows},
        timing::Timer,
    },
    ids::ShardId,
    image::{MAX_FILE_BYTES, Reason, Reject},
    model::{ExtractorInfo, WorkerPool},
    pca::moments::ShardMoments,
    store::{self, Object, Store},
};

/// Files read ahead of each worker thread.
const READ_AHEAD: usize = 8;
/// Memory for files that are read and wait for a worker, in KiB.
const READ_AHEAD_KIB: u32 = 256 << 10;
/// Time for reading any object, however small.
const READ_TIME: Duration = Duration::from_secs(30);
/// Bytes per second of all reads together, below which reading takes too long.
const SLOWEST_READS: u64 = 1 << 20;
/// Objects of a shard that may fail in a way that a retry may mend. With more, or with more than half of the shard, the
/// store itself has failed.
const OUTAGE: usize = 8;

enum Row {
    Copied(Vec<f32>),
    Inferred(Vec<f32>),
    Rejected(Reject),
    /// The store did not deliver the object, for a reason that may pass.
    Unavailable(Error),
}

/// Computes one shard and writes its files.
///
/// Fails with `Run.Interrupted` after `stop` is cancelled; the rows computed so far are kept for the next run. Also fails
/// when a store fails. An image that cannot be read or decoded is a reject, not an error, unless most images of the shard
/// cannot be read because the store is down.
pub async fn featurize(
    stores: &Stores,
    workers: &WorkerPool,
    work: ShardWork,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Featurized> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let ShardWork { run, shard: planned, objects: range, sources, decoding } = work;
    if decoding != workers.extractor().info().decoding {
        return Err(
            Error::new(ErrorKind::InternalBug, "the shard is planned for another decoding").context("shard", planned)
        );
    }
    let objects = read_objects(output, &range).await?;
    let earlier = read_earlier_rows(output, &planned, &sources, workers.extractor().columns()).await?;

    let memory = Semaphore::new(READ_AHEAD_KIB as usize);
    let maker = RowMaker { input: stores.input.as_ref(), workers, earlier, memory, monitor, stop };
    let rows = maker.rows(&objects).await?;
    let base_is_unknown = maker.earlier.base_is_unknown;
    if rows.objects < objects.len() {
        keep_partial(output, workers, &planned, rows).await?;
        return Err(stopped().context("shard", &planned));
    }
    let counts = rows.counts;
    let record = write_shard(output, workers, &objects, rows).await?;
    let featurized = Featurized {
        planned: planned.clone(),
        rows: record.rows,
        rejects: record.rejects.len() as u64,
        shard: record.id,
        inferred: counts.inferred,
        copied: counts.copied,
        added: counts.added,
        changed: counts.changed,
        base_is_unknown,
        timing: timer.read(),
    };
    output.put(&keys::featurized(&run, &planned), dataset::to_json(&featurized)?).await?;
    output.delete(&keys::partial(&planned)).await?;
    Ok(featurized)
}

/// Rows of a shard's objects that exist already.
#[derive(Default)]
struct EarlierRows {
    /// Features by (key, etag).
    features: HashMap<(String, String), Vec<f32>>,
    /// Etags of the base version's rows, by key.
    base_etags: HashMap<String, String>,
    /// Whether a table of the base version could not be read.
    base_is_unknown: bool,
}

/// Reads rows from shards of the base version, and those that a stopped run has kept for this shard.
async fn read_earlier_rows(
    output: &dyn Store,
    shard: &ShardId,
    sources: &[ShardId],
    columns: usize,
) -> Result<EarlierRows> {
    let files = sources.iter().map(|source| (keys::features(source), true));
    let mut earlier = EarlierRows::default();
    for (key, of_base) in files.chain([(keys::partial(shard), false)]) {
        // A source that is missing or damaged costs time only: its images are inferred again.
        let rows = match store::get_opt(output, &key).await? {
            Some(file) => run_blocking(move || tables::read_features(file, columns, &key)).await.ok(),
            None => None,
        };
        let Some(rows) = rows else {
            earlier.base_is_unknown |= of_base;
            continue;
        };
        if of_base {
            earlier.base_etags.extend(rows.paths.iter().cloned().zip(rows.etags.iter().cloned()));
        }
        let features = rows.features.outer_iter().map(|row| row.to_vec());
        earlier.features.extend(rows.paths.into_iter().zip(rows.etags).zip(features));
    }
    Ok(earlier)
}

/// Numbers of rows by origin, and compared with the base version.
#[derive(Clone, Copy, Default)]
struct Counts {
    inferred: u64,
    copied: u64,
    added: u64,
    changed: u64,
}

/// The tables of a shard while they grow.
struct ShardRows {
    /// All columns except the features.
    table: FeatureRows,
    /// The features, row-major.
    features: Vec<f32>,
    rejects: Vec<RejectedObject>,
    hasher: ShardHasher,
    /// Objects so far, rejects included.
    objects: usize,
    /// Objects among them that the store did not deliver.
    unavailable: usize,
    counts: Counts,
}

impl ShardRows {
    fn with_capacity(extractor: &ExtractorInfo, rows: usize) -> Self {
        // The features are most of a shard's memory; a vector that grows by doubling would hold them twice.
        let mut features = Vec::new();
        features.reserve_exact(rows * extractor.columns);
        ShardRows {
            table: FeatureRows::default(),
            features,
            rejects: Vec::new(),
            hasher: ShardHasher::new(&extractor.id),
            objects: 0,
            unavailable: 0,
            counts: Counts::default(),
        }
    }

    /// Takes the rows out as one table with `columns` features.
    fn take_table(&mut self, columns: usize) -> Result<FeatureRows> {
        let (table, features) = (std::mem::take(&mut self.table), std::mem::take(&mut self.features));
        let bug = |e| Error::new(ErrorKind::InternalBug, "rows have features of different lengths").source(e);
        let features = Array2::from_shape_vec((table.len(), columns), features).map_err(bug)?;
        Ok(FeatureRows { features, ..table })
    }

    fn push(&mut self, object: &Object, row: Row, etag_in_base: Option<&String>) {
        self.objects += 1;
        let features = match row {
            Row::Copied(features) => {
                self.counts.copied += 1;
                features
            }
            Row::Inferred(features) => {
                self.counts.inferred += 1;
                features
            }
            Row::Rejected(reject) => return self.push_reject(object, reject),
            Row::Unavailable(error) => {
                self.unavailable += 1;
                return self.push_reject(object, Reject::new(Reason::Unreadable, error));
            }
        };
        self.hasher.push(&object.key, object.etag.as_str());
        self.counts.added += u64::from(etag_in_base.is_none());
        self.counts.changed += u64::from(etag_in_base.is_some_and(|base| base != object.etag.as_str()));
        self.table.paths.push(object.key.clone());
        self.table.labels.push(label_of(&object.key).map(str::to_owned));
        self.table.modified.push(object.modified);
        self.table.lengths.push(i64::try_from(object.size).unwrap_or(i64::MAX));
        self.table.etags.push(object.etag.as_str().to_owned());
        self.features.extend(features);
    }

    /// With a reason that can pass, the shard's id differs from the planned one, so the next run tries again.
    fn push_reject(&mut self, object: &Object, reject: Reject) {
        if reject.reason.may_pass() {
            self.hasher.push(&object.key, &reject.reason.placeholder());
        } else {
            self.hasher.push(&object.key, object.etag.as_str());
        }
        self.rejects.push(RejectedObject { path: object.key.clone(), reject });
    }
}

struct RowMaker<'a> {
    input: &'a dyn Store,
    workers: &'a WorkerPool,
    earlier: EarlierRows,
    /// Bounds the bytes of files that are read and wait for a worker.
    memory: Semaphore,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
}

impl RowMaker<'_> {
    /// The rows of the objects, in their order; after a stop, only the first of them.
    async fn rows(&self, objects: &[Object]) -> Result<ShardRows> {
        let mut rows = ShardRows::with_capacity(self.workers.extractor().info(), objects.len());
        let making: Vec<_> = objects.iter().map(|object| self.row(object)).collect();
        let mut answers = stream::iter(making).buffered(self.workers.threads() * READ_AHEAD);
        let mut outage = None;
        while let Some(answer) = answers.next().await {
            let row = match answer? {
                None => break,
                Some(Row::Unavailable(error)) if rows.unavailable >= OUTAGE => return Err(error),
                Some(row) => row,
            };
            if let Row::Unavailable(error) = &row {
                outage = Some(
                    Error::new(error.kind(), "most images of a shard could not be read").source(error.to_string()),
                );
            }
            let object = &objects[rows.objects];
            rows.push(object, row, self.earlier.base_etags.get(&object.key));
        }
        match outage {
            // One object says nothing about the store.
            Some(error) if rows.unavailable > 1 && rows.unavailable * 2 > objects.len() => Err(error),
            _ => Ok(rows),
        }
    }

    /// The row of one object; `None` after a stop.
    async fn row(&self, object: &Object) -> Result<Option<Row>> {
        let copied = self.earlier.features.get(&(object.key.clone(), object.etag.as_str().to_owned()));
        let row = match copied {
            _ if self.stop.is_cancelled() => return Ok(None),
            Some(features) => Row::Copied(features.clone()),
            // A store or a decoder that takes its time does not hold up a stop.
            None => match self.stop.run_until_cancelled(self.infer(object)).await {
                Some(row) => row?,
                None => return Ok(None),
            },
        };
        self.monitor.image_done();
        Ok(Some(row))
    }

    async fn infer(&self, object: &Object) -> Result<Row> {
        if object.size > MAX_FILE_BYTES {
            let detail = format!("{} bytes; at most {MAX_FILE_BYTES} are taken", object.size);
            return Ok(Row::Rejected(Reject::new(Reason::TooLarge, detail)));
        }
        let kib = u32::try_from(object.size.div_ceil(1_024)).unwrap_or(u32::MAX).clamp(1, READ_AHEAD_KIB);
        // The semaphore is never closed.
        let _permit = self.memory.acquire_many(kib).await.ok();
        // Other reads share the line.
        let sharing = (self.workers.threads() * READ_AHEAD) as u64;
        let together = object.size.saturating_mul(sharing).min(u64::from(READ_AHEAD_KIB) << 10).max(object.size);
        let deadline = READ_TIME + Duration::from_secs(together / SLOWEST_READS);
        let file = match in_time(self.input.get_listed(object), &object.key, deadline).await {
            Ok(file) => file,
            Err(e) if e.kind().retryable() => return Ok(Row::Unavailable(e)),
            Err(e) if e.is(ErrorKind::StoreDenied) => return Ok(Row::Rejected(Reject::new(Reason::NoPermission, e))),
            Err(e) => return Ok(Row::Rejected(Reject::new(Reason::Unreadable, e))),
        };
        Ok(match self.workers.features(file).await? {
            Ok(features) => Row::Inferred(features),
            Err(reject) => Row::Rejected(reject),
        })
    }
}

/// Waits for the content of an object. Fails with `Store.Unavailable` if that takes longer than the deadline.
async fn in_time(read: impl Future<Output = Result<Bytes>>, key: &str, deadline: Duration) -> Result<Bytes> {
    tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| {
        let message = format!("the object could not be read within {} seconds", deadline.as_secs_f64());
        Err(Error::new(ErrorKind::StoreUnavailable, message).context("key", key))
    })
}

/// Writes the files of a shard. The record is last: it marks the shard as finished.
async fn write_shard(
    output: &dyn Store,
    workers: &WorkerPool,
    objects: &[Object],
    mut rows: ShardRows,
) -> Result<ShardRecord> {
    let _permit = workers.finishing().await;
    let extractor = workers.extractor().info().clone();
    let table = rows.take_table(extractor.columns)?;
    let record = ShardRecord {
        id: rows.hasher.finish(),
        rows: table.len() as u64,
        first: objects.first().map(|o| o.key.clone()).unwrap_or_default(),
        last: objects.last().map(|o| o.key.clone()).unwrap_or_default(),
        labels: count_labels(&table.labels),
        rejects: rows.rejects,
    };
    let (features, moments) = run_blocking(move || encode(table, &extractor)).await?;
    output.put(&keys::features(&record.id), features).await?;
    output.put(&keys::moments(&record.id), moments).await?;
    output.put(&keys::shard(&record.id), dataset::to_json(&record)?).await?;
    Ok(record)
}

fn count_labels(labels: &[Option<String>]) -> Vec<LabelCount> {
    let mut counts: BTreeMap<&Option<String>, u64> = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts.into_iter().map(|(label, images)| LabelCount { label: label.clone(), images }).collect()
}

/// The features table and the moments table of a shard, as Parquet.
fn encode(table: FeatureRows, extractor: &ExtractorInfo) -> Result<(Bytes, Bytes)> {
    let id = extractor.id.as_str();
    let (features, rows) = (table.features.clone(), table.len());
    let sums = |part| ShardMoments::from_features(part, extractor.feature_range.per_unit());
    let (table, moments) = join(
        || tables::write_features(table, id),
        || {
            // Sums are exact: the sums of two halves add up to the sums of all rows, bit for bit.
            let (first, second) = features.view().split_at(Axis(0), rows / 2);
            let (second, first) = join(|| sums(second), || sums(first));
            let mut moments = first?;
            moments.append(&second?)?;
            tables::write_shard_moments(&moments, id)
        },
    );
    Ok((table?, moments?))
}

/// Writes the rows of a stopped shard; [`read_earlier_rows`] of the next run reads them.
async fn keep_partial(output: &dyn Store, workers: &WorkerPool, shard: &ShardId, mut rows: ShardRows) -> Result<()> {
    if rows.table.is_empty() {
        return Ok(());
    }
    let info = workers.extractor().info();
    let table = rows.take_table(info.columns)?;
    output.put(&keys::partial(shard), tables::write_features(table, info.id.as_str())?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_that_does_not_arrive_in_time_is_an_error() {
        let late = in_time(std::future::pending(), "a.jpg", Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(late.to_string(), "the object could not be read within 0.02 seconds (key: a.jpg)");
        assert_eq!(late.kind(), ErrorKind::StoreUnavailable);
        assert_eq!(in_time(async { Ok(Bytes::new()) }, "a.jpg", READ_TIME).await.unwrap(), Bytes::new());
    }
}
