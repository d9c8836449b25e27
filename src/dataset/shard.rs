//! The shard plan: content-defined cuts of the sorted listing.
//!
//! A shard is a sequence of consecutive objects. A hash of each key decides whether the key ends its shard, so that adding
//! or deleting an object moves only the nearest boundaries. Between a quarter of the target size and twice the target
//! size, each key ends the shard with the same probability. One key in eight target sizes ends its shard in any case.
//! These keys are fixed points: a change before one of them leaves the shards after it as they are.

use sha2::{Digest, Sha256};

use crate::{
    Error, ErrorKind, Result,
    ids::{ExtractorId, ShardId, short_hex},
    store::Object,
};

/// Default target size of a shard, objects.
pub const DEFAULT_SHARD_SIZE: u32 = 1_024;
/// Shards whose moments one merge adds, if there are more: it reads 1.7 GB for 1,280 features.
pub const MERGE_GROUP: usize = 256;
/// Largest target size of a shard, objects. A shard has at most twice this number of rows, because its sums have 64 bits:
/// see [`crate::pca::moments`].
pub const MAX_SHARD_SIZE: u32 = crate::pca::moments::MAX_SHARD_ROWS as u32 / 2;

/// Computes a [`ShardId`] from the objects of the shard.
///
/// For an object that could not be read for a temporary reason (no permission, the network), the reason is hashed instead
/// of the etag. The shard without the object then has another id than the shard with it.
#[derive(Clone, Debug)]
pub struct ShardHasher(Sha256);

impl ShardHasher {
    /// A hasher for shards of features of this extractor.
    pub fn new(extractor: &ExtractorId) -> Self {
        let mut sha = Sha256::new();
        sha.update(extractor.as_str());
        ShardHasher(sha)
    }

    /// Adds the next object, in key order.
    pub fn push(&mut self, key: &str, etag: &str) {
        for part in [key, etag] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The id of the shard.
    pub fn finish(self) -> ShardId {
        short_hex(&self.0.finalize()).into()
    }
}

/// Decides where shards end.
#[derive(Clone, Copy, Debug)]
pub struct Boundaries {
    target: u64,
}

impl Boundaries {
    /// Boundaries for a target size of 1 to [`MAX_SHARD_SIZE`] objects. Fails with `Input.Invalid` for other numbers.
    pub fn new(target: u32) -> Result<Self> {
        if (1..=MAX_SHARD_SIZE).contains(&target) {
            Ok(Boundaries { target: u64::from(target) })
        } else {
            Err(Error::new(ErrorKind::InputInvalid, format!("the shard size must be between 1 and {MAX_SHARD_SIZE}"))
                .context("shard size", target))
        }
    }

    /// The smallest shard, objects, except for shards that end at a fixed point or at the end of the listing.
    pub fn min(&self) -> u64 {
        self.target.div_ceil(4)
    }

    /// The largest shard, objects.
    pub fn max(&self) -> u64 {
        self.target * 2
    }

    /// Whether a shard ends with `key` if that is its object number `len`.
    pub fn ends(&self, len: u64, key: &str) -> bool {
        if len >= self.max() {
            return true;
        }
        let digest = Sha256::digest(key);
        let word = |i: usize| {
            let bytes: [u8; 8] = std::array::from_fn(|j| digest[8 * i + j]);
            u64::from_le_bytes(bytes)
        };
        let chance = |i: usize, one_in: u64| word(i) < u64::MAX / one_in;
        // This probability makes cuts at the largest size rare, as those boundaries do not depend on the content.
        chance(0, self.target * 8) || (len >= self.min() && chance(1, (self.target * 3 / 5).max(1)))
    }
}

/// Cuts a listing into shards, with one shard in memory at a time.
#[derive(Debug)]
pub struct Sharder {
    boundaries: Boundaries,
    extractor: ExtractorId,
    objects: Vec<Object>,
}

/// A shard of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// A hash of the extractor and the objects.
    pub id: ShardId,
    /// Consecutive objects in key order, at least one.
    pub objects: Vec<Object>,
}

impl Sharder {
    /// A plan for features of this extractor.
    pub fn new(boundaries: Boundaries, extractor: ExtractorId) -> Self {
        Sharder { boundaries, extractor, objects: Vec::new() }
    }

