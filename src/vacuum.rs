//! Deleting what no version that is kept names.
//!
//! A vacuum and a run exclude each other. A run first leaves a mark (`runs/<run>/started.json`) and then looks for the
//! vacuum's lock; a vacuum first takes its lock and then looks for marks. Whatever the order, at least one of the two
//! sees the other and ends with `Dataset.Busy`. So no file of a run in progress is ever deleted, and no run takes over
//! a shard that is about to go. Marks and locks of processes that died lose their meaning after a while.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    dataset::{self, Fate, Manifest, RunId, Version, keys},
    store::{self, Object, Store},
};

/// There while a vacuum goes on.
pub const LOCK: &str = "vacuum.json";
/// A lock is renewed well within this time.
const LOCK_LIFETIME: SignedDuration = SignedDuration::from_mins(30);
const LOCK_RENEWAL: SignedDuration = SignedDuration::from_mins(5);
/// A run that began longer ago and has not ended is taken for dead.
pub const RUN_LIFETIME: SignedDuration = SignedDuration::from_hours(72);
const CONCURRENCY: usize = 32;
/// Whatever lies elsewhere in an output is not touched.
const SWEPT: [&str; 8] = [keys::SHARDS, "partials/", "moments/", "basis/", "pca/", "csv/", "rejects/", keys::RUNS];

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// So many of the newest versions; the current one is always kept.
    pub keep_versions: usize,
    /// Versions and files that are not older than this are kept too.
    pub older_than_days: u32,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    pub kept: Vec<Version>,
    pub removed: Vec<Version>,
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    at: Timestamp,
}

impl Mark {
    fn now() -> Self {
        Mark { at: Timestamp::now() }
    }

    fn is_younger_than(&self, age: SignedDuration) -> bool {
        Timestamp::now().duration_since(self.at) < age
    }
}

/// Marks a run as begun. Fails with `Dataset.Busy` during a vacuum.
pub(crate) async fn enter(output: &dyn Store, run: &RunId) -> Result<()> {
    output.put(&keys::started(run), dataset::to_json(&Mark::now())?).await?;
    if lock(output).await?.is_some() {
        leave(output, run).await?;
        return Err(busy("a vacuum goes on").context("output", output.location()));
    }
    Ok(())
}

/// Takes the mark of a run away.
pub(crate) async fn leave(output: &dyn Store, run: &RunId) -> Result<()> {
    output.delete(&keys::started(run)).await
}

fn busy(message: &str) -> Error {
    Error::new(ErrorKind::DatasetBusy, message)
}

/// The lock, when there is one that still means something.
async fn lock(output: &dyn Store) -> Result<Option<Mark>> {
    let Some(lock) = store::get_opt(output, LOCK).await? else { return Ok(None) };
    let lock: Mark = dataset::from_json(&lock, LOCK)?;
    Ok(lock.is_younger_than(LOCK_LIFETIME).then_some(lock))
}

/// Deletes what `policy` does not keep; `dry` only tells. Every object is shown to `each` first.
///
/// Fails with `Dataset.Busy` while a run or another vacuum goes on.
pub async fn vacuum(
    output: &dyn Store,
    policy: Policy,
    dry: bool,
    each: &(dyn Fn(&Object) + Sync),
) -> Result<Vacuumed> {
    let cutoff = Timestamp::now() - SignedDuration::from_hours(24 * i64::from(policy.older_than_days));
    let keep = |newer: usize, manifest: &Manifest| {
        // A time that cannot be read keeps its version.
        let young = manifest.finished.parse::<Timestamp>().map_or(true, |finished| finished > cutoff);
        newer < policy.keep_versions.max(1) || young
    };
    exclusively(output, sweep(output, keep, cutoff, dry, each)).await
}

/// Deletes the versions in `versions`, and at once whatever no other version names.
pub(crate) async fn remove(
    output: &dyn Store,
    versions: &BTreeSet<Version>,
    each: &(dyn Fn(&Object) + Sync),
) -> Result<Vacuumed> {
    let keep = |_, manifest: &Manifest| !versions.contains(&manifest.version);
    exclusively(output, sweep(output, keep, Timestamp::MAX, false, each)).await
}

/// Takes over the lock of a vacuum that died; gives the key of the claim that says so, to be deleted behind the lock.
///
/// Of several that find the same dead lock, one gets the claim on it, and the others end with `Dataset.Busy`. Whoever
/// holds it looks at the lock once more: a slow one may come when the lock has long been another's.
async fn break_lock(output: &dyn Store) -> Result<String> {
    let another = || busy("another vacuum goes on").context("output", output.location());
    let Some(found) = store::get_opt(output, LOCK).await? else { return Err(another()) };
    let dead: Mark = dataset::from_json(&found, LOCK)?;
    if dead.is_younger_than(LOCK_LIFETIME) {
        return Err(another());
    }
    let mark = dataset::to_json(&Mark::now())?;
    for attempt in 0.. {
        let claim = format!("broken-{}-{attempt}-{LOCK}", dead.at.as_microsecond());
        if output.put_if_absent(&claim, mark.clone()).await? {
            if store::get_opt(output, LOCK).await? == Some(found) {
                output.put(LOCK, mark).await?;
                return Ok(claim);
            }
            output.delete(&claim).await?;
            return Err(another());
        }
        let claimed = store::get_opt(output, &claim).await?;
        let claimed = claimed.map(|bytes| dataset::from_json::<Mark>(&bytes, &claim)).transpose()?;
        // One that died after claiming is passed by.
        if claimed.is_none_or(|claimed| claimed.is_younger_than(LOCK_LIFETIME)) {
            break;
        }
    }
    Err(another())
}

