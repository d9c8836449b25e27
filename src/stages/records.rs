//! The records that stages exchange: inputs, answers, lines of work lists, and the files below `runs/<run>/`.
//!
//! All of them are JSON. Field names are a contract between the stages of a run, and with the state machine.

use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use super::merges::read_merged;
use super::{
    PredictWork, STORE_CONCURRENCY,
    merges::{read_indexed, same},
};
pub use super::{
    input::{PlanInput, RunInput},
    lines::LineRange,
    merges::{Indexed, Makes, MergeWork, Merged},
};
use crate::{
    Result,
    cost::batches,
    dataset::{
        self, BasisSummary, Classification, FileRef, GroupEntry, LabelCount, Moments, Part, RunFigures, SearchIndex,
        keys,
        labelling::LabelRules,
        settings::{Mode, Settings},
        tables::Compression,
        timing::Timing,
    },
    ids::{BasisId, GroupId, RunId, ShardId, Version},
    model::{Decoding, ExtractorInfo, ExtractorKind, Recipe},
    store::{self, Store},
};

/// Answer of the plan stage: keys and counts only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Id of the run.
    pub run: RunId,
    /// Whether the current version is the one that this run would publish. There is then nothing to do.
    pub up_to_date: bool,
    /// The current version, if there is one; the run reuses its work.
    pub base: Option<Version>,
    /// Objects of the data set.
    pub objects: u64,
    /// Objects in shards that are not finished.
    pub objects_to_featurize: u64,
    /// Shards of the data set.
    pub shards: u64,
    /// Shards that are not finished.
    pub shards_to_featurize: u64,
    /// Key of the work list of `featurize`: JSON lines, one [`ShardWork`] each.
    pub work_list: String,
    /// Key of the list of its batches, in a large run: JSON lines, one [`Batch`](super::Batch) each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_list: Option<String>,
    /// Groups of the data set that are not finished.
    pub groups: u64,
    /// Key of the work list of `merge`: JSON lines, one [`MergeWork`] each.
    pub merge_work_list: String,
}

/// A shard of the planned data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// Id of the shard, provided that all of its objects can be read.
    pub id: ShardId,
    /// The list of its objects; `None` if an earlier run has finished the shard.
    pub objects: Option<LineRange>,
}

impl PlannedShard {
    /// Whether an earlier run has finished the shard.
    pub fn ready(&self) -> bool {
        self.objects.is_none()
    }
}

/// A group of the planned data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedGroup {
    /// Id of the group, provided that all of its objects can be read.
    pub id: GroupId,
    /// Whether an earlier run has finished the group.
    pub ready: bool,
    /// Number of its shards.
    pub shards: u64,
    /// The list of its shards: lines of [`PlannedShard`].
    pub list: LineRange,
}

/// `runs/<run>/plan.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Id of the run.
    pub run: RunId,
    /// Location of the images; absolute for a folder.
    pub input: String,
    /// The identity of that location.
    #[serde(default)]
    pub input_identity: Option<String>,
    /// How the run was started.
    #[serde(default)]
    pub mode: Mode,
    /// The settings that decide the result.
    pub settings: Settings,
    /// Model, preprocessing and arithmetic of the features.
    pub extractor: ExtractorInfo,
    /// The current version, if there is one.
    pub base: Option<Version>,
    /// Images of the base version; 0 without one.
    pub base_images: u64,
    /// Whether records of the base version are damaged, so that nothing is compared with its rows.
    #[serde(default)]
    pub base_is_unknown: bool,
    /// Objects of the data set.
    pub objects: u64,
    /// Hidden files, folder markers, and files that are plainly no images; `None` if only a part of the input was listed.
    pub ignored: Option<u64>,
    /// Images that the file of labels names and that are not in the input; `None` without such a file, and if only a part
    /// of the input was listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels_unused: Option<u64>,
    /// Functions of a map that run at the same time, on AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Whether the run keeps the basis of the base version.
    pub keep_basis: bool,
    /// Keys of the notices that were in the inbox; the run deletes them after publishing.
    pub notices: Vec<String>,
    /// Number of shards of the data set.
    pub shards: u64,
    /// Groups of shards of the data set, in key order.
    pub groups: Vec<PlannedGroup>,
    /// When the plan was made and how long that took.
    pub timing: Timing,
}

impl Plan {
    /// Key of the plan of a run.
    pub fn key(run: &RunId) -> String {
        keys::run(run, "plan.json")
    }

    /// Reads the plan of a run. Fails with `Dataset.Corrupt` if it is that of another run.
    pub(crate) async fn read(output: &dyn Store, run: &RunId) -> Result<Plan> {
        let (key, plan) = (Plan::key(run), dataset::read_record::<Plan>(output, &Plan::key(run)).await?);
        same(&plan.run, run, &key).map(|()| plan)
    }

