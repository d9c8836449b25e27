//! Erasing images from an output and all of its versions.
//!
//! The basis of a version, and so every score, depends on each of its images. Therefore an image cannot be removed from a
//! version. Instead, a run publishes a new version without the erased images, and every version that contains one of them
//! is deleted, with all files that no other version needs. A search of every byte of the output comes before, to find
//! these versions, and after, as the proof.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    nearest,
    search::{Found, Unsearched, Wanted},
    vacuum::{self, Action},
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, Manifest, contents, inbox, keys, labelling,
        lease::Judge,
        newest, review,
        settings::{Mode, Settings},
    },
    ids::{RunId, Version},
    model::WorkerPool,
    pipeline::{self, Watcher},
    stages::{CancellationToken, PlanInput, Stores, check_input},
    store::{self, Store},
};

/// The images to erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraseInput {
    /// Id of the run that publishes the new version.
    pub run: RunId,
    /// Keys of the images, relative to the input.
    pub keys: BTreeSet<String>,
    /// Whether the input may have moved, and whether many images may be gone.
    pub mode: Mode,
    /// Whether anything is deleted.
    pub action: Action,
}

/// The record of an erasure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Keys of the erased images, relative to the input.
    pub keys: Vec<String>,
    /// The current version. After an erasure, it does not contain them.
    pub version: Version,
    /// Whether that version was published by this call.
    pub rewritten: bool,
    /// Versions that contained one of the images, and are deleted.
    pub removed_versions: Vec<Version>,
    /// Keys of all deleted files, relative to the output. Of a dry run, at least those that would be deleted.
    pub deleted: Vec<String>,
    /// Every file of the output after the erasure. All of its bytes were searched for the paths and the features of the
    /// images, and hold neither. Empty after a dry run.
    pub checked: Vec<String>,
    /// Files among them whose content was not searched, and why.
    pub not_searched: Vec<Unsearched>,
    /// Why the report of the new version could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_error: Option<String>,
}

/// Erases images from an output; or reports what that would delete.
///
/// Fails with `Input.UnknownKey` if no file of the output contains a key; with `Input.Invalid` if an image is still in the
/// input, because the next run would add it again; with `Dataset.Busy` if another run writes one of the images at the same
/// time; and with the errors of [`pipeline::run`] and [`vacuum`].
#[compiled_once]
pub async fn erase<'a>(
    stores: &'a Stores,
    workers: &WorkerPool,
    input: EraseInput,
    judge: Judge<'a>,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Erased> {
    let output = stores.output.as_ref();
    let EraseInput { run, keys: erased, mode, action } = input;
    let current = dataset::version(output, None).await?;
    // Another input says nothing about whether an image still exists.
    check_input(&current, &stores.input.place(), stores.input.identity().await.as_deref(), mode)?;
    let mut wanted = Wanted::new(&erased);
    let before = wanted.search(output, &BTreeSet::new(), watcher).await?;
    wanted.learn(&before);
    check_known(output, &erased, &before).await?;
    check_absent(stores.input.as_ref(), &erased).await?;
    check_own(&before)?;
    if action == Action::DryRun {
        return would_erase(output, erased, current.version, &before, judge).await;
    }

    let settings = without(output, current.settings, &erased).await?;
    let input = PlanInput { settings, mode, ..PlanInput::new(run) };
    let mut summary = pipeline::run(stores, workers, &input, watcher, stop).await?;
    let report_error = write_report(stores, &mut summary, watcher).await;
    // Another run may have published in the meantime: what was written since then is searched too.
    let mut found = wanted.search_traces(output, &before.read, watcher).await?;
    for (path, files) in before.paths {
        found.paths.entry(path).or_default().extend(files);
    }
    let holders = holders(output, &found).await?;
    if holders.contains(&summary.manifest.version) {
        expect_sound(output, &summary.manifest, &found).await?;
        return Err(Error::new(ErrorKind::InternalBug, "the new version contains an image that is not in the input")
            .context("version", summary.manifest.version)
            .context("files", found.files().into_iter().collect::<Vec<_>>().join(", ")));
    }
    forget(output, &erased).await?;
    let began = Timestamp::now();
    let mut deleted = remove(output, &holders, Action::Delete, judge).await?;
    forget_in_lists(output, &found, &mut deleted).await?;
    deleted.extend(newest::renew(output, &summary.manifest).await?.then(|| keys::REPORT.to_owned()));
    let after = wanted.search_traces(output, &BTreeSet::new(), watcher).await?;
    check_gone(output, &after, began).await?;
    Ok(Erased {
        keys: erased.into_iter().collect(),
        version: summary.manifest.version,
        rewritten: !summary.up_to_date,
        removed_versions: holders.into_iter().collect(),
        deleted,
        checked: after.read.into_iter().collect(),
        not_searched: after.unsearched.into_iter().collect(),
        report_error,
    })
}

