//! The stages of a run.
//!
//! Each stage is an async function from a small input to a small output. Everything large goes through the store: a stage
//! finds the results of another stage by key, below `runs/<run>/`. The command line calls the stages in order in one
//! process; on AWS, each Lambda calls one of them. All records that stages exchange are defined in one file (`records`).
//!
//! | stage | reads | writes |
//! | --- | --- | --- |
//! | [`plan()`] | the listing, the current version | `plan.json`, `objects-*.jsonl`, `shards-*.jsonl`, `featurize.jsonl`, `merge.jsonl` |
//! | [`featurize()`] | lines of `objects-*.jsonl`, the images | `shards/<id>/`, `featurized/<shard>.json` |
//! | [`merge()`] | lines of `shards-*.jsonl`, the features of a group of shards | `groups/<id>/`, `merged/<group>.json` |
//! | [`reduce()`] | `plan.json`, `merged/`, the groups | the basis, `reduced.json`, `project.jsonl` |
//! | [`project()`] | the basis, the features of one shard | a part of `pca/v=.../`, `projected/<part>.json` |
//! | [`publish()`] | `plan.json`, `reduced.json`, `projected/`, the groups | the tables of the version, the manifest |
//!
//! The last stage, the report, is in `crate::report` (feature `report`).

mod batch;
mod earlier;
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

pub use batch::{Batch, Line, PartsDone, ShardsDone, featurize_batch, project_batch};
pub use featurize::featurize;
pub(crate) use featurize::{Sums, featurize_and_sum, moments_of};
pub use merge::merge;
pub(crate) use merge::{Known, group_sums, merge_with, read_sums, remake_group};
pub(crate) use plan::check_input;
pub use plan::plan;
pub use project::project;
pub(crate) use project::{Files as PartFiles, csv_header, files as part_files};
pub use publish::publish;
pub use records::{
    Featurized, LineRange, MergeWork, Merged, PartWork, Plan, PlanInput, Planned, PlannedGroup, PlannedShard,
    Projected, Published, Reduced, RunInput, ShardWork,
};
pub use reduce::reduce;
pub(crate) use reduce::sum_of_groups;
pub use tokio_util::sync::CancellationToken;

use crate::{
    Error, ErrorKind, Result,
    store::{self, Store},
};

/// The two stores of a run.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The images; only read.
    pub input: Arc<dyn Store>,
    /// The data set.
    pub output: Arc<dyn Store>,
}

impl Stores {
    /// Opens two locations, each a folder or `s3://BUCKET/PREFIX/`.
    ///
    /// Fails with `Input.NotFound` if the input is a path but not a folder, and with `Input.Overlap` if one location
    /// contains the other.
    pub async fn open(input: &str, output: &str) -> Result<Self> {
        let stores = Stores { input: store::open_input(input, output).await?, output: store::open(output).await? };
        store::check_apart(input, output)?;
        Ok(stores)
    }
}

/// Receives the progress of a stage. Several tasks may call it at the same time.
pub trait Monitor: Send + Sync {
    /// `objects` is the number of objects listed so far.
    fn listed(&self, _objects: u64) {}
    /// One more image is processed: inferred, copied or rejected.
    fn image_done(&self) {}
}

/// A [`Monitor`] that ignores progress.
#[derive(Debug)]
pub struct Silent;
impl Monitor for Silent {}

/// Fails with `Run.Interrupted` after `stop` is cancelled.
pub(crate) fn check(stop: &CancellationToken) -> Result<()> {
    if stop.is_cancelled() { Err(stopped()) } else { Ok(()) }
}

fn stopped() -> Error {
    Error::new(ErrorKind::RunInterrupted, "the run was stopped")
}

/// Concurrent requests of one stage to the store.
pub(crate) const STORE_CONCURRENCY: usize = 32;
