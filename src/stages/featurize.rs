//! Features of one shard.
//!
//! Reads the shard's lines of `runs/<run>/objects-*.jsonl`, its images, and the features of shards whose rows can be
//! copied. Writes `shards/<id>/` and `runs/<run>/featurized/<shard>.json`. When it is stopped or the store fails, it writes the
//! rows so far to `partials/<shard>.parquet` and `.json`, which the next call copies from.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream, try_join};
use ndarray::Array2;
use rayon::join;
use tokio::sync::Semaphore;

use super::{
    CancellationToken, Featurized, Monitor, ShardWork, Stores,
    earlier::{EarlierRow, EarlierRows, keep_partial},
    stopped,
    sums::{Origins, ShardSums, Sums, ToSum},
};
use crate::{
    Error, ErrorKind, Result,
    archive::Reads,
    compiled_once,
    dataset::{
        self, Checksum, LabelCount, RejectedObject, ShardRecord,
        blocking::run_blocking,
        keys,
        labelling::Labelling,
        record::sha256,
        shard::ShardHasher,
        tables::{self, Compression, FeatureRows},
        timing::Timer,
    },
    ids::ShardId,
    image::{MAX_FILE_BYTES, Reason, Reject, THUMBNAIL},
    model::{Described, Extractor, ExtractorInfo, WorkerPool},
    orb::Keypoint,
    store::{Object, Store},
};

/// Files read ahead of each worker thread: a request to S3 takes up to 0.1 s, in which a worker takes 15 small images.
const READ_AHEAD: usize = 40;
/// Memory for files that are read and wait for a worker, in KiB.
const READ_AHEAD_KIB: u32 = 96 << 10;
/// Time for reading any object, however small.
const READ_TIME: Duration = Duration::from_secs(30);
/// Bytes per second of all reads together, below which reading takes too long.
const SLOWEST_READS: u64 = 1 << 20;
/// Objects of a shard that may fail in a way that a retry may mend. With more, or with more than half of the shard, the
/// store itself has failed.
const OUTAGE: usize = 8;

enum Row {
    Copied(EarlierRow),
    Inferred(Described, String),
    Rejected(Reject),
    /// The store did not deliver the object, for a reason that may pass.
    Unavailable(Error),
}

/// Computes one shard and writes its files.
///
/// Fails with `Run.Interrupted` after `stop` is cancelled. Also fails when a store fails, for example because it throttles
/// reads. In both cases, the rows computed so far are kept for the next call. An image that cannot be read or decoded is a
/// reject, not an error, unless most images of the shard cannot be read because the store is down.
#[compiled_once]
pub async fn featurize(
    stores: &Stores,
    workers: &WorkerPool,
    work: ShardWork,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Featurized> {
    Ok(featurize_and_sum(stores, workers, work, Sums::NotNeeded, monitor, stop).await?.0)
}

/// [`featurize`], which also returns sums, unless they are not needed.
pub(crate) async fn featurize_and_sum(
    stores: &Stores,
    workers: &WorkerPool,
    work: ShardWork,
    sums: Sums,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<(Featurized, ShardSums)> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let recipe = work.recipe();
    let ShardWork { run, shard: planned, objects: range, sources, labels, compression, .. } = work;
    if recipe != workers.extractor().info().recipe() {
        return Err(
            Error::new(ErrorKind::InternalBug, "the shard is planned for another extractor").context("shard", planned)
        );
    }
    let (objects, labelling) = range.read_objects(output, &labels).await?;
    let earlier = EarlierRows::read(output, &planned, &sources, workers.extractor()).await?;

    let memory = Semaphore::new(READ_AHEAD_KIB as usize);
    let labelling = Arc::new(labelling);
    let reads = reads(stores, workers, &objects, &earlier);
    let stop = stop.child_token();
    let maker = RowMaker { reads, workers, labelling, earlier, memory, compression, monitor, stop };
    let (rows, failure) = maker.rows(&objects).await;
    let base_is_unknown = maker.earlier.base_is_unknown;
    if let Some(failure) = failure {
        let kept = keep(output, workers.extractor().info(), &planned, rows).await;
        // A store that fails is the first error to report.
        return Err(if failure.is(ErrorKind::RunInterrupted) { kept.err().unwrap_or(failure) } else { failure }
            .context("shard", &planned));
    }
    let counts = rows.counts;
    let (record, sums) = write_features(output, workers, &objects, rows, maker.earlier, sums).await?;
    // It marks the shard as finished.
    let shard = dataset::to_record(&record)?;
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
    let (made, of_shard, of_run) =
        (dataset::to_record(&featurized)?, keys::shard(&featurized.shard), keys::featurized(&run, &planned));
    try_join!(output.put(&of_shard, shard), output.put(&of_run, made))?;
    // The record first: without it, nobody reads the table.
    output.delete(&keys::partial_record(&planned)).await?;
    output.delete(&keys::partial(&planned)).await?;
    Ok((featurized, sums))
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

/// The reads of the objects whose content is needed.
fn reads<'a>(stores: &'a Stores, workers: &WorkerPool, objects: &[Object], earlier: &EarlierRows) -> Reads<'a> {
    let is_read = |object: &&Object| object.size <= MAX_FILE_BYTES && earlier.row(object).is_none();
    let together = workers.threads() * READ_AHEAD;
    Reads::new(stores.input.as_ref(), objects.iter().filter(is_read), together, u64::from(READ_AHEAD_KIB) << 10)
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
    /// All columns except the features and the thumbnails.
    table: FeatureRows,
    /// The features, row-major.
    features: Vec<f32>,
    /// The thumbnails, row-major.
    thumbnails: Vec<f32>,
    origins: Origins,
    rejects: Vec<RejectedObject>,
    compression: Compression,
    hasher: ShardHasher,
    keeps_keypoints: bool,
    labelling: Arc<Labelling>,
    /// Objects that the store did not deliver.
    unavailable: usize,
    counts: Counts,
}

