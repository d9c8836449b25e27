//! The sums of a group or a data set.

use super::{
    ShardMoments, position,
    sums::{Change, Sums, SumsRef},
    triangle,
};
use crate::{Error, ErrorKind, Result};

/// Row count, `sum x_i` and `sum x_i x_j` (upper triangle, row by row) of any number of rows, in quanta and squared quanta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalMoments {
    rows: u64,
    sums: Sums,
    products: Sums,
}

/// Borrowed moments, of a shard or of more rows.
#[derive(Clone, Copy, Debug)]
pub struct MomentsRef<'a> {
    rows: u64,
    sums: SumsRef<'a>,
    products: SumsRef<'a>,
    columns: usize,
}

impl<'a> From<&'a ShardMoments> for MomentsRef<'a> {
    fn from(moments: &'a ShardMoments) -> Self {
        MomentsRef {
            rows: moments.rows,
            sums: SumsRef::Narrow(&moments.sums),
            products: SumsRef::Narrow(&moments.products),
            columns: moments.columns(),
        }
    }
}

impl<'a> From<&'a TotalMoments> for MomentsRef<'a> {
    fn from(moments: &'a TotalMoments) -> Self {
        MomentsRef {
            rows: moments.rows,
            sums: moments.sums.borrowed(),
            products: moments.products.borrowed(),
            columns: moments.columns(),
        }
    }
}

impl From<ShardMoments> for TotalMoments {
    fn from(ShardMoments { rows, sums, products }: ShardMoments) -> Self {
        TotalMoments { rows, sums: sums.into(), products: products.into() }
    }
}

impl TotalMoments {
    /// The moments of no rows.
    pub fn zero(columns: usize) -> Self {
        TotalMoments { rows: 0, sums: Sums::zero(columns), products: Sums::zero(triangle(columns)) }
    }

    /// Moments from a row count, [`TotalMoments::sums`] and [`TotalMoments::products`]. Fails with `Dataset.Corrupt` if the
    /// lengths do not match.
    pub fn from_parts(rows: u64, sums: impl Into<Sums>, products: impl Into<Sums>) -> Result<Self> {
        let moments = TotalMoments { rows, sums: sums.into(), products: products.into() };
        if moments.products.len() != triangle(moments.columns()) {
            return Err(Error::new(ErrorKind::DatasetCorrupt, "the numbers of sums and of products do not match")
                .context("sums", moments.columns())
                .context("products", moments.products.len()));
        }
        Ok(moments)
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.sums.len()
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// `[columns]`: sums of the columns, in quanta.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// `[columns * (columns + 1) / 2]`: sums of products, in squared quanta, in the order (0, 0), (0, 1), ..., (1, 1),
    /// (1, 2), ...
    pub fn products(&self) -> &Sums {
        &self.products
    }

    /// The sum of products of columns i <= j.
    pub fn product(&self, i: usize, j: usize) -> i128 {
        self.products.at(position(self.columns(), i, j))
    }

    /// Adds the moments of a shard or other totals. Fails with `Dataset.Corrupt` if the columns differ or a sum exceeds 128
    /// bits.
    pub fn add<'a>(&mut self, other: impl Into<MomentsRef<'a>>) -> Result<()> {
        self.change(Change::Add, other.into())
    }

    /// Subtracts moments that were added before. Fails with `Dataset.Corrupt` if the columns differ or if fewer rows were
    /// added than are subtracted.
    pub fn subtract<'a>(&mut self, other: impl Into<MomentsRef<'a>>) -> Result<()> {
        self.change(Change::Subtract, other.into())
    }

    /// The moments of the rows of `all` that are not among these, in the memory of these. Fails as [`TotalMoments::subtract`] does.
    pub(crate) fn complement(mut self, all: &Self) -> Result<Self> {
        self.change(Change::SubtractFrom, all.into())?;
        Ok(self)
    }

    fn change(&mut self, change: Change, other: MomentsRef<'_>) -> Result<()> {
        let corrupt = |what: &str| Error::new(ErrorKind::DatasetCorrupt, what.to_owned());
        if other.columns != self.columns() {
            return Err(corrupt("the sums are of a model with another number of columns")
                .context("columns", other.columns)
                .context("expected", self.columns()));
        }
        let rows = match change {
            Change::Add => self.rows.checked_add(other.rows),
            Change::Subtract => self.rows.checked_sub(other.rows),
            Change::SubtractFrom => other.rows.checked_sub(self.rows),
        };
        self.rows = rows.ok_or_else(|| corrupt("more rows are subtracted than were added"))?;
        let changed = self.sums.change(change, other.sums).and(self.products.change(change, other.products));
        changed.ok_or_else(|| corrupt("a sum exceeds 128 bits"))
    }
}
