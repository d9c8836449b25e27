//! The runs that uploads start, at most one at a time per output.
//!
//! A received notice goes into the output's inbox first ([`inbox::add`]); then a run is requested ([`take_ticket`]). A
//! ticket is a number that one conditional put takes, and the run is named after it, so starting it twice starts it
//! once. While a run is in progress, notices wait in the inbox; when it ends, the next event takes the next ticket.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Error, ErrorKind, Result,
    dataset::{self, inbox, keys},
    ids::short_hex,
    store::{self, Store},
};

/// Attempts to take a ticket that other processes take at the same time.
const ATTEMPTS: u32 = 8;

/// The runs that notices start; on AWS, executions of the state machine.
#[async_trait]
pub trait Executions: Send + Sync {
    /// The status of the run of that name.
    async fn status(&self, name: &str) -> Result<Status>;
    /// Starts a run of that name. A run of the name that exists already is not an error.
    async fn start(&self, name: &str) -> Result<()>;
}

/// The status of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is no run of that name.
    Unknown,
    /// In progress.
    Running,
    /// Ended, with or without a new version.
    Succeeded,
    /// Failed, timed out or aborted.
    Failed,
}

/// What became of the request for a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "ticket", rename_all = "snake_case")]
pub enum Outcome {
    /// No notice waits.
    Nothing,
    /// A run is in progress; its successor takes what waits.
    Waits {
        /// The run in progress.
        behind: String,
    },
    /// The last run has failed, and no notice has come in since: another run would fail too.
    Failed {
        /// The run that failed.
        run: String,
    },
    /// A run was started.
    Started {
        /// Its name.
        run: String,
    },
}

/// `turns/<number>.json`
#[derive(Serialize, Deserialize)]
struct Ticket {
    run: String,
    /// The notices that waited when the ticket was taken.
    #[serde(rename = "notes")]
    notices: BTreeSet<String>,
}

/// Starts a run for what waits in the inbox, unless one is in progress.
pub async fn take_ticket(output: &dyn Store, executions: &dyn Executions) -> Result<Outcome> {
    for _ in 0..ATTEMPTS {
        let waiting: BTreeSet<String> = inbox::notices(output).await?.into_iter().collect();
        if waiting.is_empty() {
            return Ok(Outcome::Nothing);
        }
        let last = store::list_all(output, keys::TICKETS).await?.pop();
        let number = last.as_ref().and_then(|object| keys::parse_ticket(&object.key)).unwrap_or(0);
        if let Some(last) = &last {
            // It was removed since it was listed: its successor is there.
            let Some(ticket) = store::get_opt(output, &last.key).await? else { continue };
            let ticket: Ticket = dataset::from_json(&ticket, &last.key)?;
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
        if output.put_if_absent(&keys::ticket(number + 1), dataset::to_json(&ticket)?).await? {
            executions.start(&run).await?;
            if let Some(last) = last {
                output.delete(&last.key).await?;
            }
            return Ok(Outcome::Started { run });
        }
    }
    Err(Error::new(ErrorKind::StoreThrottled, "other processes kept taking the next ticket")
        .context("output", output.location()))
}

/// Two outputs of one state machine never share a name.
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

    /// Executions that run until the test ends them.
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
                return Err(Error::new(ErrorKind::StoreUnavailable, "made to fail"));
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
    async fn one_run_at_a_time_and_the_next_takes_all_notices_in_between() {
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
    async fn a_run_that_failed_is_not_repeated_until_something_new_comes_in() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        upload(&output, &machine, "a").await;
        machine.end(Status::Failed);
        assert!(matches!(take_ticket(&output, &machine).await.unwrap(), Outcome::Failed { .. }));
        assert!(matches!(upload(&output, &machine, "a").await, Outcome::Failed { .. }));
        assert!(matches!(upload(&output, &machine, "b").await, Outcome::Started { .. }));
        assert_eq!(machine.started(), 2);
    }

    #[tokio::test]
    async fn a_ticket_that_was_taken_but_not_started_is_started_by_the_next() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        machine.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        inbox::add(&output, &BTreeSet::from(["a".to_owned()])).await.unwrap();
        assert!(take_ticket(&output, &machine).await.is_err());
        machine.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(take_ticket(&output, &machine).await.unwrap(), Outcome::Started { .. }));
        assert_eq!(machine.started(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_notices_at_once_start_one_run() {
        let (output, machine) = (std::sync::Arc::new(MemoryStore::new()), std::sync::Arc::new(Machine::default()));
        let calls = (0..60).map(|i| {
            let (output, machine) = (output.clone(), machine.clone());
            tokio::spawn(async move { upload(&output, &machine, &format!("{i}")).await })
        });
        futures::future::try_join_all(calls).await.unwrap();
        assert_eq!(machine.started(), 1);
    }
}
