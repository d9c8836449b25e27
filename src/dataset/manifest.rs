//! The manifest of a version, and the records of its shards.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{keys, settings::Settings, to_json};
use crate::{
    Result,
    ids::{BasisId, ExtractorId, MomentsId, RunId, ShardId, Version, short_hex},
    image::Reject,
    model::ExtractorInfo,
    pca::{Basis, moments::TotalMoments},
};

/// The number of images with a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCount {
    /// None for images without a label.
    pub label: Option<String>,
    /// Number of images with features.
    pub images: u64,
}

/// Adds counts by label to `to`, which is sorted by label, with images without a label first.
pub(crate) fn add_labels(to: &mut Vec<LabelCount>, from: &[LabelCount]) {
    for count in from {
        match to.binary_search_by(|c| c.label.cmp(&count.label)) {
            Ok(at) => to[at].images += count.images,
            Err(at) => to.insert(at, count.clone()),
        }
    }
}

/// A row of the rejects table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedObject {
    /// Key of the object, relative to the input.
    pub path: String,
    /// Why it has no features.
    #[serde(flatten)]
    pub reject: Reject,
}

/// `shards/<id>/shard.json`: the record of a complete shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// A hash of the extractor and of the objects.
    pub id: ShardId,
    /// Number of rows of its features.
    pub rows: u64,
    /// Key of its first object, relative to the input.
    pub first: String,
    /// Key of its last object.
    pub last: String,
    /// Numbers of rows by label.
    pub labels: Vec<LabelCount>,
    /// Its objects without features.
    pub rejects: Vec<RejectedObject>,
}

/// A shard in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// A hash of the extractor and of the objects.
    pub id: ShardId,
    /// Number of rows of its features.
    pub rows: u64,
    /// Number of its objects without features.
    pub rejects: u64,
    /// Key of its first object, relative to the input.
    pub first: String,
    /// Key of its last object.
    pub last: String,
}

/// The PCA of a version without its vectors, which are in the basis file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BasisSummary {
    /// A hash of the extractor, the moments and the PCA settings.
    pub id: BasisId,
    /// Key of the basis file, relative to the output.
    pub key: String,
    /// Number of kept components, k.
    pub components: usize,
    /// `[k]`: sample variances of the scores, descending.
    pub explained_variance: Vec<f64>,
    /// `[k]`: the same divided by the total variance.
    pub explained_variance_ratio: Vec<f64>,
    /// Sum of the variances of all columns.
    pub total_variance: f64,
    /// Number of features of an image.
    pub columns: usize,
    /// Number of columns with the same value in all rows.
    pub constant_columns: usize,
    /// Smallest number of components that explain 90 % of the variance.
    pub components_for_90_percent: usize,
    /// Smallest number of components that explain 99 % of the variance.
    pub components_for_99_percent: usize,
}

/// Counts and times of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// Images whose features the model computed in this run.
    pub inferred: u64,
    /// Images whose features were copied from earlier work.
    pub copied: u64,
    /// Images with features whose keys the parent version does not have.
    pub added: u64,
    /// Images with features whose keys the parent version has with another etag.
    pub changed: u64,
    /// Images with features of the parent version whose keys this version does not have.
    pub removed: u64,
    /// Shards that an earlier run computed.
    pub shards_reused: u64,
    /// Shards that this run computed.
    pub shards_computed: u64,
    /// Time of the plan, milliseconds.
    pub plan_ms: u64,
    /// Time of all featurize calls, added, milliseconds.
    pub featurize_ms: u64,
    /// Time of all merges and the reduce, added, milliseconds.
    pub reduce_ms: u64,
    /// Time of all project calls, added, milliseconds.
    pub project_ms: u64,
}

