//! The tables of exact sums: 64-bit integers for a group of shards, 38-digit decimals for a data set.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Decimal128Array, Int64Array,
    types::{Decimal128Type, Int64Type},
};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::{EXTRACTOR, Layout, ROWS, Table, bug, corrupt, write};
use crate::{
    Error, ErrorKind, Result,
    pca::moments::{TotalMoments, triangle},
};

/// The only column.
const SUM: &str = "sum";
/// Decimal digits of a total. Parquet has no more; sums of a data set with 10^20 images fit.
const TOTAL_DIGITS: u8 = 38;
/// Key of the number of columns in the footer.
const COLUMNS: &str = "pomona.columns";

/// Encodes `groups/<id>/sums.parquet`: one column `sum` with the sums and then the upper triangle of the sums of products,
/// as 64-bit integers. `extractor` is an id for the footer.
///
/// A sum that has more than 64 bits is a bug: a group has at most [`MAX_SHARD_ROWS`](crate::pca::moments::MAX_SHARD_ROWS)
/// rows.
pub fn write_group_sums(sums: &TotalMoments, extractor: &str) -> Result<Bytes> {
    let narrow = |sum: i128| {
        let error = || Error::new(ErrorKind::InternalBug, "a sum of a group exceeds 64 bits").context("sum", sum);
        i64::try_from(sum).map_err(|_| error())
    };
    let values: Vec<i64> = values(sums).map(narrow).collect::<Result<_>>()?;
    table(DataType::Int64, Arc::new(Int64Array::from(values)), sums, extractor)
}

/// Encodes `moments/<id>.parquet`: the same column with 38-digit decimals.
pub fn write_total_sums(sums: &TotalMoments, extractor: &str) -> Result<Bytes> {
    let column = Decimal128Array::from_iter_values(values(sums));
    let column = column.with_precision_and_scale(TOTAL_DIGITS, 0).map_err(bug)?;
    column.validate_decimal_precision(TOTAL_DIGITS).map_err(bug)?;
    table(DataType::Decimal128(TOTAL_DIGITS, 0), Arc::new(column), sums, extractor)
}

fn values(sums: &TotalMoments) -> impl Iterator<Item = i128> {
    sums.sums().iter().chain(sums.products()).copied()
}

fn table(kind: DataType, column: ArrayRef, sums: &TotalMoments, extractor: &str) -> Result<Bytes> {
    let (rows, columns) = (sums.rows().to_string(), sums.columns().to_string());
    let footer = [(EXTRACTOR, extractor), (ROWS, &*rows), (COLUMNS, &*columns)];
    write(vec![(Field::new(SUM, kind, false), column)], &footer, Layout::Sums)
}

/// Decodes a table of [`write_group_sums`] or [`write_total_sums`] for `columns` features. Sums of format 1 have the same
/// columns: `shards/<id>/moments.parquet` and `moments/<id>.parquet`.
pub fn read_sums(file: Bytes, columns: usize, key: &str) -> Result<TotalMoments> {
    let table = Table::read(file, key)?;
    let mut values: Vec<i128> = match table.type_of(SUM) {
        Some(DataType::Int64) => table.numbers::<Int64Type>(SUM)?.into_iter().map(i128::from).collect(),
        Some(DataType::Decimal128(_, 0)) => table.numbers::<Decimal128Type>(SUM)?,
        _ => return Err(corrupt(key).context("column", SUM)),
    };
    let parse = |name| table.footer(name)?.parse::<u64>().map_err(|e| corrupt(key).source(e));
    let rows = parse(ROWS)?;
    if parse(COLUMNS)? != columns as u64 || values.len() != columns + triangle(columns) {
        return Err(corrupt(key).context("sums", values.len()).context("expected columns", columns));
    }
    let products = values.split_off(columns);
    TotalMoments::from_parts(rows, values, products)
}
