//! The shards of a run and the work for `featurize`, collected while the input is listed.
//!
//! Writes `runs/<run>/objects-*.jsonl`, the objects of the shards to compute.

use std::collections::HashSet;

use super::records::{ObjectRange, PlannedShard, ShardWork};
use crate::{
    Result,
    dataset::{self, Manifest, keys, shard::Cut},
    ids::{RunId, ShardId},
    model::Decoding,
    store::Store,
};

/// Object lists are written in pieces of about this many bytes, so that memory does not grow with the listing.
const SEGMENT_BYTES: usize = 32 << 20;

/// Counts of a listing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listed {
    /// Objects that may be images.
    pub objects: u64,
    /// Hidden files and folder markers; `None` if only a part of the input was listed.
    pub ignored: Option<u64>,
}

/// Collects the shards of a run.
pub(super) struct Planner<'a> {
    pub(super) output: &'a dyn Store,
    pub(super) run: &'a RunId,
    ready: HashSet<ShardId>,
    decoding: Decoding,
    /// The current version, if it has the same extractor.
    pub(super) base: Option<&'a Manifest>,
    segment: Vec<u8>,
    segments: usize,
    pub(super) work: Vec<ShardWork>,
    pub(super) shards: Vec<PlannedShard>,
    pub(super) objects_to_featurize: u64,
    pub(super) listed: Listed,
}

impl<'a> Planner<'a> {
    /// `ready` are the finished shards of the output.
    pub(super) fn new(
        output: &'a dyn Store,
        run: &'a RunId,
        ready: HashSet<ShardId>,
        decoding: Decoding,
        base: Option<&'a Manifest>,
    ) -> Self {
        Planner {
            output,
            run,
            ready,
            decoding,
            base,
            segment: Vec::new(),
            segments: 0,
            work: Vec::new(),
            shards: Vec::new(),
            objects_to_featurize: 0,
            listed: Listed::default(),
        }
    }

    /// Whether the shard is finished.
    pub(super) fn is_ready(&self, shard: &ShardId) -> bool {
        self.ready.contains(shard)
    }

    /// Adds a finished shard.
    pub(super) fn add_ready(&mut self, id: ShardId) {
        self.shards.push(PlannedShard { id, objects: None });
    }

    /// Adds the next shard of the listing, and work for it unless it is finished.
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
        let (run, decoding) = (self.run.clone(), self.decoding);
        self.work.push(ShardWork { run, shard: cut.id, objects, sources, decoding });
        if self.segment.len() >= SEGMENT_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Shards of the base version whose key range overlaps `first..=last`.
    fn sources(&self, first: &str, last: &str) -> Vec<ShardId> {
        self.base.map_or(Vec::new(), |base| base.shards_between(first, last).map(|s| s.id.clone()).collect())
    }

    fn segment_key(&self) -> String {
        keys::objects(self.run, self.segments)
    }

    /// Writes the objects that are not written yet.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if !self.segment.is_empty() {
            let body = std::mem::take(&mut self.segment);
            self.output.put(&self.segment_key(), body.into()).await?;
            self.segments += 1;
        }
        Ok(())
    }
}
