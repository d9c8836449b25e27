//! The records of the stage `merge`.

use serde::{Deserialize, Serialize};

use super::{ClassWork, lines::LineRange};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Checksum, GroupEntry, GroupRef, RunFigures, keys, labelling::LabelRules, tables::Compression,
        timing::Timing,
    },
    ids::{GroupId, RunId, ShardId},
    model::ExtractorInfo,
    store::Store,
};

/// One line of `merge.jsonl`: a group of shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeWork {
    /// Id of the run.
    pub run: RunId,
    /// Number of the group, from 0.
    pub group: u64,
    /// The list of its shards: lines of [`PlannedShard`](super::PlannedShard).
    pub shards: LineRange,
    /// The group of the base version that has most of these shards.
    pub base: Option<GroupRef>,
    /// Its segment of the search index, whose rows are copied; `None` if none is made, or that group has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_segment: Option<Checksum>,
    /// Extractor of the features.
    pub extractor: ExtractorInfo,
    /// How the tables of its shards are compressed, a part of their ids.
    pub compression: Compression,
    /// The sums of classes. None if no classifier is fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassWork>,
    /// What is made.
    #[serde(default)]
    pub makes: Makes,
    /// How labels and splits follow from keys, a part of the ids too.
    #[serde(default, skip_serializing_if = "LabelRules::is_default")]
    pub labels: LabelRules,
}

/// What a line of `merge.jsonl` makes of a group. Both need the records of the shards only, so that two functions can work at the
/// same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Makes {
    /// The record and the sums.
    #[default]
    Sums,
    /// The segment of the search index.
    Segment,
    /// All three.
    Both,
}

/// A finished group: answer of `merge`, and `runs/<run>/merged/<group>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// Id of the run.
    pub run: RunId,
    /// Number of the group, from 0.
    pub group: u64,
    /// The group as a manifest has it. Its id differs from the planned one if an object could not be read.
    pub entry: GroupEntry,
    /// Its sums of classes, if they are kept.
    pub classes: Option<Checksum>,
    /// Its segment of the search index, if this work has made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Checksum>,
    /// Its shards that this run has computed.
    pub computed: Vec<ShardId>,
    /// Work on these shards, and images that they add to the base version or change.
    pub figures: RunFigures,
    /// Whether the rows of the base version are not all known.
    pub base_is_unknown: bool,
    /// When the work began and how long it took.
    pub timing: Timing,
}

/// The segment of a group: answer of `merge`, and `runs/<run>/indexed/<group>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// Id of the run.
    pub run: RunId,
    /// Number of the group, from 0.
    pub group: u64,
    /// Id of the group.
    pub id: GroupId,
    /// Its segment of the search index. None without rows.
    pub index: Option<Checksum>,
    /// When the work began and how long it took.
    pub timing: Timing,
}

/// Fails with `Dataset.Corrupt` if a record is that of something else.
pub(super) fn same<T: PartialEq>(found: &T, expected: &T, key: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DatasetCorrupt, "this is the record of something else").context("key", key))
}

/// Reads the record of a group that this run has finished. Fails with `Dataset.Corrupt` if `merge` has not written it.
pub(crate) async fn read_merged(output: &dyn Store, run: &RunId, group: u64) -> Result<Merged> {
    let key = keys::merge_record(run, group);
    let merged: Merged = dataset::from_record(&dataset::get_file(output, &key).await?, &key)?;
    same(&(&merged.run, merged.group), &(run, group), &key).map(|()| merged)
}

/// Reads the record of the segment of a merged group. Fails with `Dataset.Corrupt` if `merge` has not written it, or for a group of
/// other shards.
pub(super) async fn read_indexed(output: &dyn Store, merged: &Merged) -> Result<Indexed> {
    let key = keys::index_record(&merged.run, merged.group);
    let indexed: Indexed = dataset::from_record(&dataset::get_file(output, &key).await?, &key)?;
    let found = (&indexed.run, indexed.group, &indexed.id);
    same(&found, &(&merged.run, merged.group, &merged.entry.id), &key).map(|()| indexed)
}