impl ShardRows {
    fn with_capacity(extractor: &Extractor, labelling: Arc<Labelling>, compression: Compression, rows: usize) -> Self {
        // They are most of a shard's memory; vectors that grow by doubling would hold them twice.
        let (mut features, mut thumbnails) = (Vec::new(), Vec::new());
        features.reserve_exact(rows * extractor.columns());
        thumbnails.reserve_exact(rows * THUMBNAIL);
        ShardRows {
            table: FeatureRows::default(),
            features,
            thumbnails,
            origins: Origins::default(),
            rejects: Vec::new(),
            compression,
            hasher: ShardHasher::new(&extractor.info().id, compression),
            keeps_keypoints: extractor.keeps_keypoints(),
            labelling,
            unavailable: 0,
            counts: Counts::default(),
        }
    }

    /// Takes the rows out as one table with `columns` features.
    fn take_table(&mut self, columns: usize) -> Result<FeatureRows> {
        let table = std::mem::take(&mut self.table);
        let bug = |e| Error::new(ErrorKind::InternalBug, "rows have features of different lengths").source(e);
        let matrix = |values: &mut Vec<f32>, columns| {
            Array2::from_shape_vec((table.len(), columns), std::mem::take(values)).map_err(bug)
        };
        let features = matrix(&mut self.features, columns)?;
        let thumbnails = matrix(&mut self.thumbnails, THUMBNAIL)?;
        Ok(FeatureRows { features, thumbnails, ..table })
    }

    fn push(&mut self, object: &Object, row: Row, earlier: &EarlierRows) {
        let content = match row {
            Row::Copied(row) => {
                self.counts.copied += 1;
                if earlier.is_of_base(row) {
                    self.origins.copied.push(row);
                } else {
                    self.origins.added.push(self.table.len());
                }
                self.features.extend(earlier.features(row));
                self.thumbnails.extend(earlier.thumbnail(row));
                self.push_keypoints(earlier.keypoints(row).to_vec());
                earlier.content(row).cloned()
            }
            Row::Inferred(Described { features, thumbnail, keypoints }, content) => {
                self.counts.inferred += 1;
                self.origins.added.push(self.table.len());
                self.features.extend(features);
                self.thumbnails.extend(thumbnail);
                self.push_keypoints(keypoints);
                Some(content)
            }
            Row::Rejected(reject) => return self.push_reject(object, reject),
            Row::Unavailable(error) => {
                self.unavailable += 1;
                return self.push_reject(object, Reject::new(Reason::Unreadable, error));
            }
        };
        let etag_in_base = earlier.etag_in_base(&object.key);
        let labels = self.labelling.of_object(object);
        self.hasher.push(&object.key, object.etag.as_str(), labels);
        self.counts.added += u64::from(etag_in_base.is_none());
        self.counts.changed += u64::from(etag_in_base.is_some_and(|base| base != object.etag.as_str()));
        self.table.paths.push(object.key.clone());
        self.table.labels.push(labels.label.map(str::to_owned));
        self.table.splits.push(labels.split.map(str::to_owned));
        self.table.modified.push(object.modified);
        self.table.lengths.push(i64::try_from(object.size).unwrap_or(i64::MAX));
        self.table.etags.push(object.etag.as_str().to_owned());
        self.table.contents.push(content);
    }

