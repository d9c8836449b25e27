//! Sums that stages in one process hand to each other, so that neither features nor files of sums are read again.
//!
//! Sums are exact, so a group's sums can be those of the base version plus the rows that are new minus the rows that are
//! gone. Of a shard in which one image is new, only the row of that image is summed.

use std::collections::{HashMap, HashSet};

use crate::{
    Result,
    dataset::GroupRecord,
    ids::{GroupId, ShardId},
    pca::moments::{ShardMoments, TotalMoments},
};

/// The sums of a computed shard.
#[derive(Debug)]
pub(crate) enum ShardSums {
    /// The shard has no rows.
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

/// The sums of groups that this process has finished.
#[derive(Debug, Default)]
pub(crate) struct KnownGroups {
    pub(crate) groups: HashSet<GroupId>,
    pub(crate) sums: Option<TotalMoments>,
}

impl KnownGroups {
    /// Adds the sums of a group. Fails with `Dataset.Corrupt` if it has another number of columns.
    pub(crate) fn add(&mut self, group: GroupId, sums: TotalMoments) -> Result<()> {
        match &mut self.sums {
            Some(total) => total.add(&sums)?,
            None => self.sums = Some(sums),
        }
        self.groups.insert(group);
        Ok(())
    }
}

fn add(to: &mut Option<TotalMoments>, sums: &ShardMoments) -> Result<()> {
    if sums.rows() == 0 {
        return Ok(());
    }
    to.get_or_insert_with(|| TotalMoments::zero(sums.columns())).add(sums)
}
