//! Lists the objects, cuts them into shards and finds which of those are there already.

use std::collections::HashSet;

use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{
    MergeWork, Monitor, ShardWork, Site, Stop,
    reduce::basis_id,
    walk::{Listed, Walk},
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, Manifest, RunId, Version, keys},
    effort::{Effort, Timer},
    extractor::ExtractorInfo,
    inbox::{self, Inbox},
    moments::MERGE_GROUP,
    settings::{Listing, Mode, Refit, Settings},
    shard::{Cut, ShardId},
    store::Store,
    vacuum,
};

/// Object lists are written in pieces of about this many bytes, so that the listing is never in memory whole.
const SEGMENT_BYTES: usize = 32 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    pub run: RunId,
    #[serde(default)]
    pub settings: Settings,
    #[serde(default)]
    pub mode: Mode,
}

/// What the plan stage answers; keys and counts only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub run: RunId,
    /// The current version already is what this run would make.
    pub up_to_date: bool,
    pub base: Option<Version>,
    /// Objects to have features of, and those of them in shards that are not there yet.
    pub objects: u64,
    pub objects_to_featurize: u64,
    pub shards: u64,
    pub shards_to_featurize: u64,
    /// JSON lines, one [`ShardWork`] each.
    pub manifest: String,
    /// Groups of shards whose sums are added beforehand; none when one reducer can add them all.
    pub groups: u64,
    /// JSON lines, one [`MergeWork`] each.
    pub merge_manifest: String,
}

/// Where a shard's objects are listed: bytes of a JSONL file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRange {
    pub key: String,
    pub offset: u64,
    pub length: u64,
}

/// A shard of the data set to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    pub id: ShardId,
    /// Where its objects are listed; none when it was finished by an earlier run.
    pub objects: Option<ObjectRange>,
}

impl PlannedShard {
    /// Whether it was finished by an earlier run.
    pub fn ready(&self) -> bool {
        self.objects.is_none()
    }
}

/// `runs/<run>/plan.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub run: RunId,
    pub input: String,
    pub settings: Settings,
    pub extractor: ExtractorInfo,
    pub base: Option<Version>,
    /// Images of the base version.
    pub base_images: u64,
    pub objects: u64,
    /// Objects that were passed over; not known when only parts of the input were listed.
    pub ignored: Option<u64>,
    /// The sums of the base version are the start; otherwise zero is.
    pub from_base: bool,
    /// The basis of the base version is kept.
    pub keep_basis: bool,
    /// Notes of the inbox that this run takes care of.
    pub notes: Vec<String>,
    /// Files of sums that were added beforehand.
    pub groups: u64,
    pub shards: Vec<PlannedShard>,
    #[serde(default)]
    pub effort: Effort,
}

impl Plan {
    pub fn key(run: &RunId) -> String {
        keys::run(run, "plan.json")
    }
}

/// Plans a run. Fails with `Input.Empty` when there is nothing, `Output.Occupied` when the output is not ours,
/// `Dataset.SettingsChanged` when the current version was made otherwise and no rebuild was asked for, and
/// `Dataset.Busy` during a vacuum.
pub async fn plan(
    site: &Site,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &Stop,
) -> Result<Planned> {
    input.settings.check()?;
    let output = site.output.as_ref();
    dataset::open_output(output).await?;
    let run = input.run.clone();
    vacuum::enter(output, &run).await?;
    let outcome = plan_within(site, extractor, input, monitor, stop).await;
    if outcome.as_ref().map_or(true, |planned| planned.up_to_date) {
        // The first error is the one to tell.
        let left = vacuum::leave(output, &run).await;
        return outcome.and_then(|planned| left.map(|()| planned));
    }
    outcome
}

async fn plan_within(
    site: &Site,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &Stop,
) -> Result<Planned> {
    let timer = Timer::start();
    let PlanInput { run, settings, mode } = &input;
    let output = site.output.as_ref();
    let base = dataset::current(output).await?;
    if let Some(base) = base.as_ref().filter(|_| !mode.rebuild) {
        check_same(base, extractor, settings)?;
    }
    mend_success(output, base.as_ref()).await?;
    // Before the listing: what comes in after this is the next run's.
    let inbox = inbox::read(output).await?;
    let ready = finished_shards(output).await?;

    let comparable = base.as_ref().filter(|base| base.extractor.id == extractor.id);
    let mut planner = Planner {
        output,
        run,
        ready,
        base: comparable,
        segment: Vec::new(),
        segments: 0,
        work: Vec::new(),
        shards: Vec::new(),
        objects_to_featurize: 0,
        listed: Listed::default(),
    };
    let walk = Walk::new(site.input.as_ref(), settings.shard_size, &extractor.id, monitor, stop)?;
    let unchanged = comparable.filter(|base| base.settings.shard_size == settings.shard_size);
    planner.listed = match unchanged.filter(|_| mode.listing == Listing::Changed) {
        Some(base) => walk.changed(&mut planner, base, &inbox.keys).await?,
        None => walk.all(&mut planner).await?,
    };
    if planner.listed.objects == 0 {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("input", site.input.location()));
    }
    planner.flush().await?;
    write_plan(planner, site, extractor, base.as_ref(), &input, inbox, &timer).await
}

