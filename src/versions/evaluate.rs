//! The evaluation of the predictions of a version.

use std::pin::pin;

use futures::TryStreamExt;
use serde::Serialize;

use super::predict::fitted;
use crate::{
    Error, ErrorKind, Result,
    classify::{Counts, Evaluation, Judged},
    dataset::{Manifest, contents, training::TRAIN},
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

/// A split, as [`evaluate`] names it.
fn split_of(split: Option<&str>) -> &str {
    split.unwrap_or(TRAIN)
}

/// Evaluates the predictions of a split. None for the one that says most: `test`, or else another that was not trained on,
/// or else the training images, out of fold.
///
/// Fails with `Classifier.Missing`; and with `Input.Invalid`, which lists the splits, if no image with a label has the split.
pub async fn evaluate(output: &dyn Store, version: &Manifest, split: Option<&str>) -> Result<SplitEvaluation> {
    let split = chosen(version, split)?;
    let mut counts = Counts::default();
    let mut parts = pin!(contents::predictions(output, version).await?);
    while let Some(rows) = parts.try_next().await? {
        for row in rows.iter().filter(|row| split_of(row.split.as_deref()) == split) {
            if let Some(label) = &row.label {
                counts.add(Judged { label, predicted: &row.predicted, probability: row.probability });
            }
        }
    }
    let held_out = split != TRAIN;
    Ok(SplitEvaluation {
        version: version.version.0,
        optimistic: !held_out && version.settings.training_rules().fold_pattern.is_none(),
        split,
        held_out,
        numbers: counts.finish(),
    })
}

/// The split that was asked for, or the one that says most.
fn chosen(version: &Manifest, split: Option<&str>) -> Result<String> {
    let summary = fitted(version)?;
    let mut splits: Vec<&str> = summary.splits.iter().map(|count| split_of(count.split.as_deref())).collect();
    splits.sort_unstable();
    splits.dedup();
    let best = || {
        let held_out = splits.iter().find(|split| **split == "test").or_else(|| splits.iter().find(|s| **s != TRAIN));
        held_out.copied().unwrap_or(TRAIN)
    };
    let split = split.unwrap_or_else(best);
    if splits.contains(&split) {
        return Ok(split.to_owned());
    }
    let (message, known) = ("no image with a label has this split", splits.join(", "));
    Err(Error::new(ErrorKind::InputInvalid, message).context("split", split).context("splits", known))
}
