//! The sums of a shard, in 64 bits.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, linalg::general_mat_mul, s};
use rayon::join;

use super::{position, triangle};
use crate::{Error, ErrorKind, Result, model::FEATURE_BITS};

/// Most rows of a shard. The products of this number of rows add up in 64 bits: 2^46 * 2^17 = 2^63.
pub const MAX_SHARD_ROWS: usize = 1 << 17;
/// Rows whose products add up in the 53 bits of an `f64`: 2^46 * 2^7 = 2^53.
pub(crate) const BLOCK_ROWS: usize = 128;
/// Columns of the triangle that are multiplied at a time.
const PANEL_COLUMNS: usize = 128;

/// Row count, `sum x_i` and `sum x_i x_j` (upper triangle, row by row) of a shard, in quanta and squared quanta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMoments {
    pub(super) rows: u64,
    pub(super) sums: Vec<i64>,
    pub(super) products: Vec<i64>,
}

impl ShardMoments {
    /// The moments of no rows.
    pub fn zero(columns: usize) -> Self {
        ShardMoments { rows: 0, sums: vec![0; columns], products: vec![0; triangle(columns)] }
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.sums.len()
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// `[columns * (columns + 1) / 2]`: sums of products, in squared quanta, in the order (0, 0), (0, 1), ..., (1, 1),
    /// (1, 2), ...
    pub fn products(&self) -> &[i64] {
        &self.products
    }

    /// The moments of `features`, `[rows, columns]`, each a multiple of 1 / `per_unit`.
    ///
    /// Fails with `Internal.Bug`, instead of returning a wrong sum, if a value is not such a multiple or is 2^23 quanta or
    /// more, if there are more than [`MAX_SHARD_ROWS`] rows, and if there are no columns.
    pub fn from_features(features: ArrayView2<'_, f32>, per_unit: f64) -> Result<Self> {
        let mut moments = ShardMoments::zero(features.ncols());
        moments.add_features(features, per_unit)?;
        Ok(moments)
    }

    /// Adds the moments of more rows. Fails as [`ShardMoments::from_features`] does, for the rows of all calls together;
    /// the moments are then not those of any rows.
    pub fn add_features(&mut self, features: ArrayView2<'_, f32>, per_unit: f64) -> Result<()> {
        let (rows, columns) = features.dim();
        let together = self.rows + rows as u64;
        if columns == 0 || columns != self.columns() || together > MAX_SHARD_ROWS as u64 {
            return Err(Error::new(ErrorKind::InternalBug, "the matrix has too many rows for a shard, or no columns")
                .context("rows", together)
                .context("columns", columns));
        }
        self.rows = together;
        let mut block = Array2::<f64>::zeros((BLOCK_ROWS.min(rows), columns));
        let panel = || Array2::<f64>::zeros((columns, PANEL_COLUMNS.min(columns)));
        let (mut above, mut below) = (panel(), panel());
        for (number, chunk) in features.axis_chunks_iter(Axis(0), BLOCK_ROWS).enumerate() {
            for (i, (mut to, row)) in block.outer_iter_mut().zip(chunk.outer_iter()).enumerate() {
                for ((to, from), sum) in to.iter_mut().zip(row).zip(&mut self.sums) {
                    let value = f64::from(*from) * per_unit;
                    let whole = value as i64;
                    if whole as f64 != value || whole.unsigned_abs() >= 1 << FEATURE_BITS {
                        return Err(Error::new(
                            ErrorKind::InternalBug,
                            "a feature is out of range or not a multiple of the quantum",
                        )
                        .context("row", number * BLOCK_ROWS + i)
                        .context("value", from));
                    }
                    *to = value;
                    *sum += whole;
                }
            }
            // Two threads have the same work: a triangle has half of its entries in the first 29 % of its rows.
            let (block, cut) = (block.slice(s![..chunk.nrows(), ..]), columns * 29 / 100);
            let (first, second) = self.products.split_at_mut(position(columns, cut, cut));
            join(|| add_block(first, block, 0..cut, &mut above), || add_block(second, block, cut..columns, &mut below));
        }
        Ok(())
    }
}

/// Adds the products of at most [`BLOCK_ROWS`] rows to some rows of the upper triangle, panel by panel.
fn add_block(products: &mut [i64], block: ArrayView2<f64>, rows: Range<usize>, panel: &mut Array2<f64>) {
    let columns = block.ncols();
    if rows.is_empty() {
        return;
    }
    let before = position(columns, rows.start, rows.start);
    for start in (rows.start..columns).step_by(PANEL_COLUMNS) {
        let end = (start + PANEL_COLUMNS).min(columns);
        let last = end.min(rows.end);
        let mut out = panel.slice_mut(s![..last - rows.start, ..end - start]);
        let (left, right) = (block.slice(s![.., rows.start..last]), block.slice(s![.., start..end]));
        general_mat_mul(1.0, &left.t(), &right, 0.0, &mut out);
        for (row, i) in out.outer_iter().zip(rows.start..) {
            let first = start.max(i);
            let at = position(columns, i, first) - before;
            for (to, value) in products[at..at + (end - first)].iter_mut().zip(row.iter().skip(first - start)) {
                *to += *value as i64;
            }
        }
    }
}
