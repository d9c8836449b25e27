//! The work of a run on AWS, stage by stage: how many functions run, and for how long.

use serde::Serialize;

use super::batches;
use crate::{
    classify::FOLDS,
    dataset::{
        Searched,
        settings::DUPLICATE_IMAGES_ON_AWS,
        shard::{Boundaries, DEFAULT_GROUP_SIZE, DEFAULT_SHARD_SIZE_ON_AWS, MAX_SHARD_SIZE},
    },
};

/// Milliseconds per image on one processor of a Lambda: reading, decoding, features and sums.
///
/// `make bench` measured 12.9 ms per processor for 100 x 100 JPEGs on a busy machine, and 8.6 ms on an idle one. A
/// processor of a Lambda is one of two hyperthreads of a core. It is assumed to be 1.7 times slower than the busy machine;
/// this factor has not been measured.
pub const MS_PER_IMAGE: f64 = 22.0;
/// [`MS_PER_IMAGE`] on an arm64 processor of a Lambda, a core of Graviton2: 1.1 times as long.
///
/// Counted (`make bench-neon`), not timed: 75 million vector multiply-adds, of which the core starts two in each cycle of
/// 0.4 ns, take 15 ms. At 0.8 of this rate, as the kernels reach elsewhere, it is 18.7 ms, and 5.4 ms for what is not the
/// model, as on x86_64.
pub const MS_PER_IMAGE_ON_ARM64: f64 = 24.2;
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
    /// Reading what a lister wrote about a shard, and writing its lines of the plan.
    pub(crate) const PLAN_SHARD: f64 = 3e-5;
    /// One small request to S3.
    pub(crate) const REQUEST: f64 = 0.03;
    /// Eigenvectors of a 1,280 x 1,280 matrix.
    pub(crate) const EIGEN: f64 = 0.8;
    /// Exact sums of products of one image on one processor: 76 microseconds by `examples/classifier_time.rs` on one thread,
    /// times the factor of [`MS_PER_IMAGE`](super::MS_PER_IMAGE).
    pub(crate) const SUM_IMAGE: f64 = 1.3e-4;
    /// Fitting all discriminants of all folds on one processor (`examples/classifier_time.rs`).
    pub(crate) const FIT: f64 = 3.7;
    /// Scoring one image by all discriminants of one class on one processor (the same, with 131 classes).
    pub(crate) const SCORE_CLASS: f64 = 1.2e-6;
    /// Reading an image's features and adding it to the search index, on one processor.
    pub(crate) const INDEX_IMAGE: f64 = 6e-5;
    /// Scores of one image on one processor.
    pub(crate) const PROJECT_IMAGE: f64 = 1e-4;
    /// One image in the search of duplicates, and in that of outliers, on one processor. Tables are read meanwhile.
    pub(crate) const SEARCH_IMAGE: f64 = 1e-4;
}
/// Memory in MiB of the functions plan and project in `template.yaml`, of publish, and of reduce.
pub(super) const PLAN_MB: f64 = 1_769.0;
pub(super) const PUBLISH_MB: f64 = 3_008.0;
pub(super) const REDUCE_MB: f64 = 3_008.0;
/// Bytes per second that one function reads from S3.
const S3_BANDWIDTH: f64 = 75e6;
/// Bytes of the features of an image in a table, and of the sums of a group, for 1,280 features: docs/file-formats.md.
const FEATURES: f64 = 3_800.0;
/// Bytes of the scores of an image, for 50 components.
const SCORES: f64 = 200.0;
pub(super) const GROUP_SUMS: f64 = 5.0e6;
/// Bytes of the sums of classes of a group with many images.
const CLASS_SUMS: f64 = FOLDS as f64 * GROUP_SUMS;
/// Images of a group above which its sums of classes are kept.
const CLASS_SUMS_FROM: f64 = FOLDS as f64 * 1_281.0;
/// Rows of a group above which its segment of the search index is made from tables that are read twice.
const INDEX_TWICE_FROM: f64 = 4_096.0;
/// Records that a stage reads at the same time.
const READERS: f64 = 32.0;
/// Objects that a function lists, at most, and functions of a round: see `stages::Limits`.
const LISTED: f64 = 1e6;
const MOST_LISTED: f64 = 3e6;
const LISTERS_OF_ROUND: f64 = 100.0;
/// Listings of one function at the same time.
pub(super) const LISTINGS: f64 = 16.0;
/// Bytes of a tar file: several thousand images.
const ARCHIVE: f64 = 100e6;
/// Bytes of a request for parts of an archive.
const ARCHIVE_REQUEST: f64 = (8 << 20) as f64;

