//! Exact sums and sums of products of features.
//!
//! A feature is an integer multiple of a power of two, the *quantum*, and smaller than 2^23 quanta. The product of two
//! features has 46 bits, and 128 such products add up to at most 2^53. So an `f64` matrix multiplication of 128 rows does
//! not round, in any order and on any processor. Blocks of 128 rows are added in `i64`, which holds the products of 131,072
//! rows, the largest shard. Totals are `i128`.
//!
//! Addition of moments is therefore associative and commutative, and subtraction is its inverse, bit for bit. Totals do
//! not depend on the cuts between shards, on the order of the images, or on what was added and subtracted before.

use ndarray::{Array2, ArrayView2, Axis, linalg::general_mat_mul, s};

use crate::{Error, ErrorKind, Result, model::FEATURE_BITS};

/// Most rows of a shard. The products of this number of rows add up in 64 bits: 2^46 * 2^17 = 2^63.
pub const MAX_SHARD_ROWS: usize = 1 << 17;
/// Rows whose products add up in the 53 bits of an `f64`: 2^46 * 2^7 = 2^53.
pub(crate) const BLOCK_ROWS: usize = 128;
/// Columns of the triangle that are multiplied at a time.
const PANEL_COLUMNS: usize = 128;

/// An integer type for sums: `i64` for shards, `i128` for totals.
pub trait Sum: Copy + Default + PartialEq + std::fmt::Debug + Into<i128> {}
impl Sum for i64 {}
impl Sum for i128 {}

/// Row count, `sum x_i` and `sum x_i x_j` (upper triangle, row by row), in quanta and squared quanta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moments<T> {
    columns: usize,
    rows: u64,
    sums: Vec<T>,
    products: Vec<T>,
}

/// The moments of a shard.
pub type ShardMoments = Moments<i64>;
/// The moments of a data set.
pub type TotalMoments = Moments<i128>;

/// Number of entries of an upper triangle with its diagonal.
pub(crate) fn triangle(columns: usize) -> usize {
    columns * (columns + 1) / 2
}

impl<T: Sum> Moments<T> {
    /// The moments of no rows.
    pub fn zero(columns: usize) -> Self {
        Moments { columns, rows: 0, sums: vec![T::default(); columns], products: vec![T::default(); triangle(columns)] }
    }

    /// Moments from a row count, [`Moments::sums`] and [`Moments::products`]. Fails with `Dataset.Corrupt` if the lengths
    /// do not match.
    pub fn from_parts(rows: u64, sums: Vec<T>, products: Vec<T>) -> Result<Self> {
        let columns = sums.len();
        if products.len() != triangle(columns) {
            return Err(Error::new(ErrorKind::DatasetCorrupt, "the numbers of sums and of products do not match")
                .context("sums", columns)
                .context("products", products.len()));
        }
        Ok(Moments { columns, rows, sums, products })
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// `[columns]`: sums of the columns, in quanta.
    pub fn sums(&self) -> &[T] {
        &self.sums
    }

    /// `[columns * (columns + 1) / 2]`: sums of products, in squared quanta, in the order (0, 0), (0, 1), ..., (1, 1),
    /// (1, 2), ...
    pub fn products(&self) -> &[T] {
        &self.products
    }

    /// The index of (i, j) with i <= j in [`Moments::products`].
    pub fn position(&self, i: usize, j: usize) -> usize {
        debug_assert!(i <= j && j < self.columns);
        i * (2 * self.columns - i + 1) / 2 + (j - i)
    }
}

impl ShardMoments {
    /// The moments of `features`, `[rows, columns]`, each a multiple of 1 / `per_unit`.
    ///
    /// Fails with `Internal.Bug`, instead of returning a wrong sum, if a value is not such a multiple or is 2^23 quanta or
    /// more, if there are more than [`MAX_SHARD_ROWS`] rows, and if there are no columns.
    pub fn from_features(features: ArrayView2<'_, f32>, per_unit: f64) -> Result<Self> {
        let mut moments = Moments::zero(features.ncols());
        moments.add_features(features, per_unit)?;
        Ok(moments)
    }

