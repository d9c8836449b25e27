//! The plan of a run: its shards, and which of them are finished.
//!
//! Reads the listing of the input, the current manifest, the inbox, and which shards exist. Writes `runs/<run>/plan.json`,
//! `objects-*.jsonl` and the work lists `featurize.jsonl` and `merge.jsonl`.

use std::collections::HashSet;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{
    CancellationToken, MergeWork, Monitor, Plan, PlanInput, Planned, PlannedShard, ShardWork, Stores,
    listing::Listing,
    planner::{Listed, Planner},
};
use crate::{
    Error, ErrorKind, Result,
    cost::{
        estimate::{self, Deployment, Workload},
        prices::{Architecture, Prices},
    },
    dataset::{
        self, Manifest,
        inbox::{self, Inbox},
        keys, lease,
        manifest::basis_id,
        settings::{ListingScope, Mode, Refit, Settings},
        shard::MERGE_GROUP,
        timing::Timer,
    },
    ids::{RunId, ShardId},
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
pub async fn plan(
    stores: &Stores,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Planned> {
    input.settings.check()?;
    let output = stores.output.as_ref();
    dataset::open_output(output).await?;
    let run = input.run.clone();
    lease::enter(output, &run, input.execution.as_deref()).await?;
    let planning = Planning { stores, extractor, input, timer: Timer::start() };
    let outcome = planning.plan(monitor, stop).await;
    if outcome.as_ref().map_or(true, |planned| planned.up_to_date) {
        // The first error is the one to report.
        let left = lease::leave(output, &run).await;
        return outcome.and_then(|planned| left.map(|()| planned));
    }
    outcome
}

/// The inputs of the stage.
struct Planning<'a> {
    stores: &'a Stores,
    extractor: &'a ExtractorInfo,
    input: PlanInput,
    timer: Timer,
}

impl Planning<'_> {
    async fn plan(&self, monitor: &dyn Monitor, stop: &CancellationToken) -> Result<Planned> {
        let output = self.stores.output.as_ref();
        let base = dataset::current(output).await?;
        if let Some(base) = base.as_ref().filter(|_| !self.input.mode.rebuild) {
            check_same(base, self.extractor, &self.input.settings, self.input.mode)?;
        }
        mend_success(output, base.as_ref()).await?;
        let input = self.stores.input.as_ref();
        let identity = input.identity().await;
        if let Some(base) = &base {
            check_input(base, &input.place(), identity.as_deref(), self.input.mode)?;
        }
        // Read before the listing: a later notice belongs to the next run.
        let inbox = inbox::read(output).await?;
        let ready = finished_shards(output).await?;

        let comparable = base.as_ref().filter(|base| base.extractor.id == self.extractor.id);
        let mut planner = Planner::new(output, &self.input.run, ready, self.extractor.decoding, comparable);
        planner.listed = self.list(&mut planner, &inbox, monitor, stop).await?;
        let before = base.as_ref().map_or(0, |base| base.images + base.rejects);
        // Only a lower bound. The stage reduce knows the number; this is known before any inference.
        self.input.mode.check_vanished(before.saturating_sub(planner.listed.objects), before)?;
        planner.flush().await?;
        self.write(planner, base.as_ref(), inbox, identity).await
    }

    /// Lists the input, or the part of it that has changed.
    async fn list(
        &self,
        planner: &mut Planner<'_>,
        inbox: &Inbox,
        monitor: &dyn Monitor,
        stop: &CancellationToken,
    ) -> Result<Listed> {
        let PlanInput { settings, mode, .. } = &self.input;
        let input = self.stores.input.as_ref();
        let listing = Listing::new(input, settings, &self.extractor.id, monitor, stop)?;
        let same_cuts = planner.base.filter(|base| base.settings.shard_size == settings.shard_size);
        // Labels of a base without partition folders can be too long for them, so all are listed.
        let same_cuts = same_cuts.filter(|base| base.settings.partition_by_label || !settings.partition_by_label);
        let listed = match same_cuts.filter(|_| mode.listing == ListingScope::Changed) {
            Some(base) => listing.changed(planner, base, &inbox.keys).await?,
            None => listing.all(planner).await?,
        };
        if listed.objects == 0 {
            return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("input", input.location()));
        }
        Ok(listed)
    }

    /// Writes the plan and the work lists. If there is nothing to do, deletes the notices instead.
    async fn write(
        &self,
        planner: Planner<'_>,
        base: Option<&Manifest>,
        inbox: Inbox,
        input_identity: Option<String>,
    ) -> Result<Planned> {
        let PlanInput { run, settings, mode, .. } = &self.input;
        let Planner { output, work, shards, objects_to_featurize, listed, base: comparable, .. } = planner;
        let (from_base, to_add) = sums_to_add(&shards, comparable);
        let merge = groups(run, self.extractor, &to_add);
        let plan = Plan {
            input: self.stores.input.place(),
            input_identity,
            mode: *mode,
            extractor: self.extractor.clone(),
            base: base.map(|base| base.version),
            base_images: base.map_or(0, |base| base.images),
            objects: listed.objects,
            ignored: listed.ignored,
            from_base,
            keep_basis: mode.refit == Refit::Never && comparable.is_some_and(|base| same_fit(&base.settings, settings)),
            notices: inbox.notices,
            groups: merge.len() as u64,
            timing: self.timer.read(),
            run: run.clone(),
            settings: settings.clone(),
            shards,
        };
        let planned = answer(&plan, base, &work, objects_to_featurize);
        if planned.up_to_date {
            inbox::clear(output, &plan.notices).await?;
        } else {
            output.put(&planned.work_list, dataset::to_json_lines(&work)?).await?;
            if plan.groups > 0 {
                output.put(&planned.merge_work_list, dataset::to_json_lines(&merge)?).await?;
            }
            output.put(&Plan::key(run), dataset::to_json(&plan)?).await?;
        }
        Ok(planned)
    }
}

