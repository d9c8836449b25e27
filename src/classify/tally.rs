//! Cross-validation: what the models without each fold say about its images.

use ndarray::ArrayView2;

use super::{
    Candidates, FAMILIAR_SHARE, FOLDS, SHRINKAGES,
    posterior::{COUNT, largest, losses},
    scorer::Scorer,
};

/// An image of the cross-validation.
#[derive(Clone, Copy, Debug)]
pub struct TallyRow<'a> {
    /// Its label; None for an image that is not a training image.
    pub label: Option<&'a str>,
    /// Its fold.
    pub fold: u8,
}

/// Results of the cross-validation of some images. Tallies of any parts of a data set, added in any order, give the same
/// tally.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Training images by fold.
    pub images: [u64; FOLDS],
    /// Images whose label is the most probable class, by shrinkage and fold.
    pub correct: [[u64; FOLDS]; SHRINKAGES.len()],
    /// Sums of log losses in units of 2^-32, by shrinkage and temperature, over the images whose class the model knows.
    pub(super) losses: [[i128; COUNT]; SHRINKAGES.len()],
    /// Number of images in these sums.
    pub(super) known: u64,
    /// The largest squared distances from the nearest class, ascending.
    pub(super) farthest: Vec<f64>,
    /// Distances that are kept.
    keep: usize,
}

/// How many of the largest distances decide the share that is familiar.
pub(super) fn kept_distances(rows: u64) -> usize {
    usize::try_from(rows - familiar_rank(rows)).unwrap_or(usize::MAX) + 1
}

/// The rank, from 1, of the largest distance that is familiar.
fn familiar_rank(rows: u64) -> u64 {
    ((rows as f64 * FAMILIAR_SHARE).ceil() as u64).clamp(1, rows.max(1)).min(rows.max(1))
}

impl Tally {
    /// The tally of no images, of a data set with this number of training images.
    pub(super) fn new(rows: u64) -> Self {
        Tally {
            images: [0; FOLDS],
            correct: [[0; FOLDS]; SHRINKAGES.len()],
            losses: [[0; COUNT]; SHRINKAGES.len()],
            known: 0,
            farthest: Vec::new(),
            keep: kept_distances(rows.max(1)),
        }
    }

    /// Adds the tally of other images of the same data set.
    pub fn add(&mut self, other: Tally) {
        for (to, from) in self.images.iter_mut().zip(other.images) {
            *to += from;
        }
        for (to, from) in self.correct.as_flattened_mut().iter_mut().zip(other.correct.as_flattened()) {
            *to += from;
        }
        for (to, from) in self.losses.as_flattened_mut().iter_mut().zip(other.losses.as_flattened()) {
            *to += from;
        }
        self.known += other.known;
        self.farthest.extend(other.farthest);
        self.trim();
    }

    fn trim(&mut self) {
        self.farthest.sort_by(f64::total_cmp);
        let surplus = self.farthest.len().saturating_sub(self.keep);
        self.farthest.drain(..surplus);
    }
}

impl Candidates {
    /// Scores the training images among `features`, `[images, columns]`, by the models that have not seen their folds.
    ///
    /// # Panics
    ///
    /// If `features` has another number of columns than the models, or another number of rows than `images`.
    pub fn tally(&self, features: ArrayView2<'_, f32>, images: &[TallyRow<'_>]) -> Tally {
        assert_eq!(features.nrows(), images.len(), "features of other images");
        let mut tally = Tally::new(self.rows);
        for (fold, model) in self.folds.iter().enumerate() {
            let Some(model) = model else { continue };
            let rows: Vec<usize> = (0..images.len())
                .filter(|i| usize::from(images[*i].fold) == fold && images[*i].label.is_some())
                .collect();
            tally.images[fold] += rows.len() as u64;
            let classes = model.discriminants[0].classes.len();
            self.scorer(fold, model).each(features, &rows, |row, products| {
                let own = images[row].label.and_then(|label| self.number(label));
                let own = own.and_then(|own| model.discriminants[0].classes.binary_search(&own).ok());
                let mut parts = products.chunks_exact(classes);
                for (s, (discriminant, products)) in model.discriminants.iter().zip(&mut parts).enumerate() {
                    let scores: Vec<f64> = products.iter().zip(&discriminant.bias).map(|(p, bias)| p + bias).collect();
                    let best = largest(&scores);
                    tally.correct[s][fold] += u64::from(own == Some(best));
                    let Some(own) = own else { continue };
                    for (sum, loss) in tally.losses[s].iter_mut().zip(losses(&scores, best, own)) {
                        *sum += i128::from(loss);
                    }
                }
                tally.known += u64::from(own.is_some());
                let norm: f64 = features.row(row).iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                tally.farthest.push(model.distance(norm, parts.next().unwrap_or_default()));
            });
        }
        tally.trim();
        tally
    }

    /// The weights of all shrinkages of a fold's model, and then its means.
    fn scorer(&self, fold: usize, model: &super::candidates::Model) -> &Scorer {
        self.scorers[fold].get_or_init(|| {
            let weights = model.discriminants.iter().map(|discriminant| discriminant.weights.view());
            Scorer::new(weights.chain([model.means.view()]))
        })
    }
}
