//! The estimate: time, cost and limits of a run on AWS that has not been started.
//!
//! A closed form of the state machine's work, from measured times per image and the quotas of AWS. [`super::simulate`]
//! simulates the same work event by event, with start-up times, throttling and uneven shards. A test compares the two.

use serde::Serialize;

use super::{
    bill::{self, BillLine},
    limits::{fit, limits},
    prices::{Cost, Emr, Prices, Usage},
    schedule::{GROUP_SUMS, PLAN_MB, PUBLISH_MB, REDUCE_MB, index_reads_twice, keeps_class_sums, time},
};
pub use super::{
    limits::{Fit, Limit, Remedy},
    schedule::{
        BYTES_PER_IMAGE, Deployment, MB_PER_PROCESSOR, MS_PER_IMAGE, MS_PER_IMAGE_ON_ARM64, Map, Schedule, Workload,
    },
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{Searched, settings::DUPLICATE_IMAGES_ON_AWS},
};

/// Stored bytes per image: features and scores.
const STORED_PER_IMAGE: f64 = 5_600.0;
/// Stored bytes per image of the search index.
const INDEX_PER_IMAGE: f64 = 4_000.0;

/// Requests of one kind of work.
struct Requests {
    /// PUT, COPY, POST or LIST.
    puts: u64,
    gets: u64,
}

/// Requests of plan, of reduce, and of publish with the report, that a run of any size makes; and those of Step Functions,
/// which reads three work lists and writes three files per map.
const ONCE: Requests = Requests { puts: 13 + 8 + 12 + 11, gets: 3 + 1 + 14 + 5 };
/// Bytes that one invocation writes to the log: its metrics, its own lines, and three lines of Lambda.
const LOG_BYTES: u64 = 3_000;
/// X-Ray records one request a second, and this share of the others.
const TRACED: f64 = 0.05;
/// Bytes of an image in the parts of a CSV, which are deleted after they are joined.
const CSV_BYTES: f64 = 650.0;
/// Deliveries, deletions and polls of a message, which has up to ten uploads of a second: at least two requests per upload.
const QUEUE_REQUESTS: u64 = 2;
/// Most images that the report draws, and most parts whose scores it reads if there are more.
const POINTS_OF_REPORT: u64 = 200_000;
const PARTS_OF_REPORT: u64 = 256;

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
    /// Lines of the work lists: one per shard, or fewer with several shards each.
    pub lines: Lines,
    /// Whether there is a classifier.
    pub classifier: bool,
    /// Whether there is a search index.
    pub index: bool,
}

/// Lines of the work lists of the maps over ranges of keys, shards and parts. Each is an invocation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lines {
    /// Of list.
    pub list: u64,
    /// Calls of plan before listers.
    pub rounds: u64,
    /// Of featurize.
    pub featurize: u64,
    /// Of merge: one or two per group.
    pub merge: u64,
    /// Of project.
    pub project: u64,
}

/// Requests for the search index: per group a segment, from the features of its shards, which are read twice if there are many. If it is made by a call of its own, that
/// reads the records of the shards again, and there is a record.
fn of_index(run: &Counts) -> Requests {
    let Counts { images, shards, made, groups, lines, index, .. } = *run;
    if !index {
        return Requests { puts: 0, gets: 0 };
    }
    let apart = lines.merge.saturating_sub(groups);
    let share = apart as f64 / groups.max(1) as f64;
    let tables = if index_reads_twice(images as f64 / groups.max(1) as f64) { 2 * shards } else { shards };
    Requests { puts: groups + apart, gets: tables + ((shards + made) as f64 * share) as u64 + 2 * apart }
}

