//! A fitted PCA, and projecting on it.

use ndarray::{Array2, ArrayView2, Axis};
use pomona_kernels::linear::{Loadings, ROWS};

/// A fitted PCA. Lengths: `columns` (c) and kept components (k).
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// `[c]`
    pub mean: Vec<f64>,
    /// `[c]`: sample standard deviation (n - 1), or 1 when not standardised; 0 for a constant column.
    pub scale: Vec<f64>,
    /// `[k, c]`, rows of unit length; 0 in constant columns.
    pub components: Array2<f64>,
    /// `[k]`, falling: the variance of the scores.
    pub explained_variance: Vec<f64>,
    /// `[k]`: the same as shares of [`Basis::total_variance`].
    pub explained_variance_ratio: Vec<f64>,
    /// Sum of the variances of all columns (after standardising: the number of columns that are not constant).
    pub total_variance: f64,
    /// All variances, falling, also of the components that were not kept; as many as columns that are not constant.
    pub spectrum: Vec<f64>,
    /// Rows that it was fitted on.
    pub rows: u64,
}

impl Basis {
    /// Columns of the features, c.
    pub fn columns(&self) -> usize {
        self.mean.len()
    }

    /// Components, k.
    pub fn kept(&self) -> usize {
        self.explained_variance.len()
    }

    /// The fewest components that explain `share` of the variance.
    pub fn components_for(&self, share: f64) -> usize {
        components_for(&self.spectrum, self.total_variance, share)
    }

    /// Scores of features: `[rows, c]` in, `[rows, k]` out. `(x - mean) / scale . component`, summed over the columns in
    /// their order, in `f64`.
    pub fn project(&self, features: ArrayView2<'_, f32>) -> Array2<f32> {
        let (rows, c, k) = (features.nrows(), self.columns(), self.kept());
        let loadings = Loadings::new(self.components.as_standard_layout().as_slice().unwrap_or_default(), c);
        let mut scores = Vec::with_capacity(rows * k);
        let mut scaled = vec![[0.0f64; ROWS]; c];
        for block in features.axis_chunks_iter(Axis(0), ROWS) {
            for (row, features) in block.outer_iter().enumerate() {
                for (column, (z, value)) in scaled.iter_mut().zip(features).enumerate() {
                    let scale = self.scale[column];
                    z[row] = if scale == 0.0 { 0.0 } else { (f64::from(*value) - self.mean[column]) / scale };
                }
            }
            loadings.scores(&scaled, block.nrows(), &mut scores);
        }
        // `scores` appends exactly `kept` numbers per row.
        Array2::from_shape_vec((rows, k), scores).unwrap_or_default()
    }
}

/// The fewest of falling variances that make up `share` of the total.
pub(super) fn components_for(spectrum: &[f64], total: f64, share: f64) -> usize {
    let mut sum = 0.0;
    let needed = spectrum.iter().position(|variance| {
        sum += variance;
        // A share of 1 must be reachable although the sum is rounded.
        sum >= share * total * (1.0 - 1e-12)
    });
    needed.map_or(spectrum.len(), |i| i + 1)
}
