//! Computes a basis from exact sums.

use ndarray::Array2;
use pomona_kernels::linear;
use rayon::join;

use super::{
    Basis, ComponentSelection, DEFAULT_COMPONENTS, Scaling,
    basis::components_for,
    eigen::{self, Eigen},
    moments::TotalMoments,
};
use crate::{Error, ErrorKind, Result};

/// Fits a PCA. `per_unit` is the number of quanta in 1 of the features: see
/// [`FeatureRange::per_unit`](crate::model::FeatureRange::per_unit).
///
/// `None` keeps [`DEFAULT_COMPONENTS`], or the largest possible number if that is smaller. At most `min(n - 1, columns that
/// are not constant)` components are possible.
///
/// Fails with `Pca.TooFewImages` for fewer than 2 rows, with `Pca.NoVariance` if all columns are constant, with
/// `Pca.TooManyComponents`, with `Input.Invalid` (see [`ComponentSelection::check`]), and with `Pca.NotConverged`.
pub fn fit(
    moments: &TotalMoments,
    per_unit: f64,
    scaling: Scaling,
    selection: Option<ComponentSelection>,
) -> Result<Basis> {
    let (n, columns) = (moments.rows(), moments.columns());
    if n < 2 {
        return Err(Error::new(ErrorKind::PcaTooFewImages, "a PCA needs at least two images").context("images", n));
    }
    let scatter = Scatter::new(moments, per_unit);
    let size = scatter.varying.len();
    if size == 0 {
        return Err(Error::new(ErrorKind::PcaNoVariance, "all images have the same features").context("images", n));
    }
    let possible = size.min(usize::try_from(n - 1).unwrap_or(usize::MAX));
    check(selection, possible, n, size)?;

    let matrix = match scaling {
        Scaling::Centered => scatter.covariance(),
        Scaling::Standardized => scatter.correlation(),
    };
    let total_variance = (0..size).map(|i| matrix[i * size + i]).sum();
    let eigen = eigen::decompose(matrix, size, |values| match selection {
        None => DEFAULT_COMPONENTS.min(possible),
        Some(ComponentSelection::Components(k)) => k,
        Some(ComponentSelection::Variance(share)) => components_for(values, total_variance, share).min(possible),
    })?;
    // Where the true value is zero, the computed one may be slightly negative.
    let spectrum: Vec<f64> = eigen.values.iter().map(|value| value.max(0.0)).collect();
    let components = scatter.components(&eigen);
    let kept = components.nrows();
    Ok(Basis {
        mean: moments.sums().iter().map(|sum| sum as f64 / (n as f64 * per_unit)).collect(),
        scale: scatter.scale(columns, scaling),
        components,
        explained_variance: spectrum[..kept].to_vec(),
        explained_variance_ratio: spectrum[..kept].iter().map(|v| v / total_variance).collect(),
        total_variance,
        spectrum,
        rows: n,
    })
}

/// `n Sxy - Sx Sy` of the columns that are not constant, exact: `n (n - 1)` times the covariance in squared quanta.
struct Scatter<'a> {
    moments: &'a TotalMoments,
    /// Indices of the columns that are not constant.
    varying: Vec<usize>,
    /// Square roots of the diagonal, for those columns.
    deviation: Vec<f64>,
    /// An entry divided by this is a covariance.
    divisor: f64,
}

impl<'a> Scatter<'a> {
    fn new(moments: &'a TotalMoments, per_unit: f64) -> Self {
        let n = moments.rows();
        let divisor = n as f64 * (n - 1) as f64 * per_unit * per_unit;
        let mut scatter = Scatter { moments, varying: Vec::new(), deviation: Vec::new(), divisor };
        scatter.varying = (0..moments.columns()).filter(|i| scatter.entry(*i, *i) > 0).collect();
        scatter.deviation = scatter.varying.iter().map(|i| (scatter.entry(*i, *i) as f64).sqrt()).collect();
        scatter
    }

    /// The entry of columns i <= j.
    fn entry(&self, i: usize, j: usize) -> i128 {
        let (moments, sums) = (self.moments, self.moments.sums());
        i128::from(moments.rows()) * moments.product(i, j) - sums.at(i) * sums.at(j)
    }

    fn covariance(&self) -> Vec<f64> {
        self.lower_triangle(|b, a| self.entry(self.varying[b], self.varying[a]) as f64 / self.divisor)
    }

    fn correlation(&self) -> Vec<f64> {
        self.lower_triangle(|b, a| {
            if a == b {
                return 1.0;
            }
            self.entry(self.varying[b], self.varying[a]) as f64 / (self.deviation[b] * self.deviation[a])
        })
    }

    /// A square matrix with `entry(b, a)` in row a and column b of its lower triangle, computed by two threads.
    fn lower_triangle(&self, entry: impl Fn(usize, usize) -> f64 + Sync) -> Vec<f64> {
        let size = self.varying.len();
        let mut matrix = vec![0.0; size * size];
        let fill = |rows: &mut [f64], first: usize| {
            for (row, a) in rows.chunks_exact_mut(size).zip(first..) {
                for (b, to) in row.iter_mut().enumerate().take(a + 1) {
                    *to = entry(b, a);
                }
            }
        };
        let half = linear::half(size);
        let (above, below) = matrix.split_at_mut(half * size);
        join(|| fill(above, 0), || fill(below, half));
        matrix
    }

    /// Eigenvectors as components over all columns, `[kept, columns]`, with the largest loading positive.
    fn components(&self, eigen: &Eigen) -> Array2<f64> {
        let size = self.varying.len();
        let mut components = Array2::zeros((eigen.vectors.len() / size, self.moments.columns()));
        for (mut row, vector) in components.outer_iter_mut().zip(eigen.vectors.chunks_exact(size)) {
            let mut largest = 0.0f64;
            for loading in vector {
                if loading.abs() > largest.abs() {
                    largest = *loading;
                }
            }
            for (column, loading) in self.varying.iter().zip(vector) {
                row[*column] = if largest < 0.0 { -loading } else { *loading };
            }
        }
        components
    }

    /// The sample standard deviation of each column, or 1 without standardisation; 0 for a constant column.
    fn scale(&self, columns: usize, scaling: Scaling) -> Vec<f64> {
        let mut scale = vec![0.0; columns];
        for (column, deviation) in self.varying.iter().zip(&self.deviation) {
            scale[*column] = match scaling {
                Scaling::Centered => 1.0,
                Scaling::Standardized => deviation / self.divisor.sqrt(),
            };
        }
        scale
    }
}

/// Fails with `Pca.TooManyComponents` if more than `possible` components are selected.
fn check(selection: Option<ComponentSelection>, possible: usize, images: u64, varying: usize) -> Result<()> {
    selection.map_or(Ok(()), ComponentSelection::check)?;
    match selection {
        Some(ComponentSelection::Components(k)) if k > possible => Err(Error::new(
            ErrorKind::PcaTooManyComponents,
            format!("{k} components are requested; 1 to {possible} are possible"),
        )
        .context("images", images)
        .context("columns that are not constant", varying)),
        _ => Ok(()),
    }
}
