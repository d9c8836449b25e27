//! Every record that one stage hands over to another: inputs, answers, work lists, and what lies below `runs/<run>/`.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Result,
    dataset::{
        self, BasisSummary, LabelCount, RunFigures, ShardEntry, keys,
        settings::{Mode, Settings},
        timing::Timing,
    },
    ids::{BasisId, ExtractorId, RunId, ShardId, Version},
    model::ExtractorInfo,
    store::{self, Object, Store},
};

/// Input of the plan stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    /// Name of the run.
    pub run: RunId,
    /// What the result depends on.
    #[serde(default)]
    pub settings: Settings,
    /// How the run goes about its work.
    #[serde(default)]
    pub mode: Mode,
}

impl PlanInput {
    /// The default settings, and a listing of everything.
    pub fn new(run: RunId) -> Self {
        PlanInput { run, settings: Settings::default(), mode: Mode::default() }
    }
}

/// Answer of the plan stage: keys and counts only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Name of the run.
    pub run: RunId,
    /// The current version already is what this run would make.
    pub up_to_date: bool,
    /// The version that the run starts from.
    pub base: Option<Version>,
    /// Objects of the data set.
    pub objects: u64,
    /// Objects in shards that are not there yet.
    pub objects_to_featurize: u64,
    /// Shards of the data set.
    pub shards: u64,
    /// Shards that are not there yet.
    pub shards_to_featurize: u64,
    /// Key of the work list of `featurize`: JSON lines, one [`ShardWork`] each.
    pub work_list: String,
    /// Groups of shards whose sums are added beforehand; none when one reducer can add them all.
    pub groups: u64,
    /// Key of the work list of `merge`: JSON lines, one [`MergeWork`] each.
    pub merge_work_list: String,
}

/// Where a shard's objects are listed: bytes of a JSONL file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRange {
    /// Key of the file.
    pub key: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A shard of the data set to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// Name of the shard, if all of its objects can be read.
    pub id: ShardId,
    /// Where its objects are listed; none when it was finished by an earlier run.
    pub objects: Option<ObjectRange>,
}

impl PlannedShard {
    /// Whether it was finished by an earlier run.
    pub fn ready(&self) -> bool {
        self.objects.is_none()
    }
}

/// `runs/<run>/plan.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the run.
    pub run: RunId,
    /// Location of the images.
    pub input: String,
    /// What the result depends on.
    pub settings: Settings,
    /// What makes the features.
    pub extractor: ExtractorInfo,
    /// The version that the run starts from.
    pub base: Option<Version>,
    /// Images of the base version.
    pub base_images: u64,
    /// Objects of the data set.
    pub objects: u64,
    /// Objects that were passed over; not known when only parts of the input were listed.
    pub ignored: Option<u64>,
    /// The sums of the base version are the start; otherwise zero is.
    pub from_base: bool,
    /// The basis of the base version is kept.
    pub keep_basis: bool,
    /// Keys of the notices that this run takes care of.
    pub notices: Vec<String>,
    /// Files of sums that were added beforehand.
    pub groups: u64,
    /// Shards of the data set, in key order.
    pub shards: Vec<PlannedShard>,
    /// What it took.
    pub timing: Timing,
}

impl Plan {
    /// Its key.
    pub fn key(run: &RunId) -> String {
        keys::run(run, "plan.json")
    }
}

/// Input of the stages that need no more than the run's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInput {
    /// Name of the run.
    pub run: RunId,
}

/// One line of `featurize.jsonl`: a shard to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardWork {
    /// Name of the run.
    pub run: RunId,
    /// The shard to make.
    pub shard: ShardId,
    /// Where its objects are listed.
    pub objects: ObjectRange,
    /// Shards whose rows may be copied.
    pub sources: Vec<ShardId>,
}

/// A shard that was made; also kept as `runs/<run>/featurized/<shard>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Featurized {
    /// The shard that was asked for.
    pub planned: ShardId,
    /// The shard that was made: another one when objects could not be read this time.
    pub shard: ShardId,
    /// Rows with features.
    pub rows: u64,
    /// Objects without features.
    pub rejects: u64,
    /// Images that went through the model.
    pub inferred: u64,
    /// Images whose rows were copied.
    pub copied: u64,
    /// Rows whose key the base version does not have.
    pub added: u64,
    /// Rows that the base version has with another etag.
    pub changed: u64,
    /// What it took.
    pub timing: Timing,
}