    /// Whether the version gets a search index.
    pub(crate) fn has_index(&self) -> bool {
        SearchIndex::is_wanted(&self.settings, &self.extractor)
    }

    /// Reads the record of the segment of a group, if another function has made it than merged the group. Fails with
    /// `Dataset.Corrupt` if it is missing.
    pub(crate) async fn indexed(&self, output: &dyn Store, merged: &Merged) -> Result<Option<Indexed>> {
        if !self.has_index() || merged.index.is_some() || merged.entry.rows == 0 {
            return Ok(None);
        }
        read_indexed(output, merged).await.map(Some)
    }

    /// Numbers of the groups that this run finishes.
    pub(crate) fn merges(&self) -> impl Iterator<Item = u64> {
        self.groups.iter().zip(0..).filter(|(group, _)| !group.ready).map(|(_, number)| number)
    }

    /// Shards that a call of `featurize` computes, of so many.
    pub(crate) fn shards_per_call(&self, shards: u64) -> u64 {
        self.concurrency.map_or(1, |most| batches::of_featurize(shards, self.settings.shard_size(), most))
    }

    /// Parts that a call of `project` computes, of so many. `all` are the images and the parts of the version.
    pub(crate) fn parts_per_call(&self, parts: u64, all: (u64, u64)) -> u64 {
        let rows = u32::try_from(all.0 / all.1.max(1)).unwrap_or(u32::MAX).max(1);
        self.concurrency.map_or(1, |most| batches::of_project(parts, rows, most))
    }
}

/// One line of `featurize.jsonl`: a shard to compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardWork {
    /// Id of the run.
    pub run: RunId,
    /// The planned shard.
    pub shard: ShardId,
    /// Number of its group.
    #[serde(default)]
    pub group: u64,
    /// The list of its objects.
    pub objects: LineRange,
    /// Shards of the base version whose rows can be copied.
    pub sources: Vec<ShardId>,
    /// How labels and splits follow from keys. What a file of labels says is in the lines of the objects.
    #[serde(default, skip_serializing_if = "LabelRules::is_default")]
    pub labels: LabelRules,
    /// How the extractor decodes JPEGs.
    #[serde(default, skip_serializing_if = "Decoding::is_full")]
    pub decoding: Decoding,
    /// What computes the features.
    #[serde(default, skip_serializing_if = "ExtractorKind::is_network")]
    pub kind: ExtractorKind,
    /// SHA-256 of the file of visual words in the output, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// The model of the user's, if it is one. The output keeps its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Box<ExtractorInfo>>,
    /// How the table is compressed.
    #[serde(default)]
    pub compression: Compression,
}

impl ShardWork {
    /// What a function has to load for it.
    pub fn recipe(&self) -> Recipe {
        Recipe { kind: self.kind, decoding: self.decoding, words: self.words.clone(), model: self.model.clone() }
    }
}

/// A computed shard: answer of `featurize`, and `runs/<run>/featurized/<planned>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Featurized {
    /// The planned shard.
    pub planned: ShardId,
    /// The shard that was written. Its id differs from the planned one if an object could not be read.
    pub shard: ShardId,
    /// Rows with features.
    pub rows: u64,
    /// Objects without features.
    pub rejects: u64,
    /// Images that went through the model.
    pub inferred: u64,
    /// Images whose rows were copied.
    pub copied: u64,
    /// Rows whose key is not in the base version.
    pub added: u64,
    /// Rows whose key is in the base version with another etag.
    pub changed: u64,
    /// Whether a table of the base version could not be read, so that `added` counts rows that the base may have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base_is_unknown: bool,
    /// When the work began and how long it took.
    pub timing: Timing,
}

/// File name of the rejects table of a run, in `runs/<run>/`.
pub(super) const REJECTS: &str = "rejects.parquet";

/// Answer of `reduce`, and `runs/<run>/reduced.json`. The Lambda returns it without the lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduced {
    /// Id of the run.
    pub run: RunId,
    /// Whether the run would publish the current version again, which only the computed shards show. It has then ended.
    #[serde(default)]
    pub up_to_date: bool,
    /// The version number that the run has claimed; the current version if that is up to date.
    pub version: Version,
    /// Rows with features.
    pub images: u64,
    /// Objects without features.
    pub rejects: u64,
    /// Id, file and variances of the basis.
    pub basis: BasisSummary,
    /// The total moments.
    pub moments: Moments,
    /// The classifier, or why there is none.
    pub classifier: Option<Classification>,
    /// The search index, if the version has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<SearchIndex>,
    /// Parts of the PCA table, one per shard that has rows.
    pub parts: u64,
    /// Parts that were not copied from the base version.
    pub parts_to_project: u64,
    /// Key of the work list of `project`: JSON lines, one [`PartWork`] each.
    pub work_list: String,
    /// Key of the list of its batches, in a large run: JSON lines, one [`Batch`](super::Batch) each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_list: Option<String>,
    /// Images per label.
    pub labels: Vec<LabelCount>,
    /// Groups of the version, in key order.
    pub groups: Vec<GroupEntry>,
    /// `runs/<run>/rejects.parquet`
    pub rejects_table: FileRef,
    /// Counts and milliseconds of the run up to this stage.
    pub figures: RunFigures,
    /// When the stage began and how long it took.
    pub timing: Timing,
}

