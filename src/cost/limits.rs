//! The limits of AWS that a large run reaches, and how to raise them.

use serde::Serialize;

use super::schedule::{Deployment, MB_PER_PROCESSOR, PLAN_MB, REDUCE_MB, Schedule, Workload};

/// Longest time of a Lambda, seconds.
const LAMBDA_SECONDS: f64 = 900.0;
/// GET requests a second of one prefix.
const PREFIX_READS: f64 = 5_500.0;
const MIB: f64 = 1_048_576.0;
/// Memory of a shard in the stages plan and reduce: its entry, its work, and its line of the work list.
const BYTES_PER_SHARD: f64 = 1_000.0;
const BYTES_PER_PART: f64 = 2_500.0;
/// Most items of a Distributed Map.
const MAP_ITEMS: f64 = 100e6;

/// A limit of AWS that a large run reaches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// The limit, as a sentence.
    pub what: &'static str,
    /// Number of images from which a run exceeds the limit.
    pub images: u64,
    /// A way to raise or avoid the limit.
    pub remedy: &'static str,
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
    let beyond = |seconds| images_beyond_lambda(work, deployment, starts, seconds);
    let mut limits = vec![
        Limit {
            what: "plan lists all keys in one Lambda, which ends after 15 minutes",
            images: beyond(|schedule| schedule.plan),
            remedy: "run `pomona run s3://...` on a server, or split the images into several outputs",
        },
        Limit {
            what: "reduce reads the records and sums of all groups in one Lambda, which ends after 15 minutes",
            images: beyond(|schedule| schedule.reduce),
            remedy: "split the images into several outputs",
        },
        Limit {
            what: "publish reads the records of all parts in one Lambda, which ends after 15 minutes",
            images: beyond(|schedule| schedule.publish),
            remedy: "raise shard_size",
        },
        Limit {
            what: "reduce holds the work list of all parts in memory",
            images: (REDUCE_MB * 0.9 * MIB / BYTES_PER_PART * f64::from(work.shard_size)) as u64,
            remedy: "raise shard_size",
        },
        Limit {
            what: "plan holds the work list of all shards in memory",
            images: (PLAN_MB * 0.9 * MIB / BYTES_PER_SHARD * f64::from(work.shard_size)) as u64,
            remedy: "raise shard_size",
        },
        Limit {
            what: "a Distributed Map has at most 100 million items",
            images: (MAP_ITEMS * f64::from(work.shard_size)) as u64,
            remedy: "raise shard_size",
        },
    ];
    let processors = f64::from(deployment.memory) / MB_PER_PROCESSOR;
    let reads = 1e3 / work.ms_per_image * processors;
    let functions = (PREFIX_READS / reads).ceil();
    if f64::from(deployment.concurrency.min(deployment.account_concurrency)) > functions {
        limits.push(Limit {
            what: "the functions read more than 5,500 images a second, which S3 serves from one prefix until it splits it",
            images: (functions * f64::from(work.shard_size)) as u64,
            remedy: "nothing; throttled shards go on with the rows that they have. Images in several folders are split sooner",
        });
    }
    if Schedule::new(work, deployment, starts).featurize.seconds > LAMBDA_SECONDS {
        limits.push(Limit {
            what: "one shard takes longer than 15 minutes, after which a Lambda ends and another one goes on",
            images: work.shard_size.into(),
            remedy: "lower shard_size or raise FeaturizeMemory; each start costs a second",
        });
    }
    if deployment.concurrency > deployment.account_concurrency {
        limits.push(Limit {
            what: "MaxConcurrency is above the account's Lambda concurrency: calls are throttled and retried",
            images: u64::from(deployment.account_concurrency) * u64::from(work.shard_size),
            remedy: "lower MaxConcurrency, or request more Lambda concurrency in Service Quotas",
        });
    }
    limits.sort_by_key(|limit| limit.images);
    limits
}
