//! The shard plan: content-defined cuts of the sorted listing, into shards and into groups of shards.
//!
//! A shard is a sequence of consecutive objects. A hash of each key decides whether the key ends its shard, so that adding
//! or deleting an object moves only the nearest boundaries. From half of the target size on, a few keys end the shard;
//! from four fifths on, many do, and the largest shard has five quarters of the target size. One key in eight target
//! sizes ends its shard in any case. These keys are fixed points: a change before one of them leaves the shards after it
//! as they are. Groups of shards are cut in the same way, by the last keys of their shards.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    labelling::{Labelling, Labels},
    tables::Compression,
};
use crate::{
    Error, ErrorKind, Result,
    ids::{ExtractorId, GroupId, ShardId, short_hex},
    store::Object,
};

/// Default target size of a shard on one machine, objects.
pub const DEFAULT_SHARD_SIZE: u32 = 1_024;
/// Default target size of a shard on AWS, where it decides how long the longest function takes. Shards have 250 images on
/// average: packed images then need fewer than 5,000 GETs a million.
pub const DEFAULT_SHARD_SIZE_ON_AWS: u32 = 320;
/// Default and largest target size of a group, objects.
pub const DEFAULT_GROUP_SIZE: u32 = 32_768;
/// Largest target size of a shard, objects. The sums of a group, which may end with a shard of five quarters of this
/// number, have 64 bits: see [`crate::pca::moments`].
pub const MAX_SHARD_SIZE: u32 = crate::pca::moments::MAX_SHARD_ROWS as u32 / 2;

/// Computes a [`ShardId`] from the objects of the shard.
///
/// For an object that could not be read for a temporary reason (no permission, the network), the reason is hashed instead
/// of the etag. The shard without the object then has another id than the shard with it.
#[derive(Clone, Debug)]
pub struct ShardHasher(Sha256);

impl ShardHasher {
    /// A hasher for shards of features of this extractor.
    pub fn new(extractor: &ExtractorId, compression: Compression) -> Self {
        let mut hasher = ShardHasher(Sha256::new());
        hasher.text("shard 2");
        hasher.text(extractor.as_str());
        hasher.text(match compression {
            Compression::Snappy => "snappy",
            Compression::Zstd => "zstd",
        });
        hasher
    }

    /// Adds the next object, in key order.
    pub fn push(&mut self, key: &str, etag: &str, labels: Labels<'_>) {
        self.text(key);
        self.text(etag);
        self.option(labels.label);
        self.option(labels.split);
    }

    fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn option(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            // No text has this length.
            None => self.0.update(u64::MAX.to_le_bytes()),
        }
    }

    /// The id of the shard.
    pub fn finish(self) -> ShardId {
        short_hex(&self.0.finalize()).into()
    }
}

/// The id of a group of these shards.
pub fn group_id<'a>(shards: impl IntoIterator<Item = &'a ShardId>) -> GroupId {
    let mut sha = Sha256::new();
    sha.update("group 2");
    for shard in shards {
        sha.update((shard.as_str().len() as u64).to_le_bytes());
        sha.update(shard.as_str());
    }
    short_hex(&sha.finalize()).into()
}

/// Decides where shards or groups end.
#[derive(Clone, Copy, Debug)]
pub struct Boundaries {
    target: u64,
    /// The first of the two words of a key's hash that decide: shards and groups end at different keys.
    word: usize,
}

impl Boundaries {
    /// Boundaries of shards for a target size of 1 to [`MAX_SHARD_SIZE`] objects. Fails with `Input.Invalid` for other
    /// numbers.
    pub fn new(target: u32) -> Result<Self> {
        if (1..=MAX_SHARD_SIZE).contains(&target) {
            return Ok(Boundaries { target: u64::from(target), word: 0 });
        }
        let message = format!("the shard size must be between 1 and {MAX_SHARD_SIZE}");
        Err(Error::new(ErrorKind::InputInvalid, message).context("shard size", target))
    }

