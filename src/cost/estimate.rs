//! The estimate: time, cost and limits of a run on AWS that has not been started.
//!
//! A closed form of the state machine's work, from measured times per image and the quotas of AWS. [`super::simulate`]
//! simulates the same work event by event, with start-up times, throttling and uneven shards. A test compares the two.

use serde::Serialize;

pub use super::{
    limits::Limit,
    schedule::{BYTES_PER_IMAGE, Deployment, MB_PER_PROCESSOR, MS_PER_IMAGE, Map, Schedule, Workload},
};
use super::{
    limits::limits,
    prices::{Cost, Emr, Prices, Usage},
    schedule::{GROUP_SUMS, time},
};
use crate::{Error, ErrorKind, Result};

/// Stored bytes per image: features and scores.
const STORED_PER_IMAGE: f64 = 5_600.0;
/// Memory in MiB of the functions plan, project and publish in `template.yaml`, and of reduce.
const PLAN_MB: f64 = 1_769.0;
const REDUCE_MB: f64 = 3_008.0;

/// Requests of one kind of work.
struct Requests {
    /// PUT, COPY, POST or LIST.
    puts: u64,
    gets: u64,
}

/// Requests of plan, of reduce, and of publish with the report, that a run of any size makes.
const ONCE: Requests = Requests { puts: 12 + 8 + 10, gets: 3 + 1 + 9 };
/// Most parts whose scores the report reads.
const PARTS_OF_REPORT: u64 = 32;

/// Pieces of work of a run, from which its requests follow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Objects of the data set, rejects included.
    pub images: u64,
    /// Images that went through the model.
    pub inferred: u64,
    /// Shards of the data set.
    pub shards: u64,
    /// Computed shards; the others were reused.
    pub made: u64,
    /// Groups of shards that the stage `merge` has finished.
    pub groups: u64,
    /// Projected parts; the others were copied.
    pub parts: u64,
}

/// Requests, invocations, transitions and stored bytes of a run. `gb_seconds` is 0.
///
/// `tests/aws/test_e2e.py` compares these numbers with the requests to a local S3.
pub fn requests(run: &Counts) -> Usage {
    let Counts { images, inferred, shards, made, groups, parts } = *run;
    Usage {
        gb_seconds: 0.0,
        invocations: 3 + made + groups + parts,
        // The states of the machine, and one per child of a map.
        transitions: 12 + made + groups + parts,
        // LIST of the images; then, per computed shard: features and two records; per group: sums, two records and a list of
        // parts; per part: scores, predictions and a record. Large groups have sums of classes too.
        puts: images.div_ceil(1_000) + 3 * made + 4 * groups + 3 * parts + ONCE.puts,
        // Images; then, per computed shard: lines of the list of objects, earlier rows, features, its record twice; per shard:
        // its record, and features for the sums of classes and for the cross-validation; per group: lines of the list of
        // shards, sums, records (5), a list of parts; per part: basis, classifier, features, its record twice, predictions
        // for the report, and the scores of some.
        gets: inferred + 5 * made + 3 * shards + 8 * groups + 6 * parts + parts.min(PARTS_OF_REPORT) + ONCE.gets,
        stored_bytes: (images as f64 * STORED_PER_IMAGE + (groups + 2) as f64 * GROUP_SUMS) as u64,
    }
}

/// Billed usage of a run.
fn usage(schedule: &Schedule, work: &Workload, deployment: &Deployment) -> Usage {
    let environments = |map: &Map| {
        let busy = (map.starts * (map.seconds + time::TRANSITION)).ceil();
        (map.items as f64).min(f64::from(map.concurrency)).min(busy.max(1.0))
    };
    let billed =
        |map: &Map, mb: f64| (map.items as f64 * map.seconds + environments(map) * time::COLD_START) * mb / 1_024.0;
    let one = |seconds: f64, mb: f64| (seconds + time::COLD_START) * mb / 1_024.0;
    let shards = work.shards();
    let groups = schedule.merge.items;
    Usage {
        gb_seconds: one(schedule.plan, PLAN_MB)
            + billed(&schedule.featurize, f64::from(deployment.memory))
            + billed(&schedule.merge, REDUCE_MB)
            + one(schedule.reduce, REDUCE_MB)
            + billed(&schedule.project, PLAN_MB)
            + one(schedule.publish, PLAN_MB),
        ..requests(&Counts { images: work.images, inferred: work.images, shards, made: shards, groups, parts: shards })
    }
}

/// Time, cost and limits of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The images that were assumed.
    pub work: Workload,
    /// The parameters and quotas that were assumed.
    pub deployment: Deployment,
    /// The prices that were used.
    pub prices: Prices,
    /// Number of shards.
    pub shards: u64,
    /// Wall-clock seconds of the whole run.
    pub seconds: f64,
    /// Name and wall-clock seconds of each stage, in order.
    pub seconds_by_stage: Vec<(&'static str, f64)>,
    /// Billed usage.
    pub usage: Usage,
    /// Cost of the usage.
    pub dollars: Cost,
    /// The same images on EMR.
    pub emr: Emr,
    /// Limits, in the order in which a growing number of images reaches them.
    pub limits: Vec<Limit>,
}

/// Estimates a run.
///
/// Fails with `Input.Invalid` without images or concurrency, or if the time per image is not a positive number.
pub fn estimate(work: Workload, deployment: Deployment, prices: Prices) -> Result<Estimate> {
    let invalid = |what: &str| Err(Error::new(ErrorKind::InputInvalid, what));
    if work.images == 0 || !(work.ms_per_image > 0.0 && work.ms_per_image.is_finite()) {
        return invalid("an estimate needs at least one image and a time per image above 0");
    }
    if deployment.concurrency == 0 || deployment.account_concurrency == 0 {
        return invalid("an estimate needs a concurrency of at least 1");
    }
    let schedule = Schedule::new(&work, &deployment, prices.map_children_per_second);
    let seconds_by_stage = schedule.stages();
    let usage = usage(&schedule, &work, &deployment);
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
