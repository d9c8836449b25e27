//! The duplicates, outliers and rejects of a version.

use serde::Serialize;

use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        Manifest, RejectedObject, Searched, contents,
        tables::{self, DuplicateRow, OutlierRow},
    },
    store::Store,
};

/// Images that are connected by near-duplicates or the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DuplicateGroup {
    /// Its number in the table.
    pub group: u64,
    /// Keys of the images, ascending, relative to the input.
    pub paths: Vec<String>,
    /// Their labels.
    pub labels: Vec<Option<String>>,
    /// Their splits, as in the table of predictions.
    pub splits: Vec<Option<String>>,
    /// Their distances from the first image, in units of the features.
    pub distances: Vec<f64>,
    /// Whether their bytes are those of the first image.
    pub copies: Vec<bool>,
    /// The largest of the distances.
    pub distance: f64,
    /// Whether all images have the same bytes.
    pub same_bytes: bool,
    /// Whether they have different labels.
    pub across_labels: bool,
    /// Whether they have different splits.
    pub across_splits: bool,
}

impl DuplicateGroup {
    fn new(rows: &[DuplicateRow]) -> Self {
        DuplicateGroup {
            group: rows.first().map_or(0, |row| row.group),
            paths: rows.iter().map(|row| row.path.clone()).collect(),
            labels: rows.iter().map(|row| row.label.clone()).collect(),
            splits: rows.iter().map(|row| row.split.clone()).collect(),
            distances: rows.iter().map(|row| row.distance).collect(),
            copies: rows.iter().map(|row| row.same_bytes).collect(),
            distance: rows.iter().map(|row| row.distance).fold(0.0, f64::max),
            same_bytes: rows.iter().all(|row| row.same_bytes),
            across_labels: rows.iter().any(|row| row.across_labels),
            across_splits: rows.iter().any(|row| row.across_splits),
        }
    }

    /// Its rows in the table.
    pub fn rows(&self) -> impl Iterator<Item = DuplicateRow> + '_ {
        let names = self.paths.iter().zip(&self.labels).zip(&self.splits);
        names.zip(self.distances.iter().zip(&self.copies)).map(|(((path, label), split), (distance, copy))| {
            DuplicateRow {
                group: self.group,
                path: path.clone(),
                label: label.clone(),
                split: split.clone(),
                distance: *distance,
                same_bytes: *copy,
                across_labels: self.across_labels,
                across_splits: self.across_splits,
            }
        })
    }
}

fn missing(what: &'static str) -> Error {
    Error::new(ErrorKind::InputInvalid, what)
}

/// All groups of duplicates, in the order of their first images. Fails with `Input.Invalid` if they were not searched, and
/// with `Dataset.Corrupt`.
#[compiled_once]
pub async fn duplicates(output: &dyn Store, version: &Manifest) -> Result<Vec<DuplicateGroup>> {
    let Some(summary) = &version.duplicates else {
        return Err(missing(
            "this version has no table of duplicates: it is of an older release; the next run makes one",
        ));
    };
    if summary.searched == Searched::Nothing {
        let message =
            "duplicates were not searched: the version has too many images; allow more with --duplicate-images";
        return Err(missing(message).context("images", summary.images));
    }
    let rows = tables::read_all(output, &summary.files, tables::read_duplicates).await?;
    Ok(rows.chunk_by(|a, b| a.group == b.group).map(DuplicateGroup::new).collect())
}

/// All outliers, the most distant first. Fails with `Input.Invalid` if they were not searched, and with `Dataset.Corrupt`.
#[compiled_once]
pub async fn outliers(output: &dyn Store, version: &Manifest) -> Result<Vec<OutlierRow>> {
    let Some(summary) = &version.outliers else {
        return Err(missing(
            "this version has no table of outliers: it is of an older release; the next run makes one",
        ));
    };
    if summary.threshold.is_none() {
        let message = "outliers were not searched: the version has too many images; allow more with --duplicate-images";
        return Err(missing(message).context("images", version.images));
    }
    tables::read_all(output, &summary.files, tables::read_outliers).await
}

/// All images without features, in key order. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn rejects(output: &dyn Store, version: &Manifest) -> Result<Vec<RejectedObject>> {
    contents::rejects(output, version).await
}
