//! Deletion of old versions, and of files that no version refers to.
//!
//! A vacuum and a run exclude each other: see [`crate::dataset::lease`].

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Result, archive, compiled_once,
    dataset::{
        self, Manifest, VersionState, contents, delta, keys,
        lease::{self, Judge, Lock},
        newest,
    },
    ids::Version,
    store::{self, Object, Store},
};

/// Concurrent deletions.
const CONCURRENCY: usize = 32;

/// The versions and files to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Number of newest versions to keep. The current version is kept even with 0.
    pub keep_versions: usize,
    /// Age in days up to which other versions, and files of no version, are kept.
    pub older_than_days: u32,
}

/// Result of a vacuum. After a dry run, what it would have deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    /// Kept versions, ascending.
    pub kept: Vec<Version>,
    /// Removed versions, ascending.
    pub removed: Vec<Version>,
    /// Number of deleted files.
    pub objects: u64,
    /// Total size of the deleted files in bytes.
    pub bytes: u64,
}

/// Whether a vacuum deletes files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete files.
    Delete,
    /// Only report the files that [`Action::Delete`] would delete.
    DryRun,
}

/// Called for every object before it is deleted; also in a dry run.
pub type OnObject<'a> = &'a (dyn Fn(&Object) + Sync);

/// Deletes the versions and files that `policy` does not keep, or only reports them.
///
/// Fails with `Dataset.Busy` while a run or another vacuum is in progress, and with `Dataset.Corrupt`, before anything is
/// deleted, if the files of a version cannot be found out.
#[compiled_once]
pub async fn vacuum<'a>(
    output: &'a dyn Store,
    policy: Policy,
    action: Action,
    judge: Judge<'a>,
    each: OnObject<'a>,
) -> Result<Vacuumed> {
    let cutoff = Timestamp::now() - SignedDuration::from_hours(24 * i64::from(policy.older_than_days));
    let keep = |newer: usize, manifest: &Manifest| newer < policy.keep_versions.max(1) || manifest.finished > cutoff;
    sweep_alone(output, Selection { keep: &keep, cutoff }, action, judge, each).await
}

/// Deletes `versions`, and every file that no other version refers to, whatever its age.
pub(crate) async fn remove(
    output: &dyn Store,
    versions: &BTreeSet<Version>,
    action: Action,
    judge: Judge<'_>,
    each: OnObject<'_>,
) -> Result<Vacuumed> {
    let keep = |_: usize, manifest: &Manifest| !versions.contains(&manifest.version);
    sweep_alone(output, Selection { keep: &keep, cutoff: Timestamp::MAX }, action, judge, each).await
}

/// Sweeps while no run and no other vacuum is in progress.
async fn sweep_alone(
    output: &dyn Store,
    selection: Selection<'_>,
    action: Action,
    judge: Judge<'_>,
    each: OnObject<'_>,
) -> Result<Vacuumed> {
    // A dry run deletes nothing, so it breaks no locks.
    let judge = Judge { break_locks: judge.break_locks && action == Action::Delete, ..judge };
    lease::exclusively(output, judge, |lock| sweep(output, lock, selection, action, each)).await
}

/// The versions and files that a sweep keeps.
struct Selection<'a> {
    /// Whether a version is kept, given the number of newer versions.
    keep: &'a (dyn Fn(usize, &Manifest) -> bool + Sync),
    /// Files that are written later are kept.
    cutoff: Timestamp,
}

/// Files and folders of kept versions.
#[derive(Default)]
struct Referenced {
    files: HashSet<String>,
    /// Folders of the runs that published them.
    runs: HashSet<String>,
    /// First and last key of each of their shards, by version.
    ranges: Vec<Vec<(String, String)>>,
}

impl Referenced {
    fn contains(&self, key: &str) -> bool {
        self.files.contains(key) || self.runs.iter().any(|run| key.starts_with(run))
    }
}

