//! The stages of a run.
//!
//! Each is an async function from a small input to a small output; everything large goes through the store. The
//! command line calls them one after the other in one process, the Lambdas one per invocation. They find each
//! other's results by key below `runs/<run>/`:
//!
//! | stage | reads | writes |
//! | --- | --- | --- |
//! | [`plan()`] | the listing, the current version | `plan.json`, `objects-*.jsonl`, `featurize.jsonl` |
//! | [`featurize()`] | its lines of `objects-*.jsonl`, the images | `shards/<id>/`, `featurized/<shard>.json` |
//! | [`merge()`] | the moments of a group of shards, when there are many | `merged/<group>.parquet` |
//! | [`reduce()`] | `plan.json`, `featurized/`, the shards' moments | the basis, `reduced.json`, `project.jsonl` |
//! | [`project()`] | the basis, one shard's features | a part of `pca/v=.../`, `projected/<part>.json` |
//! | [`publish()`] | `plan.json`, `reduced.json`, `projected/` | rejects, CSV, the version |
//! | [`report()`] | the records of all stages, a sample of the scores and images | `report.html`, `receipt.json` |

mod changes;
mod featurize;
mod kept_parts;
mod merge;
mod plan;
mod project;
mod publish;
mod reduce;
mod report;
mod walk;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

pub use featurize::{Featurized, ShardWork, featurize};
pub use merge::{MergeWork, Merged, merge};
pub use plan::{ObjectRange, Plan, PlanInput, Planned, PlannedShard, plan};
pub use project::{PartWork, Projected, project};
pub use publish::{Published, publish};
pub use reduce::{Reduced, reduce};
pub use report::{ReportInput, Reported, report};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, dataset::RunId, store::Store};

/// Where a run reads and writes.
#[derive(Clone, Debug)]
pub struct Site {
    pub input: Arc<dyn Store>,
    pub output: Arc<dyn Store>,
}

/// Input of the stages that need no more than the run's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInput {
    pub run: RunId,
}

/// Hears what goes on; the command line draws it.
pub trait Monitor: Send + Sync {
    /// So many objects have been listed.
    fn listed(&self, _objects: u64) {}
    /// One more image has its features, or was rejected.
    fn image_done(&self) {}
}

/// Hears nothing.
#[derive(Debug)]
pub struct Silent;
impl Monitor for Silent {}

/// Asks the stages to end early. What is finished stays.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails with `Run.Interrupted` once a stop was requested.
    pub fn check(&self) -> Result<()> {
        if self.requested() { Err(Error::new(ErrorKind::RunInterrupted, "the run was stopped")) } else { Ok(()) }
    }
}

/// Requests to the store that one stage keeps under way.
const STORE_CONCURRENCY: usize = 32;
