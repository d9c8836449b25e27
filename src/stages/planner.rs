//! Collecting the shards of a run and the work that they need.

use std::collections::HashSet;

use super::records::{ObjectRange, PlannedShard, ShardWork};
use crate::{
    Result,
    dataset::{self, Manifest, keys, shard::Cut},
    ids::{RunId, ShardId},
    store::Store,
};

/// Object lists are written in pieces of about this many bytes, so that the listing is never in memory whole.
const SEGMENT_BYTES: usize = 32 << 20;

/// Counts of a listing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listed {
    /// Objects that may be images.
    pub objects: u64,
    /// Objects that are not images; not known when parts were skipped.
    pub ignored: Option<u64>,
}

/// The shards of a run and the work that they need, while the listing comes in.
pub(super) struct Planner<'a> {
    pub(super) output: &'a dyn Store,
    pub(super) run: &'a RunId,
    ready: HashSet<ShardId>,
    /// The current version, when its features are of the same extractor.
    pub(super) base: Option<&'a Manifest>,
    segment: Vec<u8>,
    segments: usize,
    pub(super) work: Vec<ShardWork>,
    pub(super) shards: Vec<PlannedShard>,
    pub(super) objects_to_featurize: u64,
    pub(super) listed: Listed,
}

impl<'a> Planner<'a> {
    /// `ready` are the shards that earlier runs have finished.
    pub(super) fn new(
        output: &'a dyn Store,
        run: &'a RunId,
        ready: HashSet<ShardId>,
        base: Option<&'a Manifest>,
    ) -> Self {
        Planner {
            output,
            run,
            ready,
            base,
            segment: Vec::new(),
            segments: 0,
            work: Vec::new(),
            shards: Vec::new(),
            objects_to_featurize: 0,
            listed: Listed::default(),
        }
    }

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
            dataset::push_json_line(&mut self.segment, object)?;
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
        keys::objects(self.run, self.segments)
    }

    /// Writes what is left of the list of objects.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if !self.segment.is_empty() {
            let body = std::mem::take(&mut self.segment);
            self.output.put(&self.segment_key(), body.into()).await?;
            self.segments += 1;
        }
        Ok(())
    }
}