impl Reduced {
    /// Key of the record of a run.
    pub fn key(run: &RunId) -> String {
        keys::run(run, "reduced.json")
    }

    /// Reads the record of a run. Fails with `Dataset.Corrupt` if it is that of another run.
    pub(crate) async fn read(output: &dyn Store, run: &RunId) -> Result<Reduced> {
        let (key, reduced) = (Reduced::key(run), dataset::read_record::<Reduced>(output, &Reduced::key(run)).await?);
        same(&reduced.run, run, &key).map(|()| reduced)
    }
}

/// One line of `project.jsonl`: a part of the PCA table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartWork {
    /// Id of the run.
    pub run: RunId,
    /// Number of the part, from 0, in key order.
    pub part: u64,
    /// The shard to project.
    pub shard: ShardId,
    /// Its table of features.
    pub features: FileRef,
    /// The version that the part belongs to.
    pub version: Version,
    /// The basis to project onto.
    pub basis: BasisId,
    /// Its file.
    pub basis_file: FileRef,
    /// Extractor of the features.
    pub extractor: ExtractorInfo,
    /// How the table is compressed.
    pub compression: Compression,
    /// Whether to write one file per label, in `label=<label>/` folders.
    pub partition_by_label: bool,
    /// Whether to write the rows as CSV too.
    pub csv: bool,
    /// Whether that CSV is safe in a spreadsheet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub csv_for_spreadsheets: bool,
    /// What predictions need. None without a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predict: Option<PredictWork>,
}

/// A written part: answer of `project`, and `runs/<run>/projected/<part>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projected {
    /// Id of the run.
    pub run: RunId,
    /// The part, as a list of parts has it.
    #[serde(flatten)]
    pub part: Part,
    /// Its rows as CSV, before all parts are joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<FileRef>,
    /// When the work began and how long it took; `None` if the part was copied from the base version.
    pub timing: Option<Timing>,
}

/// Answer of `publish`: the published version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Id of the run.
    pub run: RunId,
    /// The version that was published.
    pub version: Version,
    /// Rows with features and scores.
    pub images: u64,
    /// Objects without features.
    pub rejects: u64,
    /// Principal components.
    pub components: usize,
    /// Share of the variance that the components explain, 0 to 1.
    pub explained: f64,
    /// Key of the manifest. This and the following keys are relative to the output.
    pub manifest: String,
    /// Folder of the features.
    pub features: String,
    /// Key of the basis.
    pub basis: String,
    /// Prefix of the keys of the scores.
    pub pca: String,
    /// Key of the rejects table.
    pub rejects_table: String,
    /// Key of the CSV, if the settings ask for one.
    pub csv: Option<String>,
}

/// Reads the record of a shard that this run was to compute; `None` if that failed.
pub(crate) async fn featurized(output: &dyn Store, run: &RunId, planned: ShardId) -> Result<Option<Featurized>> {
    let key = keys::featurized(run, &planned);
    let Some(record) = store::get_opt(output, &key).await? else { return Ok(None) };
    let featurized: Featurized = dataset::from_record(&record, &key)?;
    same(&featurized.planned, &planned, &key).map(|()| Some(featurized))
}

/// Reads the records of parts, in their order.
pub(crate) fn read_projected(output: &dyn Store, run: &RunId, parts: u64) -> impl Stream<Item = Result<Projected>> {
    stream::iter(0..parts)
        .map(move |part| async move {
            let key = keys::projected(run, part);
            let projected: Projected = dataset::from_record(&dataset::get_file(output, &key).await?, &key)?;
            same(&(&projected.run, projected.part.part), &(run, part), &key).map(|()| projected)
        })
        .buffered(STORE_CONCURRENCY)
}

/// Reads a work list.
pub(crate) async fn read_work_list<T: DeserializeOwned + Serialize>(output: &dyn Store, key: &str) -> Result<Vec<T>> {
    dataset::from_sealed_lines(&output.get(key).await?, key)
}