    /// Adds the next object, in key order. Returns a shard if this object ends it.
    pub fn push(&mut self, object: Object) -> Option<Cut> {
        let ends = self.boundaries.ends(self.objects.len() as u64 + 1, &object.key);
        self.objects.push(object);
        if ends { self.finish() } else { None }
    }

    /// The shard of the remaining objects at the end of the listing. None without remaining objects.
    pub fn finish(&mut self) -> Option<Cut> {
        if self.objects.is_empty() {
            return None;
        }
        let objects = std::mem::take(&mut self.objects);
        let mut hasher = ShardHasher::new(&self.extractor);
        for object in &objects {
            hasher.push(&object.key, object.etag.as_str());
        }
        Some(Cut { id: hasher.finish(), objects })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn object(key: String) -> Object {
        Object { key, etag: "1".into(), size: 1, modified: 0 }
    }

    fn cut(keys: impl IntoIterator<Item = String>, target: u32) -> Vec<Cut> {
        let mut sharder = Sharder::new(Boundaries::new(target).unwrap(), "x".into());
        let mut shards: Vec<_> = keys.into_iter().filter_map(|key| sharder.push(object(key))).collect();
        shards.extend(sharder.finish());
        shards
    }

    fn keys(n: usize) -> impl Iterator<Item = String> {
        (0..n).map(|i| format!("fruit/{i:07}.jpg"))
    }

    #[test]
    fn sizes_are_at_most_two_targets_and_average_near_one() {
        let shards = cut(keys(100_000), 256);
        let mean = 100_000 / shards.len();
        assert!((192..=288).contains(&mean), "{mean}");
        assert!(shards.iter().all(|s| s.objects.len() <= 512));
        let small = shards.iter().filter(|s| s.objects.len() < 64).count();
        assert!(small < shards.len() / 8, "{small} of {}", shards.len());
    }

    #[test]
    fn an_etag_changes_the_id_of_its_shard_only() {
        let before = cut(keys(5_000), 128);
        let mut sharder = Sharder::new(Boundaries::new(128).unwrap(), "x".into());
        let mut after = Vec::new();
        for (i, key) in keys(5_000).enumerate() {
            let mut object = object(key);
            if i == 2_500 {
                object.etag = "2".into();
            }
            after.extend(sharder.push(object));
        }
        after.extend(sharder.finish());
        let changed = before.iter().zip(&after).filter(|(a, b)| a.id != b.id).count();
        assert_eq!((before.len(), changed), (after.len(), 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_object_is_in_exactly_one_shard_in_order(n in 0usize..3_000, target in 1u32..200) {
            let shards = cut(keys(n), target);
            let joined: Vec<_> = shards.iter().flat_map(|s| &s.objects).map(|o| o.key.clone()).collect();
            prop_assert_eq!(joined, keys(n).collect::<Vec<_>>());
            prop_assert!(shards.iter().all(|s| s.objects.len() <= 2 * target as usize));
        }

        /// A change touches one or two shards on average. The fixed points limit the number in every case.
        #[test]
        fn adding_or_deleting_one_object_leaves_the_shards_far_from_it(seed in 0usize..20_000) {
            let all: Vec<_> = keys(20_000).collect();
            let without = all.iter().enumerate().filter(|(i, _)| *i != seed).map(|(_, k)| k.clone());
            let (with, without) = (cut(all.clone(), 64), cut(without, 64));
            let ids: HashSet<_> = without.iter().map(|s| &s.id).collect();
            let changed = with.iter().filter(|s| !ids.contains(&s.id)).count();
            prop_assert!((1..=8).contains(&changed), "{changed} of {} shards changed", with.len());
        }
    }

    #[test]
    fn a_single_change_touches_one_or_two_shards_nearly_always() {
        let all: Vec<_> = keys(20_000).collect();
        let whole: HashSet<_> = cut(all.clone(), 64).into_iter().map(|s| s.id).collect();
        let changed: Vec<usize> = (0..200)
            .map(|i| {
                let gone = i * 97;
                let left = all.iter().enumerate().filter(|(j, _)| *j != gone).map(|(_, k)| k.clone());
                cut(left, 64).iter().filter(|s| !whole.contains(&s.id)).count()
            })
            .collect();
        let few = changed.iter().filter(|c| **c <= 2).count();
        assert!(few >= 190, "{few} of 200");
    }
}
