//! Mutual exclusion of runs and vacuums.
//!
//! A run first writes a mark (`runs/<run>/started.json`) and then looks for the vacuum's lock. A vacuum first takes its
//! lock and then looks for marks. In any order, at least one of the two sees the other and fails with `Dataset.Busy`. So a
//! vacuum deletes no file of a run in progress, and a run reuses no shard that a vacuum deletes.
//!
//! Marks and locks end with their holder. Each names it: host, boot and process, or the execution of a state machine. In a
//! folder, its process also holds a lock on the file, which the kernel releases. Where nobody can tell whether the holder
//! lives (a process on another host, say), a mark expires after 72 hours and a lock after 30 minutes, and
//! [`Judge::break_locks`] removes them before.

use async_trait::async_trait;
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    expect_output,
    holder::{Holder, Mark},
    keys::{self, LOCK},
    record::damaged,
    to_json,
};
use crate::{
    Error, ErrorKind, Result,
    ids::RunId,
    store::{self, Store},
};

/// Age at which a lock without a known holder has expired.
const LOCK_LIFETIME: SignedDuration = SignedDuration::from_mins(30);
/// Age at which a vacuum renews its lock.
const LOCK_RENEWAL: SignedDuration = SignedDuration::from_mins(5);
/// Age at which the mark of a run without a known holder has expired.
pub const RUN_LIFETIME: SignedDuration = SignedDuration::from_hours(72);
/// Difference between two clocks that is no reason for suspicion.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Whether an execution of a state machine is in progress.
#[async_trait]
pub trait Executions: Send + Sync {
    /// None if that cannot be found out, for example without permission.
    async fn is_running(&self, arn: &str) -> Option<bool>;
}

/// How marks and locks of others are judged.
#[derive(Clone, Copy, Default)]
pub struct Judge<'a> {
    /// Answers for executions. Without it, their marks expire.
    pub executions: Option<&'a dyn Executions>,
    /// Removes marks and locks whose holder may be dead. Those of holders that certainly live stay.
    pub break_locks: bool,
}

impl std::fmt::Debug for Judge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("break_locks", &self.break_locks).finish_non_exhaustive()
    }
}

/// Whether the holder of a mark still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It certainly does.
    Alive,
    /// It has ended, or the mark has expired.
    Dead,
    /// That cannot be found out from here.
    Unknown,
}

/// What is known about the holder of a mark.
#[derive(Debug)]
enum Life {
    Alive(String),
    Dead,
    /// With what is known about it.
    Unknown(String),
}

impl Judge<'_> {
    /// Judges a mark, which expires after `lifetime` if nobody knows its holder.
    async fn life(&self, output: &dyn Store, key: &str, body: &[u8], lifetime: SignedDuration) -> Result<Life> {
        let Ok(mark) = serde_json::from_slice::<Mark>(body) else {
            return Ok(Life::Unknown(format!("{key} cannot be read")));
        };
        let age = Timestamp::now().duration_since(mark.at);
        let whose = format!("{key}, {mark}");
        if let Some(alive) = self.holder_lives(output, key, mark.holder.as_ref()).await? {
            return Ok(if alive { Life::Alive(whose) } else { Life::Dead });
        }
        if age < -CLOCK_SKEW {
            return Ok(Life::Unknown(format!("{whose}, a time in the future")));
        }
        Ok(if age < lifetime { Life::Unknown(whose) } else { Life::Dead })
    }

    /// Whether the holder of this mark or lock still works. None if there is no such file.
    pub(crate) async fn liveness(&self, output: &dyn Store, key: &str) -> Result<Option<Liveness>> {
        let Some(body) = store::get_opt(output, key).await? else { return Ok(None) };
        let lifetime = if keys::parse_started(key).is_some() { RUN_LIFETIME } else { LOCK_LIFETIME };
        Ok(Some(match self.life(output, key, &body, lifetime).await? {
            Life::Alive(_) => Liveness::Alive,
            Life::Dead => Liveness::Dead,
            Life::Unknown(_) => Liveness::Unknown,
        }))
    }

    async fn holder_lives(&self, output: &dyn Store, key: &str, holder: Option<&Holder>) -> Result<Option<bool>> {
        let Some(holder) = holder else { return Ok(None) };
        if let Holder::Execution { execution } = holder {
            return Ok(match self.executions {
                Some(executions) => executions.is_running(execution).await,
                None => None,
            });
        }
        let held = match output.is_held(key).await {
            Err(e) if e.is(ErrorKind::StoreNotFound) => return Ok(Some(false)),
            held => held?,
        };
        // A lock that cannot be taken has a living holder. One that can be taken says nothing about a process of another
        // host, as some network file systems keep locks to each host.
        Ok(match held {
            Some(true) => Some(true),
            Some(false) if holder.is_on_this_boot() => Some(false),
            _ => holder.lives(),
        })
    }

    /// What is known about a holder that is in the way. None if it is dead, or to be ignored.
    fn obstacle(&self, life: &Life) -> Option<String> {
        match life {
            Life::Alive(whose) => Some(format!("{whose}; it is alive, so that --break-lock does not apply")),
            Life::Unknown(whose) if !self.break_locks => Some(format!(
                "{whose}; whether it still works cannot be found out from here; if it does not, use --break-lock"
            )),
            Life::Unknown(_) | Life::Dead => None,
        }
    }
}

