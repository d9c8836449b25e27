//! Runs that uploads start, at most one at a time per output.
//!
//! For each batch of events, the trigger first adds the changed keys to the inbox of the output ([`inbox::add`]), then calls
//! [`take_ticket`]. A ticket is a numbered object that one conditional put creates. The run is named after the number, so
//! starting it twice starts one run. While a run is in progress, notices stay in the inbox; the event that reports its end
//! leads to the next ticket.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{self, inbox, keys},
    ids::short_hex,
    store::{self, Store},
};

/// Attempts to take a ticket while other processes do the same.
const ATTEMPTS: u32 = 8;

/// Starts runs and reports their status. On AWS, runs are executions of the state machine.
#[async_trait]
pub trait Executions: Send + Sync {
    /// The status of the run with this name.
    async fn status(&self, name: &str) -> Result<Status>;
    /// Starts a run with this name. If it exists already, does nothing.
    async fn start(&self, name: &str) -> Result<()>;
}

/// The status of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is no run with this name.
    Unknown,
    /// In progress.
    Running,
    /// Ended without an error, with or without a new version.
    Succeeded,
    /// Failed, timed out or aborted.
    Failed,
}

/// Result of [`take_ticket`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "ticket", rename_all = "snake_case")]
pub enum Outcome {
    /// The inbox is empty.
    Nothing,
    /// A run is in progress; the next one processes the notices.
    Waits {
        /// The run in progress.
        behind: String,
    },
    /// The last run has failed, and the inbox has no notice that it did not see: another run would fail too.
    Failed {
        /// The run that failed.
        run: String,
    },
    /// A run was started.
    Started {
        /// Name of the run.
        run: String,
    },
}

/// `turns/<number>.json`
#[derive(Serialize, Deserialize)]
struct Ticket {
    run: String,
    /// The notices in the inbox when the ticket was taken.
    #[serde(rename = "notes")]
    notices: BTreeSet<String>,
}

/// Starts a run if the inbox has notices and no run is in progress.
///
/// Fails with `Store.Throttled`, which can be retried, if other processes take each ticket first.
#[compiled_once]
pub async fn take_ticket(output: &dyn Store, executions: &dyn Executions) -> Result<Outcome> {
    for _ in 0..ATTEMPTS {
        let waiting: BTreeSet<String> = inbox::notices(output).await?.into_iter().collect();
        if waiting.is_empty() {
            return Ok(Outcome::Nothing);
        }
        let last = store::list_all(output, keys::TICKETS).await?.pop();
        let number = last.as_ref().and_then(|object| keys::parse_ticket(&object.key)).unwrap_or(0);
        if let Some(last) = &last {
            // A ticket that was deleted after the listing has a successor.
            let Some(ticket) = store::get_opt(output, &last.key).await? else { continue };
            let ticket: Ticket = dataset::from_record_of_any_format(&ticket, &last.key)?;
            match executions.status(&ticket.run).await? {
                Status::Running => return Ok(Outcome::Waits { behind: ticket.run }),
                // The process that took that ticket ended before it started the run.
                Status::Unknown => {
                    executions.start(&ticket.run).await?;
                    return Ok(Outcome::Started { run: ticket.run });
                }
                Status::Failed if waiting.is_subset(&ticket.notices) => return Ok(Outcome::Failed { run: ticket.run }),
                Status::Failed | Status::Succeeded => {}
            }
        }
        let run = run_name(output, number + 1);
        let ticket = Ticket { run: run.clone(), notices: waiting };
        if output.put_if_absent(&keys::ticket(number + 1), dataset::to_record(&ticket)?).await? {
            executions.start(&run).await?;
            if let Some(last) = last {
                output.delete(&last.key).await?;
            }
            return Ok(Outcome::Started { run });
        }
    }
    Err(Error::new(ErrorKind::StoreThrottled, "other processes took every next ticket first")
        .context("output", output.location()))
}

