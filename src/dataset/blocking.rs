//! Encoding, decoding and linear algebra run off the threads that wait for the store.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{Error, ErrorKind, Result};

/// Runs long work on a thread for blocking work. On a runtime of one thread there is nothing to hold up, and the work
/// runs in place.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "a computation did not end").source(e))),
        _ => work(),
    }
}
