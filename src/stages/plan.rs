//! The plan of a run: its shards, and which of them are finished.
//!
//! Reads the listing of the input, the current version, the inbox, and which shards and groups exist. Writes
//! `runs/<run>/plan.json`, `objects-*.jsonl`, `shards-*.jsonl` and the work lists `featurize.jsonl` and `merge.jsonl`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use bytes::Bytes;
use futures::{TryStreamExt, try_join};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    CancellationToken, Monitor, Plan, PlanInput, Planned, Stores,
    batch::write_batches,
    cut::Cutter,
    damage::end_earlier,
    listing::Listing,
    planner::{Base, FEATURIZE, Finished, Planner},
    resume::{check_input, check_same},
    rounds::{self, Limits, Progress, Round, Rounds},
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, FORMAT, Manifest, SearchIndex, ShardEntry, contents, delta,
        inbox::{self, Inbox},
        keys,
        labelling::{self, Labelling},
        lease,
        manifest::basis_id,
        settings::{ListingScope, Refit},
        timing::{Timer, Timing},
    },
    ids::{GroupId, ShardId},
    model::ExtractorInfo,
    store::{self, Store},
};

/// Plans a run: its shards, and the work of the other stages.
///
/// Fails with `Input.Empty` without images, `Output.Occupied` if the output is not empty and not an output of Pomona,
/// `Dataset.SettingsChanged` if the current version has another extractor or other settings and `mode.rebuild` is not
/// set, `Input.Invalid` if a setting is out of range or a label too long for its partition folder, `Input.Moved` or
/// `Input.Vanished` if the images are not those that the current version suggests, and `Dataset.Busy`
/// during a vacuum.
#[compiled_once]
pub async fn plan(
    stores: &Stores,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Planned> {
    match step(stores, extractor, input, None, monitor, stop).await? {
        PlanStep::Planned(planned) => Ok(planned),
        PlanStep::List(_) => Err(Error::new(ErrorKind::InternalBug, "a process lists all by itself")),
    }
}

/// What follows a call of [`plan_step`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanStep {
    /// [`list`](super::list()) is to be called for each line of a work list, then [`plan_step`] again.
    List(Round),
    /// The plan is ready.
    Planned(Planned),
}

/// [`plan`] for functions, whose time is limited: lists a part of a large input, and leaves the rest to listers. Is called
/// with the same input until the plan is ready. A second call after the same round changes nothing.
#[compiled_once]
pub async fn plan_step(
    stores: &Stores,
    extractor: &ExtractorInfo,
    input: PlanInput,
    limits: Limits,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<PlanStep> {
    step(stores, extractor, input, Some(limits), monitor, stop).await
}

async fn step(
    stores: &Stores,
    extractor: &ExtractorInfo,
    input: PlanInput,
    limits: Option<Limits>,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<PlanStep> {
    let timer = Timer::start();
    input.settings.check()?;
    let output = stores.output.as_ref();
    dataset::open_output(output).await?;
    let (run, mut input) = (input.run.clone(), input);
    input.again.extend(end_earlier(output, &input.earlier).await?);
    lease::enter(output, &run, input.execution.as_deref()).await?;
    let planning = Planning { stores, extractor, input, limits, timer };
    let outcome = planning.plan(monitor, stop).await;
    if outcome.as_ref().map_or(true, |step| matches!(step, PlanStep::Planned(planned) if planned.up_to_date)) {
        // The first error is the one to report.
        let left = lease::leave(output, &run).await;
        return outcome.and_then(|step| left.map(|()| step));
    }
    outcome
}

/// What is known before the listing.
struct Before<'a> {
    labelling: Arc<Labelling>,
    base: Option<&'a Manifest>,
    inbox: &'a Inbox,
    /// The shards that are finished.
    shards: Arc<HashSet<ShardId>>,
    /// The rounds of this run, if this is not the first call.
    rounds: Option<Rounds>,
}

/// The inputs of the stage.
struct Planning<'a> {
    stores: &'a Stores,
    extractor: &'a ExtractorInfo,
    input: PlanInput,
    /// None to list all in this process.
    limits: Option<Limits>,
    timer: Timer,
}

