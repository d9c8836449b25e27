//! The evaluation of the predictions of a version.

use serde::Serialize;

use super::predict::classifier;
use crate::{
    Error, ErrorKind, Result,
    classify::{Evaluation, Judged},
    dataset::{Manifest, contents, tables::PredictionRow, training::TRAIN},
    store::Store,
};

/// The evaluation of a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitEvaluation {
    /// Number of the version.
    pub version: u64,
    /// `train` for the training images, which are predicted by the models without their folds; or another split.
    pub split: String,
    /// Whether the images were not trained on.
    pub held_out: bool,
    /// Whether the accuracy may be too high: neighbouring views of one object can be in different folds.
    pub optimistic: bool,
    /// The numbers.
    #[serde(flatten)]
    pub numbers: Evaluation,
}

/// The split of a row, as [`evaluate`] names it.
fn split_of(row: &PredictionRow) -> &str {
    row.split.as_deref().unwrap_or(TRAIN)
}

/// Evaluates the predictions of a split. None for the one that says most: `test`, or else another that was not trained on,
/// or else the training images, out of fold.
///
/// Fails with `Classifier.Missing`; and with `Input.Invalid`, which lists the splits, if no image with a label has the split.
pub async fn evaluate(output: &dyn Store, version: &Manifest, split: Option<&str>) -> Result<SplitEvaluation> {
    classifier(output, version).await?;
    let rows = contents::predictions(output, version).await?;
    evaluate_rows(version, &rows, split)
}

/// [`evaluate`], given the predictions.
pub fn evaluate_rows(version: &Manifest, rows: &[PredictionRow], split: Option<&str>) -> Result<SplitEvaluation> {
    let mut splits: Vec<&str> = rows.iter().filter(|row| row.label.is_some()).map(split_of).collect();
    splits.sort_unstable();
    splits.dedup();
    let best = || {
        let held_out = splits.iter().find(|split| **split == "test").or_else(|| splits.iter().find(|s| **s != TRAIN));
        held_out.copied().unwrap_or(TRAIN)
    };
    let split = split.unwrap_or_else(best);
    if !splits.contains(&split) {
        let message = "no image with a label has this split";
        let known = splits.join(", ");
        return Err(Error::new(ErrorKind::InputInvalid, message).context("split", split).context("splits", known));
    }
    let judged = rows.iter().filter(|row| split_of(row) == split).filter_map(|row| {
        let label = row.label.as_deref()?;
        Some(Judged { label, predicted: &row.predicted, probability: row.probability })
    });
    let held_out = split != TRAIN;
    Ok(SplitEvaluation {
        version: version.version.0,
        split: split.to_owned(),
        held_out,
        optimistic: !held_out && version.settings.training_rules().fold_pattern.is_none(),
        numbers: Evaluation::new(judged),
    })
}
