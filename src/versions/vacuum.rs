//! Deleting what no kept version names.
//!
//! A vacuum and a run exclude each other: see [`crate::dataset::lease`].

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    dataset::{
        self, Manifest, VersionState, keys,
        lease::{self, Lock},
    },
    ids::Version,
    store::{Object, Store},
};

/// Concurrent deletions.
const CONCURRENCY: usize = 32;

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// This many of the newest versions; the current one is always kept.
    pub keep_versions: usize,
    /// Versions and files that are not older than this are kept too, in days.
    pub older_than_days: u32,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    /// Versions that stay, rising.
    pub kept: Vec<Version>,
    /// Versions that were removed, rising.
    pub removed: Vec<Version>,
    /// Files that were deleted.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

/// Whether files are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Deletes them.
    Delete,
    /// Reports what would be deleted.
    DryRun,
}

/// Called with every object before it is deleted.
pub type OnObject<'a> = &'a (dyn Fn(&Object) + Sync);

/// Deletes what `policy` does not keep, or only reports it.
///
/// Fails with `Dataset.Busy` while a run or another vacuum is in progress.
pub async fn vacuum(output: &dyn Store, policy: Policy, action: Action, each: OnObject<'_>) -> Result<Vacuumed> {
    let cutoff = Timestamp::now() - SignedDuration::from_hours(24 * i64::from(policy.older_than_days));
    let keep = |newer: usize, manifest: &Manifest| newer < policy.keep_versions.max(1) || manifest.finished > cutoff;
    lease::exclusively(output, |lock| sweep(output, lock, Selection { keep: &keep, cutoff }, action, each)).await
}

/// Deletes the versions in `versions`, and at once every file that no other version names.
pub(crate) async fn remove(output: &dyn Store, versions: &BTreeSet<Version>, each: OnObject<'_>) -> Result<Vacuumed> {
    let keep = |_: usize, manifest: &Manifest| !versions.contains(&manifest.version);
    let selection = Selection { keep: &keep, cutoff: Timestamp::MAX };
    lease::exclusively(output, |lock| sweep(output, lock, selection, Action::Delete, each)).await
}

/// What a sweep keeps.
struct Selection<'a> {
    /// Whether a version is kept, given the number of newer ones.
    keep: &'a (dyn Fn(usize, &Manifest) -> bool + Sync),
    /// Files written after this stay.
    cutoff: Timestamp,
}

/// Files and folders that kept versions name.
#[derive(Default)]
struct Named {
    files: HashSet<String>,
    /// Folders of the runs that made them.
    runs: HashSet<String>,
}

impl Named {
    fn contains(&self, key: &str) -> bool {
        self.files.contains(key) || self.runs.iter().any(|run| key.starts_with(run))
    }
}

/// Removes the versions that are not kept, then every file that was written before the cutoff and that no version names.
async fn sweep(
    output: &dyn Store,
    mut lock: Lock<'_>,
    selection: Selection<'_>,
    action: Action,
    each: OnObject<'_>,
) -> Result<Vacuumed> {
    let (mut done, named) = remove_versions(output, &selection, action).await?;
    let stays = |object: &Object| named.contains(&object.key) || object.modified >= selection.cutoff.as_microsecond();
    for prefix in keys::swept() {
        let mut pages = output.list(prefix, None);
        while let Some(page) = pages.try_next().await? {
            let gone: Vec<&Object> = page.iter().filter(|object| !stays(object)).collect();
            for object in &gone {
                each(object);
                done.objects += 1;
                done.bytes += object.size;
            }
            if action == Action::Delete {
                let deletes: Vec<_> = gone.iter().map(|object| output.delete(&object.key)).collect();
                stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
                lock.renew().await?;
            }
        }
    }
    Ok(done)
}

/// Marks the versions that are not kept as removed; returns what the others name.
async fn remove_versions(output: &dyn Store, selection: &Selection<'_>, action: Action) -> Result<(Vacuumed, Named)> {
    let (mut done, mut named) = (Vacuumed::default(), Named::default());
    let mut manifests = dataset::published(output).await?;
    manifests.reverse();
    for (newer, manifest) in manifests.into_iter().enumerate() {
        if (selection.keep)(newer, &manifest) {
            named.files.extend(manifest.files());
            named.runs.insert(keys::run_folder(&manifest.run));
            done.kept.push(manifest.version);
        } else {
            done.removed.push(manifest.version);
        }
    }
    done.kept.reverse();
    done.removed.reverse();
    // Readers must not find a version that names files which are gone.
    if action == Action::Delete {
        for version in &done.removed {
            let state = VersionState::Removed { version: *version };
            output.put(&keys::version(*version), dataset::to_json(&state)?).await?;
        }
    }
    Ok((done, named))
}