impl Planning<'_> {
    async fn plan(mut self, monitor: &dyn Monitor, stop: &CancellationToken) -> Result<PlanStep> {
        let output = self.stores.output.as_ref();
        let (rounds, base) = self.begun(output).await?;
        let on_aws = self.input.execution.is_some();
        match &rounds {
            // The settings are those with which the listing began.
            Some(rounds) => self.input.settings = rounds.settings.clone(),
            None => {
                self.read_labels().await?;
                self.input.settings = self.input.settings.resolved(base.as_ref().map(|base| &base.settings), on_aws);
            }
        }
        let identity = self.stores.input.identity().await;
        if let Some(base) = &base {
            self.check_against(base, identity.as_deref(), monitor)?;
        }
        dataset::upgrade_output(output).await?;
        mend_success(output, base.as_ref()).await?;
        // Read before the listing: a later notice belongs to the next run.
        let inbox = match &rounds {
            None => inbox::read(output).await?,
            Some(rounds) => Inbox { notices: rounds.notices.clone(), keys: BTreeSet::new(), is_complete: false },
        };
        let finished = finished(output, SearchIndex::is_wanted(&self.input.settings, self.extractor))
            .await?
            .without(&self.input.again);
        let shards = finished.shards.clone();

        let comparable = base.as_ref().filter(|base| base.extractor.id == self.extractor.id);
        let known = match comparable {
            Some(base) => self.shards_of(output, base).await?,
            None => None,
        };
        let base_is_unknown = comparable.is_some() && known.is_none();
        let comparable = comparable.zip(known.as_ref());
        let comparable = comparable.map(|(manifest, (shards, group_of))| Base { manifest, shards, group_of });
        let labelling = Arc::new(Labelling::open(output, &self.input.settings).await?);
        let mut planner = Planner::new(output, &self.input, finished, self.extractor, comparable)?;
        let before = Before { base: base.as_ref(), inbox: &inbox, labelling: labelling.clone(), shards, rounds };
        planner.listed = match self.list(&mut planner, before, monitor, stop).await? {
            Progress::Listed(listed) => listed,
            Progress::Round(round) => return Ok(PlanStep::List(round)),
        };
        planner.unnamed = (labelling.named() as u64).saturating_sub(planner.named);
        if planner.listed.objects == 0 {
            let error = Error::new(ErrorKind::InputEmpty, "there are no images");
            return Err(error.context("input", self.stores.input.location()));
        }
        let before = base.as_ref().map_or(0, Manifest::objects);
        // Only a lower bound. The stage reduce knows the number; this is known before any inference.
        self.input.mode.check_vanished(before.saturating_sub(planner.listed.objects), before)?;
        planner.finish().await?;
        self.write(planner, base.as_ref(), base_is_unknown, inbox, identity).await.map(PlanStep::Planned)
    }

    /// Whether the run may go on from the current version, and what it says about that.
    fn check_against(&self, base: &Manifest, identity: Option<&str>, monitor: &dyn Monitor) -> Result<()> {
        let PlanInput { settings, mode, .. } = &self.input;
        if !mode.rebuild {
            check_same(base, self.extractor, settings, *mode)?;
        }
        let changes = settings.differences(&base.settings);
        if !changes.is_empty() && base.extractor == *self.extractor {
            monitor.settings_changed(&changes, base.images);
        }
        check_input(base, &self.stores.input.place(), identity, *mode)
    }

    /// What functions have listed for this run, and the version that was current when they began or is now.
    async fn begun(&self, output: &dyn Store) -> Result<(Option<Rounds>, Option<Manifest>)> {
        let rounds = match self.limits {
            Some(_) => Rounds::read(output, &self.input.run).await?,
            None => None,
        };
        let base = match &rounds {
            None => dataset::current(output).await?,
            Some(rounds) => match rounds.base {
                Some(version) => Some(dataset::version(output, Some(version.0)).await?),
                None => None,
            },
        };
        Ok((rounds, base))
    }

    /// Stores the file of labels in the output, and names it in the settings.
    async fn read_labels(&mut self) -> Result<()> {
        let Some(location) = &self.input.labels else { return Ok(()) };
        let file = store::read_file(location, labelling::MAX_LABELS_BYTES).await?;
        let given = labelling::read(&file, location, &self.stores.input.place())?;
        self.input.settings.labels = Some(labelling::store(self.stores.output.as_ref(), &given).await?);
        self.input.settings.check()
    }

    /// Lists the input, or the part of it that has changed.
    async fn list(
        &self,
        planner: &mut Planner<'_>,
        Before { base, inbox, labelling, shards, rounds }: Before<'_>,
        monitor: &dyn Monitor,
        stop: &CancellationToken,
    ) -> Result<Progress> {
        let PlanInput { settings, mode, run, .. } = &self.input;
        let (input, output) = (self.stores.input.as_ref(), planner.output);
        // Shards of format 1 have other ids.
        let same_cuts = planner.base.filter(|base| {
            let (old, new) = (&base.manifest.settings, settings);
            let ids = (old.shard_size(), old.compression()) == (new.shard_size(), new.compression());
            // Labels of a base without partition folders can be too long for them, so all are listed.
            let labels = (old.label_rules(), &old.labels) == (new.label_rules(), &new.labels);
            base.manifest.format == FORMAT && ids && labels && (old.partitions() || !new.partitions())
        });
        let only_changed = mode.listing == ListingScope::Changed && inbox.is_complete;
        if let Some(limits) = self.limits.filter(|_| same_cuts.is_none() || !only_changed) {
            let extractor = &self.extractor.id;
            let listing = rounds::Listing { input, output, run, settings, labelling, extractor, limits, monitor, stop };
            let timing = || self.timer.read();
            return match rounds {
                Some(rounds) => listing.go_on(rounds, planner, timing).await,
                None => {
                    let known = (base.map(|base| base.version), &inbox.notices[..]);
                    listing.begin(planner, shards, known, timing).await
                }
            };
        }
        let cutter = Cutter::new((output, run), settings, &self.extractor.id, labelling, shards)?;
        let listing = Listing::new(input, cutter, monitor, stop);
        let listed = match same_cuts.filter(|_| only_changed) {
            Some(base) => listing.changed(planner, base.shards, &inbox.keys).await?,
            None => listing.all(planner).await?,
        };
        Ok(Progress::Listed(listed))
    }

    /// The shards of the base version, in key order, and the number of the group of each. None if its records are damaged:
    /// the run then finishes its groups again. A basis that is to be kept needs them.
    async fn shards_of(&self, output: &dyn Store, base: &Manifest) -> Result<Option<KnownShards>> {
        match shards_of(output, base).await {
            Err(e) if e.is(ErrorKind::DatasetCorrupt) && self.input.mode.refit == Refit::Always => Ok(None),
            known => known.map(Some),
        }
    }

    /// The time of this call, and that of earlier calls and of listers.
    fn timing(&self, earlier: Option<(Timestamp, u64)>) -> Timing {
        let timing = self.timer.read();
        match earlier {
            None => timing,
            Some((began, before)) => Timing { began, milliseconds: timing.milliseconds + before, ..timing },
        }
    }

    /// Writes the plan and the work lists. If there is nothing to do, deletes the notices instead.
    async fn write(
        &self,
        mut planner: Planner<'_>,
        base: Option<&Manifest>,
        base_is_unknown: bool,
        inbox: Inbox,
        input_identity: Option<String>,
    ) -> Result<Planned> {
        let PlanInput { run, settings, mode, .. } = &self.input;
        let (output, listed, comparable) = (planner.output, planner.listed, planner.base);
        let plan = Plan {
            input: self.stores.input.place(),
            input_identity,
            mode: *mode,
            extractor: self.extractor.clone(),
            base: base.map(|base| base.version),
            base_images: base.map_or(0, |base| base.images),
            base_is_unknown,
            objects: listed.objects,
            ignored: listed.ignored,
            labels_unused: settings.labels.as_ref().and(listed.ignored).map(|_| planner.unnamed),
            concurrency: self.input.concurrency,
            keep_basis: mode.refit == Refit::Never
                && comparable.is_some_and(|base| base.manifest.settings.same_fit(settings)),
            notices: inbox.notices,
            groups: std::mem::take(&mut planner.groups),
            timing: self.timing(listed.earlier),
            run: run.clone(),
            settings: settings.clone(),
            shards: planner.shards,
        };
        let mut planned = answer(&plan, base, planner.work.lines, planner.objects_to_featurize);
        if planned.up_to_date {
            planner.drop_lists().await?;
            if listed.earlier.is_some() {
                Rounds::delete(output, run).await?;
            }
            inbox::clear(output, &plan.notices).await?;
        } else {
            let merges = dataset::to_sealed_lines(&planner.merges)?;
            let plan_file = dataset::to_record(&plan)?;
            try_join!(planner.write_lists(), output.put(&planned.merge_work_list, merges), async {
                output.put(&Plan::key(run), plan_file).await
            },)?;
            let size = plan.shards_per_call(planner.work.lines);
            let of_lines = (&planner.work.ends[..], size, self.extractor.recipe());
            planned.batch_list = write_batches(output, run, &planned.work_list, of_lines).await?;
        }
        Ok(planned)
    }
}

