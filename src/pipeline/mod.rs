//! A whole run in one process: all stages in order, with several shards or parts at the same time.
//!
//! [`run`] plans again if another run publishes first; finished shards are reused. `report` (feature `report`) writes the
//! page of a run afterwards. The front page of the crate has an example.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

#[cfg(feature = "report")]
use crate::report::{self, ReportInput, Reported};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Manifest, RunFigures, VersionState, lease,
        timing::{Timer, Timing},
    },
    model::WorkerPool,
    stages::{
        self, CancellationToken, Featurized, MergeWork, Merged, Monitor, PlanInput, Planned, Projected, Reduced,
        RunInput, Stores, check, records::read_work_list,
    },
};

/// Attempts to publish. Each attempt after the first follows a conflict with another run.
pub const ATTEMPTS: u32 = 5;
/// Shards in progress: while the sums of one are written, the workers process the next.
const SHARDS_AT_A_TIME: usize = 2;

/// A stage of a run, for progress and timings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// [`stages::plan()`]
    Plan,
    /// [`stages::featurize()`] of all shards that are not finished.
    Featurize,
    /// [`stages::merge()`] of all groups; skipped without groups.
    Merge,
    /// [`stages::reduce()`]
    Reduce,
    /// [`stages::project()`] of all parts that were not copied.
    Project,
    /// [`stages::publish()`]
    Publish,
    /// The report, after the version is published.
    Report,
    /// The search of an output for erased images, not a part of a run.
    Search,
}

impl Phase {
    /// The name of the stage in summaries and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Plan => "plan",
            Phase::Featurize => "featurize",
            Phase::Merge => "merge",
            Phase::Reduce => "reduce",
            Phase::Project => "project",
            Phase::Publish => "publish",
            Phase::Report => "report",
            Phase::Search => "search",
        }
    }
}

/// Receives the progress of a run: that of the stages, and when each of them starts and ends.
pub trait Watcher: Monitor {
    /// A stage starts. `total` is its number of images (featurize) or parts (project); `None` if it is not counted.
    fn begin(&self, _phase: Phase, _total: Option<u64>) {}
    /// One more part of the PCA table is written.
    fn part_done(&self) {}
    /// A stage has ended, with or without an error, after the time `took`.
    fn end(&self, _phase: Phase, _took: Duration) {}
}

impl Watcher for stages::Silent {}

/// Result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether the current version was up to date, so that the run published nothing.
    pub up_to_date: bool,
    /// Manifest of the current version.
    pub manifest: Manifest,
    /// Work of this run. Those of the manifest, if the run published it.
    pub figures: RunFigures,
    /// Timing of the stage `publish`; `None` if the run published nothing.
    pub published: Option<Timing>,
    /// Name and wall-clock seconds of each stage, in order.
    pub seconds: Vec<(String, f64)>,
}

/// Runs all stages up to the publication of a version.
///
/// Fails with the errors of the stages; with `Dataset.Conflict` if other runs publish first [`ATTEMPTS`] times. Finished
/// shards stay in the output, and the next run reuses them.
pub async fn run(
    stores: &Stores,
    workers: &WorkerPool,
    input: &PlanInput,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Summary> {
    let mut number = 1;
    loop {
        let run = input.run.attempt(number)?;
        let attempt = Attempt { stores, workers, stop, clock: Clock { watcher, seconds: Vec::new() } };
        match attempt.run(PlanInput { run: run.clone(), ..input.clone() }).await {
            Err(e) if e.is(ErrorKind::DatasetConflict) && number < ATTEMPTS => number += 1,
            Err(e) => {
                // The first error is the one to report, even if the mark of the run cannot be removed.
                let _ = lease::leave(stores.output.as_ref(), &run).await;
                return Err(e);
            }
            outcome => return outcome,
        }
    }
}

/// One attempt to publish a version.
struct Attempt<'a> {
    stores: &'a Stores,
    workers: &'a WorkerPool,
    stop: &'a CancellationToken,
    clock: Clock<'a>,
}