/// Requests, invocations, transitions and stored bytes of a run. `gb_seconds` is 0.
///
/// `tests/aws/test_e2e.py` compares these numbers with the requests to a local S3.
pub fn requests(run: &Counts) -> Usage {
    let Counts { images, inferred, shards, made, groups, parts, lines, classifier, index } = *run;
    let invocations = 3 + lines.rounds + lines.list + lines.featurize + lines.merge + lines.project;
    let kept = keeps_class_sums(images as f64 / groups.max(1) as f64);
    // Features for the cross-validation, and for the sums of classes unless `merge` has kept them; per part: predictions, and
    // predictions for the report; per call of project: the classifier.
    let (gets_of_classifier, puts_of_classifier) =
        if classifier { ((1 + u64::from(!kept)) * shards + parts + lines.project, parts) } else { (0, 0) };
    // Features for the duplicates, and scores for the outliers.
    let searched = Searched::among(images, DUPLICATE_IMAGES_ON_AWS) != Searched::Nothing;
    let gets_of_findings = if searched { shards + parts } else { 0 };
    // A list of batches, and its lines.
    let batched = lines.project < parts;
    let Requests { gets: gets_of_index, puts: puts_of_index } = of_index(run);
    let index_bytes = if index { images as f64 * INDEX_PER_IMAGE } else { 0.0 };
    Usage {
        gb_seconds: 0.0,
        invocations,
        // The states of the machine, and one per child of a map.
        transitions: 12 + 2 * lines.rounds + invocations,
        log_bytes: invocations * LOG_BYTES,
        traces: (invocations as f64 * TRACED).ceil() as u64,
        // `VersionPublished`.
        events: 1,
        queue_requests: 0,
        key_requests: 0,
        noncurrent_bytes: 0,
        // LIST of the images; then, per computed shard: features and two records; per group: sums, two records and a list of
        // parts; per part: scores and a record. Large groups have sums of classes too.
        // Per round: records and a list of ranges; two files of the map. Per lister: two records, a list of shards, and seven
        // requests that divide the keys and end a range.
        puts: images.div_ceil(1_000)
            + 3 * made
            + 4 * groups
            + 2 * parts
            + puts_of_classifier
            + u64::from(batched)
            + puts_of_index
            + ONCE.puts
            + 4 * lines.rounds
            + 10 * lines.list,
        // Images; then, per computed shard: lines of the list of objects, earlier rows, features, its record twice; per shard:
        // its record; per group: lines of the list of shards, sums, records (5), a list of parts; per part: features, its
        // record twice, and the scores of some; per call of project: the basis.
        gets: inferred
            + 5 * made
            + shards
            + gets_of_findings
            + gets_of_classifier
            + gets_of_index
            + 8 * groups
            + 3 * parts
            + lines.project * (1 + u64::from(batched))
            + if images > POINTS_OF_REPORT { parts.min(PARTS_OF_REPORT) } else { parts }
            + ONCE.gets
            + 6 * lines.rounds
            + 4 * lines.list,
        stored_bytes: (images as f64 * STORED_PER_IMAGE + index_bytes + (groups + 2) as f64 * GROUP_SUMS) as u64,
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
    let (shards, groups) = (work.shards(), work.groups());
    let base = requests(&Counts {
        images: work.images,
        inferred: work.images,
        shards,
        made: shards,
        groups,
        parts: shards,
        lines: Lines {
            list: schedule.list.items,
            rounds: schedule.plans - 1,
            featurize: schedule.featurize.items,
            merge: schedule.merge.items,
            project: schedule.project.items,
        },
        classifier: work.labels > 1,
        index: true,
    });
    let csv_bytes = if work.csv { (work.images as f64 * CSV_BYTES) as u64 } else { 0 };
    Usage {
        gb_seconds: one(schedule.plan + (schedule.plans - 1) as f64 * time::COLD_START, PLAN_MB)
            + billed(&schedule.list, PLAN_MB)
            + billed(&schedule.featurize, f64::from(deployment.memory))
            + billed(&schedule.merge, REDUCE_MB)
            + schedule.reduce * REDUCE_MB / 1_024.0
            + billed(&schedule.project, PLAN_MB)
            + one(schedule.publish, PUBLISH_MB),
        events: if work.uploads { work.images + base.events } else { base.events },
        queue_requests: if work.uploads { work.images * QUEUE_REQUESTS } else { 0 },
        // One request per object. A bucket key of the results bucket needs next to none.
        key_requests: if work.image_key { work.images } else { 0 },
        // A list of members for each archive.
        puts: base.puts + if work.csv { shards } else { 0 } + work.archives(),
        gets: base.gets - work.images + work.image_gets() + if work.csv { shards } else { 0 } + work.archives(),
        stored_bytes: base.stored_bytes + csv_bytes,
        noncurrent_bytes: csv_bytes,
        ..base
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
    /// The same, line by line, and without the retries that only a simulation knows.
    pub bill: Vec<BillLine>,
    /// What the data set and the stack cost in a month.
    pub monthly: Vec<BillLine>,
    /// The same images on EMR.
    pub emr: Emr,
    /// Limits, in the order in which a growing number of images reaches them.
    pub limits: Vec<Limit>,
    /// How the run stays below the limits that AWS does not raise.
    pub fit: Fit,
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
        bill: bill::of_run(&usage, 0, &prices),
        monthly: bill::of_month(&usage, &prices),
        emr: Emr::new(work.images, &prices),
        limits: limits(&work, &deployment, prices.map_children_per_second),
        fit: fit(&work, &deployment, prices.map_children_per_second),
        usage,
        work,
        deployment,
        prices,
    })
}