impl Referenced {
    /// Adds the newest lists of members of those archives that kept versions have images of. Without them, the next run
    /// would read unchanged archives again. An older list may hold names of images that are erased.
    async fn add_containers(&mut self, output: &dyn Store) -> Result<()> {
        let mut newest: HashMap<String, (i64, String)> = HashMap::new();
        let mut pages = store::ascending(output, keys::CONTAINERS, None);
        while let Some(page) = pages.try_next().await? {
            for object in page {
                let Some(file) = store::get_opt(output, &object.key).await? else { continue };
                let Some(archive) = archive::archive_of(file, &object.key).await? else { continue };
                if self.has_part_of(&archive) {
                    let own = (object.modified, object.key);
                    newest.entry(archive).and_modify(|known| *known = own.clone().max(known.clone())).or_insert(own);
                }
            }
        }
        self.files.extend(newest.into_values().map(|(_, key)| key));
        Ok(())
    }

    /// Whether a shard has members of an archive, or the archive itself as a reject.
    fn has_part_of(&self, archive: &str) -> bool {
        let end = format!("{archive}\"");
        self.ranges.iter().any(|shards| {
            let first = shards.partition_point(|(_, last)| last.as_str() < archive);
            shards.get(first).is_some_and(|(first, _)| *first < end)
        })
    }
}

/// Removes the versions that are not kept, then the files that no kept version refers to, up to the cutoff.
async fn sweep(
    output: &dyn Store,
    mut lock: Lock<'_>,
    selection: Selection<'_>,
    action: Action,
    each: OnObject<'_>,
) -> Result<Vacuumed> {
    let (mut done, referenced) = remove_versions(output, &selection, action).await?;
    // No run is in progress, so all marks are those of dead ones. A failed execution that is redriven must not publish what
    // this vacuum deletes, so its mark goes first, whatever its age.
    let stays = |object: &Object| {
        let is_mark = keys::parse_started(&object.key).is_some();
        let is_young = object.modified >= selection.cutoff.as_microsecond();
        !is_mark && (referenced.contains(&object.key) || is_young)
    };
    for prefix in std::iter::once(keys::RUNS).chain(keys::swept().filter(|prefix| *prefix != keys::RUNS)) {
        let mut pages = store::ascending(output, prefix, None);
        while let Some(page) = pages.try_next().await? {
            let expired: Vec<&Object> = page.iter().filter(|object| !stays(object)).collect();
            for object in &expired {
                each(object);
                done.objects += 1;
                done.bytes += object.size;
            }
            if action == Action::Delete {
                let deletes: Vec<_> = expired.iter().map(|object| output.delete(&object.key)).collect();
                stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
                lock.renew().await?;
            }
        }
    }
    remove_report(output, &mut done, action, each).await?;
    if action == Action::Delete && !done.removed.is_empty() {
        delta::rewrite(output).await?;
    }
    Ok(done)
}

/// Removes the newest report if its version is not kept: no newer version has a report.
async fn remove_report(output: &dyn Store, done: &mut Vacuumed, action: Action, each: OnObject<'_>) -> Result<()> {
    let Some(newest) = newest::find(output).await? else { return Ok(()) };
    if newest.version.is_none_or(|version| done.kept.contains(&version)) {
        return Ok(());
    }
    each(&newest.object);
    done.objects += 1;
    done.bytes += newest.object.size;
    if action == Action::Delete { output.delete(keys::REPORT).await } else { Ok(()) }
}

/// Marks the versions that are not kept as removed. Returns the files of the others.
async fn remove_versions(
    output: &dyn Store,
    selection: &Selection<'_>,
    action: Action,
) -> Result<(Vacuumed, Referenced)> {
    let (mut done, mut referenced) = (Vacuumed::default(), Referenced::default());
    let mut manifests = dataset::published(output).await?;
    manifests.reverse();
    for (newer, manifest) in manifests.into_iter().enumerate() {
        if (selection.keep)(newer, &manifest) {
            let files = contents::files(output, &manifest).await?;
            referenced.files.extend(files.into_iter().map(|file| file.key));
            referenced.runs.insert(keys::run_folder(&manifest.run));
            let shards = contents::shards(output, &manifest).await?;
            referenced.ranges.push(shards.into_iter().map(|shard| (shard.first, shard.last)).collect());
            done.kept.push(manifest.version);
        } else {
            done.removed.push(manifest.version);
        }
    }
    referenced.add_containers(output).await?;
    done.kept.reverse();
    done.removed.reverse();
    // Before any file is deleted: a reader must not find a version without its files.
    if action == Action::Delete {
        for version in &done.removed {
            let state = VersionState::Removed { version: *version };
            output.put(&keys::version(*version), dataset::to_record(&state)?).await?;
        }
    }
    Ok((done, referenced))
}
