//! Seconds and dollars of a run on AWS, before it is made.
//!
//! A closed form of what the state machine does, from measured times per image and the quotas that bound it.
//! [`super::simulate`] plays the same work event by event, with start-up times, throttles and uneven shards; a test holds the
//! two together.

use serde::Serialize;

use crate::{
    Error, ErrorKind, Result,
    cost::prices::{Cost, Emr, Prices, Usage},
    dataset::{settings::Settings, shard::MERGE_GROUP},
};

/// Milliseconds per image on one processor of a Lambda, from file to features and sums. Measured for 100 x 100 JPEGs
/// (`make bench`): 12.9 ms per processor on a busy machine (run 2026-11-22T075526Z), 8.6 ms on a quiet one (104524Z). A
/// Lambda's processor is one of two hyperthreads of a core, for which 1.7 times the larger is allowed. This factor has
/// not been measured.
pub const MS_PER_IMAGE: f64 = 22.0;
/// A 100 x 100 JPEG.
pub const BYTES_PER_IMAGE: u64 = 4_000;
/// MB of memory that come with one processor.
pub const MB_PER_PROCESSOR: f64 = 1_769.0;

/// Seconds. The first three are what is assumed of the platform, the others were measured with a local S3.
pub(super) mod time {
    /// From the state machine's call to a function that has to be started: sandbox and init.
    pub(crate) const COLD_START: f64 = 0.4;
    /// Between two states.
    pub(crate) const TRANSITION: f64 = 0.05;
    /// A LIST of 1,000 keys.
    pub(crate) const LIST: f64 = 0.1;
    /// Hashing a key, and writing its line of the plan.
    pub(crate) const PLAN_OBJECT: f64 = 8e-6;
    /// One small request to S3.
    pub(crate) const REQUEST: f64 = 0.03;
    pub(crate) const EIGEN: f64 = 0.8;
    /// Scores of one image on one processor.
    pub(crate) const PROJECT_IMAGE: f64 = 1e-4;
}
/// Bytes per second that one function reads from S3.
const S3_BANDWIDTH: f64 = 75e6;
/// Sums of a shard, and of a group of shards, for 1,280 features.
const SHARD_SUMS: f64 = 6.6e6;
const GROUP_SUMS: f64 = 13.2e6;
/// Stored bytes of an image: features and scores.
const STORED_PER_IMAGE: f64 = 5_600.0;
/// Memory of the other functions in `template.yaml`, MB.
const PLAN_MB: f64 = 1_769.0;
const REDUCE_MB: f64 = 3_008.0;
/// Records that a stage reads at a time.
const READERS: f64 = 32.0;
const LAMBDA_SECONDS: f64 = 900.0;
const MAP_ITEMS: f64 = 100e6;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Workload {
    pub images: u64,
    pub bytes_per_image: u64,
    /// On one processor.
    pub ms_per_image: f64,
    pub shard_size: u32,
}

impl Workload {
    pub fn new(images: u64) -> Self {
        Workload {
            images,
            bytes_per_image: BYTES_PER_IMAGE,
            ms_per_image: MS_PER_IMAGE,
            shard_size: Settings::default().shard_size,
        }
    }

    pub fn shards(&self) -> u64 {
        self.images.div_ceil(u64::from(self.shard_size).max(1)).max(1)
    }
}

/// Where it is done: parameters of the template and quotas of the account.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Deployment {
    /// Of the function `featurize`, MB.
    pub memory: u32,
    /// `MaxConcurrency` of the template.
    pub concurrency: u32,
    /// Lambdas that the account may run at once.
    pub account_concurrency: u32,
}

impl Default for Deployment {
    fn default() -> Self {
        Deployment { memory: 1_769, concurrency: 100, account_concurrency: 1_000 }
    }
}

/// One map of the state machine: so many items, each so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Map {
    pub items: u64,
    /// Seconds of an item in a function that is warm.
    pub seconds: f64,
    pub concurrency: u32,
    /// Items started per second.
    pub starts: f64,
}

impl Map {
    /// When the last item ends. Items start at the given rate until all places are taken; then each place takes the
    /// next item when it is free.
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

/// The work of a run as the state machine sees it, in seconds of functions that are warm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    pub plan: f64,
    pub featurize: Map,
    pub merge: Map,
    pub reduce: f64,
    pub project: Map,
    pub publish: f64,
}

