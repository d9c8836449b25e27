//! The evaluation of the predictions of a version.

use std::pin::pin;

use futures::TryStreamExt;
use serde::Serialize;

use super::predict::fitted;
use crate::{
    Error, ErrorKind, Result,
    classify::{Counts, Evaluation, Judged},
    compiled_once,
    dataset::{ClassifierSummary, Manifest, contents, training::TRAIN},
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
    /// Images whose label the classifier has not learned. They count as wrong.
    pub of_unknown_classes: u64,
    /// The numbers.
    #[serde(flatten)]
    pub numbers: Evaluation,
}

/// A split, as [`evaluate`] names it.
fn split_of(split: Option<&str>) -> &str {
    split.unwrap_or(TRAIN)
}

/// Evaluates the predictions of a split. None for the [one that says most](ClassifierSummary::telling_split).
///
/// Fails with `Classifier.Missing`; and with `Input.Invalid`, which lists the splits, if no image with a label has the split.
#[compiled_once]
pub async fn evaluate(output: &dyn Store, version: &Manifest, split: Option<&str>) -> Result<SplitEvaluation> {
    let summary = fitted(version)?;
    let split = chosen(summary, split)?;
    let mut counts = Counts::default();
    let mut parts = pin!(contents::predictions(output, version).await?);
    while let Some(rows) = parts.try_next().await? {
        for row in rows.iter().filter(|row| split_of(row.split.as_deref()) == split) {
            if let Some(label) = &row.label {
                counts.add(Judged { label, predicted: &row.predicted, probability: row.probability });
            }
        }
    }
    let (held_out, count) = (split != TRAIN, summary.split(&split));
    Ok(SplitEvaluation {
        version: version.version.0,
        of_unknown_classes: count.images - count.known.min(count.images),
        optimistic: !held_out && version.settings.training_rules().fold_pattern.is_none(),
        split,
        held_out,
        numbers: counts.finish(),
    })
}

/// The split that was asked for, or the one that says most.
fn chosen(summary: &ClassifierSummary, split: Option<&str>) -> Result<String> {
    let (split, names) = (split.unwrap_or_else(|| summary.telling_split()), summary.split_names());
    if names.contains(split) {
        return Ok(split.to_owned());
    }
    let (message, known) = ("no image with a label has this split", names.into_iter().collect::<Vec<_>>().join(", "));
    Err(Error::new(ErrorKind::InputInvalid, message).context("split", split).context("splits", known))
}
