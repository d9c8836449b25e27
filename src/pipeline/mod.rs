//! A whole run in one process: the stages one after the other, shards and parts beside each other.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

#[cfg(feature = "report")]
use crate::report::{self, ReportInput, Reported};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Manifest, VersionState, lease,
        timing::{Timer, Timing},
    },
    model::WorkerPool,
    stages::{
        self, CancellationToken, Featurized, MergeWork, Merged, Monitor, PlanInput, Planned, Projected, Published,
        Reduced, RunInput, Stores, check, records::read_work_list,
    },
};

/// A run that loses to another one plans again this often before it gives up.
pub const ATTEMPTS: u32 = 5;
/// Shards under way at a time: while one is summed and written, the workers go on with the next.
const SHARDS_AT_A_TIME: usize = 2;

/// A stage, as a person watching should see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Plan,
    Featurize,
    Merge,
    Reduce,
    Project,
    Publish,
    Report,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Plan => "plan",
            Phase::Featurize => "featurize",
            Phase::Merge => "merge",
            Phase::Reduce => "reduce",
            Phase::Project => "project",
            Phase::Publish => "publish",
            Phase::Report => "report",
        }
    }
}

/// Hears the stages come and go.
pub trait Watcher: Monitor {
    /// A stage begins; it has so many images or parts to do.
    fn begin(&self, _phase: Phase, _total: Option<u64>) {}
    /// One more part is written.
    fn part_done(&self) {}
    fn end(&self, _phase: Phase, _took: Duration) {}
}

impl Watcher for stages::Silent {}

/// How a run ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The current version was up to date, and no new one was made.
    pub up_to_date: bool,
    pub manifest: Manifest,
    /// What publishing took; none when the version was there.
    pub published: Option<Timing>,
    /// Seconds by stage, in order; wall clock.
    pub seconds: Vec<(String, f64)>,
}

/// Runs all stages. A conflict with another run starts over from the plan, which finds most of the work done.
pub async fn run(
    stores: &Stores,
    workers: &WorkerPool,
    input: &PlanInput,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Summary> {
    let mut attempt = 1;
    loop {
        let run = input.run.attempt(attempt)?;
        let outcome = once(stores, workers, PlanInput { run: run.clone(), ..input.clone() }, watcher, stop).await;
        match outcome {
            Err(e) if e.is(ErrorKind::DatasetConflict) && attempt < ATTEMPTS => attempt += 1,
            Err(e) => {
                // Whether or not the mark can be taken away, the first error is the one to tell.
                let _ = lease::leave(stores.output.as_ref(), &run).await;
                return Err(e);
            }
            outcome => return outcome,
        }
    }
}

async fn once(
    stores: &Stores,
    workers: &WorkerPool,
    input: PlanInput,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Summary> {
    let output = stores.output.as_ref();
    let run = input.run.clone();
    let mut clock = Clock { watcher, seconds: Vec::new() };

    let info = workers.extractor().info();
    let planning = stages::plan(stores, info, input, watcher, stop);
    let planned: Planned = clock.time(Phase::Plan, None, planning).await?;
    if planned.up_to_date
        && let Some(manifest) = dataset::current(output).await?
    {
        return Ok(Summary { up_to_date: true, manifest, published: None, seconds: clock.seconds });
    }

    let work = read_work_list(output, &planned.work_list).await?;
    let shards = stream::iter(work)
        .map(|shard| stages::featurize(stores, workers, shard, watcher, stop))
        .buffer_unordered(SHARDS_AT_A_TIME)
        // A stop reaches every shard under way; each keeps what it has before the first answer counts.
        .collect::<Vec<Result<Featurized>>>();
    let featurizing = async { shards.await.into_iter().collect::<Result<Vec<_>>>() };
    clock.time(Phase::Featurize, Some(planned.objects_to_featurize), featurizing).await?;
    check(stop)?;

    if planned.groups > 0 {
        let groups = read_work_list::<MergeWork>(output, &planned.merge_work_list).await?;
        let merging = stream::iter(groups).map(|group| stages::merge(stores, group)).buffer_unordered(SHARDS_AT_A_TIME);
        let merging = merging.try_collect::<Vec<Merged>>();
        clock.time(Phase::Merge, None, merging).await?;
    }
    check(stop)?;

    let named = RunInput { run: run.clone() };
    let reduced: Reduced = clock.time(Phase::Reduce, None, stages::reduce(stores, named.clone())).await?;
    check(stop)?;

    let parts = stream::iter(read_work_list(output, &reduced.work_list).await?)
        .map(|part| async move {
            check(stop)?;
            let projected = stages::project(stores, part).await?;
            watcher.part_done();
            Ok(projected)
        })
        .buffer_unordered(workers.threads())
        .try_collect::<Vec<Projected>>();
    clock.time(Phase::Project, Some(reduced.parts_to_project), parts).await?;
    check(stop)?;

    let timer = Timer::start();
    let published: Published = clock.time(Phase::Publish, None, stages::publish(stores, named)).await?;
    let timing = timer.read();
    let manifest = match dataset::state(output, published.version).await? {
        VersionState::Published(manifest) => *manifest,
        VersionState::Abandoned { version, .. } | VersionState::Removed { version } => {
            return Err(Error::new(ErrorKind::InternalBug, "the version that was published is gone")
                .context("version", version));
        }
    };
    Ok(Summary { up_to_date: false, manifest, published: Some(timing), seconds: clock.seconds })
}

/// Writes the report of a run that has published; none when it made nothing new. A failure does not change the version.
#[cfg(feature = "report")]
pub async fn report(stores: &Stores, summary: &mut Summary, watcher: &dyn Watcher) -> Result<Option<Reported>> {
    let Some(publish) = summary.published.clone() else { return Ok(None) };
    let mut clock = Clock { watcher, seconds: Vec::new() };
    let input = ReportInput { run: summary.manifest.run.clone(), publish };
    let reported = clock.time(Phase::Report, None, report::report(stores, input)).await;
    summary.seconds.append(&mut clock.seconds);
    reported.map(Some)
}

struct Clock<'a> {
    watcher: &'a dyn Watcher,
    seconds: Vec<(String, f64)>,
}

impl Clock<'_> {
    async fn time<T>(&mut self, phase: Phase, total: Option<u64>, work: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        self.watcher.begin(phase, total);
        let outcome = work.await;
        let took = started.elapsed();
        self.watcher.end(phase, took);
        self.seconds.push((phase.name().to_owned(), took.as_secs_f64()));
        outcome
    }
}
