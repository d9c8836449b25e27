//! What a piece of work took.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::dataset;

/// When a piece of work was done, how long it took, and with how much memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// UTC, RFC 3339.
    pub began: String,
    pub milliseconds: u64,
    /// Of the Lambda; none where there is none.
    pub memory_mb: Option<u32>,
}

/// Measures an [`Effort`].
#[derive(Debug)]
pub struct Timer {
    began: String,
    clock: Instant,
}

impl Timer {
    pub fn start() -> Self {
        Timer { began: dataset::now(), clock: Instant::now() }
    }

    /// The effort so far.
    pub fn read(&self) -> Effort {
        let memory = std::env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").ok();
        Effort {
            began: self.began.clone(),
            milliseconds: u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX),
            memory_mb: memory.and_then(|mb| mb.parse().ok()),
        }
    }
}