/// The images of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Number of images; all of them go through the model.
    pub images: u64,
    /// Mean size of a file in bytes.
    pub bytes_per_image: u64,
    /// Milliseconds per image on one processor.
    pub ms_per_image: f64,
    /// Target size of a shard, images: the setting `shard_size`.
    pub shard_size: u32,
    /// Number of labels. Below 2, there is no classifier.
    pub labels: u32,
    /// Whether the images are in tar files of about 100 MB.
    pub packed: bool,
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
            labels: 131,
            packed: false,
            csv: false,
            uploads: false,
            image_key: false,
        }
    }

    /// Number of groups of shards, at least 1.
    pub fn groups(&self) -> u64 {
        self.images.div_ceil(DEFAULT_GROUP_SIZE.into()).max(1)
    }

    /// Where shards end.
    pub(super) fn boundaries(&self) -> Option<Boundaries> {
        Boundaries::new(self.shard_size.clamp(1, MAX_SHARD_SIZE)).ok()
    }

    /// Expected number of shards, at least 1.
    pub fn shards(&self) -> u64 {
        let mean = self.boundaries().map_or(1.0, |boundaries| boundaries.mean());
        ((self.images as f64 / mean).round() as u64).max(1)
    }

    /// Mean number of images per shard.
    pub fn per_shard(&self) -> f64 {
        self.images as f64 / self.shards() as f64
    }

    /// Archives that hold the images.
    pub fn archives(&self) -> u64 {
        if self.packed { (self.images as f64 * self.bytes_per_image as f64 / ARCHIVE).ceil() as u64 } else { 0 }
    }

    /// GET requests for the images.
    pub fn image_gets(&self) -> u64 {
        if !self.packed {
            return self.images;
        }
        let (shards, archives) = (self.shards() as f64, self.archives() as f64);
        let bytes = self.images as f64 * self.bytes_per_image as f64;
        // The list of an archive takes a request per 8 MB of a tar file. Then there is one per shard, or more if it has
        // more than 8 MB or lies in two archives.
        let of_lists = (bytes / ARCHIVE_REQUEST).max(archives);
        let of_shards = shards * (bytes / shards / ARCHIVE_REQUEST).ceil() + archives;
        (of_lists + of_shards).ceil() as u64
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
        Deployment { memory: 3_008, concurrency: 8, account_concurrency: 1_000, tolerated_percent: 1.0 }
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

/// Seconds to read this number of small records.
fn records(number: f64) -> f64 {
    number / READERS * time::REQUEST
}

/// The listing of a large input: calls of `plan`, and rounds of listers between them.
struct Listing {
    plan: f64,
    longest_plan: f64,
    rounds: f64,
    listers: f64,
    lister: f64,
}

impl Listing {
    fn new(work: &Workload) -> Self {
        let images = work.images as f64;
        let of_keys = |keys: f64| {
            let pages = (keys / 1e3).ceil();
            // One listing begins, and the number of them doubles with each page.
            let begins = 1.0 + pages.clamp(1.0, LISTINGS).log2();
            time::LIST * begins + (pages / LISTINGS * time::LIST).max(keys * time::PLAN_OBJECT) + 6.0 * time::REQUEST
        };
        let plan_shards = work.shards() as f64 * time::PLAN_SHARD;
        let here = of_keys(images.min(LISTED));
        if images <= LISTED {
            let plan = here + plan_shards;
            return Listing { plan, longest_plan: plan, rounds: 0.0, listers: 0.0, lister: 0.0 };
        }
        let left = images - LISTED;
        let rounds = (left / (LISTERS_OF_ROUND * MOST_LISTED)).ceil();
        let listers = (left / rounds / LISTED).ceil().min(LISTERS_OF_ROUND);
        // Ranges are found by probes, and the last call reads what the listers wrote.
        let probes = listers / LISTINGS * 4.0 * time::LIST;
        let last = plan_shards + records(rounds * listers);
        Listing {
            plan: here + rounds * probes + last,
            longest_plan: (here + probes).max(last),
            rounds,
            listers,
            lister: of_keys(left / rounds / listers),
        }
    }
}

/// Whether the sums of classes of a group with this number of rows are kept.
pub(super) fn keeps_class_sums(rows: f64) -> bool {
    rows > CLASS_SUMS_FROM
}

/// Whether the tables of a group with this number of rows are read twice for its segment of the search index.
pub(super) fn index_reads_twice(rows: f64) -> bool {
    rows > INDEX_TWICE_FROM
}

/// The work for the classifier.
struct Classes<'a> {
    work: &'a Workload,
    groups: f64,
    group_rows: f64,
    /// Of the function `reduce`.
    processors: f64,
}