/// The settings with a file of labels that does not name the images.
async fn without(output: &dyn Store, mut settings: Settings, erased: &BTreeSet<String>) -> Result<Settings> {
    if let Some(file) = &settings.labels
        && let Some(kept) = labelling::without(output, file, erased).await?
    {
        settings.labels = Some(kept);
    }
    Ok(settings)
}

/// Writes the report of the new version, which replaces the newest one. Returns the error: the erasure does not depend on it.
#[cfg(feature = "report")]
async fn write_report(stores: &Stores, summary: &mut pipeline::Summary, watcher: &dyn Watcher) -> Option<String> {
    pipeline::report(stores, summary, watcher).await.err().map(|error| error.to_string())
}

#[cfg(not(feature = "report"))]
async fn write_report(_: &Stores, _: &mut pipeline::Summary, _: &dyn Watcher) -> Option<String> {
    None
}

/// Fails with `Dataset.Corrupt` if one of the files in which an image was found is damaged: it can have the content of another.
async fn expect_sound(output: &dyn Store, version: &Manifest, found: &Found) -> Result<()> {
    let holding = found.files();
    for file in contents::files(output, version).await?.iter().filter(|file| holding.contains(&file.key)) {
        file.read(output).await?;
    }
    Ok(())
}

async fn would_erase(
    output: &dyn Store,
    erased: BTreeSet<String>,
    version: Version,
    found: &Found,
    judge: Judge<'_>,
) -> Result<Erased> {
    let (holders, files) = (holders(output, found).await?, found.files());
    let mut deleted = remove(output, &holders, Action::DryRun, judge).await?;
    // The new version uses the shards and groups that do not contain the images.
    // And the lists of members of archives.
    let of_holder = |key: &String| match keys::record_of(key) {
        Some(record) => files.contains(&record),
        None => keys::parse_container(key).is_none(),
    };
    deleted.retain(|key| files.contains(key) || of_holder(key));
    // The run that publishes the new version makes newer lists of members.
    let lists = files.range(keys::CONTAINERS.to_owned()..).take_while(|key| key.starts_with(keys::CONTAINERS));
    let listed: BTreeSet<String> = deleted.into_iter().chain(lists.cloned()).collect();
    let deleted = listed.into_iter().collect();
    Ok(Erased {
        keys: erased.into_iter().collect(),
        version,
        rewritten: false,
        removed_versions: holders.into_iter().collect(),
        deleted,
        checked: Vec::new(),
        not_searched: Vec::new(),
        report_error: None,
    })
}

/// Removes versions and all files that no other version needs; returns the keys of the files.
async fn remove(
    output: &dyn Store,
    versions: &BTreeSet<Version>,
    action: Action,
    judge: Judge<'_>,
) -> Result<Vec<String>> {
    let deleted = Mutex::new(Vec::new());
    let each = |object: &store::Object| {
        deleted.lock().unwrap_or_else(PoisonError::into_inner).push(object.key.clone());
    };
    vacuum::remove(output, versions, action, judge, &each).await?;
    Ok(deleted.into_inner().unwrap_or_else(PoisonError::into_inner))
}

async fn check_absent(input: &dyn Store, erased: &BTreeSet<String>) -> Result<()> {
    for key in erased {
        let found = store::ascending(input, key, None).try_next().await?;
        if found.is_some_and(|page| page.first().is_some_and(|object| object.key == *key)) {
            return Err(Error::new(ErrorKind::InputInvalid, "this image is still in the input; delete it there first")
                .context("key", key)
                .context("input", input.location()));
        }
    }
    Ok(())
}

