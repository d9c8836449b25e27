//! Sums of groups that grow while their shards are computed, so that no features are read again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use crate::{
    Result,
    ids::ShardId,
    pca::moments::{ShardMoments, TotalMoments},
    stages::{Known, MergeWork, ShardWork},
};

/// The groups with shards that are still to be computed. Shards come in their order, so few groups have sums at a time.
pub(super) struct OpenGroups(Mutex<HashMap<u64, Open>>);

struct Open {
    work: MergeWork,
    /// Shards that are still to be computed.
    shards: usize,
    known: Option<Known>,
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
                Some(shards) => drop(open.insert(work.group, Open { work, shards: *shards, known: None })),
                None => left.push(work),
            }
        }
        (OpenGroups(Mutex::new(open)), left)
    }

    /// Adds the sums of a computed shard. With the last shard of a group, returns what finishes the group.
    pub(super) fn add(
        &self,
        group: u64,
        shard: ShardId,
        sums: Option<ShardMoments>,
    ) -> Result<Option<(MergeWork, Option<Known>)>> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = groups.get_mut(&group) else { return Ok(None) };
        if let Some(sums) = sums {
            let columns = sums.columns();
            let zero = || Known { shards: HashSet::new(), sums: TotalMoments::zero(columns) };
            let known = open.known.get_or_insert_with(zero);
            known.sums.add(&sums)?;
            known.shards.insert(shard);
        }
        open.shards -= 1;
        if open.shards > 0 {
            return Ok(None);
        }
        Ok(groups.remove(&group).map(|open| (open.work, open.known)))
    }
}