    /// Boundaries of groups for a target size of 1 to [`DEFAULT_GROUP_SIZE`] objects. Fails with `Input.Invalid` for other
    /// numbers.
    pub fn of_groups(target: u32) -> Result<Self> {
        if (1..=DEFAULT_GROUP_SIZE).contains(&target) {
            return Ok(Boundaries { target: u64::from(target), word: 2 });
        }
        let message = format!("the group size must be between 1 and {DEFAULT_GROUP_SIZE}");
        Err(Error::new(ErrorKind::InputInvalid, message).context("group size", target))
    }

    /// The smallest shard, objects, except for shards that end at a fixed point or at the end of the listing.
    pub fn min(&self) -> u64 {
        self.target.div_ceil(2)
    }

    /// The largest shard, objects.
    pub fn max(&self) -> u64 {
        self.target + self.target / 4
    }

    /// Whether a shard ends with `key` if that is its object number `len`.
    pub fn ends(&self, len: u64, key: &str) -> bool {
        self.ends_with(len, 1, key)
    }

    /// Whether a group of `len` objects ends with `key`, the last of its last shard of `step` objects.
    pub fn ends_with(&self, len: u64, step: u64, key: &str) -> bool {
        if len >= self.max() {
            return true;
        }
        let digest = Sha256::digest(key);
        let one_in = self.one_in(len);
        self.chance(&digest, 0, self.target * 8, step) || (len >= self.min() && self.chance(&digest, 1, one_in, step))
    }

    /// Mean length of a shard, objects, if the hashes of keys are random: less than the target.
    pub fn mean(&self) -> f64 {
        let target = self.target as f64;
        let (mut mean, mut goes_on) = (0.0, 1.0);
        for len in 1..=self.max() {
            mean += goes_on;
            let in_range = if len < self.min() { 0.0 } else { 1.0 / self.one_in(len) as f64 };
            goes_on *= (1.0 - 0.125 / target) * (1.0 - in_range);
        }
        mean
    }

    /// One key in this many ends a shard of `len` objects, if it has at least half of the target size.
    fn one_in(&self, len: u64) -> u64 {
        // With these numbers, shards of the largest size are rare, whose boundaries do not depend on the content, and after
        // a change the boundaries soon are those of before.
        if len * 5 < self.target * 4 { self.target * 2 / 3 } else { self.target / 8 }.max(1)
    }

    /// Lengths of the shards of so many objects with made-up keys.
    pub fn lengths(&self, objects: u64) -> Vec<u64> {
        let (mut lengths, mut len) = (Vec::new(), 0);
        for number in 0..objects {
            len += 1;
            if number + 1 == objects || self.ends(len, &format!("{number:09}.jpg")) {
                lengths.push(std::mem::take(&mut len));
            }
        }
        lengths
    }

    /// Whether a shard ends with `key` wherever it began. A listing that starts behind such a key has the shards of one that
    /// starts at the first key.
    pub fn is_fixed(&self, key: &str) -> bool {
        self.chance(&Sha256::digest(key), 0, self.target * 8, 1)
    }

    /// Whether one of the two words of a key's hash is among the smallest `step` in `one_in`.
    fn chance(&self, digest: &[u8], word: usize, one_in: u64, step: u64) -> bool {
        let bytes: [u8; 8] = std::array::from_fn(|j| digest[8 * (self.word + word) + j]);
        u64::from_le_bytes(bytes) < (u64::MAX / one_in).saturating_mul(step)
    }
}

/// Cuts a listing into shards, with one shard in memory at a time.
#[derive(Debug)]
pub struct Sharder {
    boundaries: Boundaries,
    hasher: ShardHasher,
    labelling: Arc<Labelling>,
    objects: Vec<Object>,
}

/// A shard of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// A hash of the extractor, the compression and the objects.
    pub id: ShardId,
    /// Consecutive objects in key order, at least one.
    pub objects: Vec<Object>,
}

