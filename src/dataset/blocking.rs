//! Runs encoding, decoding and linear algebra outside of the async threads.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{Error, ErrorKind, Result};

/// Runs a long computation on the runtime's blocking threads. On a single-threaded runtime, the calling thread runs it.
/// Fails with `Internal.Bug` if it panics.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "a computation panicked").source(e))),
        _ => work(),
    }
}