/// `versions/<number>.json` of a published version: settings, counts, and the keys of all its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Number of the output format: [`FORMAT`](crate::dataset::FORMAT).
    pub format: u32,
    /// Number of the version.
    pub version: Version,
    /// The version that this one replaced. None for the first.
    pub parent: Option<Version>,
    /// The run that published it.
    pub run: RunId,
    /// Start of the run.
    pub created: Timestamp,
    /// Time of the publication.
    pub finished: Timestamp,
    /// Version of the program.
    pub pomona: String,
    /// Location of the images; absolute for a folder.
    pub input: String,
    /// The [`identity`](crate::store::Store::identity) of that location. None where the store has none, and for versions
    /// of release 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_identity: Option<String>,
    /// Settings of the run.
    pub settings: Settings,
    /// Identity of the extractor.
    pub extractor: ExtractorInfo,
    /// Number of images with features: rows of the tables of features and of scores.
    pub images: u64,
    /// Number of images without features: rows of the rejects table.
    pub rejects: u64,
    /// Number of ignored objects: hidden files and folder markers. None if only changed shards were listed.
    pub ignored: Option<u64>,
    /// Numbers of images with features by label.
    pub labels: Vec<LabelCount>,
    /// The PCA.
    pub basis: BasisSummary,
    /// Key of the total moments.
    pub moments: String,
    /// Keys of the tables for readers.
    pub outputs: Outputs,
    /// All shards, in key order.
    pub shards: Vec<ShardEntry>,
    /// Counts and times of the run.
    pub figures: RunFigures,
}

impl Manifest {
    /// The id of the total moments, from their key. None if the key has another form.
    pub fn moments_id(&self) -> Option<MomentsId> {
        keys::parse_totals(&self.moments)
    }

    /// The shards with keys in `first..=last`, in key order.
    pub fn shards_between(&self, first: &str, last: &str) -> impl Iterator<Item = &ShardEntry> {
        let start = self.shards.partition_point(|shard| shard.last.as_str() < first);
        self.shards[start..].iter().take_while(move |shard| shard.first.as_str() <= last)
    }

    /// Seconds from the start of the run to the publication.
    pub fn seconds(&self) -> f64 {
        self.finished.duration_since(self.created).as_secs_f64().max(0.0)
    }

    /// Keys of all files of this version except for the manifest.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let shards = self
            .shards
            .iter()
            .flat_map(|shard| [keys::features(&shard.id), keys::moments(&shard.id), keys::shard(&shard.id)]);
        let tables = [self.basis.key.clone(), self.moments.clone(), self.outputs.rejects.clone()];
        let scores = self.outputs.parts.iter().chain(&self.outputs.csv).cloned();
        shards.chain(tables).chain(scores).chain([keys::success(self.version)])
    }
}

/// Keys of a version's tables, relative to the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// The parts of the table of scores.
    pub parts: Vec<String>,
    /// The scores as CSV. None if the run did not write them.
    pub csv: Option<String>,
    /// The rejects table.
    pub rejects: String,
}

/// The state of a version number, the content of `versions/<number>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionState {
    /// A version that readers can use.
    Published(Box<Manifest>),
    /// A number that will never be a version.
    Abandoned {
        /// The number.
        version: Version,
        /// The run that abandoned it: the one that claimed it, or one that published a higher number.
        by: RunId,
    },
    /// A version that a vacuum or an erase removed. The number remains in use, so that a slow run that started from an
    /// older version does not publish below the current one.
    Removed {
        /// The number.
        version: Version,
    },
}

/// The id of total moments: a hash of row count, sums and sums of products.
pub(crate) fn moments_id(totals: &TotalMoments) -> MomentsId {
    let mut sha = Sha256::new();
    sha.update(totals.rows().to_le_bytes());
    for sum in totals.sums().iter().chain(totals.products()) {
        sha.update(sum.to_le_bytes());
    }
    short_hex(&sha.finalize()).into()
}

/// The id of a basis: a hash of extractor id, moments id and PCA settings.
pub(crate) fn basis_id(extractor: &ExtractorId, settings: &Settings, moments: &MomentsId) -> Result<BasisId> {
    let how = to_json(&(extractor, moments, settings.pca, settings.standardize))?;
    Ok(short_hex(&Sha256::digest(&how)).into())
}

impl BasisSummary {
    /// The summary of a basis with this id.
    pub fn new(basis: &Basis, id: BasisId) -> Self {
        BasisSummary {
            key: keys::basis(&id),
            id,
            components: basis.kept(),
            explained_variance: basis.explained_variance.clone(),
            explained_variance_ratio: basis.explained_variance_ratio.clone(),
            total_variance: basis.total_variance,
            columns: basis.columns(),
            constant_columns: basis.scale.iter().filter(|scale| **scale == 0.0).count(),
            components_for_90_percent: basis.components_for(0.90),
            components_for_99_percent: basis.components_for(0.99),
        }
    }
}
