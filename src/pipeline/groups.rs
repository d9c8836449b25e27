//! Sums of groups that grow while their shards are computed, so that no features are read again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::{
    Result,
    ids::ShardId,
    stages::{Known, MergeWork, ShardSums, ShardWork, Sums},
};

/// The groups with shards that are still to be computed. Shards come in their order, so few groups have sums at a time.
pub(super) struct OpenGroups(Mutex<HashMap<u64, Open>>);

struct Open {
    work: MergeWork,
    /// Shards that are still to be computed.
    shards: usize,
    known: Known,
}

impl OpenGroups {
    /// Takes the groups to finish. Also returns those without shards to compute.
    pub(super) fn new(work: &[ShardWork], merges: Vec<MergeWork>) -> (Self, Vec<MergeWork>) {
        let mut shards: HashMap<u64, usize> = HashMap::new();
        for shard in work {
            *shards.entry(shard.group).or_default() += 1;
        }
        let (mut open, mut left) = (HashMap::new(), Vec::new());
        for work in merges {
            match shards.get(&work.group) {
                Some(shards) => drop(open.insert(work.group, Open { work, shards: *shards, known: Known::default() })),
                None => left.push(work),
            }
        }
        (OpenGroups(Mutex::new(open)), left)
    }

    /// Which sums of a shard of this group are needed.
    pub(super) fn needed(&self, group: u64) -> Sums {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match groups.get(&group).map(|open| &open.work) {
            Some(work) if work.base.is_some() => Sums::WholeOrChange,
            // The sums of classes add up to those of the group, and read all features.
            Some(work) if work.classes.is_some() => Sums::NotNeeded,
            _ => Sums::Whole,
        }
    }

    /// Adds the sums of a computed shard. With the last shard of a group, returns what finishes the group.
    pub(super) fn add(&self, group: u64, shard: ShardId, sums: ShardSums) -> Result<Option<(MergeWork, Known)>> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = groups.get_mut(&group) else { return Ok(None) };
        open.known.add(shard, sums)?;
        open.shards -= 1;
        if open.shards > 0 {
            return Ok(None);
        }
        Ok(groups.remove(&group).map(|open| (open.work, open.known)))
    }
}
