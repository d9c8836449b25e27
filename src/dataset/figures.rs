//! Counts and times of a run, as its manifest says them.

use serde::{Deserialize, Serialize};

/// Counts and times of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// Images whose features the model computed in this run.
    pub inferred: u64,
    /// Images whose features were copied from earlier work.
    pub copied: u64,
    /// Images with features whose keys the parent version does not have.
    pub added: u64,
    /// Images with features whose keys the parent version has with another etag.
    pub changed: u64,
    /// Images with features of the parent version whose keys this version does not have.
    pub removed: u64,
    /// Shards that an earlier run computed.
    pub shards_reused: u64,
    /// Shards that this run computed.
    pub shards_computed: u64,
    /// Time of the plan, milliseconds.
    pub plan_ms: u64,
    /// Time of all featurize calls, added, milliseconds.
    pub featurize_ms: u64,
    /// Time of all merges and the reduce, added, milliseconds.
    pub reduce_ms: u64,
    /// Time of all project calls, added, milliseconds.
    pub project_ms: u64,
}

impl RunFigures {
    /// Milliseconds of all of featurize per inferred image; None if none was inferred.
    pub(crate) fn milliseconds_per_image(&self) -> Option<f64> {
        (self.inferred > 0).then(|| self.featurize_ms as f64 / self.inferred as f64)
    }

    /// Adds the figures of other work of the same run.
    pub(crate) fn add(&mut self, other: &RunFigures) {
        let RunFigures { inferred, copied, added, changed, removed, shards_reused, shards_computed, .. } = other;
        self.inferred += inferred;
        self.copied += copied;
        self.added += added;
        self.changed += changed;
        self.removed += removed;
        self.shards_reused += shards_reused;
        self.shards_computed += shards_computed;
        self.plan_ms += other.plan_ms;
        self.featurize_ms += other.featurize_ms;
        self.reduce_ms += other.reduce_ms;
        self.project_ms += other.project_ms;
    }
}
