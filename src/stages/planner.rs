//! The shards and groups of a run and the work for `featurize` and `merge`, collected while the input is listed.
//!
//! Writes `runs/<run>/shards-*.jsonl`, the shards of all groups.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use futures::try_join;
use jiff::Timestamp;

use super::{
    ClassWork,
    classify::kept_sums,
    cut::ListedShard,
    records::{LineRange, Makes, MergeWork, PlannedGroup, PlannedShard, ShardWork},
    upload::WorkList,
};
use crate::{
    Result,
    cost::batches,
    dataset::{
        self, Checksum, GroupRef, Manifest, SearchIndex, ShardEntry, keys,
        manifest::shards_between,
        settings::{Refit, Settings},
        shard::{Boundaries, group_id},
        training::TrainingRules,
    },
    ids::{GroupId, RunId, ShardId},
    model::{ExtractorInfo, Recipe},
    store::Store,
};

/// Lists are written in pieces of about this many bytes, so that memory does not grow with the listing.
const SEGMENT_BYTES: usize = 32 << 20;

/// File name of the work list of `featurize`, in `runs/<run>/`.
pub(super) const FEATURIZE: &str = "featurize.jsonl";

/// Counts of a listing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listed {
    /// Objects that may be images.
    pub objects: u64,
    /// Hidden files, folder markers, and files that are plainly no images; `None` if only a part of the input was listed.
    pub ignored: Option<u64>,
    /// When the listing began and how long functions have worked on it before this call, if there were some.
    pub earlier: Option<(Timestamp, u64)>,
}

/// The shards and groups of an output that are finished.
#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) shards: Arc<HashSet<ShardId>>,
    pub(super) groups: HashSet<GroupId>,
    /// Groups that have a segment of the search index.
    pub(super) segments: HashSet<GroupId>,
}

/// The current version, if it has the same extractor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base<'a> {
    pub(super) manifest: &'a Manifest,
    /// Its shards, in key order.
    pub(super) shards: &'a [ShardEntry],
    /// Numbers of the groups of these shards.
    pub(super) group_of: &'a HashMap<ShardId, usize>,
}

/// A JSONL file in segments.
struct Segments {
    segment: Vec<u8>,
    number: usize,
    key: fn(&RunId, usize) -> String,
}

impl Segments {
    fn new(key: fn(&RunId, usize) -> String) -> Self {
        Segments { segment: Vec::new(), number: 0, key }
    }

    /// Adds lines that stay together.
    fn push<T: serde::Serialize>(&mut self, run: &RunId, lines: &[T]) -> Result<LineRange> {
        let offset = self.segment.len();
        for line in lines {
            dataset::push_json_line(&mut self.segment, line)?;
        }
        let Checksum { sha256, bytes } = Checksum::of(&self.segment[offset..]);
        Ok(LineRange { key: (self.key)(run, self.number), offset: offset as u64, length: bytes, sha256 })
    }

    async fn flush(&mut self, output: &dyn Store, run: &RunId, at_least: usize) -> Result<()> {
        if self.segment.len() >= at_least.max(1) {
            let body = std::mem::take(&mut self.segment);
            output.put(&(self.key)(run, self.number), body.into()).await?;
            self.number += 1;
        }
        Ok(())
    }
}

/// The shards of a group that is not complete yet.
#[derive(Default)]
struct Open {
    shards: Vec<PlannedShard>,
    objects: u64,
    again: bool,
}

