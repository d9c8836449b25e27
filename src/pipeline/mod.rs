//! A whole run in one process: all stages in order, with several shards or parts at the same time.
//!
//! [`run`] plans again if another run publishes first; finished shards are reused. `report` (feature `report`) writes the
//! page of a run afterwards. The front page of the crate has an example.

mod groups;

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use groups::OpenGroups;
use pomona_kernels::pages::release_freed;
use serde::{Deserialize, Serialize};

#[cfg(feature = "report")]
use crate::report::{self, ReportInput, Reported};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, Manifest, RunFigures, VersionState, contents, lease,
        timing::{Timer, Timing},
    },
    model::WorkerPool,
    stages::{
        self, CancellationToken, GroupSums, Known, KnownGroups, MergeWork, Merged, Monitor, PlanInput, Planned,
        Projected, Reduced, RunInput, ShardWork, Stores, check, damaged_record, featurize_and_sum, merge_with,
        records::read_work_list, reduce_with,
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
    /// The check of an output, not a part of a run.
    Check,
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
            Phase::Check => "check",
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
    /// A file is damaged, and what it belongs to is made again.
    fn mending(&self, _damage: &Error) {}
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
/// shards stay in the output, and the next run reuses them. A damaged shard or group is made again.
#[compiled_once]
pub async fn run(
    stores: &Stores,
    workers: &WorkerPool,
    input: &PlanInput,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Summary> {
    let extractor = workers.extractor();
    if let Some(words) = extractor.words() {
        dataset::keep_words(stores.output.as_ref(), &extractor.info().recipe(), words.clone()).await?;
    }
    let mut input = input.clone();
    let (name, mut number, mut conflicts) = (input.run.clone(), 1, 1);
    loop {
        input.run = name.attempt(number)?;
        let attempt = Attempt { stores, workers, stop, clock: Clock { watcher, seconds: Vec::new() } };
        let error = match attempt.run(input.clone()).await {
            Err(e) => e,
            Ok(summary) => {
                if !input.again.is_empty() {
                    contents::link_again(stores.output.as_ref(), &input.again).await?;
                }
                return Ok(summary);
            }
        };
        number += 1;
        if error.is(ErrorKind::DatasetConflict) && conflicts < ATTEMPTS {
            conflicts += 1;
            continue;
        }
        // The first error is the one to report, even if the mark of the run cannot be removed.
        let _ = lease::leave(stores.output.as_ref(), &input.run).await;
        // Each record is made again once.
        match damaged_record(&error) {
            Some(record) if input.again.insert(record.clone()) => watcher.mending(&error),
            _ => return Err(error),
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
        let merges = read_work_list(self.stores.output.as_ref(), &planned.merge_work_list).await?;
        let mut known = KnownGroups::default();
        let left = self.featurize(&planned, merges, &mut known).await?;
        if let Some(network) = self.workers.extractor().network() {
            network.free_buffers();
        }
        check(self.stop)?;
        if !left.is_empty() {
            self.merge(left, &mut known).await?;
        }
        check(self.stop)?;
        let reduce = reduce_with(self.stores, run.clone(), known);
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

    /// Computes all shards, and finishes each group with its last shard. Returns the groups without shards to compute.
    async fn featurize(
        &mut self,
        planned: &Planned,
        merges: Vec<MergeWork>,
        known: &mut KnownGroups,
    ) -> Result<Vec<MergeWork>> {
        let Attempt { stores, workers, stop, clock } = self;
        let (stores, workers, stop, watcher) = (*stores, *workers, *stop, clock.watcher);
        let work: Vec<ShardWork> = read_work_list(stores.output.as_ref(), &planned.work_list).await?;
        let (groups, left) = OpenGroups::new(&work, merges);
        let groups = &groups;
        let mut shards = stream::iter(work)
            .map(|shard| async move {
                let (group, needed) = (shard.group, groups.needed(shard.group));
                let (made, sums) = featurize_and_sum(stores, workers, shard, needed, watcher, stop).await?;
                match groups.add(group, made.shard, sums)? {
                    Some((work, known)) => merge_with(stores, work, known).await.map(Some),
                    None => Ok(None),
                }
            })
            .buffer_unordered(SHARDS_AT_A_TIME);
        let all = async {
            let mut outcome = Ok(());
            // All shards in progress have to end before an error is returned: after a stop, each keeps its rows.
            while let Some(merged) = shards.next().await {
                let added = merged.and_then(|merged| merged.map_or(Ok(()), |merged| keep(known, merged)));
                outcome = outcome.and(added);
            }
            outcome
        };
        clock.time(Phase::Featurize, Some(planned.objects_to_featurize), all).await?;
        Ok(left)
    }

    async fn merge(&mut self, groups: Vec<MergeWork>, known: &mut KnownGroups) -> Result<()> {
        let stores = self.stores;
        let mut merging = stream::iter(groups)
            .map(|group| merge_with(stores, group, Known::default()))
            .buffer_unordered(SHARDS_AT_A_TIME);
        let all = async {
            while let Some(merged) = merging.try_next().await? {
                keep(known, merged)?;
            }
            Ok(())
        };
        self.clock.time(Phase::Merge, None, all).await
    }

    async fn project(&mut self, reduced: &Reduced) -> Result<()> {
        let Attempt { stores, workers, stop, clock } = self;
        let (watcher, models) = (clock.watcher, stages::Models::default());
        let parts = stream::iter(read_work_list(stores.output.as_ref(), &reduced.work_list).await?)
            .map(|part| async {
                check(stop)?;
                let projected = stages::project_with(stores, part, &models).await?;
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

/// Keeps the sums of a group for the stage `reduce`.
fn keep(known: &mut KnownGroups, (merged, sums): (Merged, GroupSums)) -> Result<()> {
    known.add(merged.entry.id, sums)
}

/// Writes the report and the receipt of a run; `None` if the run published nothing.
///
/// The version is published before, and an error here does not change it.
#[cfg(feature = "report")]
#[compiled_once]
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
        // The stages share no memory that is worth keeping.
        release_freed();
        let took = started.elapsed();
        self.watcher.end(phase, took);
        self.seconds.push((phase.name().to_owned(), took.as_secs_f64()));
        outcome
    }
}
