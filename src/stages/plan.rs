//! The plan of a run: its shards, and which of them are finished.
//!
//! Reads the listing of the input, the current version, the inbox, and which shards and groups exist. Writes
//! `runs/<run>/plan.json`, `objects-*.jsonl`, `shards-*.jsonl` and the work lists `featurize.jsonl` and `merge.jsonl`.

use std::collections::HashMap;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{
    CancellationToken, Monitor, Plan, PlanInput, Planned, Stores,
    batch::write_work,
    listing::Listing,
    planner::{Base, Finished, Listed, Planner},
};
use crate::{
    Error, ErrorKind, Result,
    cost::{
        batches,
        estimate::{self, Deployment, Workload},
        prices::{Architecture, Prices},
    },
    dataset::{
        self, FORMAT, Manifest, ShardEntry, contents,
        inbox::{self, Inbox},
        keys, lease,
        manifest::basis_id,
        settings::{ListingScope, Mode, Refit, Settings},
        timing::Timer,
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
pub async fn plan(
    stores: &Stores,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Planned> {
    let timer = Timer::start();
    input.settings.check()?;
    let output = stores.output.as_ref();
    dataset::open_output(output).await?;
    let run = input.run.clone();
    lease::enter(output, &run, input.execution.as_deref()).await?;
    let planning = Planning { stores, extractor, input, timer };
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
    async fn plan(mut self, monitor: &dyn Monitor, stop: &CancellationToken) -> Result<Planned> {
        let output = self.stores.output.as_ref();
        let base = dataset::current(output).await?;
        let on_aws = self.input.execution.is_some();
        self.input.settings = self.input.settings.resolved(base.as_ref().map(|base| &base.settings), on_aws);
        if let Some(base) = base.as_ref().filter(|_| !self.input.mode.rebuild) {
            check_same(base, self.extractor, &self.input.settings, self.input.mode)?;
        }
        let input = self.stores.input.as_ref();
        let identity = input.identity().await;
        if let Some(base) = &base {
            check_input(base, &input.place(), identity.as_deref(), self.input.mode)?;
        }
        dataset::upgrade_output(output).await?;
        mend_success(output, base.as_ref()).await?;
        // Read before the listing: a later notice belongs to the next run.
        let inbox = inbox::read(output).await?;
        let finished = finished(output).await?;

        let comparable = base.as_ref().filter(|base| base.extractor.id == self.extractor.id);
        let known = match comparable {
            Some(base) => self.shards_of(output, base).await?,
            None => None,
        };
        let base_is_unknown = comparable.is_some() && known.is_none();
        let comparable = comparable.zip(known.as_ref());
        let comparable = comparable.map(|(manifest, (shards, group_of))| Base { manifest, shards, group_of });
        let mut planner = Planner::new(output, &self.input, finished, self.extractor, comparable)?;
        planner.listed = self.list(&mut planner, &inbox, monitor, stop).await?;
        let before = base.as_ref().map_or(0, Manifest::objects);
        // Only a lower bound. The stage reduce knows the number; this is known before any inference.
        self.input.mode.check_vanished(before.saturating_sub(planner.listed.objects), before)?;
        planner.finish().await?;
        self.write(planner, base.as_ref(), base_is_unknown, inbox, identity).await
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
        // Shards of format 1 have other ids.
        let same_cuts = planner.base.filter(|base| {
            let (old, new) = (&base.manifest.settings, settings);
            let ids = (old.shard_size(), old.compression()) == (new.shard_size(), new.compression());
            // Labels of a base without partition folders can be too long for them, so all are listed.
            base.manifest.format == FORMAT && ids && (old.partition_by_label || !new.partition_by_label)
        });
        let only_changed = mode.listing == ListingScope::Changed && inbox.is_complete;
        let listed = match same_cuts.filter(|_| only_changed) {
            Some(base) => listing.changed(planner, base.shards, &inbox.keys).await?,
            None => listing.all(planner).await?,
        };
        if listed.objects == 0 {
            return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("input", input.location()));
        }
        Ok(listed)
    }

    /// The shards of the base version, in key order, and the number of the group of each. None if its records are damaged:
    /// the run then finishes its groups again. A basis that is to be kept needs them.
    async fn shards_of(&self, output: &dyn Store, base: &Manifest) -> Result<Option<KnownShards>> {
        match shards_of(output, base).await {
            Err(e) if e.is(ErrorKind::DatasetCorrupt) && self.input.mode.refit == Refit::Always => Ok(None),
            known => known.map(Some),
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
            concurrency: self.input.concurrency,
            keep_basis: mode.refit == Refit::Never
                && comparable.is_some_and(|base| same_fit(&base.manifest.settings, settings)),
            notices: inbox.notices,
            groups: std::mem::take(&mut planner.groups),
            timing: self.timer.read(),
            run: run.clone(),
            settings: settings.clone(),
            shards: planner.shards,
        };
        let mut planned = answer(&plan, base, planner.work.len() as u64, planner.objects_to_featurize);
        if planned.up_to_date {
            planner.drop_lists().await?;
            inbox::clear(output, &plan.notices).await?;
        } else {
            planner.write_lists().await?;
            if self.input.execution.is_some() {
                // Functions that walk neighbouring keys at the same time share a partition of S3, which answers 5,500 reads a
                // second. Ids are hashes: their order has nothing to do with that of the keys.
                planner.work.sort_unstable_by(|a, b| a.shard.as_str().cmp(b.shard.as_str()));
            }
            let shards = planner.work.len() as u64;
            let size = plan.concurrency.map_or(1, |most| batches::of_featurize(shards, settings.shard_size(), most));
            planned.batch_list =
                write_work(output, run, &planned.work_list, &planner.work, (size, self.extractor.decoding)).await?;
            output.put(&planned.merge_work_list, dataset::to_sealed_lines(&planner.merges)?).await?;
            output.put(&Plan::key(run), dataset::to_record(&plan)?).await?;
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
        work_list: keys::run(&plan.run, "featurize.jsonl"),
        batch_list: None,
        groups,
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
        // An input that has moved is recorded by a new version.
        && (recorded || !plan.mode.input_moved)
        && base.groups.len() == groups.len()
        && base.groups.iter().zip(groups).all(|(old, new)| old.id == *new)
        && (plan.keep_basis || fitted())
}

/// Writes the `_SUCCESS` file of the current version, which a run that was killed after publishing has not written.
async fn mend_success(output: &dyn Store, base: Option<&Manifest>) -> Result<()> {
    if let Some(base) = base {
        output.put_if_absent(&keys::success(base.version), Bytes::new()).await?;
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

/// All finished shards and groups of the output.
async fn finished(output: &dyn Store) -> Result<Finished> {
    let mut finished = Finished::default();
    let mut pages = store::ascending(output, keys::SHARDS, None);
    while let Some(page) = pages.try_next().await? {
        finished.shards.extend(page.iter().filter_map(|object| keys::parse_shard(&object.key)));
    }
    let mut pages = store::ascending(output, keys::GROUPS, None);
    while let Some(page) = pages.try_next().await? {
        finished.groups.extend(page.iter().filter_map(|object| keys::parse_group(&object.key)));
    }
    Ok(finished)
}
