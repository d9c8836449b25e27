//! Features of one shard.
//!
//! Reads the shard's lines of `runs/<run>/objects-*.jsonl`, its images, and the features of shards whose rows can be
//! copied. Writes `shards/<id>/` and `runs/<run>/featurized/<shard>.json`. When it is stopped or the store fails, it writes the
//! rows so far to `partials/<shard>.parquet` and `.json`, which the next call copies from.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use ndarray::{Array2, Axis};
use rayon::join;
use tokio::sync::Semaphore;

use super::{
    CancellationToken, Featurized, Monitor, ShardWork, Stores,
    earlier::{EarlierRows, Features, keep_partial},
    stopped,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Checksum, LabelCount, RejectedObject, ShardRecord,
        blocking::run_blocking,
        keys,
        partition::label_of,
        record::sha256,
        shard::ShardHasher,
        tables::{self, Compression, FeatureRows},
        timing::Timer,
    },
    ids::ShardId,
    image::{MAX_FILE_BYTES, Reason, Reject},
    model::{ExtractorInfo, WorkerPool},
    pca::moments::ShardMoments,
    store::{Object, Store},
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
    Copied(Features),
    Inferred(Features),
    Rejected(Reject),
    /// The store did not deliver the object, for a reason that may pass.
    Unavailable(Error),
}

/// Computes one shard and writes its files.
///
/// Fails with `Run.Interrupted` after `stop` is cancelled. Also fails when a store fails, for example because it throttles
/// reads. In both cases, the rows computed so far are kept for the next call. An image that cannot be read or decoded is a reject, not an error, unless most images of the shard
/// cannot be read because the store is down.
pub async fn featurize(
    stores: &Stores,
    workers: &WorkerPool,
    work: ShardWork,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Featurized> {
    Ok(featurize_and_sum(stores, workers, work, Sums::NotNeeded, monitor, stop).await?.0)
}

/// Whether the sums of the features are computed while they are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sums {
    /// The stage `merge` is called in the same process.
    Needed,
    NotNeeded,
}

/// [`featurize`], which also returns the sums of a shard that has rows.
pub(crate) async fn featurize_and_sum(
    stores: &Stores,
    workers: &WorkerPool,
    work: ShardWork,
    sums: Sums,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<(Featurized, Option<ShardMoments>)> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let ShardWork { run, shard: planned, objects: range, sources, decoding, compression, group: _ } = work;
    if decoding != workers.extractor().info().decoding {
        return Err(
            Error::new(ErrorKind::InternalBug, "the shard is planned for another decoding").context("shard", planned)
        );
    }
    let objects: Vec<Object> = range.read(output).await?;
    let earlier = EarlierRows::read(output, &planned, &sources, workers.extractor().info()).await?;

    let memory = Semaphore::new(READ_AHEAD_KIB as usize);
    let maker = RowMaker { input: stores.input.as_ref(), workers, earlier, memory, compression, monitor, stop };
    let (rows, failure) = maker.rows(&objects).await;
    let base_is_unknown = maker.earlier.base_is_unknown;
    if let Some(failure) = failure {
        let kept = keep(output, workers.extractor().info(), &planned, rows).await;
        // A store that fails is the first error to report.
        return Err(if failure.is(ErrorKind::RunInterrupted) { kept.err().unwrap_or(failure) } else { failure }
            .context("shard", &planned));
    }
    let counts = rows.counts;
    let (record, moments) = write_shard(output, workers, &objects, rows, sums).await?;
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
    output.put(&keys::featurized(&run, &planned), dataset::to_record(&featurized)?).await?;
    // The record first: without it, nobody reads the table.
    output.delete(&keys::partial_record(&planned)).await?;
    output.delete(&keys::partial(&planned)).await?;
    Ok((featurized, moments))
}

/// Keeps the rows of a shard that is not finished for the next call.
async fn keep(output: &dyn Store, extractor: &ExtractorInfo, shard: &ShardId, mut rows: ShardRows) -> Result<()> {
    if rows.counts.inferred == 0 {
        return Ok(());
    }
    let compression = rows.compression;
    let table = tables::write_features(rows.take_table(extractor.columns)?, extractor.id.as_str(), compression)?;
    keep_partial(output, shard, table).await
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
    compression: Compression,
    hasher: ShardHasher,
    /// Objects so far, rejects included.
    objects: usize,
    /// Objects among them that the store did not deliver.
    unavailable: usize,
    counts: Counts,
}