/// Marks a run as in progress. Fails with `Dataset.Busy` during a vacuum.
///
/// `execution` is the ARN of the execution that the run belongs to; without one, it belongs to this process.
pub(crate) async fn enter(output: &dyn Store, run: &RunId, execution: Option<&str>) -> Result<()> {
    let (key, mark) = (keys::started(run), to_json(&Mark::now(execution))?);
    if !output.put_held(&key, mark.clone()).await? {
        // An earlier attempt of the same run.
        output.put(&key, mark).await?;
    }
    if let Some(whose) = locked_by(output).await? {
        leave(output, run).await?;
        return Err(busy("a vacuum is in progress", &whose).context("output", output.location()));
    }
    Ok(())
}

/// Checks that no vacuum has taken files of a run that has failed and goes on, and that none does so now. Call it before the
/// run publishes.
///
/// Fails with `Dataset.Corrupt` if a vacuum has deleted the mark: it found the execution of the run failed, and the run may
/// use files that the vacuum has deleted. Fails with `Dataset.Busy` during a vacuum.
pub(crate) async fn expect_mark(output: &dyn Store, run: &RunId) -> Result<()> {
    // In this order: a vacuum takes its lock before it deletes marks.
    let locked = locked_by(output).await?;
    let key = keys::started(run);
    let Some(mark) = store::get_opt(output, &key).await? else {
        return Err(damaged("a vacuum has ended this run after it failed; run again", &key));
    };
    let holder = serde_json::from_slice::<Mark>(&mark).ok().and_then(|mark| mark.holder);
    match (locked, holder) {
        // Of a process, the vacuum sees that it lives. An execution can have failed when the vacuum looked.
        (Some(whose), Some(Holder::Execution { .. })) => {
            Err(busy("a vacuum is in progress", &whose).context("output", output.location()))
        }
        _ => Ok(()),
    }
}

/// Deletes the mark of a run.
pub(crate) async fn leave(output: &dyn Store, run: &RunId) -> Result<()> {
    output.delete(&keys::started(run)).await
}

fn busy(message: &str, whose: &str) -> Error {
    Error::new(ErrorKind::DatasetBusy, message).context("by", whose)
}

/// Who has the lock, unless its holder is dead.
async fn locked_by(output: &dyn Store) -> Result<Option<String>> {
    let Some(lock) = store::get_opt(output, LOCK).await? else { return Ok(None) };
    Ok(match Judge::default().life(output, LOCK, &lock, LOCK_LIFETIME).await? {
        Life::Alive(whose) => Some(whose),
        Life::Unknown(whose) => {
            Some(format!("{whose}; if it does not work any more, use `pomona vacuum --break-lock`"))
        }
        Life::Dead => None,
    })
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
            // A lock that this process holds does not expire, and would no longer be held.
            if self.output.is_held(LOCK).await? != Some(true) {
                self.output.put(LOCK, to_json(&Mark::now(None))?).await?;
            }
        }
        Ok(())
    }
}

/// Does `work` under the lock, while no run is in progress and none can start. Fails with `Dataset.Busy` otherwise.
pub(crate) async fn exclusively<'a, T, Fut: Future<Output = Result<T>>>(
    output: &'a dyn Store,
    judge: Judge<'_>,
    work: impl FnOnce(Lock<'a>) -> Fut,
) -> Result<T> {
    expect_output(output).await?;
    let taken = to_json(&Mark::now(None))?;
    let broken = if output.put_held(LOCK, taken).await? { None } else { Some(break_lock(output, judge).await?) };
    let outcome = match runs_in_progress(output, judge).await {
        Ok(runs) if runs.is_empty() => work(Lock { output, renewed: Timestamp::now() }).await,
        Ok(runs) => Err(busy("a run is in progress", &runs.join(", "))),
        Err(e) => Err(e),
    };
    // Errors of the work have precedence over errors of unlocking.
    let mut unlocked = output.delete(LOCK).await;
    if let Some(claim) = broken {
        unlocked = unlocked.and(output.delete(&claim).await);
    }
    outcome.and_then(|done| unlocked.map(|()| done))
}

