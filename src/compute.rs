//! Where computations run.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{Error, ErrorKind, Result};

/// Runs work that takes long where it holds up nothing else. Where there is no runtime with more than one thread, there
/// is nothing to hold up.
pub(crate) async fn compute<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "a computation did not end").source(e))),
        _ => work(),
    }
}

/// Does both at once where a second thread is free, and one after the other where none is. A panic of either goes on
/// here. Both are to compute only: what waits would hold up others.
pub(crate) fn both<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    rayon::join(a, b)
}
