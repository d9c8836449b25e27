//! Batches: lines of a work list that stand for several lines of another one, for the maps of large runs.
//!
//! `runs/<run>/featurize.jsonl` and `project.jsonl` always have a line per shard. Beside them, a large run on AWS has
//! `featurize-batches.jsonl` and `project-batches.jsonl`, each line of which names consecutive lines.

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    CancellationToken, Featurized, LineRange, Monitor, PartWork, ShardWork, Stores, check, featurize,
    project::{Models, project_with},
    records::featurized,
};
use crate::{
    Result, compiled_once,
    dataset::{Sealed, keys, to_sealed_lines},
    ids::RunId,
    model::{Decoding, ExtractorInfo, ExtractorKind, Recipe, WorkerPool},
    store::Store,
};

/// Parts of a batch that are projected at the same time: reading one takes longer than computing it.
const PARTS_AT_A_TIME: usize = 4;

/// One line of a list of batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Id of the run.
    pub run: RunId,
    /// The lines of the work list.
    pub lines: LineRange,
    /// Their number.
    pub count: u64,
    /// How the extractor decodes JPEGs: the same for all shards of a run.
    #[serde(default, skip_serializing_if = "Decoding::is_full")]
    pub decoding: Decoding,
    /// What computes the features.
    #[serde(default, skip_serializing_if = "ExtractorKind::is_network")]
    pub kind: ExtractorKind,
    /// SHA-256 of the file of visual words in the output, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// The model of the user's, if it is one. The output keeps its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Box<ExtractorInfo>>,
}

impl Batch {
    /// What a function has to load for it.
    pub fn recipe(&self) -> Recipe {
        Recipe { kind: self.kind, decoding: self.decoding, words: self.words.clone(), model: self.model.clone() }
    }

    async fn work<T: DeserializeOwned + Serialize>(&self, output: &dyn Store) -> Result<Vec<T>> {
        Ok(self.lines.read::<Sealed<T>>(output).await?.into_iter().map(|line| line.0).collect())
    }
}

/// A line that a map hands to a function: one piece of work, or a batch of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line<T> {
    /// Several pieces.
    Batch(Batch),
    /// One piece.
    One(Box<T>),
}

/// What a batch of shards gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardsDone {
    /// Shards of the batch, without those that an earlier call has finished.
    pub shards: u64,
    /// Their rows with features.
    pub rows: u64,
    /// Their objects without features.
    pub rejects: u64,
    /// Images that went through the model.
    pub inferred: u64,
    /// Images whose rows were copied.
    pub copied: u64,
}

/// What a batch of parts gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartsDone {
    /// Parts.
    pub parts: u64,
    /// Their rows.
    pub rows: u64,
}

/// Writes a work list: a line per piece, and with batches of more than one piece the list of batches too, whose key it
/// returns.
pub(super) async fn write_work<T: Serialize>(
    output: &dyn Store,
    run: &RunId,
    key: &str,
    work: &[T],
    (size, recipe): (u64, Recipe),
) -> Result<Option<String>> {
    let lines = to_sealed_lines(work)?;
    let ends = lines.iter().zip(1..).filter(|(byte, _)| **byte == b'\n').map(|(_, end)| end);
    let ends: Vec<u64> = ends.collect();
    output.put(key, lines).await?;
    write_batches(output, run, key, (&ends, size, recipe)).await
}

/// Writes the list of batches of a work list whose lines end at these bytes, and returns its key; nothing for batches of
/// one line.
pub(super) async fn write_batches(
    output: &dyn Store,
    run: &RunId,
    key: &str,
    (ends, size, recipe): (&[u64], u64, Recipe),
) -> Result<Option<String>> {
    if size <= 1 || ends.is_empty() {
        return Ok(None);
    }
    let batches = batches(run, key, ends, (size, recipe));
    let list = keys::batches_of(key);
    output.put(&list, to_sealed_lines(&batches)?).await?;
    Ok(Some(list))
}

/// Cuts the lines of a list into batches. Each line has a seal, so the ranges need no digest.
fn batches(run: &RunId, key: &str, ends: &[u64], (size, recipe): (u64, Recipe)) -> Vec<Batch> {
    let mut start = 0;
    let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
    let batch = |chunk: &[u64]| {
        let end = chunk.last().copied().unwrap_or(start);
        let lines = LineRange { key: key.to_owned(), offset: start, length: end - start, sha256: String::new() };
        start = end;
        let Recipe { kind, decoding, words, model } = recipe.clone();
        Batch { run: run.clone(), lines, count: chunk.len() as u64, decoding, kind, words, model }
    };
    ends.chunks(size).map(batch).collect()
}

/// Computes the shards of a batch, one after the other: see [`featurize()`].
///
/// A call that was interrupted is continued by the next one: shards that are finished are left out. A shard that fails does
/// not cost the others; the call fails with its error after them.
#[compiled_once]
pub async fn featurize_batch(
    stores: &Stores,
    workers: &WorkerPool,
    batch: &Batch,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<ShardsDone> {
    let output = stores.output.as_ref();
    let (mut done, mut failed) = (ShardsDone::default(), None);
    for work in batch.work::<ShardWork>(output).await? {
        check(stop)?;
        if featurized(output, &work.run, work.shard.clone()).await?.is_some() {
            continue;
        }
        let Featurized { rows, rejects, inferred, copied, .. } =
            match featurize(stores, workers, work, monitor, stop).await {
                Ok(shard) => shard,
                Err(e) if stop.is_cancelled() => return Err(e),
                Err(e) => {
                    failed.get_or_insert(e);
                    continue;
                }
            };
        done.shards += 1;
        done.rows += rows;
        done.rejects += rejects;
        done.inferred += inferred;
        done.copied += copied;
    }
    failed.map_or(Ok(done), Err)
}

/// Projects the parts of a batch: see [`project()`](super::project()).
#[compiled_once]
pub async fn project_batch(stores: &Stores, batch: &Batch) -> Result<PartsDone> {
    let work: Vec<PartWork> = batch.work(stores.output.as_ref()).await?;
    let models = Models::default();
    let parts: Vec<_> = work.into_iter().map(|work| project_with(stores, work, &models)).collect();
    let mut parts = stream::iter(parts).buffer_unordered(PARTS_AT_A_TIME);
    let mut done = PartsDone::default();
    while let Some(projected) = parts.try_next().await? {
        done.parts += 1;
        done.rows += projected.part.rows;
    }
    Ok(done)
}
