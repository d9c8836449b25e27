//! Standard output and standard error. A reader may close either of them at any time, and that is no reason to panic.

use std::{
    io::{self, ErrorKind as Io, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{Error, ErrorKind, Result};

/// Writes a result to standard output. Succeeds if nobody reads it any more, as in `pomona show results/ | head -1`; fails
/// with `Store.Failed` if it cannot be written, such as to a full disk.
pub(crate) fn out(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Whether notes and progress are left out.
static QUIET: AtomicBool = AtomicBool::new(false);
/// Whether there are notes for each stage.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Leaves out notes and progress from now on, or adds the notes of [`detail`].
pub(crate) fn set_detail(quiet: bool, verbose: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Writes a line for people who asked for details to standard error.
pub(crate) fn detail(line: &str) {
    if VERBOSE.load(Ordering::Relaxed) {
        complain(line);
    }
}

pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes a line for people to standard error, unless they asked for quiet.
pub(crate) fn note(line: &str) {
    if !is_quiet() {
        complain(line);
    }
}

/// Writes a line to standard error. Errors are ignored, because there is no place left to report them.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The outcome of a write to standard output.
pub(crate) fn written(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.kind() != Io::BrokenPipe => {
            Err(Error::new(ErrorKind::StoreFailed, "standard output could not be written").source(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_no_error() {
        assert!(written(Ok(())).is_ok());
        assert!(written(Err(Io::BrokenPipe.into())).is_ok());
        assert!(written(Err(Io::StorageFull.into())).unwrap_err().is(ErrorKind::StoreFailed));
    }
}