/// Fails with `Input.Moved` if the images of `base` come from another place.
pub(crate) fn check_input(base: &Manifest, place: &str, identity: Option<&str>, mode: Mode) -> Result<()> {
    let same = match (base.input_identity.as_deref(), identity) {
        (Some(recorded), Some(found)) => recorded == found,
        // Release 0.1.0 recorded folders as they were written, perhaps relative to a folder that is unknown.
        _ => store::is_relative(&base.input) || store::place_of(&base.input) == place,
    };
    if same || mode.input_moved {
        return Ok(());
    }
    let message = if base.input == place {
        "the input is not the folder of the current version, but another one in the same place"
    } else {
        "the input is not that of the current version"
    };
    Err(Error::new(ErrorKind::InputMoved, message).context("input", place).context("recorded", &base.input))
}

fn answer(plan: &Plan, base: Option<&Manifest>, work: &[ShardWork], objects_to_featurize: u64) -> Planned {
    Planned {
        // A shard of the version without its record has been deleted, because one of its files was damaged.
        up_to_date: work.is_empty()
            && base.is_some_and(|base| is_up_to_date(base, plan, plan.shards.iter().map(|shard| &shard.id))),
        base: plan.base,
        objects: plan.objects,
        objects_to_featurize,
        shards: plan.shards.len() as u64,
        shards_to_featurize: work.len() as u64,
        work_list: keys::run(&plan.run, "featurize.jsonl"),
        groups: plan.groups,
        merge_work_list: keys::run(&plan.run, "merge.jsonl"),
        run: plan.run.clone(),
    }
}

/// A forgotten option must not change the settings of a data set, and a new release must not compute it again unasked.
fn check_same(base: &Manifest, extractor: &ExtractorInfo, settings: &Settings, mode: Mode) -> Result<()> {
    let mut differences = settings.differences(&base.settings);
    let is_revision = extractor.is_revision_of(&base.extractor);
    if base.extractor != *extractor && !is_revision {
        let name = |info: &ExtractorInfo| format!("{} ({})", info.model, info.id);
        differences.insert(0, format!("extractor: {} -> {}", name(&base.extractor), name(extractor)));
        if base.extractor.decoding != extractor.decoding {
            let name = |info: &ExtractorInfo| if info.decoding.is_full() { "full" } else { "scaled" };
            differences.push(format!("decode: {} -> {}", name(&base.extractor), name(extractor)));
        }
    }
    if !differences.is_empty() {
        let message = format!("the current version was made with other settings: {}", differences.join("; "));
        return Err(Error::new(ErrorKind::DatasetSettingsChanged, message).context("version", base.version));
    }
    if is_revision && !mode.upgrade {
        return Err(Error::new(ErrorKind::DatasetUpgradeNeeded, upgrade(base.images)?).context("version", base.version));
    }
    Ok(())
}

