//! Work of a model that is not known to end, in a thread of its own.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::invalid;
use crate::Result;

/// Longest time to load a model and to process one image with it: 2^7 seconds. A model near the limit of 2^38 operations
/// ends in time on a processor that does 2^32 in a second.
pub(super) const DEADLINE: Duration = Duration::from_secs(1 << 7);
/// Stack of the thread, bytes: 64 MiB. Some passes of tract's optimiser recurse once for each node of a chain.
const STACK_BYTES: usize = 1 << 26;

/// Runs `work` in a thread and waits for it until the deadline.
///
/// Fails with `Model.Invalid` if it panics or does not end in time. A thread cannot be stopped from outside: it goes on until
/// the work or the process ends, so the caller should end the process soon.
pub(super) fn within<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, answered) = mpsc::channel();
    let thread = thread::Builder::new().name("model".to_owned()).stack_size(STACK_BYTES);
    // After the deadline, nobody receives the answer.
    let spawned = thread.spawn(move || drop(answer.send(work())));
    spawned.map_err(|e| invalid("the thread that loads it cannot be started").source(e))?;
    answered.recv_timeout(deadline).unwrap_or_else(|e| match e {
        RecvTimeoutError::Timeout => {
            let seconds = deadline.as_secs_f64();
            Err(invalid(format!("loading it and processing one image takes longer than {seconds} seconds")))
        }
        RecvTimeoutError::Disconnected => Err(invalid("it is malformed, and the ONNX reader panicked")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_or_panics_is_an_error_of_the_model() {
        assert_eq!(within(DEADLINE, || Ok(7)).unwrap(), 7);
        let slow = within(Duration::from_millis(50), || {
            thread::sleep(Duration::from_secs(2));
            Ok(())
        });
        assert!(slow.unwrap_err().to_string().contains("longer than 0.05 seconds"));
        let panicked = within(DEADLINE, || -> Result<()> { std::panic::resume_unwind(Box::new("planted")) });
        assert!(panicked.unwrap_err().to_string().contains("panicked"));
    }
}
