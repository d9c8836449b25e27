//! The version that answers, and its exchange for a newer one.
//!
//! A request that comes a second after the last look starts another look at the output, and is answered by the version that
//! is open. After three seconds it waits for that look. So no answer is of a version that was removed more than a few seconds
//! before, also where a process sleeps between requests, as a Lambda does.

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::Mutex;

use super::opened::Opened;
use crate::{
    Error, ErrorKind, Result, dataset,
    dataset::keys,
    ids::ETag,
    model::{ExtractorInfo, WorkerPool},
    store::{self, Store},
    versions::find::Finder,
};

/// Age of the last look from which on a request starts another one.
const FRESH: Duration = Duration::from_secs(1);
/// Age from which on a request waits for another look. Erased images must be in no answer 5 seconds later.
const STALE: Duration = Duration::from_secs(3);

/// Makes the threads that compute features like those of a version, given the file that the output keeps for them, if any:
/// [`dataset::extractor_file`].
pub type MakeWorkers = Box<dyn Fn(&ExtractorInfo, Option<Bytes>) -> Result<WorkerPool> + Send + Sync>;

/// The version of an output that answers requests: the newest, or one with a fixed number.
pub struct Current {
    output: Arc<dyn Store>,
    /// The number, if it is fixed.
    fixed: Option<u64>,
    workers: MakeWorkers,
    /// Most bytes of a search index that is copied from a bucket.
    copied: u64,
    /// None until the output has a version.
    shown: RwLock<Option<Shown>>,
    /// The states of all version numbers at the last look. Held during a look.
    states: Mutex<Vec<(String, ETag)>>,
}

#[derive(Clone, Debug)]
struct Shown {
    opened: Arc<Opened>,
    /// When the last look began that found this version to be the current one.
    checked: Moment,
}

/// A moment by two clocks. That of the system may be set back; the other one may stand still while a Lambda is frozen.
#[derive(Clone, Copy, Debug)]
struct Moment {
    steady: Instant,
    system: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Moment { steady: Instant::now(), system: SystemTime::now() }
    }

    /// The time since this moment, by the clock that says more.
    fn age(self) -> Duration {
        self.steady.elapsed().max(self.system.elapsed().unwrap_or_default())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("output", &self.output).field("fixed", &self.fixed).finish_non_exhaustive()
    }
}

impl Current {
    /// The newest version of an output, or the one with a number. The first request opens it, and fails if there is none.
    ///
    /// A search index of at most `copied` bytes is copied from a bucket to temporary files by the first search.
    pub fn new(output: Arc<dyn Store>, fixed: Option<u64>, workers: MakeWorkers, copied: u64) -> Arc<Self> {
        Arc::new(Current { output, fixed, workers, copied, shown: RwLock::default(), states: Mutex::default() })
    }

    /// The output.
    pub fn output(&self) -> &Arc<dyn Store> {
        &self.output
    }

    /// The version that answers now. Fails with `Output.NoVersion` if there is none, and with the errors of the store if no look
    /// succeeded in the last three seconds.
    pub async fn opened(self: &Arc<Self>) -> Result<Arc<Opened>> {
        let Some(Shown { opened, checked }) = self.shown() else { return self.look(FRESH).await };
        match checked.age() {
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
        let shown = self.shown();
        if let Some(Shown { opened, checked }) = &shown
            && checked.age() < age
        {
            return Ok(Arc::clone(opened));
        }
        let began = Moment::now();
        let states = states(self.output.as_ref()).await?;
        let opened = match shown.map(|shown| shown.opened) {
            Some(opened) if *known == states => opened,
            before => match self.newer(before.as_ref()).await {
                // The next version came, and this one went, while it was being opened.
                Err(error) if is_gone(&error) => self.newer(before.as_ref()).await?,
                newer => newer?,
            },
        };
        *known = states;
        let shown = Shown { opened: Arc::clone(&opened), checked: began };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(opened)
    }

    /// The current version: the open one, or another that is opened now.
    async fn newer(&self, opened: Option<&Arc<Opened>>) -> Result<Arc<Opened>> {
        let version = dataset::version(self.output.as_ref(), self.fixed).await?;
        if let Some(opened) = opened.filter(|opened| *opened.version() == version) {
            return Ok(Arc::clone(opened));
        }
        let same = opened.filter(|opened| opened.version().extractor.id == version.extractor.id);
        let workers = match same {
            Some(opened) => Arc::clone(opened.workers()),
            None => {
                let kept = dataset::extractor_file(self.output.as_ref(), &version.extractor.recipe()).await?;
                Arc::new((self.workers)(&version.extractor, kept)?)
            }
        };
        let finder = Finder::new(Arc::clone(&self.output), version).with_copy(self.copied);
        Opened::open(finder, workers).await.map(Arc::new)
    }

    fn shown(&self) -> Option<Shown> {
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