impl ShardRows {
    fn with_capacity(extractor: &ExtractorInfo, compression: Compression, rows: usize) -> Self {
        // The features are most of a shard's memory; a vector that grows by doubling would hold them twice.
        let mut features = Vec::new();
        features.reserve_exact(rows * extractor.columns);
        ShardRows {
            table: FeatureRows::default(),
            features,
            rejects: Vec::new(),
            compression,
            hasher: ShardHasher::new(&extractor.id, compression),
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
        self.table.splits.push(None);
        self.table.modified.push(object.modified);
        self.table.lengths.push(i64::try_from(object.size).unwrap_or(i64::MAX));
        self.table.etags.push(object.etag.as_str().to_owned());
        self.table.contents.push(features.content);
        self.features.extend(features.values);
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
    compression: Compression,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
}

impl RowMaker<'_> {
    /// The rows of the objects, in their order; after an error or a stop, only the first of them.
    async fn rows(&self, objects: &[Object]) -> (ShardRows, Option<Error>) {
        let mut rows = ShardRows::with_capacity(self.workers.extractor().info(), self.compression, objects.len());
        let making: Vec<_> = objects.iter().map(|object| self.row(object)).collect();
        let mut answers = stream::iter(making).buffered(self.workers.threads() * READ_AHEAD);
        let mut outage = None;
        while let Some(answer) = answers.next().await {
            let row = match answer {
                Err(error) => return (rows, Some(error)),
                Ok(None) => return (rows, Some(stopped())),
                Ok(Some(Row::Unavailable(error))) if rows.unavailable >= OUTAGE => return (rows, Some(error)),
                Ok(Some(row)) => row,
            };
            if let Row::Unavailable(error) = &row {
                outage = Some(
                    Error::new(error.kind(), "most images of a shard could not be read").source(error.to_string()),
                );
            }
            let object = &objects[rows.objects];
            rows.push(object, row, self.earlier.etag_in_base(&object.key));
        }
        match outage {
            // One object says nothing about the store.
            Some(error) if rows.unavailable > 1 && rows.unavailable * 2 > objects.len() => (rows, Some(error)),
            _ => (rows, None),
        }
    }

    /// The row of one object; `None` after a stop.
    async fn row(&self, object: &Object) -> Result<Option<Row>> {
        let earlier = self.earlier.features(object);
        let row = match earlier {
            _ if self.stop.is_cancelled() => return Ok(None),
            Some(features) if features.content.is_some() => Row::Copied(features.clone()),
            // A store or a decoder that takes its time does not hold up a stop.
            _ => match self.stop.run_until_cancelled(self.make(object, earlier)).await {
                Some(row) => row?,
                None => return Ok(None),
            },
        };
        self.monitor.image_done();
        Ok(Some(row))
    }

    /// Reads the object. Infers its features, unless there are `earlier` ones, which lack its checksum only.
    async fn make(&self, object: &Object, earlier: Option<&Features>) -> Result<Row> {
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
            Err(e) => return Ok(Row::Rejected(Reject::new(reason_of(e.kind()), e))),
        };
        let content = Some(sha256(&file));
        if let Some(earlier) = earlier {
            return Ok(Row::Copied(Features { values: earlier.values.clone(), content }));
        }
        Ok(match self.workers.features(file).await? {
            Ok(values) => Row::Inferred(Features { values, content }),
            Err(reject) => Row::Rejected(reject),
        })
    }
}

/// Why an object cannot be read, after an error that a retry does not mend.
fn reason_of(kind: ErrorKind) -> Reason {
    match kind {
        ErrorKind::StoreDenied => Reason::NoPermission,
        ErrorKind::StoreArchived => Reason::Archived,
        _ => Reason::Unreadable,
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
    sums: Sums,
) -> Result<(ShardRecord, Option<ShardMoments>)> {
    let _permit = workers.finishing().await;
    let extractor = workers.extractor().info().clone();
    let table = rows.take_table(extractor.columns)?;
    let mut record = ShardRecord {
        id: rows.hasher.finish(),
        extractor: extractor.id.clone(),
        rows: table.len() as u64,
        first: objects.first().map(|o| o.key.clone()).unwrap_or_default(),
        last: objects.last().map(|o| o.key.clone()).unwrap_or_default(),
        labels: count_labels(&table.labels),
        rejects: rows.rejects,
        features: None,
    };
    let mut moments = None;
    if !table.is_empty() {
        let compression = rows.compression;
        let encoded = run_blocking(move || encode(table, &extractor, compression, sums)).await?;
        record.features = Some(encoded.checksum);
        moments = encoded.moments;
        output.put(&keys::features(&record.id), encoded.file).await?;
    }
    output.put(&keys::shard(&record.id), dataset::to_record(&record)?).await?;
    Ok((record, moments))
}

fn count_labels(labels: &[Option<String>]) -> Vec<LabelCount> {
    let mut counts: BTreeMap<&Option<String>, u64> = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts.into_iter().map(|(label, images)| LabelCount { label: label.clone(), images }).collect()
}

/// The table of a shard.
struct Encoded {
    file: Bytes,
    checksum: Checksum,
    moments: Option<ShardMoments>,
}

fn encode(table: FeatureRows, extractor: &ExtractorInfo, compression: Compression, sums: Sums) -> Result<Encoded> {
    let id = extractor.id.as_str();
    let features = (sums == Sums::Needed).then(|| table.features.clone());
    let (file, moments) = join(
        || tables::write_features(table, id, compression),
        || features.map(|features| moments_of(&features, extractor)).transpose(),
    );
    let file = file?;
    Ok(Encoded { checksum: Checksum::of(&file), file, moments: moments? })
}

/// The sums of features, computed by two threads.
pub(crate) fn moments_of(features: &Array2<f32>, extractor: &ExtractorInfo) -> Result<ShardMoments> {
    let sums = |part| ShardMoments::from_features(part, extractor.feature_range.per_unit());
    // Sums are exact: the sums of two halves add up to the sums of all rows, bit for bit.
    let (first, second) = features.view().split_at(Axis(0), features.nrows() / 2);
    let (second, first) = join(|| sums(second), || sums(first));
    let mut moments = first?;
    moments.append(&second?)?;
    Ok(moments)
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
