//! Lists the objects, cuts them into shards and finds which of those are there already.

use std::{collections::HashSet, time::Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{MERGE_GROUP, MergeWork, Monitor, ShardWork, Site, Stop, milliseconds};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, Manifest, RunId, Version, keys},
    extractor::ExtractorInfo,
    settings::Settings,
    shard::{Boundaries, Cut, ShardId, Sharder},
    store::{Object, Store},
};

/// Object lists are written in pieces of about this many bytes, so that the listing is never in memory whole.
const SEGMENT_BYTES: usize = 32 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    pub run: RunId,
    #[serde(default)]
    pub settings: Settings,
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
    /// UTC, RFC 3339.
    pub created: String,
    pub input: String,
    pub settings: Settings,
    pub extractor: ExtractorInfo,
    pub base: Option<Version>,
    pub objects: u64,
    pub ignored: u64,
    /// The sums of the base version are the start; otherwise zero is.
    pub from_base: bool,
    /// Files of sums that were added beforehand.
    pub groups: u64,
    pub shards: Vec<PlannedShard>,
    pub milliseconds: u64,
}

impl Plan {
    pub fn key(run: &RunId) -> String {
        keys::run(run, "plan.json")
    }
}

/// Plans a run. Fails with `Input.Empty` when there is nothing, `Output.Occupied` when the output is not ours.
pub async fn plan(
    site: &Site,
    extractor: &ExtractorInfo,
    input: PlanInput,
    monitor: &dyn Monitor,
    stop: &Stop,
) -> Result<Planned> {
    let started = Instant::now();
    let PlanInput { run, settings } = input;
    settings.check()?;
    let output = site.output.as_ref();
    dataset::open_output(output).await?;
    let base = dataset::current(output).await?;
    mend_success(output, base.as_ref()).await?;
    let ready = finished_shards(output).await?;

    let mut planner = Planner {
        output,
        run: &run,
        ready,
        base: base.as_ref().filter(|base| base.extractor.id == extractor.id),
        segment: Vec::new(),
        segments: 0,
        work: Vec::new(),
        shards: Vec::new(),
        objects_to_featurize: 0,
    };
    let mut sharder = Sharder::new(Boundaries::new(settings.shard_size)?, extractor.id.clone());
    let (mut objects, mut ignored) = (0, 0);
    let mut pages = site.input.list("", None);
    while let Some(page) = pages.try_next().await? {
        stop.check()?;
        for object in page {
            if !is_image_candidate(&object) {
                ignored += 1;
                continue;
            }
            objects += 1;
            if let Some(cut) = sharder.push(object) {
                planner.add(cut).await?;
            }
        }
        monitor.listed(objects);
    }
    if let Some(cut) = sharder.finish() {
        planner.add(cut).await?;
    }
    if objects == 0 {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("input", site.input.location()));
    }
    planner.flush().await?;

    let Planner { work, shards, objects_to_featurize, base: comparable, .. } = planner;
    let (from_base, to_add) = sums_to_add(&shards, comparable);
    let merge = groups(&run, extractor, &to_add);
    let plan = Plan {
        created: jiff::Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default().to_string(),
        input: site.input.location(),
        extractor: extractor.clone(),
        base: base.as_ref().map(|base| base.version),
        objects,
        ignored,
        from_base,
        groups: merge.len() as u64,
        milliseconds: milliseconds(started),
        run,
        settings,
        shards,
    };
    let manifest = keys::run(&plan.run, "featurize.jsonl");
    let merge_manifest = keys::run(&plan.run, "merge.jsonl");
    let planned = Planned {
        up_to_date: base.is_some_and(|base| is_up_to_date(&base, &plan)),
        base: plan.base,
        objects,
        objects_to_featurize,
        shards: plan.shards.len() as u64,
        shards_to_featurize: work.len() as u64,
        manifest: manifest.clone(),
        groups: plan.groups,
        merge_manifest: merge_manifest.clone(),
        run: plan.run.clone(),
    };
    if !planned.up_to_date {
        output.put(&manifest, json_lines(&work)?).await?;
        output.put(&merge_manifest, json_lines(&merge)?).await?;
        output.put(&Plan::key(&plan.run), dataset::to_json(&plan)?).await?;
    }
    Ok(planned)
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

/// Hidden files and folder markers are no images; whatever else lies there either is one or ends among the rejects.
fn is_image_candidate(object: &Object) -> bool {
    !object.key.ends_with('/') && !object.key.split('/').any(|part| part.starts_with('.'))
}

fn is_up_to_date(base: &Manifest, plan: &Plan) -> bool {
    base.extractor == plan.extractor
        && base.settings == plan.settings
        && base.shards.len() == plan.shards.len()
        && base.shards.iter().zip(&plan.shards).all(|(old, new)| old.id == new.id)
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

struct Planner<'a> {
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
}

impl Planner<'_> {
    async fn add(&mut self, cut: Cut) -> Result<()> {
        let (Some(first), Some(last)) = (cut.objects.first(), cut.objects.last()) else { return Ok(()) };
        if self.ready.contains(&cut.id) {
            self.shards.push(PlannedShard { id: cut.id, objects: None });
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

    /// Shards of the current version that may hold rows of the same objects.
    fn sources(&self, first: &str, last: &str) -> Vec<ShardId> {
        let shards = self.base.map_or(&[][..], |base| &base.shards);
        let start = shards.partition_point(|shard| shard.last.as_str() < first);
        shards[start..].iter().take_while(|shard| shard.first.as_str() <= last).map(|s| s.id.clone()).collect()
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
