//! Features and moments of one shard.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::{StreamExt, stream};
use ndarray::{Array2, Axis};
use tokio::sync::Semaphore;

use super::{CancellationToken, Featurized, Monitor, ShardWork, Stores, records::read_objects};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, LabelCount, RejectedObject, ShardRecord,
        blocking::run_blocking,
        keys,
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
use rayon::join;

/// Files read ahead of each worker thread.
const READ_AHEAD: usize = 8;
/// Memory for files that were read and wait for a worker, in KiB.
const READ_AHEAD_KIB: u32 = 256 << 10;

enum Row {
    Copied(Vec<f32>),
    Inferred(Vec<f32>),
    Rejected(Reject),
}

/// Makes one shard. When `stop` is requested, the rows made so far are kept for the next run, and the answer is
/// `Run.Interrupted`.
pub async fn featurize(
    stores: &Stores,
    workers: &WorkerPool,
    work: ShardWork,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Featurized> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let ShardWork { run, shard, objects: range, sources } = work;
    let objects = read_objects(output, &range).await?;
    let known = known_rows(output, &shard, &sources, workers.extractor().columns()).await?;

    let made = make_rows(stores, workers, &objects, known, monitor, stop).await?;
    if made.objects < objects.len() {
        keep_partial(output, workers, &shard, made).await?;
        return Err(Error::new(ErrorKind::RunInterrupted, "the run was stopped").context("shard", &shard));
    }
    let featurized = finish(output, workers, &shard, &objects, made, &timer).await?;
    output.put(&keys::featurized(&run, &shard), dataset::to_json(&featurized)?).await?;
    output.delete(&keys::partial(&shard)).await?;
    Ok(featurized)
}

/// What earlier work knows of a shard's objects.
#[derive(Default)]
struct Known {
    /// Features by (key, etag).
    rows: HashMap<(String, String), Vec<f32>>,
    /// Etags of the base version's rows.
    base: HashMap<String, String>,
}

/// Rows from shards of the last version and from the shard itself, had it been begun.
async fn known_rows(output: &dyn Store, shard: &ShardId, sources: &[ShardId], columns: usize) -> Result<Known> {
    let files = sources.iter().map(|source| (keys::features(source), true));
    let mut known = Known::default();
    for (key, of_base) in files.chain([(keys::partial(shard), false)]) {
        // A source that was cleaned away, or cannot be read, costs time and nothing else.
        let Some(file) = store::get_opt(output, &key).await? else { continue };
        let Ok(rows) = run_blocking(move || tables::read_features(file, columns, &key)).await else { continue };
        if of_base {
            known.base.extend(rows.paths.iter().cloned().zip(rows.etags.iter().cloned()));
        }
        let features = rows.features.outer_iter().map(|row| row.to_vec());
        known.rows.extend(rows.paths.into_iter().zip(rows.etags).zip(features));
    }
    Ok(known)
}

/// The tables of a shard as they grow.
struct Made {
    /// Without its features.
    table: FeatureRows,
    /// Those, row by row.
    features: Vec<f32>,
    rejects: Vec<RejectedObject>,
    hasher: ShardHasher,
    objects: usize,
    inferred: u64,
    copied: u64,
    added: u64,
    changed: u64,
}

impl Made {
    /// The rows as a table of `columns` features.
    fn take_table(&mut self, columns: usize) -> Result<FeatureRows> {
        let (table, features) = (std::mem::take(&mut self.table), std::mem::take(&mut self.features));
        let bug = |e| Error::new(ErrorKind::InternalBug, "rows have features of different lengths").source(e);
        let features = Array2::from_shape_vec((table.len(), columns), features).map_err(bug)?;
        Ok(FeatureRows { features, ..table })
    }

    fn push(&mut self, object: &Object, row: Row, etag_in_base: Option<&String>) {
        let mut etag = object.etag.as_str().to_owned();
        let features = match row {
            Row::Copied(features) => {
                self.copied += 1;
                Some(features)
            }
            Row::Inferred(features) => {
                self.inferred += 1;
                Some(features)
            }
            Row::Rejected(reject) => {
                if reject.reason.may_pass() {
                    etag = reject.reason.placeholder();
                }
                self.rejects.push(RejectedObject { path: object.key.clone(), reject });
                None
            }
        };
        self.hasher.push(&object.key, &etag);
        self.objects += 1;
        if let Some(features) = features {
            self.added += u64::from(etag_in_base.is_none());
            self.changed += u64::from(etag_in_base.is_some_and(|base| base != object.etag.as_str()));
            self.table.paths.push(object.key.clone());
            self.table.labels.push(label_of(&object.key).map(str::to_owned));
            self.table.modified.push(object.modified);
            self.table.lengths.push(i64::try_from(object.size).unwrap_or(i64::MAX));
            self.table.etags.push(object.etag.as_str().to_owned());
            self.features.extend(features);
        }
    }
}

/// The rows of the objects, in their order; of the first few only when a stop was requested.
async fn make_rows(
    stores: &Stores,
    workers: &WorkerPool,
    objects: &[Object],
    known: Known,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Made> {
    let info = workers.extractor().info();
    let mut made = Made {
        table: FeatureRows::default(),
        features: Vec::new(),
        rejects: Vec::new(),
        hasher: ShardHasher::new(&info.id),
        objects: 0,
        inferred: 0,
        copied: 0,
        added: 0,
        changed: 0,
    };
    // Grown by doubling, the largest part of a shard's memory would be taken twice.
    made.features.reserve_exact(objects.len() * info.columns);
    let memory = Semaphore::new(READ_AHEAD_KIB as usize);
    let Known { rows: known, base } = known;
    let maker = RowMaker { input: stores.input.as_ref(), workers, known, memory, monitor, stop };
    let making: Vec<_> = objects.iter().map(|object| maker.row(object)).collect();
    let mut answers = stream::iter(making).buffered(workers.threads() * READ_AHEAD);
    while let Some(answer) = answers.next().await {
        match answer? {
            Some(row) => {
                let object = &objects[made.objects];
                made.push(object, row, base.get(&object.key));
            }
            None => break,
        }
    }
    Ok(made)
}

struct RowMaker<'a> {
    input: &'a dyn Store,
    workers: &'a WorkerPool,
    known: HashMap<(String, String), Vec<f32>>,
    /// Bounds the bytes of files that were read and wait for a worker.
    memory: Semaphore,
    monitor: &'a dyn Monitor,
    stop: &'a CancellationToken,
}