impl Course {
    pub fn new(work: &Workload, deployment: &Deployment, starts: f64) -> Self {
        let (images, shards) = (work.images as f64, work.shards());
        let rows = images / shards as f64;
        let processors = (f64::from(deployment.memory) / MB_PER_PROCESSOR).max(0.05);
        let concurrency = deployment.concurrency.min(deployment.account_concurrency);
        let groups = if shards > MERGE_GROUP as u64 { shards.div_ceil(MERGE_GROUP as u64) } else { 0 };
        let map = |items, seconds| Map { items, seconds, concurrency, starts };
        let records = |n: f64| n / READERS * time::REQUEST;
        // Reading runs beside the model, unless files are so large that the network is slower.
        let model = work.ms_per_image / 1e3 / processors;
        let network = work.bytes_per_image as f64 / S3_BANDWIDTH;
        let sums = if groups > 0 { groups as f64 * GROUP_SUMS } else { shards as f64 * SHARD_SUMS };
        Course {
            plan: (images / 1e3).ceil() * time::LIST + images * time::PLAN_OBJECT + 6.0 * time::REQUEST,
            featurize: map(shards, rows * model.max(network) + 6.0 * time::REQUEST),
            merge: map(groups, MERGE_GROUP as f64 * SHARD_SUMS / S3_BANDWIDTH + 3.0 * time::REQUEST),
            reduce: records(shards as f64) + sums / S3_BANDWIDTH + time::EIGEN + 8.0 * time::REQUEST,
            project: map(shards, rows * (time::PROJECT_IMAGE + 5_120.0 / S3_BANDWIDTH) + 4.0 * time::REQUEST),
            publish: records(shards as f64) + 8.0 * time::REQUEST,
        }
    }

    fn one(seconds: f64) -> f64 {
        time::COLD_START + time::TRANSITION + seconds
    }

    /// Seconds by stage.
    pub fn stages(&self) -> Vec<(&'static str, f64)> {
        let mut stages = vec![("plan", Self::one(self.plan)), ("featurize", self.featurize.seconds())];
        if self.merge.items > 0 {
            stages.push(("merge", self.merge.seconds()));
        }
        stages.extend([
            ("reduce", Self::one(self.reduce)),
            ("project", self.project.seconds()),
            ("publish", Self::one(self.publish)),
        ]);
        stages
    }

    fn usage(&self, work: &Workload, deployment: &Deployment) -> Usage {
        let environments = |map: &Map| {
            let busy = (map.starts * (map.seconds + time::TRANSITION)).ceil();
            (map.items as f64).min(f64::from(map.concurrency)).min(busy.max(1.0))
        };
        let billed =
            |map: &Map, mb: f64| (map.items as f64 * map.seconds + environments(map) * time::COLD_START) * mb / 1_024.0;
        let one = |seconds: f64, mb: f64| (seconds + time::COLD_START) * mb / 1_024.0;
        let shards = work.shards();
        let groups = self.merge.items;
        Usage {
            gb_seconds: one(self.plan, PLAN_MB)
                + billed(&self.featurize, f64::from(deployment.memory))
                + billed(&self.merge, REDUCE_MB)
                + one(self.reduce, REDUCE_MB)
                + billed(&self.project, PLAN_MB)
                + one(self.publish, PLAN_MB),
            ..requests(&Counts {
                images: work.images,
                inferred: work.images,
                shards,
                made: shards,
                groups,
                parts: shards,
            })
        }
    }
}

/// What a run consisted of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub images: u64,
    pub inferred: u64,
    pub shards: u64,
    /// Shards that were made, not reused.
    pub made: u64,
    pub groups: u64,
    /// Parts that were projected.
    pub parts: u64,
}

/// Requests, invocations and transitions of a run, its compute left out. Held against the requests that the local AWS
/// saw (`tests/aws/test_e2e.py`).
pub fn requests(run: &Counts) -> Usage {
    let Counts { images, inferred, shards, made, groups, parts } = *run;
    Usage {
        gb_seconds: 0.0,
        invocations: 3 + made + groups + parts,
        // The states of the machine, and one for each child of a map.
        transitions: 12 + made + groups + parts,
        // A shard: features, sums, record, and what became of it. A part: scores, and what became of it.
        puts: images.div_ceil(1_000) + 24 + 4 * made + groups + 2 * parts,
        // A shard: its images, its lines of the plan, its rows of before; later its record and its sums.
        gets: inferred
            + 2 * made
            + made
            + shards
            + if groups > 0 { 2 * shards + groups } else { shards }
            + 3 * parts
            + 16,
        stored_bytes: (images as f64 * STORED_PER_IMAGE + shards as f64 * SHARD_SUMS + GROUP_SUMS) as u64,
    }
}