    fn push_keypoints(&mut self, keypoints: Vec<Keypoint>) {
        if self.keeps_keypoints {
            self.table.keypoints.push(keypoints);
        }
    }

    /// With a reason that can pass, the shard's id differs from the planned one, so the next run tries again.
    fn push_reject(&mut self, object: &Object, reject: Reject) {
        let placeholder = reject.reason.may_pass().then(|| reject.reason.placeholder());
        let etag = placeholder.as_deref().unwrap_or(object.etag.as_str());
        self.hasher.push(&object.key, etag, self.labelling.of_object(object));
        self.rejects.push(RejectedObject { path: object.key.clone(), reject });
    }
}

struct RowMaker<'a> {
    reads: Reads<'a>,
    workers: &'a WorkerPool,
    labelling: Arc<Labelling>,
    earlier: EarlierRows,
    /// Bounds the bytes of files that are read and wait for a worker.
    memory: Semaphore,
    compression: Compression,
    monitor: &'a dyn Monitor,
    /// Of this shard alone.
    stop: CancellationToken,
}

impl RowMaker<'_> {
    /// The rows of the objects, in their order; after an error or a stop, those that are finished.
    async fn rows(&self, objects: &[Object]) -> (ShardRows, Option<Error>) {
        let mut rows =
            ShardRows::with_capacity(self.workers.extractor(), self.labelling.clone(), self.compression, objects.len());
        let making: Vec<_> = objects.iter().map(|object| self.row(object)).collect();
        let answers = stream::iter(making).buffered(self.workers.threads() * READ_AHEAD);
        let mut answers = stream::iter(objects).zip(answers);
        let (mut outage, mut failure) = (None, None);
        while let Some((object, answer)) = answers.next().await {
            let answer = match answer {
                Ok(Some(Row::Unavailable(error))) if rows.unavailable >= OUTAGE => Err(error),
                answer => answer.and_then(|row| row.ok_or_else(stopped)),
            };
            let row = match answer {
                Ok(row) => row,
                Err(error) => {
                    // What is not finished by now ends, too.
                    self.stop.cancel();
                    failure.get_or_insert(error);
                    continue;
                }
            };
            if let Row::Unavailable(error) = &row {
                outage = Some(
                    Error::new(error.kind(), "most images of a shard could not be read").source(error.to_string()),
                );
            }
            rows.push(object, row, &self.earlier);
        }
        match outage {
            _ if failure.is_some() => (rows, failure),
            // One object says nothing about the store.
            Some(error) if rows.unavailable > 1 && rows.unavailable * 2 > objects.len() => (rows, Some(error)),
            _ => (rows, None),
        }
    }

    /// The row of one object; `None` after a stop.
    async fn row(&self, object: &Object) -> Result<Option<Row>> {
        let row = match self.earlier.row(object) {
            _ if self.stop.is_cancelled() => return Ok(None),
            Some(row) => Row::Copied(row),
            // A store or a decoder that takes its time does not hold up a stop.
            None => match self.stop.run_until_cancelled(self.make(object)).await {
                Some(row) => row?,
                None => return Ok(None),
            },
        };
        self.monitor.image_done();
        Ok(Some(row))
    }

    /// Reads the object and infers its features.
    async fn make(&self, object: &Object) -> Result<Row> {
        if object.size > MAX_FILE_BYTES {
            let detail = format!("{} bytes; at most {MAX_FILE_BYTES} are taken", object.size);
            return Ok(Row::Rejected(Reject::new(Reason::TooLarge, detail)));
        }
        let cost = Reads::cost(object);
        let kib = u32::try_from(cost.div_ceil(1_024)).unwrap_or(u32::MAX).clamp(1, READ_AHEAD_KIB);
        // The semaphore is never closed.
        let _permit = self.memory.acquire_many(kib).await.ok();
        // Other reads share the line.
        let sharing = (self.workers.threads() * READ_AHEAD) as u64;
        let together = cost.saturating_mul(sharing).min(u64::from(READ_AHEAD_KIB) << 10).max(cost);
        let deadline = READ_TIME + Duration::from_secs(together / SLOWEST_READS);
        let file = match in_time(self.reads.get(object), &object.key, deadline).await {
            Ok(Ok(file)) => file,
            Ok(Err(reject)) => return Ok(Row::Rejected(reject)),
            Err(e) if e.kind().retryable() => return Ok(Row::Unavailable(e)),
            Err(e) if e.kind().of_credentials() => return Err(e),
            Err(e) => return Ok(Row::Rejected(Reject::new(Reason::of(e.kind()), e.without_request()))),
        };
        let content = sha256(&file);
        Ok(match self.workers.describe(file).await? {
            Ok(described) => Row::Inferred(described, content),
            Err(reject) => Row::Rejected(reject),
        })
    }
}

