//! The deadline of an invocation.

use std::time::{Duration, SystemTime};

use pomona::stages::CancellationToken;

/// Time before the deadline at which work stops: long enough to keep the rows of a shard, and to be billed for less than a
/// timeout would cost.
const RESERVE: Duration = Duration::from_secs(40);

/// Cancels a token before the deadline. Dropping it ends the wait.
#[derive(Debug)]
pub(crate) struct Deadline {
    stop: CancellationToken,
    wait: Option<tokio::task::JoinHandle<()>>,
}

impl Deadline {
    /// A deadline at `at`. Lambda always sends one; the first day of 1970 means that there is none: `cargo lambda watch` says
    /// 600,000 ms after its beginning for each call.
    pub(crate) fn new(at: SystemTime) -> Self {
        let stop = CancellationToken::new();
        let is_real = at.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since > Duration::from_secs(86_400));
        let wait = is_real.then(|| {
            let time = time_to_work(at.duration_since(SystemTime::now()).unwrap_or_default());
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                stop.cancel();
            })
        });
        Deadline { stop, wait }
    }

    /// The token that is cancelled.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(wait) = &self.wait {
            wait.abort();
        }
    }
}

/// How long to work if this much time is left. A function with a short timeout works for half of it.
fn time_to_work(left: Duration) -> Duration {
    left.saturating_sub(RESERVE).max(left / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_forty_seconds_before_the_deadline() {
        let seconds = |left| time_to_work(Duration::from_secs(left)).as_secs();
        assert_eq!([seconds(900), seconds(100), seconds(60), seconds(10), seconds(0)], [860, 60, 30, 5, 0]);
    }

    #[tokio::test]
    async fn the_token_is_cancelled_in_time_and_not_without_a_deadline() {
        let soon = || Deadline::new(SystemTime::now() + Duration::from_millis(100));
        let deadline = soon();
        deadline.stop().cancelled().await;
        // The invocation has ended before its deadline.
        let (ended, none) = (soon().stop(), Deadline::new(SystemTime::UNIX_EPOCH + Duration::from_millis(600_000)));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!ended.is_cancelled() && !none.stop().is_cancelled());
    }
}
