//! The version that answers, and its exchange for a newer one.
//!
//! A request that comes a second after the last look starts another look at the output, and is answered by the version that
//! is open. After three seconds it waits for that look. So no answer is of a version that was removed more than a few seconds
//! before, also where a process sleeps between requests, as a Lambda does.

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::opened::Opened;
use crate::{
    Error, ErrorKind, Result, dataset,
    dataset::keys,
    ids::ETag,
    model::{ExtractorInfo, WorkerPool},
    store::{self, Store},
};

/// Age of the last look from which on a request starts another one.
const FRESH: Duration = Duration::from_secs(1);
/// Age from which on a request waits for another look. Erased images must be in no answer 5 seconds later.
const STALE: Duration = Duration::from_secs(3);

/// Makes the threads that compute features like those of a version.
pub type MakeWorkers = Box<dyn Fn(&ExtractorInfo) -> Result<WorkerPool> + Send + Sync>;

/// The version of an output that answers requests: the newest, or one with a fixed number.
pub struct Current {
    output: Arc<dyn Store>,
    /// The number, if it is fixed.
    fixed: Option<u64>,
    workers: MakeWorkers,
    shown: RwLock<Shown>,
    /// The states of all version numbers at the last look. Held during a look.
    states: Mutex<Vec<(String, ETag)>>,
}

#[derive(Clone, Debug)]
struct Shown {
    opened: Arc<Opened>,
    /// When the last look began that found this version to be the current one.
    checked: Instant,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("output", &self.output).field("fixed", &self.fixed).finish_non_exhaustive()
    }
}

impl Current {
    /// Opens the newest version of an output, or the one with a number. Fails with `Output.NoVersion`.
    pub async fn open(output: Arc<dyn Store>, fixed: Option<u64>, workers: MakeWorkers) -> Result<Arc<Self>> {
        let checked = Instant::now();
        let states = states(output.as_ref()).await?;
        let version = dataset::version(output.as_ref(), fixed).await?;
        let pool = Arc::new(workers(&version.extractor)?);
        let opened = Arc::new(Opened::open(Arc::clone(&output), version, pool).await?);
        let shown = RwLock::new(Shown { opened, checked });
        Ok(Arc::new(Current { output, fixed, workers, shown, states: Mutex::new(states) }))
    }

    /// The output.
    pub fn output(&self) -> &Arc<dyn Store> {
        &self.output
    }

    /// The version that answers now. Fails with `Output.NoVersion` if it was removed and there is no other, and with the errors
    /// of the store if no look succeeded in the last three seconds.
    pub async fn opened(self: &Arc<Self>) -> Result<Arc<Opened>> {
        let Shown { opened, checked } = self.shown();
        match checked.elapsed() {
            age if age < FRESH => Ok(opened),
            age if age < STALE => {
                // If the lock is held, another request is looking. An error is reported by the request that has to wait.
                if self.states.try_lock().is_ok() {
                    let current = Arc::clone(self);
                    tokio::spawn(async move { current.look(FRESH).await.map(drop) });
                }
                Ok(opened)
            }
            _ => self.look(FRESH).await,
        }
    }

    /// Asks the version that answers. If its files are gone, because it was removed in the meantime, asks the next one.
    pub(super) async fn ask<T, F>(self: &Arc<Self>, question: impl Fn(Arc<Opened>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let opened = self.opened().await?;
        match question(Arc::clone(&opened)).await {
            Err(error) if is_gone(&error) => {
                let newer = self.look(Duration::ZERO).await?;
                if newer.version().version == opened.version().version {
                    return Err(error);
                }
                question(newer).await
            }
            answer => answer,
        }
    }

    /// The version that answers after a look at the output that is younger than `age`.
    pub(super) async fn look(&self, age: Duration) -> Result<Arc<Opened>> {
        let mut known = self.states.lock().await;
        let Shown { opened, checked } = self.shown();
        if checked.elapsed() < age {
            return Ok(opened);
        }
        let began = Instant::now();
        let states = states(self.output.as_ref()).await?;
        let opened = if *known == states {
            opened
        } else {
            match self.newer(&opened).await {
                // The next version came, and this one went, while it was being opened.
                Err(error) if is_gone(&error) => self.newer(&opened).await?,
                newer => newer?,
            }
        };
        *known = states;
        let shown = Shown { opened: Arc::clone(&opened), checked: began };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(opened)
    }

    /// The current version: the open one, or another that is opened now.
    async fn newer(&self, opened: &Arc<Opened>) -> Result<Arc<Opened>> {
        let version = dataset::version(self.output.as_ref(), self.fixed).await?;
        if version == *opened.version() {
            return Ok(Arc::clone(opened));
        }
        let same = version.extractor.id == opened.version().extractor.id;
        let workers = if same { Arc::clone(opened.workers()) } else { Arc::new((self.workers)(&version.extractor)?) };
        Opened::open(Arc::clone(&self.output), version, workers).await.map(Arc::new)
    }

    fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keys and etags of the states of all version numbers: nothing else says which version is the current one.
async fn states(output: &dyn Store) -> Result<Vec<(String, ETag)>> {
    let objects = store::list_all(output, keys::VERSIONS).await?;
    let states = objects
        .into_iter()
        .filter(|object| keys::parse_version(&object.key).is_some_and(|(_, file)| file == keys::VersionFile::State));
    Ok(states.map(|object| (object.key, object.etag)).collect())
}

/// Whether files of a version are missing, or were replaced.
fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DatasetCorrupt | ErrorKind::StoreNotFound)
}