/// Fails with `Input.Invalid` if an image was found in a file that is not a part of the data set. Such files are not deleted.
fn check_own(found: &Found) -> Result<()> {
    let beside = |file: &str| [keys::REPORT, keys::REVIEW].contains(&file);
    let own = |file: &String| beside(file) || keys::PREFIXES.iter().any(|prefix| file.starts_with(prefix.name));
    let others: Vec<String> = found.files().into_iter().filter(|file| !own(file)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let message = "files of the output that Pomona did not write contain the images; delete or move them first";
    Err(Error::new(ErrorKind::InputInvalid, message).context("files", others.join(", ")))
}

/// Deletes the lists of members that have one of the images. A vacuum may keep them for other images of the archive.
async fn forget_in_lists(output: &dyn Store, found: &Found, deleted: &mut Vec<String>) -> Result<()> {
    for list in found.files().into_iter().filter(|file| file.starts_with(keys::CONTAINERS)) {
        output.delete(&list).await?;
        deleted.push(list);
    }
    deleted.sort_unstable();
    deleted.dedup();
    Ok(())
}

/// Removes the images from the reviewed labels and from the notices of uploads. The other keys of a notice wait for the next
/// run.
async fn forget(output: &dyn Store, erased: &BTreeSet<String>) -> Result<()> {
    review::forget(output, erased).await?;
    for notice in inbox::read(output).await?.notices {
        let Some(body) = store::get_opt(output, &notice).await? else { continue };
        let keys: BTreeSet<String> = dataset::from_json(&body, &notice)?;
        if keys.is_disjoint(erased) {
            continue;
        }
        inbox::add(output, &keys.difference(erased).cloned().collect()).await?;
        output.delete(&notice).await?;
    }
    Ok(())
}

/// Fails with `Input.UnknownKey`, which names the nearest keys, if a key was found nowhere.
async fn check_known(output: &dyn Store, erased: &BTreeSet<String>, found: &Found) -> Result<()> {
    let Some(unknown) = erased.iter().find(|key| !found.paths.contains_key(*key)) else { return Ok(()) };
    let message = "no file of the output contains this key; it was never there, or it is erased already";
    let error = Error::new(ErrorKind::InputUnknownKey, message).context("key", unknown);
    let nearest = nearest::keys(output, unknown).await?;
    Err(if nearest.is_empty() { error } else { error.context("nearest keys", nearest.join(", ")) })
}

/// The published versions with a file in which one of the images was found.
async fn holders(output: &dyn Store, found: &Found) -> Result<BTreeSet<Version>> {
    let files = found.files();
    let mut holders = BTreeSet::new();
    for manifest in dataset::published(output).await? {
        let run = keys::run_folder(&manifest.run);
        let in_run = files.range(run.clone()..).next().is_some_and(|file| file.starts_with(&run));
        let in_record = files.contains(&keys::version(manifest.version));
        let named = contents::files(output, &manifest).await?;
        if in_run || in_record || named.iter().any(|file| files.contains(&file.key)) {
            holders.insert(manifest.version);
        }
    }
    Ok(holders)
}

/// Fails if anything was found after the erasure.
async fn check_gone(output: &dyn Store, found: &Found, since: Timestamp) -> Result<()> {
    let files = found.files();
    if files.is_empty() {
        return Ok(());
    }
    let listed: BTreeMap<String, i64> =
        store::list_all(output, "").await?.into_iter().map(|object| (object.key, object.modified)).collect();
    let is_new = |file: &String| listed.get(file).is_none_or(|modified| *modified >= since.as_microsecond());
    let named = files.iter().cloned().collect::<Vec<_>>().join(", ");
    Err(if files.iter().all(is_new) {
        Error::new(ErrorKind::DatasetBusy, "another run has written one of the images again").context("files", named)
    } else {
        Error::new(ErrorKind::InternalBug, "files of the output still contain one of the images")
            .context("files", named)
    })
}
