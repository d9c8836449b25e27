//! The tables of moments: 64-bit integers for a shard, 38-digit decimals for a data set.

use std::sync::Arc;

use arrow_array::{
    Decimal128Array, Int64Array,
    cast::AsArray,
    types::{Decimal128Type, Int64Type},
};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::{EXTRACTOR, ROWS, SUM, Table, bug, corrupt, write};
use crate::{
    Result,
    pca::moments::{Moments, ShardMoments, Sum, TotalMoments, triangle},
};

/// Decimal digits of a total. Parquet has no more; sums of a data set with 10^20 images fit.
const TOTAL_DIGITS: u8 = 38;
/// Key of the number of columns in the footer.
const COLUMNS: &str = "pomona.columns";

/// Values for the footer: number of rows, and number of columns.
fn moments_footer<T: Sum>(moments: &Moments<T>) -> (String, String) {
    (moments.rows().to_string(), moments.columns().to_string())
}

/// Encodes `shards/<id>/moments.parquet`: one column `sum` with the sums and then the upper triangle of the sums of
/// products. `extractor` is an id for the footer.
pub fn write_shard_moments(moments: &ShardMoments, extractor: &str) -> Result<Bytes> {
    let (rows, columns) = moments_footer(moments);
    let values = Int64Array::from([moments.sums(), moments.products()].concat());
    let field = Field::new(SUM, DataType::Int64, false);
    write(vec![(field, Arc::new(values))], &[(EXTRACTOR, extractor), (ROWS, &rows), (COLUMNS, &columns)])
}

/// Encodes `moments/<id>.parquet`: the same column with 38-digit decimals.
pub fn write_total_moments(moments: &TotalMoments, extractor: &str) -> Result<Bytes> {
    let (rows, columns) = moments_footer(moments);
    let values = Decimal128Array::from([moments.sums(), moments.products()].concat())
        .with_precision_and_scale(TOTAL_DIGITS, 0)
        .map_err(bug)?;
    let field = Field::new(SUM, DataType::Decimal128(TOTAL_DIGITS, 0), false);
    write(vec![(field, Arc::new(values))], &[(EXTRACTOR, extractor), (ROWS, &rows), (COLUMNS, &columns)])
}

/// Moments from the column `sum` and the footer.
fn parts<T: Sum>(table: &Table<'_>, mut values: Vec<T>, columns: usize) -> Result<Moments<T>> {
    let parse = |text: &str| text.parse::<u64>().map_err(|e| corrupt(table.key).source(e));
    let rows = parse(table.footer(ROWS)?)?;
    if parse(table.footer(COLUMNS)?)? != columns as u64 || values.len() != columns + triangle(columns) {
        return Err(corrupt(table.key).context("sums", values.len()).context("expected columns", columns));
    }
    let products = values.split_off(columns);
    Moments::from_parts(rows, values, products)
}

/// Decodes a table of [`write_shard_moments`] for `columns` features.
pub fn read_shard_moments(file: Bytes, columns: usize, key: &str) -> Result<ShardMoments> {
    let table = Table::read(file, key)?;
    let mut values = Vec::new();
    table.each(SUM, |column| {
        values.extend(column.as_primitive_opt::<Int64Type>()?.values());
        Some(())
    })?;
    parts(&table, values, columns)
}

/// Decodes a table of [`write_total_moments`] for `columns` features.
pub fn read_total_moments(file: Bytes, columns: usize, key: &str) -> Result<TotalMoments> {
    let table = Table::read(file, key)?;
    let mut values = Vec::new();
    table.each(SUM, |column| {
        values.extend(column.as_primitive_opt::<Decimal128Type>()?.values());
        Some(())
    })?;
    parts(&table, values, columns)
}
