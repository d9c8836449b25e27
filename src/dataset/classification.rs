//! The classifier of a version, as its manifest has it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Checksum,
    record::FileRef,
    training::{TRAIN, TrainingRules},
};
use crate::{
    classify::{Classifier, NoClassifier, Priors},
    ids::{ClassifierId, short_hex},
};

/// The classifier of a version, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Classification {
    /// There is one.
    Fitted(Box<ClassifierSummary>),
    /// There is none.
    None {
        /// Why.
        reason: NoClassifier,
    },
}

impl Classification {
    /// The classifier, if there is one.
    pub fn fitted(&self) -> Option<&ClassifierSummary> {
        match self {
            Classification::Fitted(summary) => Some(summary),
            Classification::None { .. } => None,
        }
    }
}

/// A classifier without its weights, which are in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierSummary {
    /// A hash of the file.
    pub id: ClassifierId,
    /// The file.
    #[serde(flatten)]
    pub file: FileRef,
    /// How training images and folds were chosen.
    pub rules: TrainingRules,
    /// The priors.
    pub priors: Priors,
    /// Number of classes.
    pub classes: u64,
    /// Training images.
    pub images: u64,
    /// Those among them whose label is the most probable class, by the model without their fold.
    pub correct: u64,
    /// Training images that the pattern of the folds matches. None without a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grouped: Option<u64>,
    /// The chosen shrinkage.
    pub shrinkage: f64,
    /// The temperature of the probabilities.
    pub temperature: f64,
    /// The mean log loss of the training images out of fold.
    pub log_loss: f64,
    /// Sums of each group that were kept, in the order of the groups: `groups/<id>/classes-<rules>.parquet`.
    pub sums: Vec<Option<Checksum>>,
    /// Predictions of the version by split. Empty until it is published.
    #[serde(default)]
    pub splits: Vec<SplitCount>,
}

/// Predictions of the images of a split that have a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCount {
    /// The split; None for images without one.
    pub split: Option<String>,
    /// Number of images.
    pub images: u64,
    /// Those whose label is a class of the classifier. The others cannot be right.
    pub known: u64,
    /// Those whose label was predicted.
    pub correct: u64,
    /// Those whose label is suspect.
    pub suspects: u64,
}

impl ClassifierSummary {
    /// Labelled images of a split; [`TRAIN`] is that of images without one too.
    pub fn split(&self, name: &str) -> SplitCount {
        let mut total = SplitCount { split: Some(name.to_owned()), images: 0, known: 0, correct: 0, suspects: 0 };
        let of_split = self.splits.iter().filter(|count| count.split.as_deref().unwrap_or(TRAIN) == name);
        of_split.for_each(|count| total.add(count));
        total
    }

    /// The names of the splits that have labelled images, sorted.
    pub fn split_names(&self) -> BTreeSet<&str> {
        self.splits.iter().map(|count| count.split.as_deref().unwrap_or(TRAIN)).collect()
    }

    /// The split that says most about the classifier: `test`, or else another that was not trained on, if it has images of
    /// known classes; or else the training images, out of fold.
    pub fn telling_split(&self) -> &str {
        let names = self.split_names();
        let tells = |name: &&&str| **name != TRAIN && self.split(name).known > 0;
        let test = names.iter().filter(tells).find(|name| **name == "test");
        test.or_else(|| names.iter().find(tells)).copied().unwrap_or(TRAIN)
    }
}

impl SplitCount {
    fn add(&mut self, other: &SplitCount) {
        self.images += other.images;
        self.known += other.known;
        self.correct += other.correct;
        self.suspects += other.suspects;
    }
}

/// The predictions for the rows of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictedPart {
    /// The file.
    #[serde(flatten)]
    pub file: FileRef,
    /// Its rows that have a label, by split.
    pub splits: Vec<SplitCount>,
}

/// Adds counts by split to `to`, which is sorted by split, with images without a split first.
pub(crate) fn add_splits(to: &mut Vec<SplitCount>, from: &[SplitCount]) {
    for count in from {
        match to.binary_search_by(|c| c.split.cmp(&count.split)) {
            Ok(at) => to[at].add(count),
            Err(at) => to.insert(at, count.clone()),
        }
    }
}

/// The id of a classifier: a hash of its numbers and of what they were made from, as far as the file has it.
pub(crate) fn classifier_id(extractor: &str, rules: &TrainingRules, classifier: &Classifier) -> ClassifierId {
    let mut sha = Sha256::new();
    text(&mut sha, "classifier 1");
    text(&mut sha, extractor);
    for rule in [&rules.fold_pattern, &rules.holdout] {
        text(&mut sha, rule.as_deref().unwrap_or_default());
    }
    text(
        &mut sha,
        match classifier.priors {
            Priors::Counts => "counts",
            Priors::Equal => "equal",
        },
    );
    for class in &classifier.classes {
        text(&mut sha, &class.label);
        sha.update(class.images.to_le_bytes());
    }
    let models = std::iter::once(&classifier.model).chain(classifier.without.iter().flatten());
    let numbers = models.flat_map(|model| model.weights.iter().chain(&model.bias)).chain(&classifier.means).copied();
    let results = [classifier.shrinkage, classifier.temperature, classifier.log_loss, classifier.familiar];
    for number in numbers.chain(results) {
        sha.update(number.to_le_bytes());
    }
    for fold in &classifier.folds {
        sha.update(fold.images.to_le_bytes());
        sha.update(fold.correct.to_le_bytes());
    }
    for correct in &classifier.correct {
        sha.update(correct.to_le_bytes());
    }
    short_hex(&sha.finalize()).into()
}

fn text(sha: &mut Sha256, text: &str) {
    sha.update((text.len() as u64).to_le_bytes());
    sha.update(text);
}