/// Takes over the lock of a dead vacuum. Returns the key of the claim, which must be deleted after the lock.
///
/// Of several processes that find the same dead lock, one gets the claim on it. The others fail with `Dataset.Busy`. The
/// process with the claim reads the lock again, because another process may have taken it over in the meantime.
async fn break_lock(output: &dyn Store, judge: Judge<'_>) -> Result<String> {
    let another = |whose: &str| busy("another vacuum is in progress", whose).context("output", output.location());
    let Some(found) = store::get_opt(output, LOCK).await? else { return Err(another("it has just ended")) };
    if let Some(whose) = judge.obstacle(&judge.life(output, LOCK, &found, LOCK_LIFETIME).await?) {
        return Err(another(&whose));
    }
    let mark = to_json(&Mark::now(None))?;
    for attempt in 0.. {
        let claim = keys::broken_lock(&found, attempt);
        if output.put_held(&claim, mark.clone()).await? {
            if store::get_opt(output, LOCK).await? == Some(found) {
                output.delete(LOCK).await?;
                if output.put_held(LOCK, mark).await? {
                    return Ok(claim);
                }
            }
            output.delete(&claim).await?;
            return Err(another("it has just taken over"));
        }
        // The claimant is dead too: try the next claim.
        let Some(claimed) = store::get_opt(output, &claim).await? else { break };
        if !matches!(judge.life(output, &claim, &claimed, LOCK_LIFETIME).await?, Life::Dead) {
            break;
        }
    }
    Err(another("it takes over the lock of a dead one"))
}

async fn runs_in_progress(output: &dyn Store, judge: Judge<'_>) -> Result<Vec<String>> {
    let mut runs = Vec::new();
    let mut pages = store::ascending(output, keys::RUNS, None);
    while let Some(page) = pages.try_next().await? {
        for object in page {
            if keys::parse_started(&object.key).is_none() {
                continue;
            }
            let Some(mark) = store::get_opt(output, &object.key).await? else { continue };
            let life = judge.life(output, &object.key, &mark, RUN_LIFETIME).await?;
            match judge.obstacle(&life) {
                Some(whose) => runs.push(whose),
                None if matches!(life, Life::Unknown(_)) => output.delete(&object.key).await?,
                None => {}
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

    async fn put(output: &MemoryStore, key: &str, mark: &Mark) {
        output.put(key, to_json(mark).unwrap()).await.unwrap();
    }

    fn expired() -> Mark {
        Mark { at: Timestamp::from_second(1_700_000_000).unwrap(), holder: None }
    }

    async fn lock(output: &MemoryStore) -> Result<()> {
        exclusively(output, Judge::default(), |_| async { Ok(()) }).await
    }

    #[tokio::test]
    async fn the_lock_of_a_dead_vacuum_is_broken_by_one() {
        let output = output().await;
        put(&output, LOCK, &expired()).await;
        let claim = keys::broken_lock(&to_json(&expired()).unwrap(), 0);
        // Another process has a claim.
        put(&output, &claim, &Mark::now(None)).await;
        let refused = lock(&output).await.unwrap_err();
        assert!(refused.is(ErrorKind::DatasetBusy), "{refused}");

        // Its claim has expired.
        put(&output, &claim, &expired()).await;
        lock(&output).await.unwrap();
        assert!(store::get_opt(&output, LOCK).await.unwrap().is_none());

        // Of two processes at the same time, one gets the lock.
        put(&output, LOCK, &expired()).await;
        output.delete(&claim).await.unwrap();
        let judge = Judge::default();
        let (a, b) = futures::join!(break_lock(&output, judge), break_lock(&output, judge));
        assert_eq!([&a, &b].iter().filter(|outcome| outcome.is_ok()).count(), 1, "{a:?} {b:?}");
        assert!([a, b].into_iter().find_map(Result::err).unwrap().is(ErrorKind::DatasetBusy));
    }

    #[tokio::test]
    async fn the_mark_of_an_execution_ends_with_it() {
        struct One(Option<bool>);

        #[async_trait]
        impl Executions for One {
            async fn is_running(&self, arn: &str) -> Option<bool> {
                assert_eq!(arn, "arn:aws:states:x");
                self.0
            }
        }

        let output = output().await;
        let run = RunId::try_from("r".to_owned()).unwrap();
        for (running, refused) in [(Some(true), true), (None, true), (Some(false), false)] {
            enter(&output, &run, Some("arn:aws:states:x")).await.unwrap();
            let executions = One(running);
            let judge = Judge { executions: Some(&executions), break_locks: false };
            let outcome = exclusively(&output, judge, |_| async { Ok(()) }).await;
            assert_eq!(outcome.is_err(), refused, "{running:?}");
            // A run that certainly lives is not broken.
            let judge = Judge { executions: Some(&executions), break_locks: true };
            let outcome = exclusively(&output, judge, |_| async { Ok(()) }).await;
            assert_eq!(outcome.is_err(), running == Some(true), "{running:?}");
        }
    }
}
