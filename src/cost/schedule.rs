//! The work of a run on AWS, stage by stage: how many functions run, and for how long.

use serde::Serialize;

use super::batches;
use crate::dataset::{
    Searched,
    settings::DUPLICATE_IMAGES_ON_AWS,
    shard::{DEFAULT_GROUP_SIZE, DEFAULT_SHARD_SIZE_ON_AWS},
};

/// Milliseconds per image on one processor of a Lambda: reading, decoding, features and sums.
///
/// `make bench` measured 12.9 ms per processor for 100 x 100 JPEGs on a busy machine, and 8.6 ms on an idle one. A
/// processor of a Lambda is one of two hyperthreads of a core. It is assumed to be 1.7 times slower than the busy machine;
/// this factor has not been measured.
pub const MS_PER_IMAGE: f64 = 22.0;
/// Size of a 100 x 100 JPEG.
pub const BYTES_PER_IMAGE: u64 = 4_000;
/// Memory in MiB for which Lambda gives one processor.
pub const MB_PER_PROCESSOR: f64 = 1_769.0;

/// Seconds of single operations. Those of the platform (start, transition, LIST) are assumed; the others were measured
/// with a local S3.
pub(super) mod time {
    /// Start of a new execution environment: sandbox and init phase.
    pub(crate) const COLD_START: f64 = 0.4;
    /// Transition between two states.
    pub(crate) const TRANSITION: f64 = 0.05;
    /// A LIST request, which returns 1,000 keys.
    pub(crate) const LIST: f64 = 0.1;
    /// Hashing a key and writing its line of the plan.
    pub(crate) const PLAN_OBJECT: f64 = 8e-6;
    /// One small request to S3.
    pub(crate) const REQUEST: f64 = 0.03;
    /// Eigenvectors of a 1,280 x 1,280 matrix.
    pub(crate) const EIGEN: f64 = 0.8;
    /// Exact sums of products of one image on one processor.
    pub(crate) const SUM_IMAGE: f64 = 2e-4;
    /// Scores of one image on one processor.
    pub(crate) const PROJECT_IMAGE: f64 = 1e-4;
    /// Projection of one image for the search of duplicates, and that search, on one processor.
    pub(crate) const SEARCH_IMAGE: f64 = 1e-4;
}
/// Memory in MiB of the functions plan, project and publish in `template.yaml`, and of reduce.
pub(super) const PLAN_MB: f64 = 1_769.0;
pub(super) const REDUCE_MB: f64 = 3_008.0;
/// Bytes per second that one function reads from S3.
const S3_BANDWIDTH: f64 = 75e6;
/// Bytes of the features of an image, and of the sums of a group, for 1,280 features.
const FEATURES: f64 = 5_120.0;
/// Bytes of the scores of an image, for 50 components.
const SCORES: f64 = 200.0;
pub(super) const GROUP_SUMS: f64 = 5.0e6;
/// Records that a stage reads at the same time.
const READERS: f64 = 32.0;

/// The images of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Number of images; all of them go through the model.
    pub images: u64,
    /// Mean size of a file in bytes.
    pub bytes_per_image: u64,
    /// Milliseconds per image on one processor.
    pub ms_per_image: f64,
    /// Mean number of images per shard.
    pub shard_size: u32,
    /// Whether the run writes a CSV.
    pub csv: bool,
    /// Whether uploads start the run: one event per image.
    pub uploads: bool,
    /// Whether the images are encrypted with a customer managed key: one request to KMS per image.
    pub image_key: bool,
}

impl Workload {
    /// Images of the default size and time, in shards of the default size.
    pub fn new(images: u64) -> Self {
        Workload {
            images,
            bytes_per_image: BYTES_PER_IMAGE,
            ms_per_image: MS_PER_IMAGE,
            shard_size: DEFAULT_SHARD_SIZE_ON_AWS,
            csv: false,
            uploads: false,
            image_key: false,
        }
    }

    /// Number of groups of shards, at least 1.
    pub fn groups(&self) -> u64 {
        self.images.div_ceil(DEFAULT_GROUP_SIZE.into()).max(1)
    }

    /// Number of shards, at least 1.
    pub fn shards(&self) -> u64 {
        self.images.div_ceil(u64::from(self.shard_size).max(1)).max(1)
    }
}

/// Parameters of the template and quotas of the account. The default is that of the template and of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Deployment {
    /// Memory of the function `featurize` in MiB: `FeaturizeMemory` of the template.
    pub memory: u32,
    /// Concurrent items of a map: `MaxConcurrency` of the template.
    pub concurrency: u32,
    /// Lambda concurrency quota of the account in the region.
    pub account_concurrency: u32,
    /// Percentage of shards that may fail: `ToleratedShardFailurePercent` of the template.
    pub tolerated_percent: f64,
}

