//! Notices of uploads and deletions, and the runs that they start.
//!
//! A notice says "look again" and nothing more: it may come twice, late, out of order or not at all, and the result is
//! the same. Whoever receives one puts it into the output's inbox first ([`note`]) and then asks for a run
//! ([`take_turn`]). A run reads the inbox before it lists the images, and removes what it has read when it is done.
//!
//! Turns keep at most one such run going per output. A turn is a number that one conditional put takes; the run of that
//! turn is named after it, so that starting it twice is starting it once. While it goes on, notices wait in the inbox;
//! when it ends, whoever hears of that takes the next turn.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Error, ErrorKind, Result, dataset,
    shard::short_hex,
    store::{self, Store, bucket_and_prefix},
};

/// Where notices wait.
pub const NOTES: &str = "inbox/";
/// Where turns are taken.
pub const TURNS: &str = "turns/";
const CONCURRENCY: usize = 16;
/// Attempts to take a turn that others take at the same time.
const ATTEMPTS: u32 = 8;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// This key of the input, relative to it, was written or deleted.
    Changed(String),
    /// Something happened, but not below the input.
    Elsewhere,
    /// A run has ended, or it is time to look whether anything waits.
    Look,
}

/// The form that EventBridge gives to every event.
#[derive(Deserialize)]
struct Envelope {
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    #[serde(default)]
    detail: serde_json::Value,
}

#[derive(Deserialize)]
struct ObjectEvent {
    bucket: Bucket,
    object: ObjectKey,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

/// Keys come as they are; only notifications that do not pass EventBridge encode them.
#[derive(Deserialize)]
struct ObjectKey {
    key: String,
}

impl Message {
    /// Reads the body of a queue's message. Fails with `Input.Invalid` on what no rule of the template sends.
    pub fn parse(body: &str, input: &str) -> Result<Message> {
        let invalid = |what: String| {
            let start: String = body.chars().take(200).collect();
            Error::new(ErrorKind::InputInvalid, what).context("message", start)
        };
        let envelope: Envelope =
            serde_json::from_str(body).map_err(|e| invalid("this message is no event".to_owned()).source(e))?;
        match (envelope.source.as_str(), envelope.detail_type.as_str()) {
            ("aws.s3", "Object Created" | "Object Deleted") => {
                let event: ObjectEvent = serde_json::from_value(envelope.detail)
                    .map_err(|e| invalid("this event names no object".to_owned()).source(e))?;
                let (bucket, prefix) = bucket_and_prefix(input)?;
                Ok(match event.object.key.strip_prefix(&prefix) {
                    Some(key) if event.bucket.name == bucket && !key.is_empty() => Message::Changed(key.to_owned()),
                    _ => Message::Elsewhere,
                })
            }
            ("aws.states", "Step Functions Execution Status Change") | ("pomona", "Look") => Ok(Message::Look),
            (source, kind) => Err(invalid(format!("events of {source} that say {kind:?} are not expected"))),
        }
    }
}

/// What waits in an output's inbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Names of the notes.
    pub notes: Vec<String>,
    /// Keys of the input, relative to it, that they tell of.
    pub keys: BTreeSet<String>,
}

/// Keeps keys that have changed. The same keys make the same note, however often they are told of.
pub async fn note(output: &dyn Store, keys: &BTreeSet<String>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    // A notice may be the first thing that an output sees.
    dataset::open_output(output).await?;
    let body = dataset::to_json(keys)?;
    let name = format!("{NOTES}{}.json", short_hex(&Sha256::digest(&body)));
    output.put(&name, body).await
}

async fn notes(output: &dyn Store) -> Result<Vec<String>> {
    Ok(store::list_all(output, NOTES).await?.into_iter().map(|object| object.key).collect())
}

/// Everything that waits now.
pub async fn read(output: &dyn Store) -> Result<Inbox> {
    let notes = notes(output).await?;
    let reads = notes.iter().map(|name| store::get_opt(output, name)).collect::<Vec<_>>();
    let bodies: Vec<_> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
    let mut keys = BTreeSet::new();
    for (name, body) in notes.iter().zip(bodies) {
        // A note that another run has just removed is that run's.
        let Some(body) = body else { continue };
        keys.extend(dataset::from_json::<BTreeSet<String>>(&body, name)?);
    }
    Ok(Inbox { notes, keys })
}

/// Removes notes that a run has read before it listed the images.
pub async fn clear(output: &dyn Store, notes: &[String]) -> Result<()> {
    let deletes = notes.iter().map(|name| output.delete(name)).collect::<Vec<_>>();
    stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect().await
}

/// The runs that notices start; on AWS, executions of the state machine.
#[async_trait]
pub trait Executions: Send + Sync {
    async fn status(&self, name: &str) -> Result<Status>;
    /// Starts a run of that name; it is no error that there is, or was, one.
    async fn start(&self, name: &str) -> Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// What asking for a run has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "turn", rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing waits.
    Nothing,
    /// That run goes on; what waits is its successor's.
    Waits {
        behind: String,
    },
    /// That run has failed, and nothing has come in since: another would fail too.
    Failed {
        run: String,
    },
    Started {
        run: String,
    },
}

/// `turns/<number>.json`
#[derive(Serialize, Deserialize)]
struct Turn {
    run: String,
    /// The notes that waited when the turn was taken.
    notes: BTreeSet<String>,
}