impl RowMaker<'_> {
    /// The row of one object; none once a stop was requested.
    async fn row(&self, object: &Object) -> Result<Option<Row>> {
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        let row = match self.known.get(&(object.key.clone(), object.etag.as_str().to_owned())) {
            Some(features) => Row::Copied(features.clone()),
            None => self.infer(object).await?,
        };
        self.monitor.image_done();
        Ok(Some(row))
    }

    async fn infer(&self, object: &Object) -> Result<Row> {
        let kib = u32::try_from(object.size.div_ceil(1_024)).unwrap_or(u32::MAX).clamp(1, READ_AHEAD_KIB);
        // The semaphore is never closed.
        let _held = self.memory.acquire_many(kib).await.ok();
        Ok(match read_image(self.input, object).await? {
            Ok(file) => match self.workers.features(file).await? {
                Ok(features) => Row::Inferred(features),
                Err(reject) => Row::Rejected(reject),
            },
            Err(reject) => Row::Rejected(reject),
        })
    }
}

/// The bytes of an image, or why it has none. An error is one of the store itself.
async fn read_image(input: &dyn Store, object: &Object) -> Result<std::result::Result<Bytes, Reject>> {
    if object.size > MAX_FILE_BYTES {
        let detail = format!("{} bytes; at most {MAX_FILE_BYTES} are taken", object.size);
        return Ok(Err(Reject::new(Reason::TooLarge, detail)));
    }
    match input.get_listed(object).await {
        Ok(file) => Ok(Ok(file)),
        Err(e) if e.kind().retryable() => Err(e),
        Err(e) if e.is(ErrorKind::StoreDenied) => Ok(Err(Reject::new(Reason::NoPermission, e))),
        Err(e) => Ok(Err(Reject::new(Reason::Unreadable, e))),
    }
}

fn label_of(key: &str) -> Option<&str> {
    let (folders, _) = key.rsplit_once('/')?;
    folders.rsplit('/').next()
}

/// Writes the files of a shard; its record last, which says that it is finished.
async fn finish(
    output: &dyn Store,
    workers: &WorkerPool,
    planned: &ShardId,
    objects: &[Object],
    mut made: Made,
    timer: &Timer,
) -> Result<Featurized> {
    let _permit = workers.finishing().await;
    let info = workers.extractor().info();
    let table = made.take_table(info.columns)?;
    let Made { rejects, hasher, inferred, copied, added, changed, .. } = made;
    let shard = hasher.finish();
    let record = ShardRecord {
        id: shard.clone(),
        rows: table.len() as u64,
        first: objects.first().map(|o| o.key.clone()).unwrap_or_default(),
        last: objects.last().map(|o| o.key.clone()).unwrap_or_default(),
        labels: count_labels(&table.labels),
        rejects,
    };
    let extractor = info.clone();
    let (features, moments) = run_blocking(move || encode(table, &extractor)).await?;
    output.put(&keys::features(&shard), features).await?;
    output.put(&keys::moments(&shard), moments).await?;
    output.put(&keys::shard(&shard), dataset::to_json(&record)?).await?;
    Ok(Featurized {
        planned: planned.clone(),
        shard,
        rows: record.rows,
        rejects: record.rejects.len() as u64,
        inferred,
        copied,
        added,
        changed,
        timing: timer.read(),
    })
}

fn count_labels(labels: &[Option<String>]) -> Vec<LabelCount> {
    let mut counts: BTreeMap<&Option<String>, u64> = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts.into_iter().map(|(label, images)| LabelCount { label: label.clone(), images }).collect()
}

/// The features table and the table of sums of a shard.
fn encode(table: FeatureRows, extractor: &ExtractorInfo) -> Result<(Bytes, Bytes)> {
    let id = extractor.id.as_str();
    let (features, rows) = (table.features.clone(), table.len());
    let sums = |part| ShardMoments::from_features(part, extractor.feature_range.per_unit());
    let (table, moments) = join(
        || tables::write_features(table, id),
        || {
            // The sums of both halves are those of all.
            let (first, second) = features.view().split_at(Axis(0), rows / 2);
            let (second, first) = join(|| sums(second), || sums(first));
            let mut moments = first?;
            moments.append(&second?)?;
            tables::write_shard_moments(&moments, id)
        },
    );
    Ok((table?, moments?))
}

/// Writes the features made so far where [`known_rows`] of the next run finds them.
async fn keep_partial(output: &dyn Store, workers: &WorkerPool, shard: &ShardId, mut made: Made) -> Result<()> {
    if made.table.is_empty() {
        return Ok(());
    }
    let info = workers.extractor().info();
    let table = made.take_table(info.columns)?;
    output.put(&keys::partial(shard), tables::write_features(table, info.id.as_str())?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_the_folder_that_holds_the_object() {
        assert_eq!(label_of("Training/Apple Red/1.jpg"), Some("Apple Red"));
        assert_eq!(label_of("Apple Red/1.jpg"), Some("Apple Red"));
        assert_eq!(label_of("1.jpg"), None);
    }
}