/// Turns what was found into the plan and the work lists of the maps.
async fn write_plan(
    planner: Planner<'_>,
    site: &Site,
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
        input: site.input.location(),
        extractor: extractor.clone(),
        base: base.map(|base| base.version),
        base_images: base.map_or(0, |base| base.images),
        objects: listed.objects,
        ignored: listed.ignored,
        from_base,
        keep_basis: mode.refit == Refit::Never && comparable.is_some_and(|base| same_fit(&base.settings, settings)),
        notes: inbox.notes,
        groups: merge.len() as u64,
        effort: timer.read(),
        run: run.clone(),
        settings: settings.clone(),
        shards,
    };
    let manifest = keys::run(run, "featurize.jsonl");
    let merge_manifest = keys::run(run, "merge.jsonl");
    let planned = Planned {
        up_to_date: base.is_some_and(|base| is_up_to_date(base, &plan)),
        base: plan.base,
        objects: plan.objects,
        objects_to_featurize,
        shards: plan.shards.len() as u64,
        shards_to_featurize: work.len() as u64,
        manifest: manifest.clone(),
        groups: plan.groups,
        merge_manifest: merge_manifest.clone(),
        run: plan.run.clone(),
    };
    if planned.up_to_date {
        inbox::clear(output, &plan.notes).await?;
    } else {
        output.put(&manifest, json_lines(&work)?).await?;
        if plan.groups > 0 {
            output.put(&merge_manifest, json_lines(&merge)?).await?;
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
    let fitted = || basis_id(&base.extractor.id, &base.settings, base.moments_id()).is_ok_and(|id| id == base.basis.id);
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
        let ids = page.iter().filter_map(|object| {
            let rest = object.key.strip_prefix(keys::SHARDS)?;
            rest.strip_suffix("/shard.json").map(|id| ShardId::from(id.to_owned()))
        });
        ready.extend(ids);
    }
    Ok(ready)
}

pub(super) fn json_lines<T: Serialize>(lines: &[T]) -> Result<Bytes> {
    let mut text = Vec::new();
    for line in lines {
        push_line(&mut text, line)?;
    }
    Ok(text.into())
}

fn push_line<T: Serialize>(text: &mut Vec<u8>, line: &T) -> Result<()> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a line could not be written as JSON").source(e);
    serde_json::to_writer(&mut *text, line).map_err(bug)?;
    text.push(b'\n');
    Ok(())
}

/// Gathers the shards of a run and the work that they need.
pub(super) struct Planner<'a> {
    output: &'a dyn Store,
    run: &'a RunId,
    ready: HashSet<ShardId>,
    /// The current version, when its features are of the same extractor.
    base: Option<&'a Manifest>,
    segment: Vec<u8>,
    segments: usize,
    work: Vec<ShardWork>,
    shards: Vec<PlannedShard>,
    objects_to_featurize: u64,
    listed: Listed,
}

impl Planner<'_> {
    pub(super) fn is_ready(&self, shard: &ShardId) -> bool {
        self.ready.contains(shard)
    }

    /// A shard that needs no work.
    pub(super) fn add_ready(&mut self, id: ShardId) {
        self.shards.push(PlannedShard { id, objects: None });
    }

    pub(super) async fn add(&mut self, cut: Cut) -> Result<()> {
        let (Some(first), Some(last)) = (cut.objects.first(), cut.objects.last()) else { return Ok(()) };
        if self.ready.contains(&cut.id) {
            self.add_ready(cut.id);
            return Ok(());
        }
        let sources = self.sources(&first.key, &last.key);
        let offset = self.segment.len() as u64;
        for object in &cut.objects {
            push_line(&mut self.segment, object)?;
        }
        let length = self.segment.len() as u64 - offset;
        let objects = ObjectRange { key: self.segment_key(), offset, length };
        self.objects_to_featurize += cut.objects.len() as u64;
        self.shards.push(PlannedShard { id: cut.id.clone(), objects: Some(objects.clone()) });
        self.work.push(ShardWork { run: self.run.clone(), shard: cut.id, objects, sources });
        if self.segment.len() >= SEGMENT_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    fn sources(&self, first: &str, last: &str) -> Vec<ShardId> {
        self.base.map_or(Vec::new(), |base| base.shards_between(first, last).map(|s| s.id.clone()).collect())
    }

    fn segment_key(&self) -> String {
        keys::run(self.run, &format!("objects-{:05}.jsonl", self.segments))
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.segment.is_empty() {
            let body = std::mem::take(&mut self.segment);
            self.output.put(&self.segment_key(), body.into()).await?;
            self.segments += 1;
        }
        Ok(())
    }
}
