//! Principal components from exact moments.
//!
//! The covariance matrix (divisor n - 1) is formed in integers and turned into `f64` at the end; standardised, it
//! is the correlation matrix. Columns that are constant take no part. The sign of a component makes its loading of
//! largest absolute value positive (the first of them on a tie).

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Result,
    compute::both,
    eigen,
    kernels::linear::{self, Loadings, ROWS},
    moments::TotalMoments,
};

/// Components when the user does not say, or as many as there can be.
pub const DEFAULT_COMPONENTS: usize = 50;

/// How many components to keep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// So many.
    Components(usize),
    /// The fewest that explain this share of the variance, in (0, 1].
    Variance(f64),
}

impl Keep {
    /// Fails with `Input.Invalid` on what no data set can give.
    pub fn check(self) -> Result<()> {
        match self {
            Keep::Components(0) => Err(Error::new(ErrorKind::InputInvalid, "at least one component must be kept")),
            Keep::Variance(share) if !(share > 0.0 && share <= 1.0) => {
                Err(Error::new(ErrorKind::InputInvalid, "a share of variance lies above 0 and at most at 1")
                    .context("variance", share))
            }
            _ => Ok(()),
        }
    }
}

/// A fitted PCA. Lengths: `columns` (c) and kept components (k).
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// `[c]`
    pub mean: Vec<f64>,
    /// `[c]`: sample standard deviation (n - 1), or 1 when not standardised; 0 for a constant column.
    pub scale: Vec<f64>,
    /// `[k, c]` row-major, rows of unit length; 0 in constant columns.
    pub components: Vec<f64>,
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
    pub fn columns(&self) -> usize {
        self.mean.len()
    }

    pub fn kept(&self) -> usize {
        self.explained_variance.len()
    }

    /// The fewest components that explain `share` of the variance.
    pub fn components_for(&self, share: f64) -> usize {
        components_for(&self.spectrum, self.total_variance, share)
    }

    /// Scores of features: `[rows, c]` row-major in, `[rows, k]` out. `(x - mean) / scale . component`, summed over
    /// the columns in their order, in `f64`.
    pub fn project(&self, features: &[f32]) -> Vec<f32> {
        let (c, k) = (self.columns(), self.kept());
        let loadings = Loadings::of(&self.components, c);
        let mut scores = Vec::with_capacity(features.len() / c.max(1) * k);
        let mut scaled = vec![[0.0f64; ROWS]; c];
        for rows in features.chunks(c * ROWS) {
            for (row, features) in rows.chunks_exact(c).enumerate() {
                for (column, (z, value)) in scaled.iter_mut().zip(features).enumerate() {
                    let scale = self.scale[column];
                    z[row] = if scale == 0.0 { 0.0 } else { (f64::from(*value) - self.mean[column]) / scale };
                }
            }
            loadings.scores(&scaled, rows.len() / c, &mut scores);
        }
        scores
    }
}

fn components_for(spectrum: &[f64], total: f64, share: f64) -> usize {
    let mut sum = 0.0;
    let needed = spectrum.iter().position(|variance| {
        sum += variance;
        // A share of 1 must be reachable although the sum is rounded.
        sum >= share * total * (1.0 - 1e-12)
    });
    needed.map_or(spectrum.len(), |i| i + 1)
}

/// Fits a PCA. `per_unit` is the number of quanta in 1 of the features behind `moments`.
///
/// Without `keep`: [`DEFAULT_COMPONENTS`], or as many as there can be. Fails with `Pca.TooFewImages`,
/// `Pca.NoVariance` or `Pca.TooManyComponents`, saying what is possible.
pub fn fit(moments: &TotalMoments, per_unit: f64, standardize: bool, keep: Option<Keep>) -> Result<Basis> {
    let (n, columns) = (moments.rows(), moments.columns());
    if n < 2 {
        return Err(Error::new(ErrorKind::PcaTooFewImages, "there are too few images for a PCA").context("images", n));
    }
    let sums = moments.sums();
    let rows = i128::from(n);
    // n * Sxy - Sx * Sy, exact: n * (n - 1) times the covariance in squared quanta.
    let scatter = |i: usize, j: usize| rows * moments.products()[moments.position(i, j)] - sums[i] * sums[j];
    let divisor = n as f64 * (n - 1) as f64 * per_unit * per_unit;
    let varying: Vec<usize> = (0..columns).filter(|i| scatter(*i, *i) > 0).collect();
    if varying.is_empty() {
        return Err(Error::new(ErrorKind::PcaNoVariance, "all images have the same features").context("images", n));
    }
    let possible = varying.len().min(usize::try_from(n - 1).unwrap_or(usize::MAX));
    check(keep, possible, n, varying.len())?;

    let deviation: Vec<f64> = varying.iter().map(|i| (scatter(*i, *i) as f64).sqrt()).collect();
    let size = varying.len();
    let mut matrix = vec![0.0; size * size];
    let fill = |rows: &mut [f64], first: usize| {
        for (row, a) in rows.chunks_exact_mut(size).zip(first..) {
            for (b, entry) in row.iter_mut().enumerate().take(a + 1) {
                *entry = if !standardize {
                    scatter(varying[b], varying[a]) as f64 / divisor
                } else if a == b {
                    1.0
                } else {
                    scatter(varying[b], varying[a]) as f64 / (deviation[b] * deviation[a])
                };
            }
        }
    };
    let half = linear::half(size);
    let (above, below) = matrix.split_at_mut(half * size);
    both(|| fill(above, 0), || fill(below, half));
    let total_variance = (0..size).map(|i| matrix[i * size + i]).sum();
    let eigen = eigen::decompose(matrix, size, |values| match keep {
        None => DEFAULT_COMPONENTS.min(possible),
        Some(Keep::Components(k)) => k,
        Some(Keep::Variance(share)) => components_for(values, total_variance, share).min(possible),
    })?;
    // Rounding leaves tiny negative ones where the true value is zero.
    let spectrum: Vec<f64> = eigen.values.iter().map(|value| value.max(0.0)).collect();
    let kept = eigen.vectors.len() / size;

    let mut components = vec![0.0; kept * columns];
    for (row, vector) in components.chunks_exact_mut(columns).zip(eigen.vectors.chunks_exact(size)) {
        let mut largest = 0.0f64;
        for loading in vector {
            if loading.abs() > largest.abs() {
                largest = *loading;
            }
        }
        for (i, column) in varying.iter().enumerate() {
            row[*column] = if largest < 0.0 { -vector[i] } else { vector[i] };
        }
    }
    let mut scale = vec![0.0; columns];
    for (column, deviation) in varying.iter().zip(&deviation) {
        scale[*column] = if standardize { deviation / divisor.sqrt() } else { 1.0 };
    }
    Ok(Basis {
        mean: sums.iter().map(|sum| *sum as f64 / (n as f64 * per_unit)).collect(),
        scale,
        components,
        explained_variance: spectrum[..kept].to_vec(),
        explained_variance_ratio: spectrum[..kept].iter().map(|v| v / total_variance).collect(),
        total_variance,
        spectrum,
        rows: n,
    })
}

fn check(keep: Option<Keep>, possible: usize, images: u64, varying: usize) -> Result<()> {
    keep.map_or(Ok(()), Keep::check)?;
    match keep {
        Some(Keep::Components(k)) if k > possible => Err(Error::new(
            ErrorKind::PcaTooManyComponents,
            format!("{k} components were asked for; 1 to {possible} are possible"),
        )
        .context("images", images)
        .context("columns that vary", varying)),
        _ => Ok(()),
    }
}
