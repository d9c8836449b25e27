//! The stages of a run.
//!
//! Each is an async function from a small input to a small output; everything large goes through the store. The
//! command line calls them one after the other in one process, the Lambdas one per invocation. They find each
//! other's results by key below `runs/<run>/`, and every record that they hand over is in one file (`records`):
//!
//! | stage | reads | writes |
//! | --- | --- | --- |
//! | [`plan()`] | the listing, the current version | `plan.json`, `objects-*.jsonl`, `featurize.jsonl` |
//! | [`featurize()`] | its lines of `objects-*.jsonl`, the images | `shards/<id>/`, `featurized/<shard>.json` |
//! | [`merge()`] | the moments of a group of shards, when there are many | `merged/<group>.parquet` |
//! | [`reduce()`] | `plan.json`, `featurized/`, the shards' moments | the basis, `reduced.json`, `project.jsonl` |
//! | [`project()`] | the basis, one shard's features | a part of `pca/v=.../`, `projected/<part>.json` |
//! | [`publish()`] | `plan.json`, `reduced.json`, `projected/` | rejects, CSV, the version |
//!
//! The last stage, the report, is in [`crate::report`] (feature `report`).
mod featurize;
mod listing;
mod merge;
mod plan;
mod planner;
mod project;
mod publish;
pub(crate) mod records;
mod reduce;
mod reuse;

use std::sync::Arc;

pub use featurize::featurize;
pub use merge::merge;
pub use plan::plan;
pub use project::project;
pub use publish::publish;
pub use records::{
    Featurized, MergeWork, Merged, ObjectRange, PartWork, Plan, PlanInput, Planned, PlannedShard, Projected, Published,
    Reduced, RunInput, ShardWork,
};
pub use reduce::reduce;
pub use tokio_util::sync::CancellationToken;

use crate::{Error, ErrorKind, Result, store::Store};

/// Where a run reads and writes.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The images.
    pub input: Arc<dyn Store>,
    /// The data set.
    pub output: Arc<dyn Store>,
}

/// Receives progress; the command line draws it.
pub trait Monitor: Send + Sync {
    /// This many objects have been listed so far.
    fn listed(&self, _objects: u64) {}
    /// One more image has its features, or was rejected.
    fn image_done(&self) {}
}

/// Ignores progress.
#[derive(Debug)]
pub struct Silent;
impl Monitor for Silent {}

/// Fails with `Run.Interrupted` once a stop was requested. What is finished stays.
pub(crate) fn check(stop: &CancellationToken) -> Result<()> {
    if stop.is_cancelled() { Err(Error::new(ErrorKind::RunInterrupted, "the run was stopped")) } else { Ok(()) }
}

/// Concurrent requests of one stage to the store.
pub(crate) const STORE_CONCURRENCY: usize = 32;