impl Attempt<'_> {
    async fn run(mut self, input: PlanInput) -> Result<Summary> {
        let run = RunInput { run: input.run.clone() };
        let plan = stages::plan(self.stores, self.workers.extractor().info(), input, self.clock.watcher, self.stop);
        let planned: Planned = self.clock.time(Phase::Plan, None, plan).await?;
        if planned.up_to_date
            && let Some(manifest) = dataset::current(self.stores.output.as_ref()).await?
        {
            return Ok(self.up_to_date(manifest, RunFigures::default()));
        }
        self.featurize(&planned).await?;
        check(self.stop)?;
        if planned.groups > 0 {
            self.merge(&planned).await?;
        }
        check(self.stop)?;
        let reduce = stages::reduce(self.stores, run.clone());
        let reduced: Reduced = self.clock.time(Phase::Reduce, None, reduce).await?;
        if reduced.up_to_date {
            let manifest = dataset::version(self.stores.output.as_ref(), Some(reduced.version.0)).await?;
            return Ok(self.up_to_date(manifest, reduced.figures));
        }
        check(self.stop)?;
        self.project(&reduced).await?;
        check(self.stop)?;
        self.publish(run).await
    }

    async fn featurize(&mut self, planned: &Planned) -> Result<()> {
        let Attempt { stores, workers, stop, clock } = self;
        let watcher = clock.watcher;
        let work = read_work_list(stores.output.as_ref(), &planned.work_list).await?;
        let shards = stream::iter(work)
            .map(|shard| stages::featurize(stores, workers, shard, watcher, stop))
            .buffer_unordered(SHARDS_AT_A_TIME)
            // All shards in progress have to end before an error is returned: after a stop, each keeps its rows.
            .collect::<Vec<Result<Featurized>>>();
        let all = async { shards.await.into_iter().collect::<Result<Vec<_>>>() };
        clock.time(Phase::Featurize, Some(planned.objects_to_featurize), all).await.map(drop)
    }

    async fn merge(&mut self, planned: &Planned) -> Result<()> {
        let stores = self.stores;
        let groups = read_work_list::<MergeWork>(stores.output.as_ref(), &planned.merge_work_list).await?;
        let merging = stream::iter(groups).map(|group| stages::merge(stores, group)).buffer_unordered(SHARDS_AT_A_TIME);
        self.clock.time(Phase::Merge, None, merging.try_collect::<Vec<Merged>>()).await.map(drop)
    }

    async fn project(&mut self, reduced: &Reduced) -> Result<()> {
        let Attempt { stores, workers, stop, clock } = self;
        let watcher = clock.watcher;
        let parts = stream::iter(read_work_list(stores.output.as_ref(), &reduced.work_list).await?)
            .map(|part| async {
                check(stop)?;
                let projected = stages::project(stores, part).await?;
                watcher.part_done();
                Ok(projected)
            })
            .buffer_unordered(workers.threads())
            .try_collect::<Vec<Projected>>();
        clock.time(Phase::Project, Some(reduced.parts_to_project), parts).await.map(drop)
    }

    async fn publish(mut self, run: RunInput) -> Result<Summary> {
        let timer = Timer::start();
        let published = self.clock.time(Phase::Publish, None, stages::publish(self.stores, run)).await?;
        let timing = timer.read();
        let VersionState::Published(manifest) = dataset::state(self.stores.output.as_ref(), published.version).await?
        else {
            return Err(Error::new(ErrorKind::InternalBug, "the published version does not exist any more")
                .context("version", published.version));
        };
        let figures = manifest.figures.clone();
        let (manifest, seconds) = (*manifest, self.clock.seconds);
        Ok(Summary { up_to_date: false, manifest, figures, published: Some(timing), seconds })
    }

    fn up_to_date(self, manifest: Manifest, figures: RunFigures) -> Summary {
        Summary { up_to_date: true, manifest, figures, published: None, seconds: self.clock.seconds }
    }
}

/// Writes the report and the receipt of a run; `None` if the run published nothing.
///
/// The version is published before, and an error here does not change it.
#[cfg(feature = "report")]
pub async fn report(stores: &Stores, summary: &mut Summary, watcher: &dyn Watcher) -> Result<Option<Reported>> {
    let Some(publish) = summary.published.clone() else { return Ok(None) };
    let mut clock = Clock { watcher, seconds: Vec::new() };
    let input = ReportInput { run: summary.manifest.run.clone(), publish };
    let reported = clock.time(Phase::Report, None, report::report(stores, input)).await;
    summary.seconds.append(&mut clock.seconds);
    reported.map(Some)
}

/// Measures stages and notifies the watcher.
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
