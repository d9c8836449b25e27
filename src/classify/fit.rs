//! The discriminants of all shrinkages, from exact sums.

use ndarray::Array2;
use pomona_kernels::linear::{TOGETHER, dot};
use rayon::prelude::*;

use super::{
    Candidates, Class, ClassSum, ClassSums, Discriminant, FoldSums, NoClassifier, Priors, SHRINKAGES,
    candidates::Model, scatter,
};
use crate::{
    Result,
    pca::eigen::{Reflector, Tridiagonal, tridiagonalize},
};

/// Fits the discriminants of all [`SHRINKAGES`], to all images and to all images without each fold. `per_unit` is the number
/// of quanta in 1 of the features.
///
/// The answer is the reason if there can be no classifier. Fails with `Dataset.Corrupt` if the sums are not those of images.
pub fn fit(sums: ClassSums, per_unit: f64, priors: Priors) -> Result<std::result::Result<Candidates, NoClassifier>> {
    let classes: Vec<Class> =
        sums.counts().into_iter().map(|(label, images)| Class { label: label.to_owned(), images }).collect();
    match classes.len() {
        0 => return Ok(Err(NoClassifier::NoLabels)),
        1 => return Ok(Err(NoClassifier::OneLabel)),
        _ => {}
    }
    let rows = sums.rows();
    let mut all = FoldSums::zero(sums.columns());
    sums.folds().iter().try_for_each(|fold| all.combine(fold, 1))?;
    let (mut whole, mut of_folds) = (None, Vec::new());
    of_folds.resize_with(sums.folds().len(), || None);
    // A model is a long chain of small steps, so the best pieces of work for the threads are whole models. A fold without
    // images needs no model. Sums are large: those of a fold become those of its training images, and the model of all images,
    // which needs a copy, is the last one.
    let folds = sums.into_folds().into_iter().enumerate().filter(|(_, fold)| fold.moments.rows() > 0);
    let work: Vec<_> = folds.map(Some).chain([None]).collect();
    let models = work.into_par_iter().map(|fold| match fold {
        Some((number, fold)) => Ok((Some(number), model(fold.complement(&all)?, &classes, per_unit, priors))),
        None => Ok((None, model(all.clone(), &classes, per_unit, priors))),
    });
    let models: Vec<(Option<usize>, Option<Model>)> = models.collect::<Result<_>>()?;
    for (fold, model) in models {
        let Some(model) = model else { return Ok(Err(NoClassifier::NoVariance)) };
        match fold {
            None => whole = Some(model),
            Some(fold) => of_folds[fold] = Some(model),
        }
    }
    let Some(whole) = whole else { return Ok(Err(NoClassifier::NoVariance)) };
    Ok(Ok(Candidates { classes, priors, rows, all: whole, folds: of_folds, scorers: Default::default() }))
}

/// The model of these training images. None if their covariance within classes is zero.
fn model(training: FoldSums, all: &[Class], per_unit: f64, priors: Priors) -> Option<Model> {
    let FoldSums { classes, moments } = training;
    let numbers = classes.keys().filter_map(|label| all.binary_search_by(|class| class.label.as_str().cmp(label)).ok());
    let numbers: Vec<usize> = numbers.collect();
    let classes: Vec<ClassSum> = classes.into_values().collect();
    let columns = moments.columns();
    let matrix = scatter::within(&moments, &classes, per_unit);
    let rows = moments.rows() as f64;
    drop(moments);
    // The mean variance: shrinking moves all variances towards it.
    let target = (0..columns).map(|i| matrix[i * columns + i]).sum::<f64>() / columns as f64;
    if !(target > 0.0 && target.is_finite()) {
        return None;
    }
    let means: Vec<f64> = classes
        .iter()
        .flat_map(|class| class.sums.iter().map(|sum| *sum as f64 / (class.rows as f64 * per_unit)))
        .collect();
    let logs: Vec<f64> = classes
        .iter()
        .map(|class| match priors {
            Priors::Counts => libm::log(class.rows as f64 / rows),
            Priors::Equal => libm::log(1.0 / classes.len() as f64),
        })
        .collect();
    let (tridiagonal, reflectors) = tridiagonalize(matrix, columns);
    let weights = path(&tridiagonal, &reflectors, target, &means);
    let matrix = |values: Vec<f64>| Array2::from_shape_vec((numbers.len(), columns), values).ok();
    let discriminants = weights.into_iter().map(|weights| {
        let pairs = weights.chunks_exact(columns).zip(means.chunks_exact(columns)).zip(&logs);
        let bias = pairs.map(|((weights, mean), log)| -0.5 * dot(weights, mean) + log).collect();
        Some(Discriminant { classes: numbers.clone(), weights: matrix(weights)?, bias })
    });
    let discriminants = discriminants.collect::<Option<Vec<_>>>()?;
    Some(Model::new(matrix(means)?, discriminants))
}

/// `S^-1 mean` for each shrinkage and class, `[classes, columns]` each. The reflections that make W tridiagonal make each
/// `S = (1 - s) W + s target I` tridiagonal, so each shrinkage costs only a tridiagonal solution.
fn path(t: &Tridiagonal, reflectors: &[Reflector], target: f64, means: &[f64]) -> Vec<Vec<f64>> {
    let columns = t.diagonal.len();
    let blocks: Vec<Vec<Vec<f64>>> = means
        .par_chunks(columns * TOGETHER)
        .map(|means| {
            let mut turned = vec![[0.0; TOGETHER]; columns];
            for (lane, mean) in means.chunks_exact(columns).enumerate() {
                for (row, value) in turned.iter_mut().zip(mean) {
                    row[lane] = *value;
                }
            }
            for reflector in reflectors {
                reflector.apply_to_all(&mut turned);
            }
            let solve = |shrinkage: &f64| {
                let mut solution = turned.clone();
                solve(t, 1.0 - shrinkage, shrinkage * target, &mut solution);
                for reflector in reflectors.iter().rev() {
                    reflector.apply_to_all(&mut solution);
                }
                let lanes = 0..means.len() / columns;
                lanes.flat_map(|lane| solution.iter().map(move |row| row[lane]).collect::<Vec<_>>()).collect()
            };
            SHRINKAGES.iter().map(solve).collect()
        })
        .collect();
    (0..SHRINKAGES.len()).map(|s| blocks.iter().flat_map(|block| block[s].iter().copied()).collect()).collect()
}

/// Solves `(a T + b I) y = x` in place, by the factors L D L'. The matrix is positive definite, so no pivots are needed.
fn solve(t: &Tridiagonal, a: f64, b: f64, x: &mut [[f64; TOGETHER]]) {
    let size = x.len();
    let (mut pivots, mut factors) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let mut pivot = a * t.diagonal[0] + b;
    for (i, off_diagonal) in t.off_diagonal.iter().enumerate() {
        let entry = a * off_diagonal;
        let factor = entry / pivot;
        pivots.push(pivot);
        factors.push(factor);
        pivot = (a * t.diagonal[i + 1] + b) - factor * entry;
    }
    pivots.push(pivot);
    for i in 1..size {
        let (above, below) = x.split_at_mut(i);
        for (to, from) in below[0].iter_mut().zip(&above[i - 1]) {
            *to -= factors[i - 1] * from;
        }
    }
    for (row, pivot) in x.iter_mut().zip(&pivots) {
        for value in row {
            *value /= pivot;
        }
    }
    for i in (1..size).rev() {
        let (above, below) = x.split_at_mut(i);
        for (to, from) in above[i - 1].iter_mut().zip(&below[0]) {
            *to -= factors[i - 1] * from;
        }
    }
}
