//! What the page says about the classifier.

use std::pin::pin;

use futures::TryStreamExt;

use super::lists::ROWS;
use crate::{
    Result,
    classify::{Counts, Evaluation, Judged},
    dataset::{Classification, Manifest, contents, tables::PredictionRow, training::TRAIN},
    store::Store,
};

/// The classifier of a version and its results.
pub(super) struct Learned {
    /// The split of the evaluation: `test`, another that was not trained on, or `train`.
    pub(super) split: String,
    pub(super) optimistic: bool,
    /// Images whose label the classifier has not learned.
    pub(super) of_unknown_classes: u64,
    pub(super) evaluation: Evaluation,
    pub(super) shrinkage: f64,
    /// Training images.
    pub(super) images: u64,
    /// Number of suspects, and the first of them, at most [`ROWS`].
    pub(super) suspects: u64,
    pub(super) first: Vec<PredictionRow>,
}

/// Reads the predictions of a version; None without a classifier.
pub(super) async fn read(output: &dyn Store, manifest: &Manifest) -> Result<Option<Learned>> {
    let Some(summary) = manifest.classifier.as_ref().and_then(Classification::fitted) else { return Ok(None) };
    let split = summary.telling_split();
    let count = summary.split(split);
    let (mut counts, mut first) = (Counts::default(), Vec::new());
    let mut parts = pin!(contents::predictions(output, manifest).await?);
    while let Some(rows) = parts.try_next().await? {
        for row in rows.iter().filter(|row| row.split.as_deref().unwrap_or(TRAIN) == split) {
            if let Some(label) = &row.label {
                counts.add(Judged { label, predicted: &row.predicted, probability: row.probability });
            }
        }
        contents::keep_suspects(&mut first, rows, ROWS);
    }
    Ok(Some(Learned {
        optimistic: split == TRAIN && summary.rules.fold_pattern.is_none(),
        split: split.to_owned(),
        of_unknown_classes: count.images - count.known.min(count.images),
        evaluation: counts.finish(),
        shrinkage: summary.shrinkage,
        images: summary.images,
        suspects: summary.splits.iter().map(|count| count.suspects).sum(),
        first,
    }))
}