/// Does `work` while no run begins, and none goes on.
async fn exclusively<T>(output: &dyn Store, work: impl Future<Output = Result<T>>) -> Result<T> {
    dataset::expect_output(output).await?;
    let taken = dataset::to_json(&Mark::now())?;
    let broken = if output.put_if_absent(LOCK, taken).await? { None } else { Some(break_lock(output).await?) };
    let outcome = match runs_in_progress(output).await {
        Ok(runs) if runs.is_empty() => work.await,
        Ok(runs) => Err(busy("a run goes on").context("runs", runs.join(", "))),
        Err(e) => Err(e),
    };
    // The first error is the one to tell.
    let mut unlocked = output.delete(LOCK).await;
    if let Some(claim) = broken {
        unlocked = unlocked.and(output.delete(&claim).await);
    }
    outcome.and_then(|done| unlocked.map(|()| done))
}

async fn runs_in_progress(output: &dyn Store) -> Result<Vec<String>> {
    let mut runs = Vec::new();
    let mut pages = output.list(keys::RUNS, None);
    while let Some(page) = pages.try_next().await? {
        for object in page {
            let name = object.key.strip_prefix(keys::RUNS).and_then(|rest| rest.split_once('/'));
            let Some((run, keys::STARTED)) = name else { continue };
            let Some(mark) = store::get_opt(output, &object.key).await? else { continue };
            if dataset::from_json::<Mark>(&mark, &object.key)?.is_younger_than(RUN_LIFETIME) {
                runs.push(run.to_owned());
            }
        }
    }
    Ok(runs)
}

/// Takes away the versions that are not kept (told with the number of newer ones), then every file that was written
/// before `cutoff` and that no version names.
async fn sweep(
    output: &dyn Store,
    keep: impl Fn(usize, &Manifest) -> bool,
    cutoff: Timestamp,
    dry: bool,
    each: &(dyn Fn(&Object) + Sync),
) -> Result<Vacuumed> {
    let mut done = Vacuumed::default();
    let mut named: HashSet<String> = HashSet::new();
    let mut runs: HashSet<String> = HashSet::new();
    let mut manifests = dataset::published(output).await?;
    manifests.reverse();
    for (newer, manifest) in manifests.into_iter().enumerate() {
        if keep(newer, &manifest) {
            named.extend(manifest.files());
            runs.insert(format!("{}{}/", keys::RUNS, manifest.run));
            done.kept.push(manifest.version);
        } else {
            done.removed.push(manifest.version);
        }
    }
    done.kept.reverse();
    done.removed.reverse();
    // Readers must not find a version that names files which are gone.
    if !dry {
        for version in &done.removed {
            output.put(&keys::version(*version), dataset::to_json(&Fate::Removed { version: *version })?).await?;
        }
    }
    let stays = |object: &Object| {
        named.contains(&object.key)
            || object.modified >= cutoff.as_microsecond()
            || runs.iter().any(|run| object.key.starts_with(run))
    };
    let mut renewed = Timestamp::now();
    for prefix in SWEPT {
        let mut pages = output.list(prefix, None);
        while let Some(page) = pages.try_next().await? {
            let gone: Vec<&Object> = page.iter().filter(|object| !stays(object)).collect();
            for object in &gone {
                each(object);
                done.objects += 1;
                done.bytes += object.size;
            }
            if !dry {
                let deletes: Vec<_> = gone.iter().map(|object| output.delete(&object.key)).collect();
                stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
                if Timestamp::now().duration_since(renewed) > LOCK_RENEWAL {
                    renewed = Timestamp::now();
                    output.put(LOCK, dataset::to_json(&Mark::now())?).await?;
                }
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    const POLICY: Policy = Policy { keep_versions: 1, older_than_days: 0 };

    async fn output() -> MemoryStore {
        let output = MemoryStore::new();
        dataset::open_output(&output).await.unwrap();
        output
    }

    async fn mark(output: &MemoryStore, key: &str, dead: bool) {
        let mark = if dead { Mark { at: Timestamp::from_second(1_700_000_000).unwrap() } } else { Mark::now() };
        output.put(key, dataset::to_json(&mark).unwrap()).await.unwrap();
    }

    async fn keys_of(output: &MemoryStore) -> Vec<String> {
        store::list_all(output, "").await.unwrap().into_iter().map(|object| object.key).collect()
    }

    #[tokio::test]
    async fn a_dead_vacuums_lock_is_broken_by_one() {
        let output = output().await;
        mark(&output, LOCK, true).await;
        let claim = format!("broken-1700000000000000-0-{LOCK}");
        // Somebody else has just claimed it.
        mark(&output, &claim, false).await;
        let refused = vacuum(&output, POLICY, false, &|_| {}).await.unwrap_err();
        assert!(refused.is(ErrorKind::DatasetBusy), "{refused}");

        // That one has died as well.
        mark(&output, &claim, true).await;
        vacuum(&output, POLICY, false, &|_| {}).await.unwrap();
        assert!(!keys_of(&output).await.contains(&LOCK.to_owned()));

        // And what two at once come to: one vacuum, or one behind the other.
        mark(&output, LOCK, true).await;
        output.delete(&claim).await.unwrap();
        let (a, b) = futures::join!(break_lock(&output), break_lock(&output));
        assert_eq!([&a, &b].iter().filter(|outcome| outcome.is_ok()).count(), 1, "{a:?} {b:?}");
        assert!([a, b].into_iter().find_map(Result::err).unwrap().is(ErrorKind::DatasetBusy));
    }
}
