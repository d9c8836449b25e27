//! Lists the objects, cuts them into shards and finds which of those are there already.

use std::collections::HashSet;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{
    CancellationToken, MergeWork, Monitor, Plan, PlanInput, Planned, PlannedShard, Stores, listing::Listing,
    planner::Planner,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Manifest,
        inbox::{self, Inbox},
        keys, lease,
        manifest::basis_id,
        settings::{ListingScope, Refit, Settings},
        shard::MERGE_GROUP,
        timing::Timer,
    },
    ids::{RunId, ShardId},
    model::ExtractorInfo,
    store::Store,
};

/// Plans a run. Fails with `Input.Empty` when there is nothing, `Output.Occupied` when the output is not ours,
/// `Dataset.SettingsChanged` when the current version was made otherwise and no rebuild was asked for, and
/// `Dataset.Busy` during a vacuum.
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
    lease::enter(output, &run).await?;
    let outcome = plan_within(stores, extractor, input, monitor, stop).await;
    if outcome.as_ref().map_or(true, |planned| planned.up_to_date) {
        // The first error is the one to report.
        let left = lease::leave(output, &run).await;
        return outcome.and_then(|planned| left.map(|()| planned));
    }
    outcome
}

async fn plan_within(
    stores: &Stores,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<Planned> {
    let timer = Timer::start();
    let PlanInput { run, settings, mode } = &input;
    let output = stores.output.as_ref();
    let base = dataset::current(output).await?;
    if let Some(base) = base.as_ref().filter(|_| !mode.rebuild) {
        check_same(base, extractor, settings)?;
    }
    mend_success(output, base.as_ref()).await?;
    // Before the listing: what comes in after this is the next run's.
    let inbox = inbox::read(output).await?;
    let ready = finished_shards(output).await?;

    let comparable = base.as_ref().filter(|base| base.extractor.id == extractor.id);
    let mut planner = Planner::new(output, run, ready, comparable);
    let listing = Listing::new(stores.input.as_ref(), settings.shard_size, &extractor.id, monitor, stop)?;
    let unchanged = comparable.filter(|base| base.settings.shard_size == settings.shard_size);
    planner.listed = match unchanged.filter(|_| mode.listing == ListingScope::Changed) {
        Some(base) => listing.changed(&mut planner, base, &inbox.keys).await?,
        None => listing.all(&mut planner).await?,
    };
    if planner.listed.objects == 0 {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("input", stores.input.location()));
    }
    planner.flush().await?;
    write_plan(planner, stores, extractor, base.as_ref(), &input, inbox, &timer).await
}

/// Turns what was found into the plan and the work lists of the maps.
async fn write_plan(
    planner: Planner<'_>,
    stores: &Stores,
    extractor: &ExtractorInfo,
    base: Option<&Manifest>,
    input: &PlanInput,
    inbox: Inbox,
    timer: &Timer,
) -> Result<Planned> {
    let Planner { output, run, work, shards, objects_to_featurize, listed, base: comparable, .. } = planner;
    let PlanInput { settings, mode, .. } = input;
    let (from_base, to_add) = sums_to_add(&shards, comparable);
    let merge = groups(run, extractor, &to_add);
    let plan = Plan {
        input: stores.input.location(),
        extractor: extractor.clone(),
        base: base.map(|base| base.version),
        base_images: base.map_or(0, |base| base.images),
        objects: listed.objects,
        ignored: listed.ignored,
        from_base,
        keep_basis: mode.refit == Refit::Never && comparable.is_some_and(|base| same_fit(&base.settings, settings)),
        notices: inbox.notices,
        groups: merge.len() as u64,
        timing: timer.read(),
        run: run.clone(),
        settings: settings.clone(),
        shards,
    };
    let work_list = keys::run(run, "featurize.jsonl");
    let merge_work_list = keys::run(run, "merge.jsonl");
    let planned = Planned {
        up_to_date: base.is_some_and(|base| is_up_to_date(base, &plan)),
        base: plan.base,
        objects: plan.objects,
        objects_to_featurize,
        shards: plan.shards.len() as u64,
        shards_to_featurize: work.len() as u64,
        work_list: work_list.clone(),
        groups: plan.groups,
        merge_work_list: merge_work_list.clone(),
        run: plan.run.clone(),
    };
    if planned.up_to_date {
        inbox::clear(output, &plan.notices).await?;
    } else {
        output.put(&work_list, dataset::to_json_lines(&work)?).await?;
        if plan.groups > 0 {
            output.put(&merge_work_list, dataset::to_json_lines(&merge)?).await?;
        }
        output.put(&Plan::key(run), dataset::to_json(&plan)?).await?;
    }
    Ok(planned)
}

/// A data set is never changed in kind by a forgotten option.
fn check_same(base: &Manifest, extractor: &ExtractorInfo, settings: &Settings) -> Result<()> {
    let mut differences = settings.differences(&base.settings);
    if base.extractor != *extractor {
        let name = |info: &ExtractorInfo| format!("{} ({})", info.model, info.id);
        differences.insert(0, format!("extractor: {} -> {}", name(&base.extractor), name(extractor)));
    }
    if differences.is_empty() {
        return Ok(());
    }
    let message = format!("the current version was made with other settings: {}", differences.join("; "));
    Err(Error::new(ErrorKind::DatasetSettingsChanged, message).context("version", base.version))
}

fn same_fit(a: &Settings, b: &Settings) -> bool {
    a.pca == b.pca && a.standardize == b.standardize
}

/// Whether to start from the base version's sums, and the shards whose sums are added to that start: what changed
/// where most has stayed, everything otherwise.
fn sums_to_add(shards: &[PlannedShard], base: Option<&Manifest>) -> (bool, Vec<PlannedShard>) {
    let Some(base) = base else { return (false, shards.to_vec()) };
    let old: HashSet<&ShardId> = base.shards.iter().map(|shard| &shard.id).collect();
    let added: Vec<PlannedShard> = shards.iter().filter(|shard| !old.contains(&shard.id)).cloned().collect();
    let dropped = old.len() - (shards.len() - added.len()).min(old.len());
    if added.len() + dropped < shards.len() { (true, added) } else { (false, shards.to_vec()) }
}

/// Groups for [`stages::merge`](super::merge()), where there are more shards than one reducer should add.
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

/// Whether the run would make the version that there is: the same shards, in the same form, and the basis fitted to
/// just these images, unless that is to be kept.
fn is_up_to_date(base: &Manifest, plan: &Plan) -> bool {
    let fitted = || {
        let moments = base.moments_id();
        let id = moments.map(|moments| basis_id(&base.extractor.id, &base.settings, &moments));
        id.is_some_and(|id| id.is_ok_and(|id| id == base.basis.id))
    };
    base.extractor == plan.extractor
        && base.settings == plan.settings
        && base.shards.len() == plan.shards.len()
        && base.shards.iter().zip(&plan.shards).all(|(old, new)| old.id == new.id)
        && (plan.keep_basis || fitted())
}

/// A run that was killed right after it published may not have left `_SUCCESS`.
async fn mend_success(output: &dyn Store, base: Option<&Manifest>) -> Result<()> {
    if let Some(base) = base {
        output.put_if_absent(&keys::success(base.version), Bytes::new()).await?;
    }
    Ok(())
}

async fn finished_shards(output: &dyn Store) -> Result<HashSet<ShardId>> {
    let mut ready = HashSet::new();
    let mut pages = output.list(keys::SHARDS, None);
    while let Some(page) = pages.try_next().await? {
        let ids = page.iter().filter_map(|object| keys::parse_shard(&object.key));
        ready.extend(ids);
    }
    Ok(ready)
}
