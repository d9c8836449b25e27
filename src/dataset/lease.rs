//! Runs and vacuums exclude each other.
//!
//! A run first writes a mark (`runs/<run>/started.json`) and then looks for the vacuum's lock; a vacuum first takes its
//! lock and then looks for marks. Whatever the order, at least one of the two sees the other and ends with
//! `Dataset.Busy`. So no file of a run in progress is ever deleted, and no run takes over a shard that is about to be
//! deleted. Marks and locks of crashed processes expire: a run's after 72 hours, a vacuum's after 30 minutes.

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    expect_output, from_json,
    keys::{self, LOCK},
    to_json,
};
use crate::{
    Error, ErrorKind, Result,
    ids::RunId,
    store::{self, Store},
};

/// A lock is renewed well within this time.
const LOCK_LIFETIME: SignedDuration = SignedDuration::from_mins(30);
const LOCK_RENEWAL: SignedDuration = SignedDuration::from_mins(5);
/// A run whose mark is older and still there has crashed.
pub const RUN_LIFETIME: SignedDuration = SignedDuration::from_hours(72);

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
    output.put(&keys::started(run), to_json(&Mark::now())?).await?;
    if is_locked(output).await? {
        leave(output, run).await?;
        return Err(busy("a vacuum is in progress").context("output", output.location()));
    }
    Ok(())
}

/// Removes the mark of a run.
pub(crate) async fn leave(output: &dyn Store, run: &RunId) -> Result<()> {
    output.delete(&keys::started(run)).await
}

fn busy(message: &str) -> Error {
    Error::new(ErrorKind::DatasetBusy, message)
}

/// Whether there is a lock that has not expired.
async fn is_locked(output: &dyn Store) -> Result<bool> {
    let Some(lock) = store::get_opt(output, LOCK).await? else { return Ok(false) };
    Ok(from_json::<Mark>(&lock, LOCK)?.is_younger_than(LOCK_LIFETIME))
}

/// The lock of a vacuum in progress, to be renewed while it works.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    output: &'a dyn Store,
    renewed: Timestamp,
}

impl Lock<'_> {
    /// Writes the lock again when it is some minutes old, so that it does not expire.
    pub(crate) async fn renew(&mut self) -> Result<()> {
        if Timestamp::now().duration_since(self.renewed) > LOCK_RENEWAL {
            self.renewed = Timestamp::now();
            self.output.put(LOCK, to_json(&Mark::now())?).await?;
        }
        Ok(())
    }
}

/// Does `work` while no run is in progress, and none can begin.
pub(crate) async fn exclusively<'a, T, Fut: Future<Output = Result<T>>>(
    output: &'a dyn Store,
    work: impl FnOnce(Lock<'a>) -> Fut,
) -> Result<T> {
    expect_output(output).await?;
    let taken = to_json(&Mark::now())?;
    let broken = if output.put_if_absent(LOCK, taken).await? { None } else { Some(break_lock(output).await?) };
    let outcome = match runs_in_progress(output).await {
        Ok(runs) if runs.is_empty() => work(Lock { output, renewed: Timestamp::now() }).await,
        Ok(runs) => Err(busy("a run is in progress").context("runs", runs.join(", "))),
        Err(e) => Err(e),
    };
    // The first error is the one to report.
    let mut unlocked = output.delete(LOCK).await;
    if let Some(claim) = broken {
        unlocked = unlocked.and(output.delete(&claim).await);
    }
    outcome.and_then(|done| unlocked.map(|()| done))
}

/// Takes over the lock of a vacuum that crashed; returns the key of its claim, to be deleted after the lock.
///
/// Of several processes that find the same expired lock, one gets the claim on it, and the others end with
/// `Dataset.Busy`. The one that holds the claim reads the lock once more: a slow process may come when the lock has long
/// been another's.
async fn break_lock(output: &dyn Store) -> Result<String> {
    let another = || busy("another vacuum is in progress").context("output", output.location());
    let Some(found) = store::get_opt(output, LOCK).await? else { return Err(another()) };
    let expired: Mark = from_json(&found, LOCK)?;
    if expired.is_younger_than(LOCK_LIFETIME) {
        return Err(another());
    }
    let mark = to_json(&Mark::now())?;
    for attempt in 0.. {
        let claim = keys::broken_lock(expired.at.as_microsecond(), attempt);
        if output.put_if_absent(&claim, mark.clone()).await? {
            if store::get_opt(output, LOCK).await? == Some(found) {
                output.put(LOCK, mark).await?;
                return Ok(claim);
            }
            output.delete(&claim).await?;
            return Err(another());
        }
        let claimed = store::get_opt(output, &claim).await?;
        let claimed = claimed.map(|bytes| from_json::<Mark>(&bytes, &claim)).transpose()?;
        // The claim of a process that crashed after claiming is passed over.
        if claimed.is_none_or(|claimed| claimed.is_younger_than(LOCK_LIFETIME)) {
            break;
        }
    }
    Err(another())
}

async fn runs_in_progress(output: &dyn Store) -> Result<Vec<String>> {
    let mut runs = Vec::new();
    let mut pages = output.list(keys::RUNS, None);
    while let Some(page) = pages.try_next().await? {
        for object in page {
            let Some(run) = keys::parse_started(&object.key) else { continue };
            let Some(mark) = store::get_opt(output, &object.key).await? else { continue };
            if from_json::<Mark>(&mark, &object.key)?.is_younger_than(RUN_LIFETIME) {
                runs.push(run.to_owned());
            }
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::open_output, store::MemoryStore};

    async fn output() -> MemoryStore {
        let output = MemoryStore::new();
        open_output(&output).await.unwrap();
        output
    }

    async fn mark(output: &MemoryStore, key: &str, expired: bool) {
        let mark = if expired { Mark { at: Timestamp::from_second(1_700_000_000).unwrap() } } else { Mark::now() };
        output.put(key, to_json(&mark).unwrap()).await.unwrap();
    }

    async fn lock(output: &MemoryStore) -> Result<()> {
        exclusively(output, |_| async { Ok(()) }).await
    }

    #[tokio::test]
    async fn the_lock_of_a_crashed_vacuum_is_broken_by_one() {
        let output = output().await;
        mark(&output, LOCK, true).await;
        let claim = keys::broken_lock(1_700_000_000_000_000, 0);
        // Another process has just claimed it.
        mark(&output, &claim, false).await;
        let refused = lock(&output).await.unwrap_err();
        assert!(refused.is(ErrorKind::DatasetBusy), "{refused}");

        // That one has crashed as well.
        mark(&output, &claim, true).await;
        lock(&output).await.unwrap();
        assert!(store::get_opt(&output, LOCK).await.unwrap().is_none());

        // And two at once: one of them gets the lock.
        mark(&output, LOCK, true).await;
        output.delete(&claim).await.unwrap();
        let (a, b) = futures::join!(break_lock(&output), break_lock(&output));
        assert_eq!([&a, &b].iter().filter(|outcome| outcome.is_ok()).count(), 1, "{a:?} {b:?}");
        assert!([a, b].into_iter().find_map(Result::err).unwrap().is(ErrorKind::DatasetBusy));
    }
}