    /// Adds the moments of more rows. Fails as [`ShardMoments::from_features`] does, for the rows of all calls together;
    /// the moments are then not those of any rows.
    pub fn add_features(&mut self, features: ArrayView2<'_, f32>, per_unit: f64) -> Result<()> {
        let (rows, columns) = features.dim();
        let together = self.rows + rows as u64;
        if columns == 0 || columns != self.columns || together > MAX_SHARD_ROWS as u64 {
            return Err(Error::new(ErrorKind::InternalBug, "the matrix has too many rows for a shard, or no columns")
                .context("rows", together)
                .context("columns", columns));
        }
        self.rows = together;
        let mut block = Array2::<f64>::zeros((BLOCK_ROWS.min(rows), columns));
        let mut panel = Array2::<f64>::zeros((columns, PANEL_COLUMNS.min(columns)));
        for (number, chunk) in features.axis_chunks_iter(Axis(0), BLOCK_ROWS).enumerate() {
            for (i, (mut to, row)) in block.outer_iter_mut().zip(chunk.outer_iter()).enumerate() {
                for ((to, from), sum) in to.iter_mut().zip(row).zip(&mut self.sums) {
                    let value = f64::from(*from) * per_unit;
                    if value.fract() != 0.0 || value.abs() >= f64::from(1 << FEATURE_BITS) {
                        return Err(Error::new(
                            ErrorKind::InternalBug,
                            "a feature is out of range or not a multiple of the quantum",
                        )
                        .context("row", number * BLOCK_ROWS + i)
                        .context("value", from));
                    }
                    *to = value;
                    *sum += value as i64;
                }
            }
            self.add_block(block.slice(s![..chunk.nrows(), ..]), &mut panel);
        }
        Ok(())
    }

    /// Adds the moments of other rows of the same shard. Fails with `Internal.Bug` if the columns differ or if there are
    /// more than [`MAX_SHARD_ROWS`] rows together.
    pub fn append(&mut self, other: &Self) -> Result<()> {
        if other.columns != self.columns || self.rows + other.rows > MAX_SHARD_ROWS as u64 {
            return Err(Error::new(ErrorKind::InternalBug, "the moments are not of rows of one shard")
                .context("rows", self.rows + other.rows)
                .context("columns", other.columns));
        }
        self.rows += other.rows;
        for (to, from) in self.sums.iter_mut().zip(&other.sums).chain(self.products.iter_mut().zip(&other.products)) {
            *to += from;
        }
        Ok(())
    }

    /// Adds the products of at most [`BLOCK_ROWS`] rows, panel by panel of the upper triangle.
    fn add_block(&mut self, block: ArrayView2<f64>, panel: &mut Array2<f64>) {
        for start in (0..self.columns).step_by(PANEL_COLUMNS) {
            let end = (start + PANEL_COLUMNS).min(self.columns);
            let mut out = panel.slice_mut(s![..end, ..end - start]);
            general_mat_mul(1.0, &block.slice(s![.., ..end]).t(), &block.slice(s![.., start..end]), 0.0, &mut out);
            for (i, row) in out.outer_iter().enumerate() {
                let first = start.max(i);
                let position = self.position(i, first);
                let to = &mut self.products[position..position + (end - first)];
                for (to, value) in to.iter_mut().zip(row.iter().skip(first - start)) {
                    *to += *value as i64;
                }
            }
        }
    }
}

impl TotalMoments {
    /// Adds the moments of a shard or other totals. Fails with `Dataset.Corrupt` if the columns differ or a sum exceeds 128
    /// bits.
    pub fn add<T: Sum>(&mut self, other: &Moments<T>) -> Result<()> {
        self.combine(other, 1)
    }

    /// Subtracts moments that were added before. Fails with `Dataset.Corrupt` if the columns differ or if fewer rows were
    /// added than are subtracted.
    pub fn subtract<T: Sum>(&mut self, other: &Moments<T>) -> Result<()> {
        self.combine(other, -1)
    }

    /// The moments of the rows of `all` that are not among these, in the memory of these. Fails as [`TotalMoments::subtract`] does.
    pub(crate) fn complement(mut self, all: &Self) -> Result<Self> {
        if all.columns != self.columns || all.rows < self.rows {
            return Err(Error::new(ErrorKind::DatasetCorrupt, "the moments are not of some of the rows")
                .context("columns", self.columns)
                .context("rows", self.rows));
        }
        self.rows = all.rows - self.rows;
        for (to, all) in self.sums.iter_mut().zip(&all.sums).chain(self.products.iter_mut().zip(&all.products)) {
            let overflow = || Error::new(ErrorKind::DatasetCorrupt, "a sum exceeds 128 bits");
            *to = all.checked_sub(*to).ok_or_else(overflow)?;
        }
        Ok(self)
    }