/// One line of `merge.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeWork {
    /// Name of the run.
    pub run: RunId,
    /// Number of the group, from 0.
    pub group: u64,
    /// Shards of the group.
    pub shards: Vec<PlannedShard>,
    /// Features per image.
    pub columns: usize,
    /// What made the features.
    pub extractor: ExtractorId,
}

/// A group whose sums were added; also kept as `runs/<run>/merged/<group>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// Number of the group, from 0.
    pub group: u64,
    /// Rows whose sums were added.
    pub rows: u64,
    /// What it took.
    pub timing: Timing,
}

/// The rejects table of a run, below `runs/<run>/`.
pub(super) const REJECTS: &str = "rejects.parquet";

/// `runs/<run>/reduced.json`, and (without the lists) the answer of the stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduced {
    /// Name of the run.
    pub run: RunId,
    /// The number that was claimed for this run.
    pub version: Version,
    /// Rows with features.
    pub images: u64,
    /// Objects without features.
    pub rejects: u64,
    /// The PCA in figures.
    pub basis: BasisSummary,
    /// Key of the total moments.
    pub moments: String,
    /// Parts of the PCA table, one per shard that has rows.
    pub parts: u64,
    /// Those of them that are not there yet.
    pub parts_to_project: u64,
    /// Key of the work list of `project`: JSON lines, one [`PartWork`] each.
    pub work_list: String,
    /// Images per label.
    pub labels: Vec<LabelCount>,
    /// Shards of the version, in key order.
    pub shards: Vec<ShardEntry>,
    /// What the run cost so far.
    pub figures: RunFigures,
    /// What it took.
    pub timing: Timing,
}

impl Reduced {
    /// Its key.
    pub fn key(run: &RunId) -> String {
        keys::run(run, "reduced.json")
    }
}

/// One line of `project.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartWork {
    /// Name of the run.
    pub run: RunId,
    /// Number of the part, from 0, in key order.
    pub part: u64,
    /// The shard to project.
    pub shard: ShardId,
    /// The version that the part belongs to.
    pub version: Version,
    /// The basis to project on.
    pub basis: BasisId,
    /// What made the features.
    pub extractor: ExtractorId,
    /// Features per image.
    pub columns: usize,
    /// Whether each label gets a folder.
    pub partition_by_label: bool,
    /// Whether to write the rows as text too.
    pub csv: bool,
}

/// A part that was written; also kept as `runs/<run>/projected/<part>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projected {
    /// Number of the part.
    pub part: u64,
    /// Rows of the part.
    pub rows: u64,
    /// Keys of its files, without those of the CSV.
    pub keys: Vec<String>,
    /// What it took; none where the part was copied from the version before.
    pub timing: Option<Timing>,
}

/// What a run has made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Name of the run.
    pub run: RunId,
    /// The version that was published.
    pub version: Version,
    /// Rows with features and scores.
    pub images: u64,
    /// Objects without features.
    pub rejects: u64,
    /// Components that were kept.
    pub components: usize,
    /// Share of the variance that the components explain together.
    pub explained: f64,
    /// Key of the manifest, relative to the output as the keys that follow.
    pub manifest: String,
    /// Key of the basis.
    pub basis: String,
    /// Folder of the scores.
    pub pca: String,
    /// Key of the rejects table.
    pub rejects_table: String,
    /// Key of the scores as text, where they were asked for.
    pub csv: Option<String>,
}

/// The objects of a planned shard.
pub(super) async fn read_objects(output: &dyn Store, range: &ObjectRange) -> Result<Vec<Object>> {
    let lines = output.get_range(&range.key, range.offset..range.offset + range.length).await?;
    dataset::from_json_lines(&lines, &range.key)
}

/// What became of a planned shard in this run; none when making it failed.
pub(crate) async fn featurized(output: &dyn Store, run: &RunId, planned: &PlannedShard) -> Result<Option<Featurized>> {
    let key = keys::featurized(run, &planned.id);
    store::get_opt(output, &key).await?.map(|record| dataset::from_json(&record, &key)).transpose()
}

/// The lines of a map's work list.
pub(crate) async fn read_work_list<T: DeserializeOwned>(output: &dyn Store, key: &str) -> Result<Vec<T>> {
    dataset::from_json_lines(&output.get(key).await?, key)
}