impl Sharder {
    /// A plan for shards with ids of this hasher, which is new.
    pub fn new(boundaries: Boundaries, hasher: ShardHasher, labelling: Arc<Labelling>) -> Self {
        Sharder { boundaries, hasher, labelling, objects: Vec::new() }
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
        let mut hasher = self.hasher.clone();
        for object in &objects {
            hasher.push(&object.key, object.etag.as_str(), self.labelling.of_object(object));
        }
        Some(Cut { id: hasher.finish(), objects })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::dataset::labelling::LabelRules;

    fn object(key: String) -> Object {
        Object { key, etag: "1".into(), size: 1, modified: 0, packed: None }
    }

    fn hasher() -> ShardHasher {
        ShardHasher::new(&"x".into(), Compression::Snappy)
    }

    fn by_folder() -> Arc<Labelling> {
        Arc::new(Labelling::new(&LabelRules::default()).unwrap())
    }

    fn cut(keys: impl IntoIterator<Item = String>, target: u32) -> Vec<Cut> {
        let mut sharder = Sharder::new(Boundaries::new(target).unwrap(), hasher(), by_folder());
        let mut shards: Vec<_> = keys.into_iter().filter_map(|key| sharder.push(object(key))).collect();
        shards.extend(sharder.finish());
        shards
    }

    fn keys(n: usize) -> impl Iterator<Item = String> {
        (0..n).map(|i| format!("fruit/{i:07}.jpg"))
    }

    #[test]
    fn sizes_are_at_most_five_quarters_of_the_target_and_average_near_it() {
        let shards = cut(keys(100_000), 256);
        let mean = 100_000 / shards.len();
        assert!((180..=256).contains(&mean), "{mean}");
        assert!(shards.iter().all(|s| s.objects.len() <= 320));
        let small = shards.iter().filter(|s| s.objects.len() < 128).count();
        assert!(small < shards.len() / 8, "{small} of {}", shards.len());
        let largest = shards.iter().filter(|s| s.objects.len() == 320).count();
        assert!(largest < shards.len() / 30, "{largest} of {}", shards.len());
    }

    /// Sizes of groups in objects, for shards of about 256 objects.
    fn groups(shards: &[Cut], target: u32) -> Vec<GroupId> {
        let boundaries = Boundaries::of_groups(target).unwrap();
        let (mut groups, mut ids, mut len) = (Vec::new(), Vec::new(), 0);
        for shard in shards {
            let step = shard.objects.len() as u64;
            len += step;
            ids.push(shard.id.clone());
            if boundaries.ends_with(len, step, &shard.objects.last().unwrap().key) {
                assert!(len <= u64::from(target) * 5 / 4 + step);
                groups.push(group_id(&std::mem::take(&mut ids)));
                len = 0;
            }
        }
        groups.push(group_id(&ids));
        groups
    }

    #[test]
    fn groups_are_near_their_target_and_survive_changes_elsewhere() {
        let all: Vec<_> = keys(60_000).collect();
        let whole = groups(&cut(all.clone(), 16), 1_024);
        assert!((55..=90).contains(&whole.len()), "{}", whole.len());
        let whole: HashSet<_> = whole.into_iter().collect();
        let changed: Vec<usize> = (0..60)
            .map(|i| {
                let left = all.iter().enumerate().filter(|(j, _)| *j != i * 977).map(|(_, key)| key.clone());
                groups(&cut(left, 16), 1_024).iter().filter(|group| !whole.contains(*group)).count()
            })
            .collect();
        let few = changed.iter().filter(|count| **count <= 2).count();
        assert!(few >= 54 && changed.iter().all(|count| *count <= 16), "{changed:?}");
    }

    #[test]
    fn an_etag_changes_the_id_of_its_shard_only() {
        let before = cut(keys(5_000), 128);
        let mut sharder = Sharder::new(Boundaries::new(128).unwrap(), hasher(), by_folder());
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
            prop_assert!(shards.iter().all(|s| s.objects.len() <= (target + target / 4) as usize));
        }

        /// A change touches one or two shards on average. The fixed points limit the number in every case.
        #[test]
        fn adding_or_deleting_one_object_leaves_the_shards_far_from_it(seed in 0usize..20_000) {
            let all: Vec<_> = keys(20_000).collect();
            let without = all.iter().enumerate().filter(|(i, _)| *i != seed).map(|(_, k)| k.clone());
            let (with, without) = (cut(all.clone(), 64), cut(without, 64));
            let ids: HashSet<_> = without.iter().map(|s| &s.id).collect();
            let changed = with.iter().filter(|s| !ids.contains(&s.id)).count();
            prop_assert!((1..=16).contains(&changed), "{changed} of {} shards changed", with.len());
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
