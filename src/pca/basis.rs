//! A fitted PCA, and projection onto it.

use ndarray::{Array2, ArrayView2, Axis};
use pomona_kernels::linear::{Loadings, ROWS};

/// A fitted PCA of `c` columns with `k` kept components.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// `[c]`: means of the columns.
    pub mean: Vec<f64>,
    /// `[c]`: sample standard deviations (divisor n - 1), or 1 without standardisation; 0 for constant columns.
    pub scale: Vec<f64>,
    /// `[k, c]`: loadings; rows have unit length. 0 in constant columns.
    pub components: Array2<f64>,
    /// `[k]`: sample variances of the scores, descending.
    pub explained_variance: Vec<f64>,
    /// `[k]`: the same divided by [`Basis::total_variance`].
    pub explained_variance_ratio: Vec<f64>,
    /// Sum of the variances of all columns. With standardisation, the number of columns that are not constant.
    pub total_variance: f64,
    /// Variances of all components, also of those that were not kept, descending; one per column that is not constant.
    pub spectrum: Vec<f64>,
    /// Number of rows (images) of the fit.
    pub rows: u64,
}

impl Basis {
    /// The number of columns of the features, c.
    pub fn columns(&self) -> usize {
        self.mean.len()
    }

    /// The number of kept components, k.
    pub fn kept(&self) -> usize {
        self.explained_variance.len()
    }

    /// The smallest number of components that explain `share` (0 to 1) of the variance. It may exceed [`Basis::kept`].
    pub fn components_for(&self, share: f64) -> usize {
        components_for(&self.spectrum, self.total_variance, share)
    }

    /// The scores of features `[rows, c]`, as `[rows, k]`: `(x - mean) / scale . component`, summed in `f64` in the order of
    /// the columns.
    ///
    /// # Panics
    ///
    /// If `features` has another number of columns than the basis.
    pub fn project(&self, features: ArrayView2<'_, f32>) -> Array2<f32> {
        let (rows, c, k) = (features.nrows(), self.columns(), self.kept());
        assert_eq!(features.ncols(), c, "features of another model");
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

/// The smallest number of the descending variances whose sum is `share` of the total.
pub(super) fn components_for(spectrum: &[f64], total: f64, share: f64) -> usize {
    let mut sum = 0.0;
    let needed = spectrum.iter().position(|variance| {
        sum += variance;
        // The tolerance lets a rounded sum reach a share of 1.
        sum >= share * total * (1.0 - 1e-12)
    });
    needed.map_or(spectrum.len(), |i| i + 1)
}
