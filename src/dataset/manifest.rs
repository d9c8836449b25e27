//! What a version and its shards hold: the records that readers and later runs find.

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

/// Images with one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCount {
    pub label: Option<String>,
    pub images: u64,
}

/// Adds counts of labels; the result is sorted by label, images without one first.
pub fn add_labels(to: &mut Vec<LabelCount>, from: &[LabelCount]) {
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
    pub path: String,
    #[serde(flatten)]
    pub reject: Reject,
}

/// `shards/<id>/shard.json`: what a finished shard holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    pub id: ShardId,
    /// Rows of its features.
    pub rows: u64,
    /// First and last key of its objects.
    pub first: String,
    pub last: String,
    pub labels: Vec<LabelCount>,
    pub rejects: Vec<RejectedObject>,
}

/// A shard as a version names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    pub id: ShardId,
    pub rows: u64,
    pub rejects: u64,
    pub first: String,
    pub last: String,
}

/// The PCA of a version in figures; the vectors stand in the basis file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BasisSummary {
    pub id: BasisId,
    pub key: String,
    pub components: usize,
    pub explained_variance: Vec<f64>,
    pub explained_variance_ratio: Vec<f64>,
    pub total_variance: f64,
    pub columns: usize,
    pub constant_columns: usize,
    /// Components that explain at least this share of the variance.
    pub components_for_90_percent: usize,
    pub components_for_99_percent: usize,
}

/// What the parts of a run cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// Images that went through the model in this run.
    pub inferred: u64,
    /// Images whose features were copied from earlier work.
    pub copied: u64,
    /// Images with features, beside those of the parent version: keys that it has not, or has with another etag, and
    /// keys that only it has.
    pub added: u64,
    pub changed: u64,
    pub removed: u64,
    pub shards_reused: u64,
    pub shards_computed: u64,
    /// Milliseconds of work by stage, added over shards and parts.
    pub plan_ms: u64,
    pub featurize_ms: u64,
    pub reduce_ms: u64,
    pub project_ms: u64,
}

/// `versions/<number>.json` of a published version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub version: Version,
    /// The version that this one replaced.
    pub parent: Option<Version>,
    pub run: RunId,
    /// When the run began and when it published.
    pub created: Timestamp,
    pub finished: Timestamp,
    pub pomona: String,
    pub input: String,
    pub settings: Settings,
    pub extractor: ExtractorInfo,
    /// Rows of features and scores.
    pub images: u64,
    pub rejects: u64,
    /// Objects that were passed over, hidden files and folder markers; not known when only parts were listed.
    pub ignored: Option<u64>,
    pub labels: Vec<LabelCount>,
    pub basis: BasisSummary,
    /// Key of the total moments.
    pub moments: String,
    pub outputs: Outputs,
    pub shards: Vec<ShardEntry>,
    pub figures: RunFigures,
}

impl Manifest {
    /// The name of the total moments: a hash of them. None for a key that is not one of total moments.
    pub fn moments_id(&self) -> Option<MomentsId> {
        keys::parse_totals(&self.moments)
    }

    /// Shards whose range of keys meets `first..=last`.
    pub fn shards_between(&self, first: &str, last: &str) -> impl Iterator<Item = &ShardEntry> {
        let start = self.shards.partition_point(|shard| shard.last.as_str() < first);
        self.shards[start..].iter().take_while(move |shard| shard.first.as_str() <= last)
    }

    /// Seconds from the start of its run to its publication.
    pub fn seconds(&self) -> f64 {
        self.finished.duration_since(self.created).as_secs_f64().max(0.0)
    }

    /// Every file that this version consists of, the manifest itself left out.
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

/// Keys of what a version consists of, for readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    pub parts: Vec<String>,
    pub csv: Option<String>,
    pub rejects: String,
}

/// What stands at a version's key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionState {
    Published(Box<Manifest>),
    /// Given up by its run, or passed by a faster one.
    Abandoned {
        version: Version,
        by: RunId,
    },
    /// Was published, and has been cleaned away since. The number stays taken: a slow run that started from an older
    /// version must not publish below the current one.
    Removed {
        version: Version,
    },
}

/// The name of exact sums: a hash of them.
pub fn moments_id(totals: &TotalMoments) -> MomentsId {
    let mut sha = Sha256::new();
    sha.update(totals.rows().to_le_bytes());
    for sum in totals.sums().iter().chain(totals.products()) {
        sha.update(sum.to_le_bytes());
    }
    short_hex(&sha.finalize()).into()
}

/// The name of a basis: a hash of what it was fitted on and how.
pub fn basis_id(extractor: &ExtractorId, settings: &Settings, moments: &MomentsId) -> Result<BasisId> {
    let how = to_json(&(extractor, moments, settings.pca, settings.standardize))?;
    Ok(short_hex(&Sha256::digest(&how)).into())
}

impl BasisSummary {
    /// The figures of a basis.
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
