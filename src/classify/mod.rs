//! A classifier from exact sums: linear discriminant analysis (LDA) with a shrunk covariance.
//!
//! LDA needs counts, sums per class and sums of products. [`ClassSums`] keeps them as exact integers, for each of
//! [`FOLDS`] folds, so that a model without a fold is a subtraction. [`fit()`] makes, from these sums alone, the
//! discriminants of all [`SHRINKAGES`] for all images and for all images without each fold. [`Candidates::tally`] scores
//! images by the models that have not seen them, in integers, so that tallies of any parts of a data set add up to the
//! same numbers. [`Candidates::choose`] takes the best shrinkage and a temperature, and leaves a [`Classifier`].
//!
//! The covariance within classes is `S = (1 - s) W + s tr(W) / p I` with `W = sum (x - mean) (x - mean)' / n` over the
//! classes' own means, as in scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)`. The weights of a
//! class are `S^-1 mean`, its bias is `-1/2 mean' S^-1 mean + ln prior`.
//!
//! ```
//! use ndarray::array;
//! use pomona::classify::{self, ClassSums, Priors, TallyRow};
//!
//! // Six rows of two columns, multiples of 1 / 1024, in two classes and three folds.
//! let rows = array![[0.0f32, 1.0], [0.5, 1.5], [0.25, 1.0], [3.0, 0.0], [3.5, 0.25], [3.0, 0.5]];
//! let labels = [0, 0, 0, 1, 1, 1].map(|class| Some(["apple", "pear"][class]));
//! let folds = [0, 1, 2, 0, 1, 2];
//! let sums = ClassSums::from_rows(rows.view(), &labels, &folds, 1024.0)?;
//! let candidates = classify::fit(sums, 1024.0, Priors::Counts)?.expect("two classes with two rows");
//! let images: Vec<_> = labels.iter().zip(folds).map(|(label, fold)| TallyRow { label: *label, fold }).collect();
//! let tally = candidates.tally(rows.view(), &images);
//! let classifier = candidates.choose(&tally);
//! assert_eq!(classifier.accuracy.correct, 6);
//! let answer = &classifier.predict(array![[3.0f32, 0.0]].view())[0];
//! assert_eq!(classifier.classes[answer.first.class].label, "pear");
//! # Ok::<(), pomona::Error>(())
//! ```

mod candidates;
mod evaluation;
mod fit;
mod folds;
mod posterior;
mod scatter;
pub(crate) mod scorer;
mod sums;
mod tally;
#[cfg(test)]
mod tests;

pub use candidates::{Accuracy, Candidates, Class, Classifier, Discriminant, Prediction, Ranked};
pub use evaluation::{CalibrationBin, ClassResult, Counts, Evaluation, Judged};
pub use fit::fit;
pub use folds::{FOLDS, fold_of};
pub use posterior::TEMPERATURES;
use serde::{Deserialize, Serialize};
pub use sums::{ClassSum, ClassSums, FoldSums, Summer};
pub use tally::{Tally, TallyRow};

/// The shrinkages that cross-validation compares. Photos of clothes and Fruits-360 have their best ones between 0.1 and 0.6,
/// and large data sets the smaller ones.
pub const SHRINKAGES: [f64; 5] = [0.03, 0.1, 0.2, 0.4, 0.6];
/// An image is a suspect if its own label has a smaller probability than this, out of fold.
pub const SUSPECT_BELOW: f64 = 0.05;
/// The share of the training images whose distance from the nearest class is not called foreign.
pub const FAMILIAR_SHARE: f64 = 0.999;

/// Most labels of a data set with a classifier. Its models and their sums take memory for each of them: about 700 MB for this
/// number and 1,280 columns.
pub const MAX_CLASSES: usize = 1_024;

/// What is known of the classes before an image is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priors {
    /// Classes are as frequent as among the training images.
    #[default]
    Counts,
    /// All classes are equally frequent. The covariance stays that of all training images.
    Equal,
}

/// Why there is no classifier. Not an error: the data set is complete without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoClassifier {
    /// The settings turn it off.
    Off,
    /// No training image has a label.
    NoLabels,
    /// All training images have the same label.
    OneLabel,
    /// There are more than [`MAX_CLASSES`] labels.
    TooManyLabels,
    /// The images of each class are alike, or each class has one image: the covariance within classes is zero. Or a fold
    /// leaves no image.
    NoVariance,
}

impl NoClassifier {
    /// A sentence for users.
    pub fn text(self) -> &'static str {
        match self {
            NoClassifier::Off => "it is turned off (--no-classifier)",
            NoClassifier::NoLabels => "no training image has a label",
            NoClassifier::OneLabel => "all training images have the same label",
            NoClassifier::TooManyLabels => "the images have more than 1,024 labels",
            NoClassifier::NoVariance => {
                "it needs two images that differ in some class, in each part of the cross-validation"
            }
        }
    }
}