impl Default for Deployment {
    fn default() -> Self {
        Deployment { memory: 1_769, concurrency: 8, account_concurrency: 1_000, tolerated_percent: 1.0 }
    }
}

/// A Distributed Map of the state machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Map {
    /// Number of items.
    pub items: u64,
    /// Seconds per item in a warm execution environment.
    pub seconds: f64,
    /// Most items that run at the same time.
    pub concurrency: u32,
    /// Items started per second.
    pub starts: f64,
}

impl Map {
    /// Seconds until the last item ends. Items start at the rate `starts` until `concurrency` is reached; then an item
    /// starts when another one ends.
    pub fn seconds(&self) -> f64 {
        if self.items == 0 {
            return 0.0;
        }
        let last = (self.items - 1) as f64;
        let item = self.seconds + time::TRANSITION;
        let places = f64::from(self.concurrency.max(1));
        let by_starts = last / self.starts;
        let by_places = (last / places).floor() * item + (last % places) / self.starts;
        time::COLD_START + item + by_starts.max(by_places)
    }
}

/// The work of each state of the state machine, in seconds of warm functions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Seconds of the function `plan`.
    pub plan: f64,
    /// One item per shard, or per batch of shards.
    pub featurize: Map,
    /// One item per group of shards.
    pub merge: Map,
    /// Seconds of the function `reduce`.
    pub reduce: f64,
    /// One item per shard, or per batch of shards.
    pub project: Map,
    /// Seconds of the function `publish`.
    pub publish: f64,
}

impl Schedule {
    /// The work of a run. `starts` is the number of map children that Step Functions starts per second.
    pub fn new(work: &Workload, deployment: &Deployment, starts: f64) -> Self {
        let (images, shards) = (work.images as f64, work.shards());
        let rows = images / shards as f64;
        let processors = (f64::from(deployment.memory) / MB_PER_PROCESSOR).max(0.05);
        let concurrency = deployment.concurrency.min(deployment.account_concurrency);
        let groups = work.groups();
        let (group_rows, group_shards) = (images / groups as f64, shards as f64 / groups as f64);
        let map = |items, seconds| Map { items, seconds, concurrency, starts };
        // A line of a large work list stands for several shards.
        let batched = |size: u64, seconds: f64| {
            let own = if size > 1 { time::REQUEST } else { 0.0 };
            map(shards.div_ceil(size), (shards as f64 / shards.div_ceil(size) as f64) * seconds + own)
        };
        let of_featurize = batches::of_featurize(shards, work.shard_size, deployment.concurrency);
        let of_project = batches::of_project(shards, work.shard_size, deployment.concurrency);
        let records = |n: f64| n / READERS * time::REQUEST;
        // Files are read while the model runs; the slower of the two decides.
        let model = work.ms_per_image / 1e3 / processors;
        let network = work.bytes_per_image as f64 / S3_BANDWIDTH;
        let searched =
            if Searched::among(work.images, DUPLICATE_IMAGES_ON_AWS) == Searched::Nothing { 0.0 } else { images };
        Schedule {
            plan: (images / 1e3).ceil() * time::LIST + images * time::PLAN_OBJECT + 6.0 * time::REQUEST,
            featurize: batched(of_featurize, rows * model.max(network) + 6.0 * time::REQUEST),
            merge: map(
                groups,
                group_rows * (FEATURES / S3_BANDWIDTH + time::SUM_IMAGE)
                    + records(2.0 * group_shards)
                    + GROUP_SUMS / S3_BANDWIDTH
                    + 5.0 * time::REQUEST,
            ),
            reduce: records(2.0 * groups as f64)
                + groups as f64 * GROUP_SUMS / S3_BANDWIDTH
                + time::EIGEN
                + 8.0 * time::REQUEST,
            project: batched(of_project, rows * (time::PROJECT_IMAGE + FEATURES / S3_BANDWIDTH) + 4.0 * time::REQUEST),
            publish: records(shards as f64)
                + searched * (FEATURES / S3_BANDWIDTH + time::SEARCH_IMAGE)
                + images * SCORES / S3_BANDWIDTH
                + 10.0 * time::REQUEST,
        }
    }

    /// Seconds of a state that calls one function.
    pub(super) fn one(seconds: f64) -> f64 {
        time::COLD_START + time::TRANSITION + seconds
    }

    /// Name and wall-clock seconds of each stage, in order.
    pub fn stages(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("plan", Self::one(self.plan)),
            ("featurize", self.featurize.seconds()),
            ("merge", self.merge.seconds()),
            ("reduce", Self::one(self.reduce)),
            ("project", self.project.seconds()),
            ("publish", Self::one(self.publish)),
        ]
    }
}
