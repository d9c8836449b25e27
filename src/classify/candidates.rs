//! Models of all shrinkages, the choice among them, and prediction.

use std::sync::OnceLock;

use ndarray::{Array2, ArrayView2};

use super::{
    FOLDS, Priors, SHRINKAGES, TEMPERATURES, Tally, TallyRow,
    posterior::{LOSS_UNITS, largest, probabilities},
    scorer::Scorer,
    tally::kept_distances,
};

/// A class of the training images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its label.
    pub label: String,
    /// Number of its training images.
    pub images: u64,
}

/// The linear discriminants of a model: the score of a class is `weights . x + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Discriminant {
    /// Numbers of the classes that the model knows, ascending.
    pub classes: Vec<usize>,
    /// `[classes, columns]`: `S^-1 mean`.
    pub weights: Array2<f64>,
    /// `[classes]`: `-1/2 mean' S^-1 mean + ln prior`.
    pub bias: Vec<f64>,
}

/// The discriminants of all shrinkages for one set of training images.
#[derive(Debug)]
pub(super) struct Model {
    /// `[classes, columns]`
    pub(super) means: Array2<f64>,
    /// `[classes]`: squared lengths of the means.
    norms: Vec<f64>,
    /// One per shrinkage.
    pub(super) discriminants: Vec<Discriminant>,
}

impl Model {
    pub(super) fn new(means: Array2<f64>, discriminants: Vec<Discriminant>) -> Self {
        Model { norms: squared_lengths(&means), means, discriminants }
    }

    /// The squared distance of an image from the nearest class, given its squared length and its products with the means.
    pub(super) fn distance(&self, norm: f64, products: &[f64]) -> f64 {
        nearest(norm, products, &self.norms)
    }
}

fn squared_lengths(means: &Array2<f64>) -> Vec<f64> {
    means.outer_iter().map(|mean| mean.iter().map(|x| x * x).sum()).collect()
}

fn nearest(norm: f64, products: &[f64], norms: &[f64]) -> f64 {
    let distances = products.iter().zip(norms).map(|(product, length)| norm - 2.0 * product + length);
    distances.fold(f64::INFINITY, f64::min).max(0.0)
}

/// Models of all [`SHRINKAGES`], fitted to all training images and to those without each fold.
#[derive(Debug)]
pub struct Candidates {
    pub(super) classes: Vec<Class>,
    pub(super) priors: Priors,
    /// Number of training images.
    pub(super) rows: u64,
    pub(super) all: Model,
    /// None for a fold without images.
    pub(super) folds: Vec<Option<Model>>,
    pub(super) scorers: [OnceLock<Scorer>; FOLDS],
}

/// Correct answers of a number of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Number of images.
    pub images: u64,
    /// Those whose label is the most probable class.
    pub correct: u64,
}

/// A classifier: the chosen models, and what cross-validation has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// All classes, sorted by label.
    pub classes: Vec<Class>,
    /// The priors.
    pub priors: Priors,
    /// The chosen shrinkage.
    pub shrinkage: f64,
    /// The temperature of the probabilities.
    pub temperature: f64,
    /// The mean log loss out of fold at this temperature.
    pub log_loss: f64,
    /// Out of fold, all training images.
    pub accuracy: Accuracy,
    /// Out of fold, by fold.
    pub folds: Vec<Accuracy>,
    /// Correct answers by shrinkage.
    pub correct: Vec<u64>,
    /// The distance from the nearest class that [`FAMILIAR_SHARE`](super::FAMILIAR_SHARE) of the training images do not
    /// exceed, out of fold.
    pub familiar: f64,
    /// `[classes, columns]`: means of the classes.
    pub means: Array2<f64>,
    /// The model of all training images.
    pub model: Discriminant,
    /// The models without each fold; None for a fold without images.
    pub without: Vec<Option<Discriminant>>,
}

/// A class and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Number of the class.
    pub class: usize,
    /// Its probability.
    pub probability: f64,
}

/// What a model says about an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The most probable class.
    pub first: Ranked,
    /// The second; None if the model knows one class only.
    pub second: Option<Ranked>,
    /// The probability of the image's own label; None if it has none, or if the model does not know the label.
    pub label: Option<f64>,
}

impl Prediction {
    /// The lead of the first class over the second, 0 to 1.
    pub fn margin(&self) -> f64 {
        self.first.probability - self.second.map_or(0.0, |second| second.probability)
    }
}

impl Candidates {
    /// The number of the class with this label.
    pub(super) fn number(&self, label: &str) -> Option<usize> {
        number(&self.classes, label)
    }

    /// A tally of no images, to add others to.
    pub fn no_tally(&self) -> Tally {
        Tally::new(self.rows)
    }

    /// Chooses the shrinkage with the most correct answers, and its temperature of the smallest log loss. Equally good
    /// shrinkages are told apart by the log loss, then the smallest is taken.
    pub fn choose(&self, tally: &Tally) -> Classifier {
        let coolest = |s: usize| (0..TEMPERATURES.len()).min_by_key(|t| (tally.losses[s][*t], *t)).unwrap_or_default();
        let correct: Vec<u64> = tally.correct.iter().map(|folds| folds.iter().sum()).collect();
        let quality = |s: usize| (std::cmp::Reverse(correct[s]), tally.losses[s][coolest(s)], s);
        let best = (0..SHRINKAGES.len()).min_by_key(|s| quality(*s)).unwrap_or_default();
        let temperature = coolest(best);
        let folds = tally.images.iter().zip(tally.correct[best]);
        // As many distances as that are kept if all images were tallied.
        let familiar = (tally.farthest.len() == kept_distances(self.rows.max(1))).then(|| tally.farthest.first());
        Classifier {
            classes: self.classes.clone(),
            priors: self.priors,
            shrinkage: SHRINKAGES[best],
            temperature: TEMPERATURES[temperature],
            log_loss: tally.losses[best][temperature] as f64 / LOSS_UNITS / tally.known.max(1) as f64,
            accuracy: Accuracy { images: tally.images.iter().sum(), correct: correct[best] },
            folds: folds.map(|(images, correct)| Accuracy { images: *images, correct }).collect(),
            correct,
            familiar: familiar.flatten().copied().unwrap_or_default().sqrt(),
            means: self.all.means.clone(),
            model: self.all.discriminants[best].clone(),
            without: self.folds.iter().map(|m| m.as_ref().map(|model| model.discriminants[best].clone())).collect(),
        }
    }
}

