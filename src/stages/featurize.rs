//! Features and moments of one shard.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Monitor, ObjectRange, Site, Stop};
use crate::{
    Error, ErrorKind, Result,
    compute::{both, compute},
    dataset::{self, LabelCount, RejectedObject, RunId, ShardRecord, keys},
    effort::{Effort, Timer},
    engine::Engine,
    moments::ShardMoments,
    preprocess::{MAX_FILE_BYTES, Reason, Reject},
    shard::{ShardHasher, ShardId},
    store::{self, Object, Store},
    tables::{self, FeatureRows},
};

/// Files read ahead of each worker thread.
const READ_AHEAD: usize = 8;
/// Memory for files that were read and wait for a worker, in KiB.
const READ_AHEAD_KIB: u32 = 256 << 10;

/// One line of `featurize.jsonl`: a shard to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardWork {
    pub run: RunId,
    pub shard: ShardId,
    pub objects: ObjectRange,
    /// Shards whose rows may be copied.
    pub sources: Vec<ShardId>,
}

/// What became of it; also kept as `runs/<run>/featurized/<shard>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Featurized {
    /// The shard that was asked for.
    pub planned: ShardId,
    /// The shard that was made: another one when objects could not be read this time.
    pub shard: ShardId,
    pub rows: u64,
    pub rejects: u64,
    /// Images that went through the model.
    pub inferred: u64,
    /// Images whose rows were copied.
    pub copied: u64,
    /// Rows whose key the base version has not, or has with another etag.
    pub added: u64,
    pub changed: u64,
    #[serde(default)]
    pub effort: Effort,
}

enum Row {
    Copied(Vec<f32>),
    Inferred(Vec<f32>),
    Rejected(Reject),
}

/// Makes one shard. When `stop` is requested, the rows made so far are kept for the next run, and the answer is
/// `Run.Interrupted`.
pub async fn featurize(
    site: &Site,
    engine: &Engine,
    work: ShardWork,
    monitor: &dyn Monitor,
    stop: &Stop,
) -> Result<Featurized> {
    let timer = Timer::start();
    let output = site.output.as_ref();
    let ShardWork { run, shard, objects: range, sources } = work;
    let objects = read_objects(output, &range).await?;
    let known = known_rows(output, &shard, &sources, engine.extractor().columns()).await?;

    let made = make_rows(site, engine, &objects, known, monitor, stop).await?;
    if made.objects < objects.len() {
        keep_partial(output, engine, &shard, made.table).await?;
        return Err(Error::new(ErrorKind::RunInterrupted, "the run was stopped").context("shard", &shard));
    }
    let featurized = finish(output, engine, &shard, &objects, made, &timer).await?;
    output.put(&keys::featurized(&run, &shard), dataset::to_json(&featurized)?).await?;
    output.delete(&keys::partial(&shard)).await?;
    Ok(featurized)
}

pub(super) async fn read_objects(output: &dyn Store, range: &ObjectRange) -> Result<Vec<Object>> {
    let lines = output.get_range(&range.key, range.offset..range.offset + range.length).await?;
    lines.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).map(|l| dataset::from_json(l, &range.key)).collect()
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
        let Ok(rows) = compute(move || tables::read_features(file, columns, &key)).await else { continue };
        if of_base {
            known.base.extend(rows.paths.iter().cloned().zip(rows.etags.iter().cloned()));
        }
        let features = rows.features.chunks_exact(columns).map(<[f32]>::to_vec);
        known.rows.extend(rows.paths.into_iter().zip(rows.etags).zip(features));
    }
    Ok(known)
}

/// The tables of a shard as they grow.
struct Made {
    table: FeatureRows,
    rejects: Vec<RejectedObject>,
    hasher: ShardHasher,
    objects: usize,
    inferred: u64,
    copied: u64,
    added: u64,
    changed: u64,
}