/// What bounds a run, and from how many images on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    pub what: &'static str,
    pub images: u64,
    /// What to do about it.
    pub remedy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub work: Workload,
    pub deployment: Deployment,
    pub prices: Prices,
    pub shards: u64,
    pub seconds: f64,
    pub seconds_by_stage: Vec<(&'static str, f64)>,
    pub usage: Usage,
    pub dollars: Cost,
    pub emr: Emr,
    /// The first that is reached comes first.
    pub limits: Vec<Limit>,
}

/// Fails with `Input.Invalid` on what cannot be deployed.
pub fn estimate(work: Workload, deployment: Deployment, prices: Prices) -> Result<Estimate> {
    let invalid = |what: &str| Err(Error::new(ErrorKind::InputInvalid, what));
    if work.images == 0 || !(work.ms_per_image > 0.0 && work.ms_per_image.is_finite()) {
        return invalid("an estimate needs at least one image, and a time per image above 0");
    }
    if deployment.concurrency == 0 || deployment.account_concurrency == 0 {
        return invalid("at least one function must be allowed to run");
    }
    let course = Course::new(&work, &deployment, prices.map_children_per_second);
    let seconds_by_stage = course.stages();
    let usage = course.usage(&work, &deployment);
    Ok(Estimate {
        shards: work.shards(),
        seconds: seconds_by_stage.iter().map(|(_, seconds)| seconds).sum(),
        seconds_by_stage,
        dollars: prices.cost(&usage),
        emr: Emr::new(work.images, &prices),
        limits: limits(&work, &deployment, prices.map_children_per_second),
        usage,
        work,
        deployment,
        prices,
    })
}

/// The number of images from which each function no longer ends within its 15 minutes, and the list of a map is full.
fn limits(work: &Workload, deployment: &Deployment, starts: f64) -> Vec<Limit> {
    let reached = |seconds: fn(&Course) -> f64| {
        let over =
            |images: u64| seconds(&Course::new(&Workload { images, ..*work }, deployment, starts)) > LAMBDA_SECONDS;
        // Doubling, then halving the gap: every time here grows with the images.
        let mut high = 1u64 << 10;
        while high < 1 << 50 && !over(high) {
            high *= 2;
        }
        let mut low = high / 2;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if over(middle) { high = middle } else { low = middle }
        }
        high
    };
    let mut limits = vec![
        Limit {
            what: "plan lists the keys one page after the other; 15 minutes of Lambda end it",
            images: reached(|course| course.plan),
            remedy: "plan from a laptop or a server (`pomona run s3://...`), or split the bucket into outputs",
        },
        Limit {
            what: "reduce reads the records and sums of all shards within 15 minutes",
            images: reached(|course| course.reduce),
            remedy: "raise shard_size",
        },
        Limit {
            what: "publish reads the records of all parts within 15 minutes",
            images: reached(|course| course.publish),
            remedy: "raise shard_size",
        },
        Limit {
            what: "a map takes 100 million items",
            images: (MAP_ITEMS * f64::from(work.shard_size)) as u64,
            remedy: "raise shard_size",
        },
    ];
    let course = Course::new(work, deployment, starts);
    if course.featurize.seconds > LAMBDA_SECONDS {
        limits.push(Limit {
            what: "one shard takes longer than 15 minutes of Lambda",
            images: work.shard_size.into(),
            remedy: "lower shard_size or raise FeaturizeMemory",
        });
    }
    if deployment.concurrency > deployment.account_concurrency {
        limits.push(Limit {
            what: "MaxConcurrency is above what the account may run at once: calls are refused and come again",
            images: u64::from(deployment.account_concurrency) * u64::from(work.shard_size),
            remedy: "lower MaxConcurrency, or ask for more concurrency of Lambda under Service Quotas",
        });
    }
    limits.sort_by_key(|limit| limit.images);
    limits
}