/// The scores of the classes of a model.
fn scores(model: &Discriminant, products: &[f64]) -> Vec<f64> {
    products.iter().zip(&model.bias).map(|(product, bias)| product + bias).collect()
}

fn number(classes: &[Class], label: &str) -> Option<usize> {
    classes.binary_search_by(|class| class.label.as_str().cmp(label)).ok()
}

impl Classifier {
    /// The number of columns of the features.
    pub fn columns(&self) -> usize {
        self.means.ncols()
    }

    /// The number of the class with this label.
    pub fn number(&self, label: &str) -> Option<usize> {
        number(&self.classes, label)
    }

    /// What the model of all training images says about features `[images, columns]`.
    ///
    /// # Panics
    ///
    /// If `features` has another number of columns.
    pub fn predict(&self, features: ArrayView2<'_, f32>) -> Vec<Prediction> {
        let images = vec![TallyRow { label: None, fold: 0 }; features.nrows()];
        self.answers(features, &images, |_| false)
    }

    /// What the classifier says about the images of its data set: about a training image, the model without its fold;
    /// about another, the model of all training images. `is_training` is asked for the number of a row.
    ///
    /// # Panics
    ///
    /// If `features` has another number of columns than the models, or another number of rows than `images`.
    pub fn answers(
        &self,
        features: ArrayView2<'_, f32>,
        images: &[TallyRow<'_>],
        is_training: impl Fn(usize) -> bool,
    ) -> Vec<Prediction> {
        assert_eq!(features.dim(), (images.len(), self.columns()), "features of another model, or of other images");
        let mut answers: Vec<Option<Prediction>> = vec![None; images.len()];
        // A fold that had no images has no model, and needs none: the model of all images has not seen it either.
        let fold = |row: usize| {
            let fold = usize::from(images[row].fold);
            (is_training(row) && self.without.get(fold).is_some_and(Option::is_some)).then_some(fold)
        };
        let without = self.without.iter().enumerate();
        let without = without.filter_map(|(fold, model)| model.as_ref().map(|model| (Some(fold), model)));
        for (of, model) in std::iter::once((None, &self.model)).chain(without) {
            let rows: Vec<usize> = (0..images.len()).filter(|row| fold(*row) == of).collect();
            if rows.is_empty() {
                continue;
            }
            Scorer::new([model.weights.view()].into_iter()).each(features, &rows, |row, products| {
                let own = images[row].label.and_then(|label| number(&self.classes, label));
                answers[row] = Some(self.answer(model, products, own));
            });
        }
        // Each row belongs to one model.
        answers.into_iter().flatten().collect()
    }

    /// The `most` most probable classes of each image, the most probable first, by the model of all training images.
    ///
    /// # Panics
    ///
    /// If `features` has another number of columns.
    pub fn likely(&self, features: ArrayView2<'_, f32>, most: usize) -> Vec<Vec<Ranked>> {
        let rows: Vec<usize> = (0..features.nrows()).collect();
        let mut likely = vec![Vec::new(); rows.len()];
        Scorer::new([self.model.weights.view()].into_iter()).each(features, &rows, |row, products| {
            let probabilities = probabilities(&scores(&self.model, products), self.temperature);
            let classes = self.model.classes.iter().zip(probabilities);
            let mut ranked: Vec<Ranked> =
                classes.map(|(class, probability)| Ranked { class: *class, probability }).collect();
            // The sort is stable: of equally probable classes, the first stays first, as in a prediction.
            ranked.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            ranked.truncate(most);
            likely[row] = ranked;
        });
        likely
    }

    fn answer(&self, model: &Discriminant, products: &[f64], own: Option<usize>) -> Prediction {
        let scores = scores(model, products);
        let probabilities = probabilities(&scores, self.temperature);
        let first = largest(&scores);
        let others = (0..scores.len()).filter(|at| *at != first);
        let second = others.fold(None, |best: Option<usize>, at| match best {
            Some(best) if scores[best] >= scores[at] => Some(best),
            _ => Some(at),
        });
        let ranked = |at: usize| Ranked { class: model.classes[at], probability: probabilities[at] };
        Prediction {
            first: ranked(first),
            second: second.map(ranked),
            label: own.and_then(|own| model.classes.binary_search(&own).ok()).map(|at| probabilities[at]),
        }
    }

    /// The distance of each image from the nearest mean of a class. Images farther than [`Classifier::familiar`] are unlike
    /// anything that the classifier has seen.
    pub fn distances(&self, features: ArrayView2<'_, f32>) -> Vec<f64> {
        let (rows, norms) = ((0..features.nrows()).collect::<Vec<_>>(), squared_lengths(&self.means));
        let mut distances = vec![0.0; rows.len()];
        Scorer::new([self.means.view()].into_iter()).each(features, &rows, |row, products| {
            let norm = features.row(row).iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            distances[row] = nearest(norm, products, &norms).sqrt();
        });
        distances
    }
}
