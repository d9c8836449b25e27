//! Times the classifier on made-up features: `classifier_time [ROWS] [COLUMNS] [CLASSES...]`.
//!
//! Prints one JSON line per number of classes: seconds to sum the features, to fit all models, to tally all images out of
//! fold, and to predict all images, and the accuracy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Instant;

use ndarray::{Array2, Axis};
use pomona::classify::{self, ClassSums, Priors, Summer, TallyRow, fold_of};
use rayon::prelude::*;

const PER_UNIT: f64 = (1u64 << 20) as f64;
const CHUNK: usize = 1_024;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse().expect("a number")).collect();
    let (rows, columns) = (numbers.first().copied().unwrap_or(38_000), numbers.get(1).copied().unwrap_or(1_280));
    let classes = if numbers.len() > 2 { numbers[2..].to_vec() } else { vec![3, 43, 131] };
    for classes in classes {
        println!("{}", measure(rows, columns, classes));
    }
}

/// Features like those of a network: not negative, many zeros, classes that overlap.
fn features(rows: usize, columns: usize, classes: usize) -> Array2<f32> {
    let mut rng = fastrand::Rng::with_seed(17);
    let centres = Array2::from_shape_fn((classes, columns), |_| rng.f64() * 0.5);
    Array2::from_shape_fn((rows, columns), |(row, column)| {
        let value = centres[[row % classes, column]] + (rng.f64() + rng.f64() + rng.f64() - 1.5) * 1.2;
        ((value.clamp(0.0, 6.0) * PER_UNIT).round() / PER_UNIT) as f32
    })
}

fn measure(rows: usize, columns: usize, classes: usize) -> serde_json::Value {
    let features = features(rows, columns, classes);
    let labels: Vec<Option<String>> = (0..rows).map(|row| Some(format!("class {:03}", row % classes))).collect();
    let folds: Vec<u8> = (0..rows).map(|row| fold_of(&format!("{row}.jpg"))).collect();
    let chunks: Vec<usize> = (0..rows).step_by(CHUNK).collect();
    let part = |first: &usize| *first..(*first + CHUNK).min(rows);
    let view = |first: &usize| features.slice_axis(Axis(0), part(first).into());

    let started = Instant::now();
    let group = |chunks: &[usize]| {
        let mut sums = Summer::new(columns, PER_UNIT);
        for first in chunks {
            sums.add_rows(view(first), &labels[part(first)], &folds[part(first)]).unwrap();
        }
        sums.finish().unwrap()
    };
    let parts: Vec<ClassSums> = chunks.par_chunks(chunks.len().div_ceil(2)).map(group).collect();
    let mut sums = ClassSums::zero(columns);
    parts.iter().for_each(|part| sums.add(part).unwrap());
    let summed = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let candidates = classify::fit(sums, PER_UNIT, Priors::Counts).unwrap().unwrap();
    let fitted = started.elapsed().as_secs_f64();

    let images: Vec<TallyRow<'_>> =
        labels.iter().zip(&folds).map(|(label, fold)| TallyRow { label: label.as_deref(), fold: *fold }).collect();
    let started = Instant::now();
    let tallies: Vec<_> = chunks.par_iter().map(|first| candidates.tally(view(first), &images[part(first)])).collect();
    let mut tally = candidates.no_tally();
    tallies.into_iter().for_each(|one| tally.add(one));
    let classifier = candidates.choose(&tally);
    let tallied = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let answers: usize =
        chunks.par_iter().map(|first| classifier.answers(view(first), &images[part(first)], |_| true).len()).sum();
    let predicted = started.elapsed().as_secs_f64();
    assert_eq!(answers, rows);
    serde_json::json!({
        "rows": rows, "columns": columns, "classes": classes, "shrinkages": classify::SHRINKAGES.len(),
        "sums": summed, "fit": fitted, "tally": tallied, "predict": predicted,
        "accuracy": classifier.accuracy.correct as f64 / rows as f64, "shrinkage": classifier.shrinkage,
        "temperature": classifier.temperature,
    })
}