impl Classes<'_> {
    fn are_kept(&self) -> bool {
        keeps_class_sums(self.group_rows)
    }

    /// Seconds to sum the images of a group, all together or by class: features are read meanwhile.
    fn sum(&self) -> f64 {
        self.group_rows * (FEATURES / S3_BANDWIDTH).max(time::SUM_IMAGE / self.processors)
    }

    /// Seconds to make the search index of a group.
    fn index(&self) -> f64 {
        self.group_rows * (2.0 * FEATURES / S3_BANDWIDTH).max(time::INDEX_IMAGE)
    }

    /// Seconds of `merge` for each group. The sums of all images are those of the classes, added up.
    fn merge(&self) -> f64 {
        let works = self.work.labels > 1 && self.are_kept();
        if works { CLASS_SUMS / S3_BANDWIDTH } else { 0.0 }
    }

    /// Seconds of `reduce`: the eigenvectors, the sums of all groups, the fit, and all features, which are scored out of fold.
    fn reduce(&self) -> f64 {
        if self.work.labels < 2 {
            return time::EIGEN;
        }
        let labels = f64::from(self.work.labels);
        let sums = self.groups * if self.are_kept() { CLASS_SUMS / S3_BANDWIDTH } else { self.sum() };
        let fit = time::FIT / self.processors;
        let score = (FEATURES / S3_BANDWIDTH).max(labels * time::SCORE_CLASS / self.processors);
        // Eigenvectors take one processor; the sums are read meanwhile.
        let eigen = (time::EIGEN - sums).max(0.0) / self.processors;
        sums + eigen + fit + self.work.images as f64 * score
    }
}

/// The work of each state of the state machine, in seconds of warm functions.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Seconds of the function `plan`, of all of its calls.
    pub plan: f64,
    /// Its calls: one more than there are rounds of listers.
    pub plans: u64,
    /// The longest call.
    pub longest_plan: f64,
    /// One item per lister, of all rounds.
    pub list: Map,
    /// Expected number of shards.
    pub shards: u64,
    /// One item per shard, or per batch of shards.
    pub featurize: Map,
    /// One or two items per group of shards.
    pub merge: Map,
    /// Seconds of each of them: of the sums, and of the segment of the search index.
    pub calls_of_merge: Vec<f64>,
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
        let of_project = batches::of_project(shards, (rows as u32).max(1), deployment.concurrency);
        let listing = Listing::new(work);
        // Files are read while the model runs; the slower of the two decides.
        let model = work.ms_per_image / 1e3 / processors;
        let network = work.bytes_per_image as f64 / S3_BANDWIDTH;
        let of_classes = Classes { work, groups: groups as f64, group_rows, processors: REDUCE_MB / MB_PER_PROCESSOR };
        let sums = of_classes.sum() + GROUP_SUMS / S3_BANDWIDTH + of_classes.merge();
        let call = |seconds: f64| records(2.0 * group_shards) + seconds + 5.0 * time::REQUEST;
        let apart = group_rows > batches::APART as f64;
        let calls =
            if apart { vec![call(sums), call(of_classes.index())] } else { vec![call(sums + of_classes.index())] };
        let searched =
            if Searched::among(work.images, DUPLICATE_IMAGES_ON_AWS) == Searched::Nothing { 0.0 } else { images };
        Schedule {
            plan: listing.plan,
            plans: listing.rounds as u64 + 1,
            longest_plan: listing.longest_plan,
            list: map((listing.rounds * listing.listers) as u64, listing.lister),
            shards,
            featurize: batched(of_featurize, rows * model.max(network) + 6.0 * time::REQUEST),
            merge: map(groups * calls.len() as u64, calls.iter().sum::<f64>() / calls.len() as f64),
            calls_of_merge: calls,
            reduce: records(2.0 * groups as f64)
                + groups as f64 * GROUP_SUMS / S3_BANDWIDTH
                + of_classes.reduce()
                + 8.0 * time::REQUEST,
            project: batched(of_project, rows * (time::PROJECT_IMAGE + FEATURES / S3_BANDWIDTH) + 4.0 * time::REQUEST),
            // Duplicates are searched while the records are read.
            publish: records(shards as f64).max(
                searched
                    * ((FEATURES + SCORES) / S3_BANDWIDTH).max(time::SEARCH_IMAGE / (PUBLISH_MB / MB_PER_PROCESSOR)),
            ) + 10.0 * time::REQUEST,
        }
    }

    /// Seconds of a state that calls one function.
    pub(super) fn one(seconds: f64) -> f64 {
        time::COLD_START + time::TRANSITION + seconds
    }

    /// Wall-clock seconds of `reduce`: its function has worked on the groups before, so it need not start.
    pub(super) fn reduces(&self) -> f64 {
        time::TRANSITION + self.reduce
    }

    /// Wall-clock seconds of all calls of `plan`, start-up included.
    pub(super) fn all_plans(&self) -> f64 {
        self.plans as f64 * Self::one(0.0) + self.plan
    }

    /// Name and wall-clock seconds of each stage, in order.
    pub fn stages(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("plan", self.all_plans()),
            ("list", self.list.seconds()),
            ("featurize", self.featurize.seconds()),
            ("merge", self.merge.seconds()),
            ("reduce", self.reduces()),
            ("project", self.project.seconds()),
            ("publish", Self::one(self.publish)),
        ]
    }
}
