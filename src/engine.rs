//! Worker threads that turn files into features.
//!
//! Each worker takes one image at a time: running the model on batches would make it slower. Whoever reads the files
//! decides how many are under way, and so how much memory they take.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    Error, ErrorKind, Result,
    extractor::Extractor,
    preprocess::{Reason, Reject},
};

type Answer = std::result::Result<Vec<f32>, Reject>;

struct Job {
    file: Bytes,
    answer: oneshot::Sender<Answer>,
}

/// An extractor and the threads that work with it. Dropped, it waits for the images under way.
#[derive(Debug)]
pub struct Engine {
    extractor: Arc<Extractor>,
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    finishing: tokio::sync::Semaphore,
}

impl Engine {
    /// With no threads, whoever asks does the work himself.
    pub fn new(extractor: Arc<Extractor>, threads: usize) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads)
            .map(|i| {
                let (extractor, queue) = (extractor.clone(), queue.clone());
                thread::Builder::new()
                    .name(format!("features-{i}"))
                    .spawn(move || {
                        while let Some(Job { file, answer }) = next(&queue) {
                            // Nobody waits any more when the run was stopped.
                            let _ = answer.send(guarded(&extractor, &file));
                        }
                    })
                    .map_err(|e| Error::new(ErrorKind::StoreFailed, "a worker thread could not be started").source(e))
            })
            .collect::<Result<_>>()?;
        Ok(Engine { extractor, jobs: Some(jobs), threads, finishing: tokio::sync::Semaphore::new(1) })
    }

    pub fn extractor(&self) -> &Extractor {
        &self.extractor
    }

    /// Images that can be worked on at a time.
    pub fn threads(&self) -> usize {
        self.threads.len().max(1)
    }

    /// Waits for the turn to sum and write a shard, which takes several times the memory of its features.
    pub async fn finishing(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.finishing.acquire().await.ok()
    }

    /// The features of one file, `[columns]`, or why there are none.
    pub async fn features(&self, file: Bytes) -> Result<Answer> {
        if self.threads.is_empty() {
            return Ok(guarded(&self.extractor, &file));
        }
        let gone = || Error::new(ErrorKind::InternalBug, "a worker thread has ended");
        let (answer, answered) = oneshot::channel();
        self.jobs.as_ref().ok_or_else(gone)?.send(Job { file, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A decoder that panics on a file that nobody has thought of costs that one image.
fn guarded(extractor: &Extractor, file: &[u8]) -> Answer {
    catch_unwind(AssertUnwindSafe(|| extractor.features_of_file(file)))
        .unwrap_or_else(|_| Err(Reject::new(Reason::Corrupt, "the decoder gave up on this file")))
}
