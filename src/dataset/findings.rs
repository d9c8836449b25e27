//! What the tables of duplicates and outliers of a version have, as its manifest says it.

use serde::{Deserialize, Serialize};

use super::record::FileRef;

/// What was searched for duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Searched {
    /// All pairs of images: the same bytes, and near-duplicates.
    NearDuplicates,
    /// The same bytes only, because the version has more images than the setting `duplicate_images`.
    SameBytes,
    /// Nothing, because the version has more than four times that number of images.
    Nothing,
}

impl Searched {
    /// What is searched among this number of images.
    pub fn among(images: u64, duplicate_images: u64) -> Self {
        match images {
            _ if images <= duplicate_images => Searched::NearDuplicates,
            _ if images <= duplicate_images.saturating_mul(4) => Searched::SameBytes,
            _ => Searched::Nothing,
        }
    }
}

/// The duplicates of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Duplicates {
    /// What was searched.
    pub searched: Searched,
    /// Images among which it was searched: all of the version.
    pub images: u64,
    /// The largest distance of near-duplicates, in units of the features.
    pub distance: f64,
    /// The largest root mean square of the differences of two thumbnails, in levels of 8 bits. 0 if thumbnails were not
    /// compared, as in earlier releases.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub levels: f64,
    /// Groups of images that are connected by near-duplicates or the same bytes.
    pub groups: u64,
    /// Images in these groups: rows of the table.
    pub rows: u64,
    /// Images with the same bytes as an image before them, in key order.
    pub copies: u64,
    /// Groups with images of different labels.
    pub across_labels: u64,
    /// Groups with images of different splits.
    pub across_splits: u64,
    /// The table. No files if nothing was searched.
    pub files: Vec<FileRef>,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// The outliers of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outliers {
    /// The distance from which on an image is an outlier. None if outliers were not searched, because the version has more
    /// images than [`Searched::among`] searches.
    pub threshold: Option<f64>,
    /// Number of outliers: rows of the table.
    pub rows: u64,
    /// The table.
    pub files: Vec<FileRef>,
}