/// Waits for the content of an object. Fails with `Store.Unavailable` if that takes longer than the deadline.
async fn in_time<T>(read: impl Future<Output = Result<T>>, key: &str, deadline: Duration) -> Result<T> {
    tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| {
        let message = format!("the object could not be read within {} seconds", deadline.as_secs_f64());
        Err(Error::new(ErrorKind::StoreUnavailable, message).context("key", key))
    })
}

/// Writes the features of a shard. Returns its record, which is to be written afterwards.
async fn write_features(
    output: &dyn Store,
    workers: &WorkerPool,
    objects: &[Object],
    mut rows: ShardRows,
    earlier: EarlierRows,
    sums: Sums,
) -> Result<(ShardRecord, ShardSums)> {
    let _permit = workers.finishing().await;
    let extractor = workers.extractor().info().clone();
    let table = rows.take_table(extractor.columns)?;
    let mut record = ShardRecord {
        id: rows.hasher.clone().finish(),
        extractor: extractor.id.clone(),
        rows: table.len() as u64,
        first: objects.first().map(|o| o.key.clone()).unwrap_or_default(),
        last: objects.last().map(|o| o.key.clone()).unwrap_or_default(),
        labels: count_labels(&table.labels),
        rejects: std::mem::take(&mut rows.rejects),
        features: None,
    };
    let mut sums_of_rows = ShardSums::Empty;
    if !table.is_empty() {
        let to_sum = ToSum::new(sums, &table, &rows.origins, &earlier, [&record.first, &record.last])?;
        drop(earlier);
        let compression = rows.compression;
        let encoded = run_blocking(move || encode(table, &extractor, compression, to_sum)).await?;
        record.features = Some(encoded.checksum);
        sums_of_rows = encoded.sums;
        output.put(&keys::features(&record.id), encoded.file).await?;
    }
    Ok((record, sums_of_rows))
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
    sums: ShardSums,
}

fn encode(table: FeatureRows, extractor: &ExtractorInfo, compression: Compression, to_sum: ToSum) -> Result<Encoded> {
    let id = extractor.id.as_str();
    let whole = matches!(to_sum, ToSum::Whole).then(|| table.features.clone());
    let write = || -> Result<_> {
        let file = tables::write_features(table, id, compression)?;
        Ok((Checksum::of(&file), file))
    };
    let (file, sums) = join(write, || to_sum.sums(whole, extractor));
    let (checksum, file) = file?;
    Ok(Encoded { checksum, file, sums: sums? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_that_does_not_arrive_in_time_is_an_error() {
        let late = in_time::<Bytes>(std::future::pending(), "a.jpg", Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(late.to_string(), "the object could not be read within 0.02 seconds (key: a.jpg)");
        assert_eq!(late.kind(), ErrorKind::StoreUnavailable);
        assert_eq!(in_time(async { Ok(Bytes::new()) }, "a.jpg", READ_TIME).await.unwrap(), Bytes::new());
    }
}
