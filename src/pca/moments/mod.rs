//! Exact sums and sums of products of features.
//!
//! A feature is an integer multiple of a power of two, the *quantum*, and smaller than 2^23 quanta. The product of two
//! features has 46 bits, and 128 such products add up to at most 2^53. So an `f64` matrix multiplication of 128 rows does
//! not round, in any order and on any processor. Blocks of 128 rows are added in `i64`, which holds the products of 131,072
//! rows, the largest shard. Totals are `i64` while they fit, and `i128` otherwise.
//!
//! Addition of moments is therefore associative and commutative, and subtraction is its inverse, bit for bit. Totals do
//! not depend on the cuts between shards, on the order of the images, or on what was added and subtracted before.

mod shard;
mod sums;
#[cfg(test)]
mod tests;
mod total;

pub use shard::{MAX_SHARD_ROWS, ShardMoments};
pub use sums::{Sums, SumsRef};
pub use total::{MomentsRef, TotalMoments};

pub(crate) use shard::BLOCK_ROWS;

/// Number of entries of an upper triangle with its diagonal.
pub(crate) fn triangle(columns: usize) -> usize {
    columns * (columns + 1) / 2
}

/// The index of (i, j) with i <= j in an upper triangle that is stored row by row.
fn position(columns: usize, i: usize, j: usize) -> usize {
    debug_assert!(i <= j && j <= columns);
    i * (2 * columns - i + 1) / 2 + (j - i)
}
