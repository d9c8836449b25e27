//! Sums that stages in one process hand to each other, so that neither features nor files of sums are read again.
//!
//! Sums are exact, so a group's sums can be those of the base version plus the rows that are new minus the rows that are
//! gone. Of a shard in which one image is new, only the row of that image is summed.

use std::collections::{HashMap, HashSet};

use ndarray::{Array2, Axis};

use super::earlier::{EarlierRow, EarlierRows, Removed};
use crate::{
    Result,
    classify::ClassSums,
    dataset::{
        FileRef, GroupRecord,
        tables::{self, FeatureRows},
    },
    ids::{GroupId, ShardId},
    model::ExtractorInfo,
    pca::moments::{ShardMoments, TotalMoments},
    store::Store,
};

/// Reads a file of sums. Fails with `Dataset.Corrupt`.
pub(crate) async fn read_sums(output: &dyn Store, file: &FileRef, columns: usize) -> Result<TotalMoments> {
    file.decode(output, columns, tables::read_sums).await
}

/// Whether the sums of the features of a shard are computed while they are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sums {
    NotNeeded,
    /// Those of all rows.
    Whole,
    /// Those of the rows that differ from the base version, if they are fewer than the others.
    WholeOrChange,
}

/// Where the rows of a shard come from.
#[derive(Default)]
pub(super) struct Origins {
    /// Rows of the base version that are copied.
    pub(super) copied: Vec<EarlierRow>,
    /// Rows of the shard that the base version does not have.
    pub(super) added: Vec<usize>,
}

/// The rows whose sums are computed.
pub(super) enum ToSum {
    Nothing,
    Whole,
    /// Rows that are new, and rows of the base version that are gone.
    Change(Array2<f32>, Removed),
}

impl ToSum {
    /// The fewest rows that give the sums of a shard. `keys` are the first and the last of its objects.
    pub(super) fn new(
        sums: Sums,
        table: &FeatureRows,
        origins: &Origins,
        earlier: &EarlierRows,
        keys: [&str; 2],
    ) -> Result<ToSum> {
        let few = |rows: usize| rows <= table.len() / 2;
        match sums {
            Sums::NotNeeded => Ok(ToSum::Nothing),
            Sums::WholeOrChange if few(origins.added.len()) && !origins.copied.is_empty() => {
                let removed = earlier.removed(&origins.copied, keys)?;
                if !few(origins.added.len() + removed.features.nrows()) {
                    return Ok(ToSum::Whole);
                }
                Ok(ToSum::Change(table.features.select(Axis(0), &origins.added), removed))
            }
            Sums::Whole | Sums::WholeOrChange => Ok(ToSum::Whole),
        }
    }

    /// Computes the sums. `whole` are all rows of the shard.
    pub(super) fn sums(self, whole: Option<Array2<f32>>, extractor: &ExtractorInfo) -> Result<ShardSums> {
        Ok(match (self, whole) {
            (ToSum::Change(added, Removed { features, sources }), _) => ShardSums::Change(Change {
                added: moments_of(&added, extractor)?,
                removed: moments_of(&features, extractor)?,
                sources,
            }),
            (ToSum::Whole, Some(features)) => ShardSums::Whole(moments_of(&features, extractor)?),
            _ => ShardSums::Empty,
        })
    }
}

/// The sums of features.
pub(crate) fn moments_of(features: &Array2<f32>, extractor: &ExtractorInfo) -> Result<ShardMoments> {
    ShardMoments::from_features(features.view(), extractor.feature_range.per_unit())
}

/// The sums of a computed shard.
#[derive(Debug)]
pub(crate) enum ShardSums {
    /// None: the shard has no rows, or they are not needed.
    Empty,
    /// Of all rows.
    Whole(ShardMoments),
    /// Of the rows that distinguish the shard from shards of the base version.
    Change(Change),
}

/// How the rows of a computed shard differ from those of shards of the base version.
#[derive(Debug)]
pub(crate) struct Change {
    /// Sums of the rows that the base version does not have.
    pub(crate) added: ShardMoments,
    /// Sums of the rows that only the base version has.
    pub(crate) removed: ShardMoments,
    /// The shards of the base version, and how many of their rows lie between the first and the last key of this shard.
    pub(crate) sources: Vec<(ShardId, u64)>,
}

/// Sums of the computed shards of a group.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Shards with [`ShardSums::Whole`], and the sums of their rows.
    pub(crate) whole: HashSet<ShardId>,
    pub(crate) sums: Option<TotalMoments>,
    /// Shards with [`ShardSums::Change`].
    pub(crate) changed: HashSet<ShardId>,
    pub(crate) added: Option<TotalMoments>,
    pub(crate) removed: Option<TotalMoments>,
    /// Rows of shards of the base version that are accounted for.
    sources: HashMap<ShardId, u64>,
}

