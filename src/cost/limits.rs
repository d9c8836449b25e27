//! The limits of AWS that a large run reaches, and how to raise them.

use serde::Serialize;

use super::schedule::{Deployment, LISTINGS, MB_PER_PROCESSOR, PLAN_MB, REDUCE_MB, Schedule, Workload, time};

/// Longest time of a Lambda, seconds.
const LAMBDA_SECONDS: f64 = 900.0;
/// GET requests a second of one prefix.
const PREFIX_READS: f64 = 5_500.0;
const MIB: f64 = 1_048_576.0;
const BYTES_PER_PART: f64 = 2_500.0;
/// Most items of a Distributed Map.
const MAP_ITEMS: f64 = 100e6;

/// Bytes that a later run of plan holds for each shard of the current version.
const BYTES_PER_KNOWN_SHARD: f64 = 420.0;

/// How a limit is avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// A quota that AWS raises, or a parameter of the stack.
    Quota,
    /// A larger `shard_size`.
    ShardSize,
    /// A run without a classifier.
    NoClassifier,
    /// Several outputs, each with a part of the images.
    Outputs,
    /// None is needed: the run takes longer, and ends.
    Wait,
}

/// A limit of AWS that a large run reaches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// The limit, as a sentence.
    pub what: &'static str,
    /// Number of images from which a run exceeds the limit.
    pub images: u64,
    /// A way to raise or avoid the limit.
    pub remedy: &'static str,
    /// The kind of that way.
    pub by: Remedy,
}

/// The smallest number of images for which `seconds` of the schedule exceeds the longest time of a Lambda.
fn images_beyond_lambda(work: &Workload, deployment: &Deployment, starts: f64, seconds: fn(&Schedule) -> f64) -> u64 {
    let exceeds =
        |images: u64| seconds(&Schedule::new(&Workload { images, ..*work }, deployment, starts)) > LAMBDA_SECONDS;
    // All times grow with the number of images, so a binary search finds it.
    let mut high = 1u64 << 10;
    while high < 1 << 50 && !exceeds(high) {
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if exceeds(middle) { high = middle } else { low = middle }
    }
    high
}

/// All limits of a run, in the order in which a growing number of images reaches them. `starts` is the number of map
/// children that Step Functions starts per second.
pub(super) fn limits(work: &Workload, deployment: &Deployment, starts: f64) -> Vec<Limit> {
    let beyond = |work: &Workload, seconds| images_beyond_lambda(work, deployment, starts, seconds);
    let per_shard = work.per_shard();
    let mut limits = of_all(work, deployment, starts);
    if work.labels > 1 {
        limits.push(Limit {
            what: "reduce reads all features for the classifier in one Lambda, which ends after 15 minutes",
            images: beyond(work, |schedule| schedule.reduce),
            remedy: "set \"classifier\": false, split the images, or run `pomona run s3://...` on a server",
            by: Remedy::NoClassifier,
        });
    }
    limits.extend(of_requests(work, deployment));
    if Schedule::new(work, deployment, starts).featurize.seconds > LAMBDA_SECONDS {
        limits.push(Limit {
            what: "one shard takes longer than 15 minutes, after which a Lambda ends and another one goes on",
            images: per_shard as u64,
            remedy: "lower shard_size or raise FeaturizeMemory; each start costs a second",
            by: Remedy::Wait,
        });
    }
    if deployment.concurrency > deployment.account_concurrency {
        limits.push(Limit {
            what: "MaxConcurrency is above the account's Lambda concurrency: calls are throttled and retried",
            images: (f64::from(deployment.account_concurrency) * per_shard) as u64,
            remedy: "lower MaxConcurrency, or request more Lambda concurrency in Service Quotas",
            by: Remedy::Quota,
        });
    }
    limits.sort_by_key(|limit| limit.images);
    limits
}

