//! Mutual exclusion of runs and vacuums.
//!
//! A run first writes a mark (`runs/<run>/started.json`) and then looks for the vacuum's lock. A vacuum first takes its
//! lock and then looks for marks. In any order, at least one of the two sees the other and fails with `Dataset.Busy`. So a
//! vacuum deletes no file of a run in progress, and a run reuses no shard that a vacuum deletes. Marks and locks of
//! crashed processes expire: a run's after 72 hours, a vacuum's after 30 minutes.

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

/// Age at which a lock has expired.
const LOCK_LIFETIME: SignedDuration = SignedDuration::from_mins(30);
/// Age at which a vacuum renews its lock.
const LOCK_RENEWAL: SignedDuration = SignedDuration::from_mins(5);
/// Age at which the mark of a run has expired: the run has crashed.
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

/// Marks a run as in progress. Fails with `Dataset.Busy` during a vacuum.
pub(crate) async fn enter(output: &dyn Store, run: &RunId) -> Result<()> {
    output.put(&keys::started(run), to_json(&Mark::now())?).await?;
    if is_locked(output).await? {
        leave(output, run).await?;
        return Err(busy("a vacuum is in progress").context("output", output.location()));
    }
    Ok(())
}

/// Deletes the mark of a run.
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

/// The lock of a vacuum in progress.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    output: &'a dyn Store,
    renewed: Timestamp,
}

impl Lock<'_> {
    /// Writes the lock again if it is older than [`LOCK_RENEWAL`]. Call it regularly, so that the lock does not expire.
    pub(crate) async fn renew(&mut self) -> Result<()> {
        if Timestamp::now().duration_since(self.renewed) > LOCK_RENEWAL {
            self.renewed = Timestamp::now();
            self.output.put(LOCK, to_json(&Mark::now())?).await?;
        }
        Ok(())
    }
}

/// Does `work` under the lock, while no run is in progress and none can start. Fails with `Dataset.Busy` otherwise.
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
    // Errors of the work have precedence over errors of unlocking.
    let mut unlocked = output.delete(LOCK).await;
    if let Some(claim) = broken {
        unlocked = unlocked.and(output.delete(&claim).await);
    }
    outcome.and_then(|done| unlocked.map(|()| done))
}

/// Takes over the lock of a crashed vacuum. Returns the key of the claim, which must be deleted after the lock.
///
/// Of several processes that find the same expired lock, one gets the claim on it. The others fail with `Dataset.Busy`.
/// The process with the claim reads the lock again, because another process may have taken it over in the meantime.
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
        // The claimant has crashed too if its claim has expired: try the next claim.
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

    async fn put(output: &MemoryStore, key: &str, mark: Mark) {
        output.put(key, to_json(&mark).unwrap()).await.unwrap();
    }

    fn expired() -> Mark {
        Mark { at: Timestamp::from_second(1_700_000_000).unwrap() }
    }

    async fn lock(output: &MemoryStore) -> Result<()> {
        exclusively(output, |_| async { Ok(()) }).await
    }

    #[tokio::test]
    async fn the_lock_of_a_crashed_vacuum_is_broken_by_one() {
        let output = output().await;
        put(&output, LOCK, expired()).await;
        let claim = keys::broken_lock(1_700_000_000_000_000, 0);
        // Another process has a claim.
        put(&output, &claim, Mark::now()).await;
        let refused = lock(&output).await.unwrap_err();
        assert!(refused.is(ErrorKind::DatasetBusy), "{refused}");

        // Its claim has expired.
        put(&output, &claim, expired()).await;
        lock(&output).await.unwrap();
        assert!(store::get_opt(&output, LOCK).await.unwrap().is_none());

        // Of two processes at the same time, one gets the lock.
        put(&output, LOCK, expired()).await;
        output.delete(&claim).await.unwrap();
        let (a, b) = futures::join!(break_lock(&output), break_lock(&output));
        assert_eq!([&a, &b].iter().filter(|outcome| outcome.is_ok()).count(), 1, "{a:?} {b:?}");
        assert!([a, b].into_iter().find_map(Result::err).unwrap().is(ErrorKind::DatasetBusy));
    }
}
