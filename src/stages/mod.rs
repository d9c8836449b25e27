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
//! | [`merge()`] | lines of `shards-*.jsonl`, the features of a group of shards | `groups/<id>/`, `merged/<group>.json`; `index/<id>`, `indexed/<group>.json` |
//! | [`reduce()`] | `plan.json`, `merged/`, `indexed/`, the groups, all features | the basis, the classifier, `reduced.json`, `project.jsonl` |
//! | [`project()`] | basis, classifier, the features of one shard | a part of `pca/v=.../` and of `predictions/v=.../`, `projected/<part>.json` |
//! | [`publish()`] | `plan.json`, `reduced.json`, `projected/`, the groups | the tables of the version, the manifest |
//!
//! The last stage, the report, is in `crate::report` (feature `report`).

mod batch;
mod bisect;
mod classes;
mod classify;
mod cut;
mod damage;
mod descriptors;
mod duplicates;
mod earlier;
mod extractor;
mod featurize;
mod index;
mod input;
mod lines;
mod list;
mod listing;
mod merge;
mod merges;
mod outliers;
mod pieces;
mod plan;
mod planner;
mod project;
mod publish;
pub(crate) mod records;
mod reduce;
mod resume;
mod reuse;
mod rounds;
mod rows;
mod spans;
mod sums;
mod sweep;
mod totals;
mod upload;

use std::sync::Arc;

pub use batch::{Batch, Line, PartsDone, ShardsDone, featurize_batch, project_batch};
pub use classes::ClassWork;
pub use classify::PredictWork;
pub(crate) use classify::{
    Group as ClassGroup, Write as WriteSums, encode as encode_classifier, fit as fit_classifier, predict,
    sums_of_shards,
};
pub(crate) use damage::damaged_record;
pub use descriptors::{DescriptorsDone, descriptors};
pub use duplicates::{Subject as DuplicatesOf, duplicates};
pub use extractor::{extractor, keep_extractor};
pub use featurize::featurize;
pub(crate) use featurize::featurize_and_sum;
pub(crate) use index::segment;
pub use list::{ListDone, ListWork, list};
pub use merge::{MergeDone, merge};
pub(crate) use merge::{group_sums, merge_with, remake_group};
pub(crate) use outliers::{Scored as OutliersOf, outliers};
pub use plan::{PlanStep, plan, plan_step};
pub use project::project;
pub(crate) use project::{Files as PartFiles, Models, csv_header, files as part_files, project_with};
pub use publish::publish;
pub use records::{
    Featurized, Indexed, LineRange, Makes, MergeWork, Merged, PartWork, Plan, PlanInput, Planned, PlannedGroup,
    PlannedShard, Projected, Published, Reduced, RunInput, ShardWork,
};
pub use reduce::reduce;
pub(crate) use reduce::reduce_with;
pub(crate) use resume::check_input;
pub use rounds::{Limits, Round};
pub(crate) use sums::{GroupSums, Known, KnownGroups, KnownSums, ShardSums, Sums, moments_of, read_sums};
pub use tokio_util::sync::CancellationToken;
pub(crate) use totals::sum_of_groups;

use crate::{
    Error, ErrorKind, Result,
    archive::Unpacked,
    compiled_once,
    inventory::Inventoried,
    store::{self, Store},
};

/// The two stores of a run.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The images; only read. With the members of archives, if it is an [`Unpacked`].
    pub input: Arc<dyn Store>,
    /// The data set.
    pub output: Arc<dyn Store>,
}

impl Stores {
    /// Opens two locations, each a folder or `s3://BUCKET/PREFIX/`.
    ///
    /// Fails with `Input.NotFound` if the input is a path but not a folder, and with `Input.Overlap` if one location
    /// contains the other.
    #[compiled_once]
    pub async fn open(input: &str, output: &str) -> Result<Self> {
        Stores::open_inventory(input, output, None).await
    }

    /// [`Stores::open`] with the objects that the inventory at a third location names, if there is one.
    #[compiled_once]
    pub async fn open_inventory(input: &str, output: &str, inventory: Option<&str>) -> Result<Self> {
        let mut images = store::open_input(input, output).await?;
        if let Some(inventory) = inventory {
            images = Arc::new(Inventoried::new(images, inventory));
        }
        let stores = Stores::new(images, store::open(output).await?);
        store::check_apart(input, output)?;
        Ok(stores)
    }

    /// Opens the input that a version records, beside an output that is open. Fails with `Input.NotFound` if it has gone.
    #[compiled_once]
    pub async fn recorded(input: &str, output: &Arc<dyn Store>) -> Result<Self> {
        Ok(Stores::new(store::open_input(input, &output.place()).await?, Arc::clone(output)))
    }

    /// The stores of a run on the objects of `input` and the members of its archives.
    pub fn new(input: Arc<dyn Store>, output: Arc<dyn Store>) -> Self {
        Stores { input: Arc::new(Unpacked::new(input, output.clone())), output }
    }
}

/// Receives the progress of a stage. Several tasks may call it at the same time.
pub trait Monitor: Send + Sync {
    /// `objects` is the number of objects listed so far.
    fn listed(&self, _objects: u64) {}
    /// One more image is processed: inferred, copied or rejected.
    fn image_done(&self) {}
    /// The run has other settings than the current version, which has so many images. What depends on them is computed
    /// again from the features; no image is inferred again.
    fn settings_changed(&self, _changes: &[String], _images: u64) {}
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
