//! Waiting for Rust without holding Python up.

use std::{sync::LazyLock, time::Duration};

use pomona::{Error, ErrorKind, Result, stages::CancellationToken};
use pyo3::prelude::*;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::timeout,
};

use crate::raised;

/// How long Ctrl-C may be unheard, and the time between two reports of progress.
const TICK: Duration = Duration::from_millis(100);

/// The threads of this process.
static RUNTIME: LazyLock<std::result::Result<Runtime, String>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| e.to_string()));

fn runtime() -> Result<&'static Runtime> {
    RUNTIME.as_ref().map_err(|cause| {
        Error::new(ErrorKind::StoreFailed, "the threads of the module could not be started").source(cause.clone())
    })
}

/// Waits for a result. After Ctrl-C, raises `KeyboardInterrupt`, and the work goes on behind.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<T> {
    waited(py, work, None, |_| Ok(()))
}

/// Waits for a result and calls `tell` ten times a second. If it raises, or after Ctrl-C, the work is stopped; the exception is
/// raised when it has ended.
pub(crate) fn wait_and_tell<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = Result<T>> + Send + 'static,
    stop: &CancellationToken,
    tell: impl FnMut(Python<'_>) -> PyResult<()>,
) -> PyResult<T> {
    waited(py, work, Some(stop), tell)
}

fn waited<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = Result<T>> + Send + 'static,
    stop: Option<&CancellationToken>,
    mut tell: impl FnMut(Python<'_>) -> PyResult<()>,
) -> PyResult<T> {
    let runtime = runtime().map_err(|e| raised(py, &e))?;
    let (sender, mut receiver) = oneshot::channel();
    runtime.spawn(async move {
        // Nobody waits any more after a second Ctrl-C.
        let _ = sender.send(work.await);
    });
    let mut interrupted: Option<PyErr> = None;
    loop {
        let answer = py.detach(|| runtime.block_on(async { timeout(TICK, &mut receiver).await }));
        match answer {
            Ok(outcome) => {
                if let Some(interrupted) = interrupted {
                    return Err(interrupted);
                }
                let bug = |_| Error::new(ErrorKind::InternalBug, "a thread of the module has panicked");
                return outcome.map_err(bug).and_then(|outcome| outcome).map_err(|e| raised(py, &e));
            }
            Err(_) => {
                let told = if interrupted.is_none() { tell(py) } else { Ok(()) };
                if let Err(e) = py.check_signals().and(told) {
                    match stop {
                        Some(stop) if interrupted.is_none() => stop.cancel(),
                        _ => return Err(e),
                    }
                    interrupted = Some(e);
                }
            }
        }
    }
}
