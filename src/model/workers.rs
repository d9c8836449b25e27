//! Worker threads that compute the features of files.
//!
//! Each worker processes one image at a time, because the model is slower on batches. The caller limits the number of
//! files in progress, and with it their memory.

use std::sync::Arc;

use bytes::Bytes;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{Described, Extractor};
use crate::{
    Error, ErrorKind, Result,
    image::{Reject, guarded},
};

type Answer<T> = std::result::Result<T, Reject>;
/// What a worker computes of a file.
type Compute<T> = fn(&Extractor, &[u8]) -> Answer<T>;

/// An extractor and the threads that run it.
#[derive(Debug)]
pub struct WorkerPool {
    extractor: Arc<Extractor>,
    /// None if the calling thread does the work.
    pool: Option<ThreadPool>,
    finishing: Semaphore,
}

impl WorkerPool {
    /// A pool of `threads` workers. With 0, the calling thread does the work. Fails with `Store.Failed` if a thread cannot
    /// be started.
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

    /// Number of images that are processed at the same time, at least 1.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Waits until no other task sums and writes a shard, which takes several times the memory of its features. The
    /// permit is released when it is dropped.
    pub(crate) async fn finishing(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.finishing.acquire().await.ok()
    }

    /// The features of an image file, `[columns]`, or the reason why it has none. Fails with `Internal.Bug` if a worker
    /// thread has ended.
    pub async fn features(&self, file: Bytes) -> Result<Answer<Vec<f32>>> {
        self.compute(file, Extractor::features_of_file).await
    }

    /// [`features`](WorkerPool::features), and the thumbnail of the image.
    pub async fn describe(&self, file: Bytes) -> Result<Answer<Described>> {
        self.compute(file, Extractor::describe_file).await
    }

    async fn compute<T: Send + 'static>(&self, file: Bytes, what: Compute<T>) -> Result<Answer<T>> {
        let Some(pool) = &self.pool else { return Ok(guarded(|| what(&self.extractor, &file))) };
        let (answer, answered) = oneshot::channel();
        let extractor = self.extractor.clone();
        pool.spawn_fifo(move || {
            // A stopped run has dropped the receiver.
            let _ = answer.send(guarded(|| what(&extractor, &file)));
        });
        answered.await.map_err(|_| Error::new(ErrorKind::InternalBug, "a worker thread has ended"))
    }
}
