//! Orthonormal directions in which the rows of a sample differ most, with the same bits on every processor.

use pomona_kernels::linear::{Loadings, ROWS, dot, subtract};
use rayon::prelude::*;

use crate::pca::eigen;

/// Most directions.
pub(super) const WIDTH: usize = 48;
/// Groups of [`ROWS`] rows that are projected together: a block of directions stays in the cache for all of them.
const TOGETHER: usize = 16;

/// Orthonormal directions, rounded to `f32`.
#[derive(Clone, Debug)]
pub(super) struct Directions {
    /// `[width, columns]`, row-major.
    pub(super) values: Vec<f32>,
    pub(super) columns: usize,
    loadings: Loadings,
}

impl Directions {
    /// Directions for rows like those of `sample`, `[rows, columns]`, row-major. There are fewer than [`WIDTH`] if the rows
    /// do not differ in more.
    pub(super) fn fit(sample: &[f64], columns: usize) -> Self {
        let centred = centred(sample, columns);
        let rows: Vec<&[f64]> = centred.chunks_exact(columns.max(1)).collect();
        let size = rows.len();
        let products: Vec<Vec<f64>> = rows
            .par_iter()
            .enumerate()
            .map(|(i, row)| rows[..=i].iter().map(|other| dot(row, other)).collect())
            .collect();
        let mut gram = vec![0.0; size * size];
        for (to, from) in gram.chunks_exact_mut(size.max(1)).zip(&products) {
            to[..from.len()].copy_from_slice(from);
        }
        // What is smaller than this share of the largest variance is mostly rounding.
        let differ = |values: &[f64]| {
            let least = values.first().copied().unwrap_or(0.0) * 1e-12;
            values.iter().take(WIDTH).take_while(|value| **value > least).count()
        };
        // Without directions, rows are compared by their norms only. That finds the same.
        let vectors = eigen::decompose(gram, size, differ).map(|found| found.vectors).unwrap_or_default();
        let found: Vec<Vec<f64>> =
            vectors.par_chunks_exact(size.max(1)).map(|vector| combined(&rows, vector, columns)).collect();
        let values = orthonormal(found).into_iter().flatten().map(|x| x as f32).collect();
        Directions::new(values, columns)
    }

    /// Directions `[width, columns]` that were fitted before.
    pub(super) fn new(values: Vec<f32>, columns: usize) -> Self {
        let exact: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        Directions { loadings: Loadings::new(&exact, columns), values, columns }
    }

    pub(super) fn width(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    /// A bound of `|P P' - I|`, which is 0 but for rounding.
    pub(super) fn excess(&self) -> f64 {
        let exact: Vec<f64> = self.values.iter().map(|x| f64::from(*x)).collect();
        let rows: Vec<&[f64]> = exact.chunks_exact(self.columns.max(1)).collect();
        let mut squares = 0.0;
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let product = dot(a, b) - if i == j { 1.0 } else { 0.0 };
                squares += product * product;
            }
        }
        // The norm of Frobenius bounds that of the matrix; the rest is the rounding of the products.
        squares.sqrt() + 1e-12
    }

    /// Projections of rows, `[rows, width]`. `values` writes the numbers of a row to every [`ROWS`]th place.
    pub(super) fn project(&self, rows: usize, values: impl Fn(usize, &mut dyn FnMut(usize, f64)) + Sync) -> Vec<f64> {
        let width = self.width();
        let mut projected = vec![0.0; rows * width];
        if width == 0 {
            return projected;
        }
        let step = ROWS * TOGETHER;
        projected.par_chunks_mut(step * width).enumerate().for_each(|(number, to)| {
            let (first, count) = (number * step, to.len() / width);
            let mut blocks = vec![vec![[0.0; ROWS]; self.columns]; count.div_ceil(ROWS)];
            for row in 0..count {
                let block = &mut blocks[row / ROWS];
                values(first + row, &mut |column, value| block[column][row % ROWS] = value);
            }
            self.loadings.products(&blocks, to);
        });
        projected
    }
}

/// The rows minus their mean.
fn centred(sample: &[f64], columns: usize) -> Vec<f64> {
    let rows = sample.len() / columns.max(1);
    let mut mean = vec![0.0; columns];
    for row in sample.chunks_exact(columns.max(1)) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    mean.iter_mut().for_each(|sum| *sum /= rows.max(1) as f64);
    let mut centred = sample[..rows * columns].to_vec();
    for row in centred.chunks_exact_mut(columns.max(1)) {
        subtract(row, 1.0, &mean);
    }
    centred
}

/// The sum of rows with these weights.
fn combined(rows: &[&[f64]], weights: &[f64], columns: usize) -> Vec<f64> {
    let mut sum = vec![0.0; columns];
    for (row, weight) in rows.iter().zip(weights) {
        subtract(&mut sum, -weight, row);
    }
    sum
}

/// Makes vectors orthonormal, one after the other. Those that depend on the vectors before them are left out.
fn orthonormal(vectors: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut found: Vec<Vec<f64>> = Vec::with_capacity(vectors.len());
    for mut vector in vectors {
        let before = dot(&vector, &vector).sqrt();
        // Twice, so that the rounding of the first time does not matter.
        for _ in 0..2 {
            for other in &found {
                let along = dot(&vector, other);
                subtract(&mut vector, along, other);
            }
        }
        let length = dot(&vector, &vector).sqrt();
        if length > before * 1e-6 && length > 0.0 {
            vector.iter_mut().for_each(|x| *x /= length);
            found.push(vector);
        }
    }
    found
}