/// Collects the shards and groups of a run.
pub(super) struct Planner<'a> {
    pub(super) output: &'a dyn Store,
    pub(super) run: &'a RunId,
    finished: Finished,
    extractor: &'a ExtractorInfo,
    settings: &'a Settings,
    /// How the classifier is trained, if one is fitted.
    classes: Option<TrainingRules>,
    /// Whether groups get segments of the search index.
    index: bool,
    /// Whether each line of a work list is the work of a function.
    by_functions: bool,
    /// The segments of the base version.
    segments: HashMap<&'a GroupId, Option<&'a Checksum>>,
    boundaries: Boundaries,
    pub(super) base: Option<Base<'a>>,
    lists: Segments,
    open: Open,
    pub(super) work: WorkList<'a>,
    pub(super) merges: Vec<MergeWork>,
    pub(super) groups: Vec<PlannedGroup>,
    pub(super) shards: u64,
    pub(super) objects_to_featurize: u64,
    pub(super) listed: Listed,
    /// Objects that the file of labels names, and names of the file without an object.
    pub(super) named: u64,
    pub(super) unnamed: u64,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        output: &'a dyn Store,
        input: &'a super::PlanInput,
        finished: Finished,
        extractor: &'a ExtractorInfo,
        base: Option<Base<'a>>,
    ) -> Result<Self> {
        // A classifier that is kept needs no sums.
        let fitted = input.settings.classifier && input.mode.refit == Refit::Always;
        let classes = fitted.then(|| input.settings.training_rules());
        Ok(Planner {
            output,
            run: &input.run,
            finished,
            extractor,
            settings: &input.settings,
            classes,
            index: SearchIndex::is_wanted(&input.settings, extractor),
            by_functions: input.execution.is_some(),
            segments: base.map(|base| dataset::segments_of(base.manifest)).unwrap_or_default(),
            boundaries: Boundaries::of_groups(input.settings.group_size())?,
            base,
            lists: Segments::new(keys::shard_list),
            open: Open::default(),
            work: WorkList::new(output, keys::run(&input.run, FEATURIZE), input.execution.is_some()),
            merges: Vec::new(),
            groups: Vec::new(),
            shards: 0,
            objects_to_featurize: 0,
            listed: Listed::default(),
            named: 0,
            unnamed: 0,
        })
    }

    /// Whether the shard is finished.
    pub(super) fn is_ready(&self, shard: &ShardId) -> bool {
        self.finished.shards.contains(shard)
    }

    /// Adds a finished shard of the base version.
    pub(super) async fn add_ready(&mut self, shard: &ShardEntry) -> Result<()> {
        let planned = PlannedShard { id: shard.id.clone(), objects: None };
        self.push(planned, shard.objects(), &shard.last).await
    }

    /// Adds the next shards of the listing.
    pub(super) async fn add_all(&mut self, shards: Vec<ListedShard>) -> Result<()> {
        for shard in shards {
            self.add(shard).await?;
        }
        Ok(())
    }

    /// Adds the next shard of the listing, and work for it unless it is finished.
    pub(super) async fn add(&mut self, shard: ListedShard) -> Result<()> {
        let ListedShard { id, count, first, last, named, objects } = shard;
        self.named += named;
        if let Some(objects) = &objects {
            self.objects_to_featurize += count;
            let Recipe { kind, decoding, words, model } = self.extractor.recipe();
            let work = ShardWork {
                run: self.run.clone(),
                shard: id.clone(),
                group: self.groups.len() as u64,
                objects: objects.clone(),
                sources: self.sources(&first, &last),
                labels: self.settings.label_rules(),
                decoding,
                kind,
                words,
                model,
                compression: self.settings.compression(),
            };
            self.work.push(&work, (objects.length, &id)).await?;
        }
        self.push(PlannedShard { id, objects }, count, &last).await
    }

    /// Adds a shard to the open group, and closes the group if the shard ends it.
    async fn push(&mut self, shard: PlannedShard, objects: u64, last: &str) -> Result<()> {
        self.shards += 1;
        self.open.objects += objects;
        self.open.again |= !shard.ready();
        self.open.shards.push(shard);
        if self.boundaries.ends_with(self.open.objects, objects, last) { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<()> {
        let Open { shards, objects, again } = std::mem::take(&mut self.open);
        if shards.is_empty() {
            return Ok(());
        }
        let id = group_id(shards.iter().map(|shard| &shard.id));
        let list = self.lists.push(self.run, &shards)?;
        self.lists.flush(self.output, self.run, SEGMENT_BYTES).await?;
        let ready = !again && self.finished.groups.contains(&id) && (!self.index || self.has_segment(&id));
        if !ready {
            let (base, nearest) = (self.base, self.nearest(&shards));
            let base_group = nearest.and_then(|nearest| base?.manifest.groups.get(nearest));
            let base_segment = base_group.and_then(|group| self.segments.get(&group.id).copied().flatten());
            let line = |makes| MergeWork {
                run: self.run.clone(),
                group: self.groups.len() as u64,
                shards: list.clone(),
                base: base_group.map(GroupRef::of),
                base_segment: base_segment.filter(|_| makes != Makes::Sums).cloned(),
                extractor: self.extractor.clone(),
                compression: self.settings.compression(),
                classes: self.classes.clone().map(|rules| ClassWork {
                    base: nearest.and_then(|nearest| kept_sums(base?.manifest, nearest, &rules)),
                    rules,
                }),
                makes,
                labels: self.settings.label_rules(),
            };
            self.merges.extend(self.makes(objects).iter().map(|makes| line(*makes)));
        }
        self.groups.push(PlannedGroup { id, ready, shards: shards.len() as u64, list });
        Ok(())
    }

    /// What is made of a group of this many objects: by one line of the work list each.
    fn makes(&self, objects: u64) -> &'static [Makes] {
        match (self.index, self.by_functions && objects > batches::APART) {
            (false, _) => &[Makes::Sums],
            (true, false) => &[Makes::Both],
            (true, true) => &[Makes::Sums, Makes::Segment],
        }
    }

    /// Whether the base version has a segment of the index for this group, and the file is there; or it needs none.
    fn has_segment(&self, group: &GroupId) -> bool {
        let segment = self.segments.get(group);
        segment.is_some_and(|segment| segment.is_none() || self.finished.segments.contains(group))
    }

    /// The number of the group of the base version that has most of these shards.
    fn nearest(&self, shards: &[PlannedShard]) -> Option<usize> {
        let base = self.base?;
        let mut common: HashMap<usize, usize> = HashMap::new();
        for group in shards.iter().filter_map(|shard| base.group_of.get(&shard.id)) {
            *common.entry(*group).or_default() += 1;
        }
        let (group, _) = common.into_iter().max_by_key(|(group, count)| (*count, usize::MAX - group))?;
        Some(group)
    }

    /// Shards of the base version whose key range overlaps `first..=last`.
    fn sources(&self, first: &str, last: &str) -> Vec<ShardId> {
        self.base.map_or(Vec::new(), |base| {
            shards_between(base.shards, first, last)
                .filter(|shard| shard.rows > 0)
                .map(|shard| shard.id.clone())
                .collect()
        })
    }

    /// Closes the last group.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.close().await
    }

    /// Writes the lists that are not written yet.
    pub(super) async fn write_lists(&mut self) -> Result<()> {
        let (work, lists) = (&mut self.work, &mut self.lists);
        try_join!(work.finish(), lists.flush(self.output, self.run, 0)).map(drop)
    }

    /// Deletes the lists that are written, if there is nothing to do.
    pub(super) async fn drop_lists(&mut self) -> Result<()> {
        for number in 0..self.lists.number {
            self.output.delete(&(self.lists.key)(self.run, number)).await?;
        }
        Ok(())
    }
}

/// Removes shards and groups that are made again.
impl Finished {
    pub(super) fn without(mut self, again: &BTreeSet<String>) -> Self {
        if !again.is_empty() {
            Arc::make_mut(&mut self.shards).retain(|shard| !again.contains(&keys::shard(shard)));
            self.groups.retain(|group| !again.contains(&keys::group(group)));
        }
        self
    }
}