impl Known {
    /// Adds the sums of a shard. Fails with `Dataset.Corrupt` if it has another number of columns.
    pub(crate) fn add(&mut self, shard: ShardId, sums: ShardSums) -> Result<()> {
        match sums {
            ShardSums::Empty => {}
            ShardSums::Whole(sums) => {
                add(&mut self.sums, &sums)?;
                self.whole.insert(shard);
            }
            ShardSums::Change(change) => {
                add(&mut self.added, &change.added)?;
                add(&mut self.removed, &change.removed)?;
                for (source, rows) in change.sources {
                    *self.sources.entry(source).or_default() += rows;
                }
                self.changed.insert(shard);
            }
        }
        Ok(())
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.changed.is_empty()
    }

    /// Whether all rows of this shard of the base version are accounted for by the changes.
    pub(crate) fn covers(&self, shard: &ShardId) -> bool {
        self.sources.contains_key(shard)
    }

    /// Whether all changes are relative to shards that `base` has and `group` has not, and account for all rows of these.
    pub(crate) fn changes_apply(&self, base: &GroupRecord, group: &GroupRecord) -> bool {
        let kept: HashSet<_> = group.shards.iter().map(|shard| &shard.id).collect();
        let rows: HashMap<_, _> = base.shards.iter().map(|shard| (&shard.id, shard.rows)).collect();
        self.sources.iter().all(|(source, counted)| !kept.contains(source) && rows.get(source) == Some(counted))
    }
}

/// The sums of a group that are known after it was finished.
#[derive(Debug)]
pub(crate) struct GroupSums {
    pub(crate) moments: Option<TotalMoments>,
    /// Those of its classes, if they are kept.
    pub(crate) classes: Option<ClassSums>,
}

/// The sums of groups that this process has finished.
#[derive(Debug, Default)]
pub(crate) struct KnownGroups {
    pub(crate) moments: KnownSums<TotalMoments>,
    pub(crate) classes: KnownSums<ClassSums>,
}

/// The sums of some groups, all together.
#[derive(Debug)]
pub(crate) struct KnownSums<T> {
    pub(crate) groups: HashSet<GroupId>,
    pub(crate) total: Option<T>,
}

impl<T> Default for KnownSums<T> {
    fn default() -> Self {
        KnownSums { groups: HashSet::new(), total: None }
    }
}

impl KnownGroups {
    /// Adds the sums of a group. Fails with `Dataset.Corrupt` if it has another number of columns.
    pub(crate) fn add(&mut self, group: GroupId, GroupSums { moments, classes }: GroupSums) -> Result<()> {
        if let Some(sums) = classes {
            add_to(&mut self.classes.total, sums, |total, sums| total.add(sums))?;
            self.classes.groups.insert(group.clone());
        }
        if let Some(sums) = moments {
            add_to(&mut self.moments.total, sums, |total, sums| total.add(sums))?;
            self.moments.groups.insert(group);
        }
        Ok(())
    }
}

/// Adds to a total that may be empty. The first sums become the total: nothing is added to zeros.
pub(super) fn add_to<T>(total: &mut Option<T>, sums: T, add: impl FnOnce(&mut T, &T) -> Result<()>) -> Result<()> {
    match total {
        Some(total) => add(total, &sums),
        None => {
            *total = Some(sums);
            Ok(())
        }
    }
}

fn add(to: &mut Option<TotalMoments>, sums: &ShardMoments) -> Result<()> {
    if sums.rows() == 0 {
        return Ok(());
    }
    to.get_or_insert_with(|| TotalMoments::zero(sums.columns())).add(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::ShardEntry;

    fn group(shards: &[(&str, u64)]) -> GroupRecord {
        let entry = |(id, rows): &(&str, u64)| ShardEntry {
            id: ShardId::from(*id),
            rows: *rows,
            rejects: 0,
            first: String::new(),
            last: String::new(),
            features: None,
            record: None,
        };
        GroupRecord {
            id: "g".into(),
            extractor: "e".into(),
            rows: shards.iter().map(|(_, rows)| rows).sum(),
            labels: Vec::new(),
            shards: shards.iter().map(entry).collect(),
            rejects: Vec::new(),
            sums: None,
        }
    }

    fn changed(sources: &[(&str, u64)]) -> ShardSums {
        let sums = || ShardMoments::zero(1);
        let sources = sources.iter().map(|(id, rows)| (ShardId::from(*id), *rows)).collect();
        ShardSums::Change(Change { added: sums(), removed: sums(), sources })
    }

    #[test]
    fn changes_apply_if_they_account_for_all_rows_of_shards_that_are_gone() {
        let (base, new) = (group(&[("a", 10), ("b", 20)]), group(&[("a", 10), ("c", 12), ("d", 9)]));
        let applies = |changes: &[(&str, &[(&str, u64)])]| {
            let mut known = Known::default();
            for (shard, sources) in changes {
                known.add(ShardId::from(*shard), changed(sources)).unwrap();
            }
            known.changes_apply(&base, &new)
        };
        assert!(applies(&[("c", &[("b", 12)]), ("d", &[("b", 8)])]), "a shard that was cut in two");
        assert!(!applies(&[("c", &[("b", 12)]), ("d", &[("b", 7)])]), "an image between the two is gone");
        assert!(!applies(&[("c", &[("b", 20), ("a", 1)])]), "the other shard is still there");
        assert!(!applies(&[("c", &[("b", 20), ("x", 3)])]), "a shard of another group");
    }
}