    fn combine<T: Sum>(&mut self, other: &Moments<T>, sign: i128) -> Result<()> {
        let corrupt = |what: &str| Error::new(ErrorKind::DatasetCorrupt, what.to_owned());
        if other.columns != self.columns {
            return Err(corrupt("the sums are of a model with another number of columns")
                .context("columns", other.columns)
                .context("expected", self.columns));
        }
        if other.rows == 0 {
            // Adding nothing to 128-bit sums would take as long as adding something.
            return Ok(());
        }
        let rows = i128::from(self.rows) + sign * i128::from(other.rows);
        self.rows = u64::try_from(rows).map_err(|_| corrupt("more rows are subtracted than were added"))?;
        for (to, from) in self.sums.iter_mut().zip(&other.sums).chain(self.products.iter_mut().zip(&other.products)) {
            let from: i128 = (*from).into();
            *to = to.checked_add(sign * from).ok_or_else(|| corrupt("a sum exceeds 128 bits"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PER_UNIT: f64 = (1u64 << 20) as f64;

    fn feature() -> impl Strategy<Value = f32> {
        prop_oneof![Just(0i32), -((1i32 << 23) - 1)..(1 << 23), Just((1 << 23) - 1), Just(1),]
            .prop_map(|units| (f64::from(units) / PER_UNIT) as f32)
    }

    fn moments(features: &[f32], columns: usize) -> Result<ShardMoments> {
        let rows = ArrayView2::from_shape((features.len() / columns, columns), features).unwrap();
        ShardMoments::from_features(rows, PER_UNIT)
    }

    fn naive(features: &[f32], columns: usize) -> TotalMoments {
        let mut total = TotalMoments::zero(columns);
        for row in features.chunks(columns) {
            let units: Vec<i128> = row.iter().map(|x| (f64::from(*x) * PER_UNIT) as i128).collect();
            total.rows += 1;
            for i in 0..columns {
                total.sums[i] += units[i];
                for j in i..columns {
                    let position = total.position(i, j);
                    total.products[position] += units[i] * units[j];
                }
            }
        }
        total
    }

    fn total(features: &[f32], columns: usize, rows_per_shard: usize) -> TotalMoments {
        let mut total = TotalMoments::zero(columns);
        for shard in features.chunks(rows_per_shard * columns) {
            total.add(&moments(shard, columns).unwrap()).unwrap();
        }
        total
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn sums_are_exact_for_every_split(
            columns in 1usize..12,
            values in prop::collection::vec(feature(), 0..4_000),
            size in 1usize..400,
        ) {
            let values = &values[..values.len() / columns * columns];
            prop_assert_eq!(total(values, columns, size), naive(values, columns));
            // The rows of a shard summed in two parts.
            let (first, second) = values.split_at((size * columns).min(values.len()));
            let mut halves = moments(first, columns).unwrap();
            halves.append(&moments(second, columns).unwrap()).unwrap();
            prop_assert_eq!(halves, moments(values, columns).unwrap());
        }

        #[test]
        fn order_does_not_matter_and_subtracting_undoes_adding(
            values in prop::collection::vec(feature(), 60..1_200),
            order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
            gone in 0usize..12,
        ) {
            let values = &values[..values.len() / 60 * 60];
            let shards: Vec<_> =
                values.chunks(values.len() / 12).map(|s| moments(s, 5).unwrap()).collect();
            let (mut forward, mut shuffled, mut without) =
                (TotalMoments::zero(5), TotalMoments::zero(5), TotalMoments::zero(5));
            for i in 0..12 {
                forward.add(&shards[i]).unwrap();
                shuffled.add(&shards[order[i]]).unwrap();
                if i != gone {
                    without.add(&shards[i]).unwrap();
                }
            }
            prop_assert_eq!(&forward, &shuffled);
            let mut of_shard = TotalMoments::zero(5);
            of_shard.add(&shards[gone]).unwrap();
            prop_assert_eq!(&of_shard.complement(&forward).unwrap(), &without);
            forward.subtract(&shards[gone]).unwrap();
            prop_assert_eq!(forward, without);
        }
    }

    #[test]
    fn wide_features_cross_panels_and_blocks_exactly() {
        let columns = 300;
        let values: Vec<f32> = (0..columns * 301)
            .map(|i: usize| ((i.wrapping_mul(2_654_435_761) % (1 << 23)) as f64 / PER_UNIT) as f32)
            .collect();
        assert_eq!(total(&values, columns, 301), naive(&values, columns));
    }

    #[test]
    fn the_largest_values_fill_but_do_not_overflow_a_shard() {
        let largest = (f64::from((1 << 23) - 1) / PER_UNIT) as f32;
        let full = moments(&vec![largest; MAX_SHARD_ROWS], 1).unwrap();
        let units = i128::from((1 << 23) - 1);
        assert_eq!(i128::from(full.products()[0]), units * units * MAX_SHARD_ROWS as i128);
        assert!(moments(&vec![0.0; MAX_SHARD_ROWS + 1], 1).is_err());
    }

    #[test]
    fn a_value_that_is_not_a_multiple_of_the_quantum_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY, 8.0, -8.0, 0.3] {
            assert!(moments(&[0.5, bad], 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn subtracting_more_rows_than_were_added_fails() {
        let shard = moments(&[1.0], 1).unwrap();
        assert!(TotalMoments::zero(1).subtract(&shard).is_err());
        assert!(TotalMoments::zero(2).add(&shard).is_err());
        let mut one = TotalMoments::zero(1);
        one.add(&shard).unwrap();
        assert!(one.clone().complement(&TotalMoments::zero(1)).is_err());
        assert!(one.complement(&TotalMoments::zero(2)).is_err());
    }
}
