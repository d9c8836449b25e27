//! The manifest of a version, and the records of its groups and shards.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    classification::{Classification, PredictedPart},
    figures::RunFigures,
    findings::{Duplicates, Outliers},
    index::SearchIndex,
    keys,
    record::{Checksum, FileRef},
    released::Released,
    settings::Settings,
    to_json,
};
use crate::{
    Result,
    ids::{BasisId, ExtractorId, GroupId, MomentsId, RunId, ShardId, Version, short_hex},
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

/// `shards/<id>/shard.json`: the record of a finished shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// A hash of the extractor, the compression and the objects.
    pub id: ShardId,
    /// The extractor of its features.
    pub extractor: ExtractorId,
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
    /// `shards/<id>/features.parquet`. None without rows; there is then no such file.
    pub features: Option<Checksum>,
}

/// A shard in the record of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// A hash of the extractor, the compression and the objects.
    pub id: ShardId,
    /// Number of rows of its features.
    pub rows: u64,
    /// Number of its objects without features.
    pub rejects: u64,
    /// Key of its first object, relative to the input.
    pub first: String,
    /// Key of its last object.
    pub last: String,
    /// `shards/<id>/features.parquet`. None without rows, and in format 1.
    #[serde(default)]
    pub features: Option<Checksum>,
    /// `shards/<id>/shard.json`. None if the function that worked on the shard failed, and in format 1.
    #[serde(default)]
    pub record: Option<Checksum>,
}

impl ShardEntry {
    /// Number of its objects.
    pub fn objects(&self) -> u64 {
        self.rows + self.rejects
    }

    /// Its table of features. None without rows.
    pub fn features(&self) -> Option<FileRef> {
        (self.rows > 0).then(|| FileRef { key: keys::features(&self.id), checksum: self.features.clone() })
    }
}

/// The shards with keys in `first..=last`, of shards in key order.
pub(crate) fn shards_between<'a>(
    shards: &'a [ShardEntry],
    first: &str,
    last: &'a str,
) -> impl Iterator<Item = &'a ShardEntry> {
    let start = shards.partition_point(|shard| shard.last.as_str() < first);
    shards[start..].iter().take_while(move |shard| shard.first.as_str() <= last)
}

/// `groups/<id>/group.json`: the record of a group of shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// A hash of the ids of its shards.
    pub id: GroupId,
    /// The extractor of the features.
    pub extractor: ExtractorId,
    /// Number of rows of all features.
    pub rows: u64,
    /// Numbers of rows by label.
    pub labels: Vec<LabelCount>,
    /// Its shards, in key order; at least one.
    pub shards: Vec<ShardEntry>,
    /// Its objects without features, in key order.
    pub rejects: Vec<RejectedObject>,
    /// `groups/<id>/sums.parquet`. None without rows; there is then no such file.
    pub sums: Option<Checksum>,
}

/// A group in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// A hash of the ids of its shards.
    pub id: GroupId,
    /// Number of its shards.
    pub shards: u64,
    /// Number of rows of all features.
    pub rows: u64,
    /// Number of its objects without features.
    pub rejects: u64,
    /// Key of its first object, relative to the input.
    pub first: String,
    /// Key of its last object.
    pub last: String,
    /// `groups/<id>/group.json`
    pub record: Checksum,
    /// `groups/<id>/sums.parquet`. None without rows.
    pub sums: Option<Checksum>,
}

impl GroupEntry {
    /// The entry of a group, given the file of its record.
    pub(crate) fn new(record: &GroupRecord, file: &[u8]) -> Self {
        GroupEntry {
            id: record.id.clone(),
            shards: record.shards.len() as u64,
            rows: record.rows,
            rejects: record.rejects.len() as u64,
            first: record.shards.first().map(|shard| shard.first.clone()).unwrap_or_default(),
            last: record.shards.last().map(|shard| shard.last.clone()).unwrap_or_default(),
            record: Checksum::of(file),
            sums: record.sums.clone(),
        }
    }

    /// Its sums. None without rows.
    pub(crate) fn sums(&self) -> Option<FileRef> {
        self.sums.clone().map(|checksum| FileRef { key: keys::sums(&self.id), checksum: Some(checksum) })
    }
}

/// `scores/v=<version>/<group>.json`: the parts of the tables of a version that belong to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartList {
    /// The version.
    pub version: Version,
    /// Number of the group in the manifest, from 0.
    pub group: u64,
    /// One part for each shard that has rows, in key order.
    pub parts: Vec<Part>,
}

