//! Sketches: projections onto orthonormal directions in which the rows of a sample differ most.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, linalg::general_mat_mul, s};
use pomona_kernels::linear::{Loadings, ROWS};
use rayon::join;

/// Numbers of a sketch. Half of the directions separate all rows, the other half rows that are next to each other, which are
/// often views of one thing.
const WIDTH: usize = 48;
/// Passes of the subspace iteration. More of them would separate rows a little better.
const PASSES: usize = 3;
/// Seed of the first directions. Results do not depend on it.
const SEED: u64 = 18;

/// Projects rows of features.
#[derive(Debug)]
pub struct Sketcher {
    loadings: Loadings,
    columns: usize,
    stretch: f64,
}

/// Sketches of rows, in their order.
#[derive(Clone, Debug, Default)]
pub struct Sketches {
    /// `[rows, WIDTH]`, row-major.
    pub(super) values: Vec<f32>,
    /// Largest norm of a row.
    norm: f64,
}

impl Sketcher {
    /// Chooses directions for data like `sample`, `[rows, columns]`, whose rows are in key order. Any directions give the
    /// same duplicates; good ones exclude more pairs.
    pub fn fit(sample: ArrayView2<'_, f32>) -> Self {
        let columns = sample.ncols();
        let rows = sample.mapv(f64::from);
        let mut directions = Array2::zeros((WIDTH, columns));
        if let Some(mean) = rows.mean_axis(Axis(0)) {
            widest(&(&rows - &mean), &mut directions, 0..WIDTH / 2);
        }
        if rows.nrows() > 1 {
            let differences = &rows.slice(s![1.., ..]) - &rows.slice(s![..-1, ..]);
            widest(&differences, &mut directions, WIDTH / 2..WIDTH);
        }
        // |P|^2 is the largest eigenvalue of P P', which exceeds 1 by at most the norm of the difference.
        let mut excess = directions.dot(&directions.t());
        for i in 0..WIDTH {
            let length = excess[[i, i]];
            excess[[i, i]] = if length == 0.0 { 0.0 } else { length - 1.0 };
        }
        let excess = excess.iter().map(|x| x * x).sum::<f64>().sqrt();
        let loadings = Loadings::new(directions.as_slice().unwrap_or_default(), columns);
        Sketcher { loadings, columns, stretch: 1.0 + excess + 1e-12 }
    }

    /// Appends the sketches of rows `[rows, columns]` of features.
    pub fn sketch(&self, features: ArrayView2<'_, f32>, to: &mut Sketches) {
        let (first, second) = features.split_at(Axis(0), features.nrows() / 2);
        let mut next = Sketches::default();
        join(|| self.sketch_rows(first, to), || self.sketch_rows(second, &mut next));
        to.append(&next);
    }

    fn sketch_rows(&self, features: ArrayView2<'_, f32>, to: &mut Sketches) {
        let mut block = vec![[0.0f64; ROWS]; self.columns];
        for rows in features.axis_chunks_iter(Axis(0), ROWS) {
            for (row, values) in rows.outer_iter().enumerate() {
                let mut squares = 0.0;
                for (at, value) in block.iter_mut().zip(values) {
                    let value = f64::from(*value);
                    at[row] = value;
                    squares += value * value;
                }
                to.norm = to.norm.max(squares.sqrt());
            }
            self.loadings.scores(&block, rows.nrows(), &mut to.values);
        }
    }

    /// A bound of the norm of the projection; 1 but for rounding.
    pub(super) fn stretch(&self) -> f64 {
        self.stretch
    }
}

impl Sketches {
    /// Numbers of a sketch.
    pub const WIDTH: usize = WIDTH;

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / WIDTH
    }

    /// Makes room for this number of rows in total.
    pub fn reserve(&mut self, rows: usize) {
        self.values.reserve_exact((rows * WIDTH).saturating_sub(self.values.len()));
    }

    /// Appends those of the next rows.
    pub fn append(&mut self, next: &Sketches) {
        self.values.extend_from_slice(&next.values);
        self.norm = self.norm.max(next.norm);
    }

    /// A bound of the distance of a sketch from the exact projection of its row.
    pub(super) fn error(&self) -> f64 {
        // Rounding to f32 is 2^-24 of the norm, and the sums in f64 are far below. The rest is reserve.
        self.norm * f64::from(f32::EPSILON)
    }
}

/// Fills some rows of `directions` with orthonormal directions in which `rows` vary most, orthogonal to those before them.
fn widest(rows: &Array2<f64>, directions: &mut Array2<f64>, which: std::ops::Range<usize>) {
    let (columns, mut random) = (rows.ncols(), fastrand::Rng::with_seed(SEED));
    let mut found = Array2::from_shape_simple_fn((which.len(), columns), || random.f64() - 0.5);
    for pass in 0..=PASSES {
        for (i, number) in which.clone().enumerate() {
            let mut direction = found.row(i).to_owned();
            let length = orthogonalize(&mut direction, directions, number);
            // What is left of a direction that depends on the others is only rounding.
            if length > 1e-9 {
                direction /= length;
            } else {
                direction.fill(0.0);
            };
            directions.row_mut(number).assign(&direction);
        }
        if pass < PASSES {
            let current = directions.slice(s![which.clone(), ..]);
            let mut along = Array2::zeros((rows.nrows(), which.len()));
            product(rows.view(), current.t(), along.view_mut());
            product(along.t(), rows.view(), found.view_mut());
            let largest = found.iter().fold(f64::MIN_POSITIVE, |largest: f64, x| largest.max(x.abs()));
            found /= largest;
        }
    }
}

/// The product of two matrices, by two threads. Each of them has half of the longer side of the result.
fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, to: ArrayViewMut2<'_, f64>) {
    let half = |a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, mut to: ArrayViewMut2<'_, f64>| {
        general_mat_mul(1.0, &a, &b, 0.0, &mut to);
    };
    if a.nrows() > b.ncols() {
        let middle = a.nrows() / 2;
        let ((above, below), (first, second)) = (a.split_at(Axis(0), middle), to.split_at(Axis(0), middle));
        join(|| half(above, b, first), || half(below, b, second));
    } else {
        let middle = b.ncols() / 2;
        let ((left, right), (first, second)) = (b.split_at(Axis(1), middle), to.split_at(Axis(1), middle));
        join(|| half(a, left, first), || half(a, right, second));
    }
}

/// Subtracts from a direction what the first `count` directions have of it, twice, so that rounding does not matter. Returns
/// the length of the rest.
fn orthogonalize(direction: &mut Array1<f64>, directions: &Array2<f64>, count: usize) -> f64 {
    for _ in 0..2 {
        for other in directions.slice(s![..count, ..]).outer_iter() {
            let along = direction.dot(&other);
            direction.scaled_add(-along, &other);
        }
    }
    direction.dot(direction).sqrt()
}