/// The limits that each run has.
fn of_all(work: &Workload, deployment: &Deployment, starts: f64) -> Vec<Limit> {
    let beyond = |work: &Workload, seconds| images_beyond_lambda(work, deployment, starts, seconds);
    let per_shard = work.per_shard();
    let shards_in = |mb: f64, bytes: f64| (mb * 0.9 * MIB / bytes * per_shard) as u64;
    vec![
        Limit {
            what: "plan reads what the listers found in one Lambda, which ends after 15 minutes",
            images: beyond(work, |schedule| schedule.longest_plan),
            remedy: "raise shard_size",
            by: Remedy::ShardSize,
        },
        Limit {
            what: "a later run of plan holds the records of all shards in memory",
            images: shards_in(PLAN_MB, BYTES_PER_KNOWN_SHARD),
            remedy: "raise shard_size",
            by: Remedy::ShardSize,
        },
        Limit {
            what: "reduce reads the records and sums of all groups in one Lambda, which ends after 15 minutes",
            images: beyond(&Workload { labels: 0, ..*work }, |schedule| schedule.reduce),
            remedy: "split the images into several outputs, or run `pomona run s3://...` on a server",
            by: Remedy::Outputs,
        },
        Limit {
            what: "publish reads the records of all parts in one Lambda, which ends after 15 minutes",
            images: beyond(work, |schedule| schedule.publish),
            remedy: "raise shard_size",
            by: Remedy::ShardSize,
        },
        Limit {
            what: "reduce holds the work list of all parts in memory",
            images: shards_in(REDUCE_MB, BYTES_PER_PART),
            remedy: "raise shard_size",
            by: Remedy::ShardSize,
        },
        Limit {
            what: "a Distributed Map has at most 100 million items",
            images: (MAP_ITEMS * per_shard) as u64,
            remedy: "raise shard_size",
            by: Remedy::ShardSize,
        },
    ]
}

/// Requests a second of one prefix.
fn of_requests(work: &Workload, deployment: &Deployment) -> Vec<Limit> {
    let mut limits = Vec::new();
    let most = f64::from(deployment.concurrency.min(deployment.account_concurrency));
    let of_listers = (PREFIX_READS * time::LIST / LISTINGS).ceil();
    if most > of_listers {
        limits.push(Limit {
            what: "the listers send more than 5,500 requests a second, which S3 serves from one prefix until it splits it",
            images: (of_listers * 1e6) as u64,
            remedy: "nothing; throttled requests are repeated",
            by: Remedy::Wait,
        });
    }
    let processors = f64::from(deployment.memory) / MB_PER_PROCESSOR;
    let per_image = work.image_gets() as f64 / work.images as f64;
    let reads = 1e3 / work.ms_per_image * processors * per_image;
    let functions = (PREFIX_READS / reads).ceil();
    if most > functions {
        limits.push(Limit {
            what: "the functions read more than 5,500 images a second, which S3 serves from one prefix until it splits it",
            images: (functions * f64::from(work.shard_size)) as u64,
            remedy: "nothing; throttled shards go on with the rows that they have. Images in several folders are split sooner",
            by: Remedy::Wait,
        });
    }
    limits
}

/// Sizes of shards that a plan may need, the smallest first.
const SHARD_SIZES: [u32; 5] = [320, 640, 1_280, 2_560, 5_120];

/// How a run has to be set up to stay below all limits that AWS does not raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// The setting `shard_size`.
    pub shard_size: u32,
    /// The setting `classifier`.
    pub classifier: bool,
    /// Outputs, each with an equal part of the images. With 1, the images fit into one.
    pub outputs: u64,
}

/// The smallest change of a run with which it stays below all limits. Of the ways to stay below them, several outputs are
/// the last.
pub(super) fn fit(work: &Workload, deployment: &Deployment, starts: f64) -> Fit {
    let reached = |work: &Workload, by: Remedy| {
        let limits = limits(work, deployment, starts).into_iter();
        limits.filter(|limit| limit.by == by && limit.images <= work.images).map(|limit| limit.images).min()
    };
    let without = Workload { labels: 0, ..*work };
    let outputs = reached(&without, Remedy::Outputs).map_or(1, |most| work.images.div_ceil(most.max(2) - 1));
    let part = Workload { images: work.images.div_ceil(outputs), ..*work };
    let classifier = work.labels > 1 && reached(&part, Remedy::NoClassifier).is_none();
    let sizes = SHARD_SIZES.into_iter().filter(|size| *size > work.shard_size);
    let of_size = |shard_size: &u32| Workload { shard_size: *shard_size, ..part };
    let shard_size = std::iter::once(work.shard_size)
        .chain(sizes)
        .find(|size| reached(&of_size(size), Remedy::ShardSize).is_none())
        .unwrap_or(work.shard_size);
    Fit { shard_size, classifier, outputs }
}
