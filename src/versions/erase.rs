//! Taking single images out of an output, and out of every version that is kept.
//!
//! A version is the sum of its images: its basis, and with it every score, depends on each of them. So nothing is cut out
//! of a version in place. A run makes a new version of the images as they are, and every version that holds one of the
//! erased images is removed with all that only it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures::TryStreamExt;
use serde::Serialize;

use super::vacuum;
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, Manifest, ShardRecord, inbox, keys, settings::Mode, tables},
    ids::{RunId, ShardId, Version},
    model::WorkerPool,
    pipeline::{self, Watcher},
    stages::{CancellationToken, PlanInput, Stores},
    store::{self, Store},
};

/// What was done, as a record to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Erased {
    pub keys: Vec<String>,
    /// The current version, which does not hold them.
    pub version: Version,
    /// Whether it was made for this.
    pub rewritten: bool,
    /// Versions that held one of them, and are gone.
    pub removed_versions: Vec<Version>,
    /// Every file that was deleted.
    pub deleted: Vec<String>,
    /// Tables of the versions that are left, that could hold one of the keys and were read to see that none does.
    pub checked: Vec<String>,
}

/// Erases images. They must be gone from the input already, or the next run would bring them back: fails with
/// `Input.Invalid` otherwise. `run` names the run that makes the new version.
pub async fn erase(
    stores: &Stores,
    workers: &WorkerPool,
    run: &RunId,
    erased: &BTreeSet<String>,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Erased> {
    let output = stores.output.as_ref();
    let current = dataset::version(output, None).await?;
    still_there(stores.input.as_ref(), erased).await?;
    let input = PlanInput { run: run.clone(), settings: current.settings, mode: Mode::default() };
    let summary = pipeline::run(stores, workers, &input, watcher, stop).await?;

    let mut holders = BTreeSet::new();
    let mut tables = Tables::default();
    for manifest in dataset::published(output).await? {
        if tables.holds(output, &manifest, erased).await? {
            holders.insert(manifest.version);
        }
    }
    if holders.contains(&summary.manifest.version) {
        return Err(Error::new(ErrorKind::InternalBug, "the new version holds an image that is not in the input")
            .context("version", summary.manifest.version));
    }
    // Notices name keys.
    inbox::clear(output, &inbox::read(output).await?.notices).await?;
    let deleted = Mutex::new(Vec::new());
    vacuum::remove(output, &holders, &|object| {
        deleted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(object.key.clone());
    })
    .await?;

    let mut proof = Tables::default();
    for manifest in dataset::published(output).await? {
        if proof.holds(output, &manifest, erased).await? {
            return Err(Error::new(ErrorKind::DatasetBusy, "a version that was published meanwhile holds an image")
                .context("version", manifest.version));
        }
    }
    Ok(Erased {
        keys: erased.iter().cloned().collect(),
        version: summary.manifest.version,
        rewritten: !summary.up_to_date,
        removed_versions: holders.into_iter().collect(),
        deleted: deleted.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        checked: proof.read.keys().map(keys::features).collect(),
    })
}

async fn still_there(input: &dyn Store, erased: &BTreeSet<String>) -> Result<()> {
    for key in erased {
        let found = input.list(key, None).try_next().await?;
        if found.is_some_and(|page| page.first().is_some_and(|object| object.key == *key)) {
            return Err(Error::new(ErrorKind::InputInvalid, "this image is still in the input; delete it there first")
                .context("key", key)
                .context("input", input.location()));
        }
    }
    Ok(())
}

/// Keys of the rows and rejects of shards that have been looked into.
#[derive(Default)]
struct Tables {
    read: BTreeMap<ShardId, BTreeSet<String>>,
}

impl Tables {
    async fn holds(&mut self, output: &dyn Store, manifest: &Manifest, erased: &BTreeSet<String>) -> Result<bool> {
        for key in erased {
            for shard in manifest.shards_between(key, key) {
                if !self.read.contains_key(&shard.id) {
                    let paths = paths(output, manifest, &shard.id).await?;
                    self.read.insert(shard.id.clone(), paths);
                }
                if self.read.get(&shard.id).is_some_and(|paths| paths.contains(key)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

async fn paths(output: &dyn Store, manifest: &Manifest, shard: &ShardId) -> Result<BTreeSet<String>> {
    let key = keys::features(shard);
    let mut paths = BTreeSet::new();
    // A shard whose making failed, which the version tolerated, has no files; its objects are rejects.
    if let Some(file) = store::get_opt(output, &key).await? {
        paths.extend(tables::read_features(file, manifest.extractor.columns, &key)?.paths);
        let record: ShardRecord = dataset::read_json(output, &keys::shard(shard)).await?;
        paths.extend(record.rejects.into_iter().map(|reject| reject.path));
    } else {
        let key = &manifest.outputs.rejects;
        paths.extend(tables::read_rejects(output.get(key).await?, key)?.into_iter().map(|[path, ..]| path));
    }
    Ok(paths)
}