impl Made {
    fn push(&mut self, object: &Object, row: Row, etag_in_base: Option<&String>) {
        let mut etag = object.etag.0.clone();
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
            self.changed += u64::from(etag_in_base.is_some_and(|base| *base != object.etag.0));
            self.table.paths.push(object.key.clone());
            self.table.labels.push(label_of(&object.key).map(str::to_owned));
            self.table.modified.push(object.modified);
            self.table.lengths.push(i64::try_from(object.size).unwrap_or(i64::MAX));
            self.table.etags.push(object.etag.0.clone());
            self.table.features.extend(features);
        }
    }
}

/// The rows of the objects, in their order; of the first few only when a stop was requested.
async fn make_rows(
    site: &Site,
    engine: &Engine,
    objects: &[Object],
    known: Known,
    monitor: &dyn Monitor,
    stop: &Stop,
) -> Result<Made> {
    let info = engine.extractor().info();
    let mut made = Made {
        table: FeatureRows::default(),
        rejects: Vec::new(),
        hasher: ShardHasher::new(&info.id),
        objects: 0,
        inferred: 0,
        copied: 0,
        added: 0,
        changed: 0,
    };
    // Grown by doubling, the largest part of a shard's memory would be taken twice.
    made.table.features.reserve_exact(objects.len() * info.columns);
    let memory = Semaphore::new(READ_AHEAD_KIB as usize);
    let Known { rows: known, base } = known;
    let maker = RowMaker { input: site.input.as_ref(), engine, known, memory, monitor, stop };
    let making: Vec<_> = objects.iter().map(|object| maker.row(object)).collect();
    let mut answers = stream::iter(making).buffered(engine.threads() * READ_AHEAD);
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
    engine: &'a Engine,
    known: HashMap<(String, String), Vec<f32>>,
    /// Bounds the bytes of files that were read and wait for a worker.
    memory: Semaphore,
    monitor: &'a dyn Monitor,
    stop: &'a Stop,
}

impl RowMaker<'_> {
    /// The row of one object; none once a stop was requested.
    async fn row(&self, object: &Object) -> Result<Option<Row>> {
        if self.stop.requested() {
            return Ok(None);
        }
        let row = match self.known.get(&(object.key.clone(), object.etag.0.clone())) {
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
            Ok(file) => match self.engine.features(file).await? {
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

async fn finish(
    output: &dyn Store,
    engine: &Engine,
    planned: &ShardId,
    objects: &[Object],
    made: Made,
    timer: &Timer,
) -> Result<Featurized> {
    let _turn = engine.finishing().await;
    let info = engine.extractor().info();
    let Made { table, rejects, hasher, inferred, copied, added, changed, .. } = made;
    let mut labels: BTreeMap<Option<String>, u64> = BTreeMap::new();
    for label in &table.labels {
        *labels.entry(label.clone()).or_default() += 1;
    }
    let shard = hasher.finish();
    let record = ShardRecord {
        id: shard.clone(),
        rows: table.len() as u64,
        first: objects.first().map(|o| o.key.clone()).unwrap_or_default(),
        last: objects.last().map(|o| o.key.clone()).unwrap_or_default(),
        labels: labels.into_iter().map(|(label, images)| LabelCount { label, images }).collect(),
        rejects,
    };
    let extractor = info.clone();
    let (features, moments, record) = compute(move || {
        let id = extractor.id.as_str();
        let features = table.features.clone();
        let sums = |part| ShardMoments::of(part, extractor.columns, extractor.feature_range.per_unit());
        let (table, moments) = both(
            || tables::write_features(table, extractor.columns, id),
            || {
                // The sums of both halves are those of all.
                let (first, second) = features.split_at(record.rows as usize / 2 * extractor.columns);
                let (second, first) = both(|| sums(second), || sums(first));
                let mut moments = first?;
                moments.append(&second?)?;
                tables::write_shard_moments(&moments, id)
            },
        );
        Ok((table?, moments?, record))
    })
    .await?;
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
        effort: timer.read(),
    })
}

/// Writes the features made so far where [`known_rows`] of the next run finds them.
async fn keep_partial(output: &dyn Store, engine: &Engine, shard: &ShardId, table: FeatureRows) -> Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    let info = engine.extractor().info();
    output.put(&keys::partial(shard), tables::write_features(table, info.columns, info.id.as_str())?).await
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