/// Starts a run for what waits in the inbox, unless one goes on.
pub async fn take_turn(output: &dyn Store, executions: &dyn Executions) -> Result<Outcome> {
    for _ in 0..ATTEMPTS {
        let waiting: BTreeSet<String> = notes(output).await?.into_iter().collect();
        if waiting.is_empty() {
            return Ok(Outcome::Nothing);
        }
        let last = store::list_all(output, TURNS).await?.pop();
        let number = last.as_ref().and_then(|object| number(&object.key)).unwrap_or(0);
        if let Some(last) = &last {
            // Removed since it was listed: its successor is there.
            let Some(turn) = store::get_opt(output, &last.key).await? else { continue };
            let turn: Turn = dataset::from_json(&turn, &last.key)?;
            match executions.status(&turn.run).await? {
                Status::Running => return Ok(Outcome::Waits { behind: turn.run }),
                // Whoever took that turn ended before the run was started.
                Status::Unknown => {
                    executions.start(&turn.run).await?;
                    return Ok(Outcome::Started { run: turn.run });
                }
                Status::Failed if waiting.is_subset(&turn.notes) => return Ok(Outcome::Failed { run: turn.run }),
                Status::Failed | Status::Succeeded => {}
            }
        }
        let run = run_name(output, number + 1);
        let turn = Turn { run: run.clone(), notes: waiting };
        if output.put_if_absent(&key(number + 1), dataset::to_json(&turn)?).await? {
            executions.start(&run).await?;
            if let Some(last) = last {
                output.delete(&last.key).await?;
            }
            return Ok(Outcome::Started { run });
        }
    }
    Err(Error::new(ErrorKind::StoreThrottled, "others kept taking the next turn").context("output", output.location()))
}

fn key(number: u64) -> String {
    format!("{TURNS}{number:010}.json")
}

fn number(key: &str) -> Option<u64> {
    key.strip_prefix(TURNS)?.strip_suffix(".json")?.parse().ok()
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

    const INPUT: &str = "s3://fruit/images/";

    fn event(bucket: &str, key: &str) -> String {
        serde_json::json!({
            "version": "0", "id": "1", "source": "aws.s3", "detail-type": "Object Created", "region": "eu-west-3",
            "detail": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "etag": "e", "sequencer": "00A"}}
        })
        .to_string()
    }

    #[test]
    fn messages_are_read_and_what_nobody_sends_is_refused() {
        let parse = |body: &str| Message::parse(body, INPUT);
        let changed = parse(&event("fruit", "images/Äpfel rot/1 %2B.jpg")).unwrap();
        assert_eq!(changed, Message::Changed("Äpfel rot/1 %2B.jpg".to_owned()));
        for elsewhere in [event("fruit", "other/1.jpg"), event("vegetables", "images/1.jpg"), event("fruit", "images/")]
        {
            assert_eq!(parse(&elsewhere).unwrap(), Message::Elsewhere);
        }
        let ended =
            r#"{"source": "aws.states", "detail-type": "Step Functions Execution Status Change", "detail": {}}"#;
        assert_eq!(parse(ended).unwrap(), Message::Look);
        assert_eq!(parse(r#"{"source": "pomona", "detail-type": "Look"}"#).unwrap(), Message::Look);
        for bad in [
            "",
            "{}",
            "[1]",
            r#"{"source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": {"name": "fruit"}}}"#,
            r#"{"source": "aws.ec2", "detail-type": "Object Created", "detail": {}}"#,
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InputInvalid, "{bad}");
        }
    }

    /// Executions that go on until they are told to end.
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
        note(output, &BTreeSet::from([key.to_owned()])).await.unwrap();
        take_turn(output, machine).await.unwrap()
    }

    #[tokio::test]
    async fn one_run_goes_on_and_the_next_takes_all_that_came_in_meanwhile() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        assert!(matches!(upload(&output, &machine, "a").await, Outcome::Started { .. }));
        let seen = read(&output).await.unwrap();
        for key in ["b", "c", "b", "a"] {
            assert!(matches!(upload(&output, &machine, key).await, Outcome::Waits { .. }), "{key}");
        }
        assert_eq!((machine.started(), machine.running()), (1, 1));
        clear(&output, &seen.notes).await.unwrap();
        machine.end(Status::Succeeded);
        assert!(matches!(take_turn(&output, &machine).await.unwrap(), Outcome::Started { .. }));
        let seen = read(&output).await.unwrap();
        assert_eq!(seen.keys, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        clear(&output, &seen.notes).await.unwrap();
        machine.end(Status::Succeeded);
        assert_eq!(take_turn(&output, &machine).await.unwrap(), Outcome::Nothing);
        assert_eq!(machine.started(), 2);
        assert_eq!(store::list_all(&output, TURNS).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_run_that_failed_is_not_repeated_until_something_new_comes_in() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        upload(&output, &machine, "a").await;
        machine.end(Status::Failed);
        assert!(matches!(take_turn(&output, &machine).await.unwrap(), Outcome::Failed { .. }));
        assert!(matches!(upload(&output, &machine, "a").await, Outcome::Failed { .. }));
        assert!(matches!(upload(&output, &machine, "b").await, Outcome::Started { .. }));
        assert_eq!(machine.started(), 2);
    }

    #[tokio::test]
    async fn a_turn_that_was_taken_but_not_started_is_started_by_the_next() {
        let (output, machine) = (MemoryStore::new(), Machine::default());
        machine.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        note(&output, &BTreeSet::from(["a".to_owned()])).await.unwrap();
        assert!(take_turn(&output, &machine).await.is_err());
        machine.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(take_turn(&output, &machine).await.unwrap(), Outcome::Started { .. }));
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
