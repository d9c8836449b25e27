//! What a piece of work took.

use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// When a piece of work began, how long it took, and with how much memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// To the millisecond.
    pub began: Timestamp,
    /// Wall clock.
    pub milliseconds: u64,
    /// Of the Lambda; none where there is none.
    pub memory_mb: Option<u32>,
}

/// The time, to the millisecond.
pub(crate) fn now() -> Timestamp {
    Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default()
}

/// Measures a [`Timing`].
#[derive(Debug)]
pub struct Timer {
    began: Timestamp,
    clock: Instant,
}

impl Timer {
    /// Starts the clock.
    pub fn start() -> Self {
        Timer { began: now(), clock: Instant::now() }
    }

    /// The timing so far.
    pub fn read(&self) -> Timing {
        let memory = std::env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").ok();
        Timing {
            began: self.began,
            milliseconds: u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX),
            memory_mb: memory.and_then(|mb| mb.parse().ok()),
        }
    }
}
