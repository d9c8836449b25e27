//! Worker threads that turn files into features.
//!
//! Each worker takes one image at a time: running the model on batches would make it slower. The caller that reads the
//! files decides how many are under way, and so how much memory they take.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::Extractor;
use crate::{
    Error, ErrorKind, Result,
    image::{Reason, Reject},
};

type Answer = std::result::Result<Vec<f32>, Reject>;

/// An extractor and the threads that run it.
#[derive(Debug)]
pub struct WorkerPool {
    extractor: Arc<Extractor>,
    /// None when the caller's thread does the work.
    pool: Option<ThreadPool>,
    finishing: Semaphore,
}

impl WorkerPool {
    /// With no threads, the thread that asks does the work.
    pub fn new(extractor: Arc<Extractor>, threads: usize) -> Result<Self> {
        let build = || ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("features-{i}")).build();
        let pool = (threads > 0).then(build).transpose();
        let pool =
            pool.map_err(|e| Error::new(ErrorKind::StoreFailed, "the worker threads could not be started").source(e))?;
        Ok(WorkerPool { extractor, pool, finishing: Semaphore::new(1) })
    }

    /// The extractor that the workers run.
    pub fn extractor(&self) -> &Extractor {
        &self.extractor
    }

    /// Images that can be worked on at a time.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Waits for permission to sum and write a shard, which takes several times the memory of its features.
    pub async fn finishing(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.finishing.acquire().await.ok()
    }

    /// The features of one file, `[columns]`, or why there are none.
    pub async fn features(&self, file: Bytes) -> Result<Answer> {
        let Some(pool) = &self.pool else { return Ok(guarded(&self.extractor, &file)) };
        let (answer, answered) = oneshot::channel();
        let extractor = self.extractor.clone();
        pool.spawn_fifo(move || {
            // A run that was stopped does not wait for the answer.
            let _ = answer.send(guarded(&extractor, &file));
        });
        answered.await.map_err(|_| Error::new(ErrorKind::InternalBug, "a worker thread has ended"))
    }
}

/// A decoder that panics on an unforeseen file costs that one image.
fn guarded(extractor: &Extractor, file: &[u8]) -> Answer {
    catch_unwind(AssertUnwindSafe(|| extractor.features_of_file(file)))
        .unwrap_or_else(|_| Err(Reject::new(Reason::Corrupt, "the decoder gave up on this file")))
}