/// The name of a run. It contains a hash of the output, because all outputs of a state machine share its executions' names.
fn run_name(output: &dyn Store, number: u64) -> String {
    let place = short_hex(&Sha256::digest(output.location()));
    format!("uploads-{}-{number:010}", &place[..12])
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::store::MemoryStore;

    /// Runs that continue until a test ends them.
    #[derive(Default)]
    struct Machine {
        runs: Mutex<BTreeMap<String, Status>>,
        broken: std::sync::atomic::AtomicBool,
    }

    impl Machine {
        fn end(&self, status: Status) {
            for run in self.runs.lock().unwrap().values_mut().filter(|s| **s == Status::Running) {
                *run = status;
            }
        }
        fn started(&self) -> usize {
            self.runs.lock().unwrap().len()
        }
        fn running(&self) -> usize {
            self.runs.lock().unwrap().values().filter(|s| **s == Status::Running).count()
        }
    }

    #[async_trait]
    impl Executions for Machine {
        async fn status(&self, name: &str) -> Result<Status> {
            Ok(self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(Status::Unknown))
        }
        async fn start(&self, name: &str) -> Result<()> {
            if self.broken.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::StoreUnavailable, "injected failure"));
            }
            self.runs.lock().unwrap().entry(name.to_owned()).or_insert(Status::Running);
            Ok(())
        }
    }

    async fn upload(output: &MemoryStore, machine: &Machine, key: &str) -> Outcome {
        inbox::add(output, &BTreeSet::from([key.to_owned()])).await.unwrap();
        take_ticket(output, machine).await.unwrap()
    }

    #[tokio::test]
    async fn runs_do_not_overlap_and_the_next_processes_all_notices_in_between() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        assert!(matches!(upload(&output, &machine, "a").await, Outcome::Started { .. }));
        let seen = inbox::read(&output).await.unwrap();
        for key in ["b", "c", "b", "a"] {
            assert!(matches!(upload(&output, &machine, key).await, Outcome::Waits { .. }), "{key}");
        }
        assert_eq!((machine.started(), machine.running()), (1, 1));
        inbox::clear(&output, &seen.notices).await.unwrap();
        machine.end(Status::Succeeded);
        assert!(matches!(take_ticket(&output, &machine).await.unwrap(), Outcome::Started { .. }));
        let seen = inbox::read(&output).await.unwrap();
        assert_eq!(seen.keys, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        inbox::clear(&output, &seen.notices).await.unwrap();
        machine.end(Status::Succeeded);
        assert_eq!(take_ticket(&output, &machine).await.unwrap(), Outcome::Nothing);
        assert_eq!(machine.started(), 2);
        assert_eq!(store::list_all(&output, keys::TICKETS).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_failed_run_is_not_repeated_before_a_new_notice() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        upload(&output, &machine, "a").await;
        machine.end(Status::Failed);
        assert!(matches!(take_ticket(&output, &machine).await.unwrap(), Outcome::Failed { .. }));
        assert!(matches!(upload(&output, &machine, "a").await, Outcome::Failed { .. }));
        assert!(matches!(upload(&output, &machine, "b").await, Outcome::Started { .. }));
        assert_eq!(machine.started(), 2);
    }

    #[tokio::test]
    async fn a_ticket_whose_run_was_not_started_is_started_by_the_next_event() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        machine.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        inbox::add(&output, &BTreeSet::from(["a".to_owned()])).await.unwrap();
        assert!(take_ticket(&output, &machine).await.is_err());
        machine.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(take_ticket(&output, &machine).await.unwrap(), Outcome::Started { .. }));
        assert_eq!(machine.started(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn concurrent_notices_start_one_run() {
        let (output, machine) = (std::sync::Arc::new(MemoryStore::new()), std::sync::Arc::new(Machine::default()));
        let calls = (0..60).map(|i| {
            let (output, machine) = (output.clone(), machine.clone());
            tokio::spawn(async move { upload(&output, &machine, &format!("{i}")).await })
        });
        futures::future::try_join_all(calls).await.unwrap();
        assert_eq!(machine.started(), 1);
    }
}