fn answer(plan: &Plan, base: Option<&Manifest>, shards_to_featurize: u64, objects_to_featurize: u64) -> Planned {
    let groups = plan.merges().count() as u64;
    Planned {
        // A shard or group of the version that is not finished is made again, because one of its files was damaged.
        up_to_date: shards_to_featurize == 0
            && groups == 0
            && base.is_some_and(|base| is_up_to_date(base, plan, plan.groups.iter().map(|group| &group.id))),
        base: plan.base,
        objects: plan.objects,
        objects_to_featurize,
        shards: plan.shards,
        shards_to_featurize,
        work_list: keys::run(&plan.run, FEATURIZE),
        batch_list: None,
        groups,
        merge_work_list: keys::run(&plan.run, "merge.jsonl"),
        run: plan.run.clone(),
    }
}

/// Whether the run would publish the version that is current: the same extractor, settings and groups, and a basis that
/// is fitted to these images or that the run keeps.
///
/// Before the run, `groups` are the planned ones. Afterwards they are the finished ones, whose ids differ if objects
/// could not be read.
pub(super) fn is_up_to_date<'a>(
    base: &Manifest,
    plan: &Plan,
    groups: impl ExactSizeIterator<Item = &'a GroupId>,
) -> bool {
    let fitted = || {
        let id = basis_id(&base.extractor.id, &base.settings, &base.moments.id);
        id.is_ok_and(|id| id == base.basis.id)
    };
    let recorded = (&base.input, &base.input_identity) == (&plan.input, &plan.input_identity);
    base.format == FORMAT
        && base.extractor == plan.extractor
        && base.settings == plan.settings
        // A version of a release without classifiers gets one.
        && base.classifier.is_some()
        // And one without tables of duplicates and outliers gets them.
        && base.duplicates.is_some()
        && base.outliers.is_some()
        && base.index.is_some() == SearchIndex::is_wanted(&plan.settings, &plan.extractor)
        // An input that has moved is recorded by a new version.
        && (recorded || !plan.mode.input_moved)
        && base.groups.len() == groups.len()
        && base.groups.iter().zip(groups).all(|(old, new)| old.id == *new)
        && (plan.keep_basis || fitted())
}