/// What it costs to compute all features again.
fn upgrade(images: u64) -> Result<String> {
    let prices = Prices::new("us-east-1", Architecture::X86_64)?;
    let aws = estimate::estimate(Workload::new(images), Deployment::default(), prices)?;
    let minutes = images as f64 * estimate::MS_PER_IMAGE / 60_000.0;
    Ok(format!(
        "this release of Pomona gives other features than the one that made the current version; computing those of \
         {images} images again takes about {minutes:.1} minutes of one processor, or on AWS about {:.0} seconds and {:.2} \
         dollars",
        aws.seconds, aws.dollars.total
    ))
}

fn same_fit(a: &Settings, b: &Settings) -> bool {
    a.pca == b.pca && a.standardize == b.standardize
}

/// Whether `reduce` starts from the sums of the base version, and the shards whose sums it adds: the new ones if most
/// shards are unchanged, otherwise all of them.
fn sums_to_add(shards: &[PlannedShard], base: Option<&Manifest>) -> (bool, Vec<PlannedShard>) {
    let Some(base) = base else { return (false, shards.to_vec()) };
    let old: HashSet<&ShardId> = base.shards.iter().map(|shard| &shard.id).collect();
    let added: Vec<PlannedShard> = shards.iter().filter(|shard| !old.contains(&shard.id)).cloned().collect();
    let dropped = old.len() - (shards.len() - added.len()).min(old.len());
    if added.len() + dropped < shards.len() { (true, added) } else { (false, shards.to_vec()) }
}

/// The work of [`merge`](super::merge()); empty if one reducer can add all sums.
fn groups(run: &RunId, extractor: &ExtractorInfo, to_add: &[PlannedShard]) -> Vec<MergeWork> {
    if to_add.len() <= MERGE_GROUP {
        return Vec::new();
    }
    let work = to_add.chunks(MERGE_GROUP).enumerate().map(|(group, shards)| MergeWork {
        run: run.clone(),
        group: group as u64,
        shards: shards.to_vec(),
        columns: extractor.columns,
        extractor: extractor.id.clone(),
    });
    work.collect()
}

/// Whether the run would publish the version that is current: the same extractor, settings and shards, and a basis that
/// is fitted to these images or that the run keeps.
///
/// Before the run, `shards` are the planned ones. Afterwards they are the computed ones, whose ids differ if objects
/// could not be read.
pub(super) fn is_up_to_date<'a>(
    base: &Manifest,
    plan: &Plan,
    shards: impl ExactSizeIterator<Item = &'a ShardId>,
) -> bool {
    let fitted = || {
        let moments = base.moments_id();
        let id = moments.map(|moments| basis_id(&base.extractor.id, &base.settings, &moments));
        id.is_some_and(|id| id.is_ok_and(|id| id == base.basis.id))
    };
    let recorded = (&base.input, &base.input_identity) == (&plan.input, &plan.input_identity);
    base.extractor == plan.extractor
        && base.settings == plan.settings
        // An input that has moved is recorded by a new version.
        && (recorded || !plan.mode.input_moved)
        && base.shards.len() == shards.len()
        && base.shards.iter().zip(shards).all(|(old, new)| old.id == *new)
        && (plan.keep_basis || fitted())
}

/// Writes the `_SUCCESS` file of the current version, which a run that was killed after publishing has not written.
async fn mend_success(output: &dyn Store, base: Option<&Manifest>) -> Result<()> {
    if let Some(base) = base {
        output.put_if_absent(&keys::success(base.version), Bytes::new()).await?;
    }
    Ok(())
}

/// All finished shards of the output.
async fn finished_shards(output: &dyn Store) -> Result<HashSet<ShardId>> {
    let mut ready = HashSet::new();
    let mut pages = store::ascending(output, keys::SHARDS, None);
    while let Some(page) = pages.try_next().await? {
        let ids = page.iter().filter_map(|object| keys::parse_shard(&object.key));
        ready.extend(ids);
    }
    Ok(ready)
}
