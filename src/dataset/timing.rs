//! The timing of a piece of work.

use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// When a piece of work started, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Start, rounded to milliseconds.
    pub began: Timestamp,
    /// Wall-clock time.
    pub milliseconds: u64,
    /// Configured memory of the Lambda, MB. None outside of Lambda.
    pub memory_mb: Option<u32>,
}

/// The current time, rounded to milliseconds.
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

    /// The timing from the start until now.
    pub fn read(&self) -> Timing {
        let memory = std::env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").ok();
        Timing {
            began: self.began,
            milliseconds: u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX),
            memory_mb: memory.and_then(|mb| mb.parse().ok()),
        }
    }
}