/// Writes the `_SUCCESS` file of the current version, and its Delta log, which a run that was killed after publishing has not written.
async fn mend_success(output: &dyn Store, base: Option<&Manifest>) -> Result<()> {
    if let Some(base) = base {
        output.put_if_absent(&keys::success(base.version), Bytes::new()).await?;
        delta::extend(output, base).await?;
    }
    Ok(())
}

/// The shards of a version, in key order, and the number of the group of each.
type KnownShards = (Vec<ShardEntry>, HashMap<ShardId, usize>);

async fn shards_of(output: &dyn Store, version: &Manifest) -> Result<KnownShards> {
    let shards = contents::shards(output, version).await?;
    let numbers = version.groups.iter().enumerate().flat_map(|(number, group)| {
        let shards = usize::try_from(group.shards).unwrap_or(usize::MAX);
        std::iter::repeat_n(number, shards)
    });
    let group_of = shards.iter().map(|shard| shard.id.clone()).zip(numbers).collect();
    Ok((shards, group_of))
}

/// All finished shards and groups of the output, and the segments of the index if these are wanted.
async fn finished(output: &dyn Store, index: bool) -> Result<Finished> {
    let (shards, groups, segments) =
        try_join!(ids(output, keys::SHARDS, keys::parse_shard), ids(output, keys::GROUPS, keys::parse_group), async {
            if index { ids(output, keys::INDEX, keys::parse_index).await } else { Ok(HashSet::new()) }
        },)?;
    Ok(Finished { shards: shards.into(), groups, segments })
}

/// The ids in the keys below a prefix.
async fn ids<T: Eq + Hash>(output: &dyn Store, prefix: &str, parse: fn(&str) -> Option<T>) -> Result<HashSet<T>> {
    let (mut found, mut pages) = (HashSet::new(), store::ascending(output, prefix, None));
    while let Some(page) = pages.try_next().await? {
        found.extend(page.iter().filter_map(|object| parse(&object.key)));
    }
    Ok(found)
}