/// A part of the tables of a version: the rows of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Number of the part, from 0, in key order.
    pub part: u64,
    /// The shard that was projected.
    pub shard: ShardId,
    /// Number of its rows.
    pub rows: u64,
    /// Its files of scores; one for each label, if the table is partitioned.
    pub scores: Vec<FileRef>,
    /// Its predictions. None without a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<PredictedPart>,
}

/// The PCA of a version without its vectors, which are in the basis file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BasisSummary {
    /// A hash of the extractor, the moments and the PCA settings.
    pub id: BasisId,
    /// The basis file.
    #[serde(flatten)]
    pub file: FileRef,
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

/// `versions/<number>.json` of a published version: settings, counts, groups and tables.
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
    /// Number of ignored objects: hidden files, folder markers, and files that are plainly no images. None if only changed
    /// shards were listed.
    pub ignored: Option<u64>,
    /// Number of images that the file of labels names and that were not in the input. None without such a file, and if only
    /// changed shards were listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels_unused: Option<u64>,
    /// Numbers of images with features by label.
    pub labels: Vec<LabelCount>,
    /// The PCA.
    pub basis: BasisSummary,
    /// The total sums: `moments/<id>.parquet`, or the sums of the only group.
    pub moments: Moments,
    /// The classifier. None for versions of releases without classifiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<Classification>,
    /// The images that are there twice. None for versions of releases without such tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<Duplicates>,
    /// The images that are unlike the others. None for versions of releases without such tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// The search index. None if the setting `index` is off, and for versions of releases without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<SearchIndex>,
    /// The tables for readers.
    pub outputs: Outputs,
    /// All groups of shards, in key order.
    pub groups: Vec<GroupEntry>,
    /// Counts and times of the run.
    pub figures: RunFigures,
    /// What a manifest of format 1 has instead of groups and lists of parts.
    #[serde(skip)]
    pub released: Option<Box<Released>>,
}

impl Manifest {
    /// Seconds from the start of the run to the publication.
    pub fn seconds(&self) -> f64 {
        self.finished.duration_since(self.created).as_secs_f64().max(0.0)
    }

    /// Number of shards.
    pub fn shards(&self) -> u64 {
        match &self.released {
            Some(released) => released.shards.len() as u64,
            None => self.groups.iter().map(|group| group.shards).sum(),
        }
    }

    /// Number of objects: images with and without features.
    pub fn objects(&self) -> u64 {
        self.images + self.rejects
    }
}

/// The total sums of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments {
    /// A hash of row count, sums and sums of products.
    pub id: MomentsId,
    /// The file.
    #[serde(flatten)]
    pub file: FileRef,
}

/// `features/v=<version>/`: the features of a version, for readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeaturesFolder {
    /// Its key, with `/` at its end.
    pub folder: String,
    /// `symlink.txt`, which lists the tables of the shards. None if the folder has the tables themselves.
    pub list: Option<FileRef>,
}

/// The tables of a version, for readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// The features. None in format 1.
    pub features: Option<FeaturesFolder>,
    /// Lists of the parts of the table of scores, one per group.
    pub scores: Vec<FileRef>,
    /// The scores as CSV. None if the run did not write them.
    pub csv: Option<FileRef>,
    /// The rejects table.
    pub rejects: FileRef,
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

/// Sums that are hashed at a time.
const HASHED_TOGETHER: usize = 1024;

/// The id of total moments: a hash of row count, sums and sums of products.
pub(crate) fn moments_id(totals: &TotalMoments) -> MomentsId {
    let mut sha = Sha256::new();
    sha.update(totals.rows().to_le_bytes());
    let mut bytes = Vec::with_capacity(16 * HASHED_TOGETHER);
    for sum in totals.sums().iter().chain(totals.products().iter()) {
        bytes.extend(sum.to_le_bytes());
        if bytes.len() == bytes.capacity() {
            sha.update(&bytes);
            bytes.clear();
        }
    }
    sha.update(&bytes);
    short_hex(&sha.finalize()).into()
}

/// The id of a basis: a hash of extractor id, moments id and PCA settings.
pub(crate) fn basis_id(extractor: &ExtractorId, settings: &Settings, moments: &MomentsId) -> Result<BasisId> {
    let how = to_json(&(extractor, moments, settings.pca, settings.standardizes()))?;
    Ok(short_hex(&Sha256::digest(&how)).into())
}

impl BasisSummary {
    /// The summary of a basis with this id, which has been encoded as `file`.
    pub fn new(basis: &Basis, id: BasisId, file: &[u8]) -> Self {
        BasisSummary {
            file: FileRef::of(keys::basis(&id), file),
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
