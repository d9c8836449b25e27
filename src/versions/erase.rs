//! Erasing images from an output and all of its versions.
//!
//! The basis of a version, and so every score, depends on each of its images. Therefore an image cannot be removed from a
//! version. Instead, a run publishes a new version without the erased images, and every version that contains one of them
//! is deleted, with all files that no other version needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures::TryStreamExt;
use serde::Serialize;

use super::vacuum;
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, Manifest, ShardEntry, ShardRecord, inbox, keys, settings::Mode, tables},
    ids::{RunId, ShardId, Version},
    model::WorkerPool,
    pipeline::{self, Watcher},
    stages::{CancellationToken, PlanInput, Stores},
    store::{self, Store},
};

/// The images to erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraseInput {
    /// Id of the run that publishes the new version.
    pub run: RunId,
    /// Keys of the images, relative to the input.
    pub keys: BTreeSet<String>,
}

/// The record of an erasure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Keys of the erased images, relative to the input.
    pub keys: Vec<String>,
    /// The current version, which does not contain them.
    pub version: Version,
    /// Whether that version was published by this call.
    pub rewritten: bool,
    /// Versions that contained one of the images, and are deleted.
    pub removed_versions: Vec<Version>,
    /// Keys of all deleted files, relative to the output.
    pub deleted: Vec<String>,
    /// Features tables of the remaining versions whose key range includes one of the images. They were read, and contain
    /// none of them.
    pub checked: Vec<String>,
}

/// Erases images from an output.
///
/// Fails with `Input.Invalid` if an image is still in the input, because the next run would add it again; with
/// `Dataset.Busy` if another run publishes a version with one of the images at the same time; and with the errors of
/// [`pipeline::run`] and [`vacuum`].
pub async fn erase(
    stores: &Stores,
    workers: &WorkerPool,
    input: EraseInput,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Erased> {
    let output = stores.output.as_ref();
    let EraseInput { run, keys: erased } = input;
    let current = dataset::version(output, None).await?;
    check_absent(stores.input.as_ref(), &erased).await?;
    let input = PlanInput { run, settings: current.settings, mode: Mode::default() };
    let summary = pipeline::run(stores, workers, &input, watcher, stop).await?;

    let holders = Tables::default().holders(output, &erased).await?;
    if holders.contains(&summary.manifest.version) {
        return Err(Error::new(ErrorKind::InternalBug, "the new version contains an image that is not in the input")
            .context("version", summary.manifest.version));
    }
    // Notices contain keys.
    inbox::clear(output, &inbox::read(output).await?.notices).await?;
    let deleted = Mutex::new(Vec::new());
    vacuum::remove(output, &holders, &|object| {
        deleted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(object.key.clone());
    })
    .await?;

    let mut remaining = Tables::default();
    if let Some(version) = remaining.holders(output, &erased).await?.first() {
        return Err(Error::new(ErrorKind::DatasetBusy, "another run has published a version with one of the images")
            .context("version", version));
    }
    Ok(Erased {
        keys: erased.into_iter().collect(),
        version: summary.manifest.version,
        rewritten: !summary.up_to_date,
        removed_versions: holders.into_iter().collect(),
        deleted: deleted.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        checked: remaining.read.keys().map(keys::features).collect(),
    })
}

async fn check_absent(input: &dyn Store, erased: &BTreeSet<String>) -> Result<()> {
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

/// The shards that have been read, and the keys of their rows and rejects.
#[derive(Default)]
struct Tables {
    read: BTreeMap<ShardId, BTreeSet<String>>,
}

impl Tables {
    /// The published versions that contain one of the images.
    async fn holders(&mut self, output: &dyn Store, erased: &BTreeSet<String>) -> Result<BTreeSet<Version>> {
        let mut holders = BTreeSet::new();
        for manifest in dataset::published(output).await? {
            if self.holds(output, &manifest, erased).await? {
                holders.insert(manifest.version);
            }
        }
        Ok(holders)
    }

    async fn holds(&mut self, output: &dyn Store, manifest: &Manifest, erased: &BTreeSet<String>) -> Result<bool> {
        for key in erased {
            for shard in manifest.shards_between(key, key) {
                if !self.read.contains_key(&shard.id) {
                    let paths = paths(output, manifest, shard).await?;
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

/// Keys of all rows and rejects of a shard.
async fn paths(output: &dyn Store, manifest: &Manifest, shard: &ShardEntry) -> Result<BTreeSet<String>> {
    let key = keys::features(&shard.id);
    let mut paths = BTreeSet::new();
    // A shard that failed within the tolerance of the map has no files; its objects are rejects of the version.
    let file = match shard.rows {
        0 => store::get_opt(output, &key).await?,
        _ => Some(dataset::get_file(output, &key).await?),
    };
    if let Some(file) = file {
        paths.extend(tables::read_features(file, manifest.extractor.columns, &key)?.paths);
        let key = keys::shard(&shard.id);
        let record: ShardRecord = dataset::from_json(&dataset::get_file(output, &key).await?, &key)?;
        paths.extend(record.rejects.into_iter().map(|reject| reject.path));
    } else {
        let key = &manifest.outputs.rejects;
        paths.extend(
            tables::read_rejects(dataset::get_file(output, key).await?, key)?.into_iter().map(|[path, ..]| path),
        );
    }
    Ok(paths)
}
