//! Exact sums: of a shard in 64 bits, of a data set as 38-digit decimals.

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

/// Digits of a total: 2^127 has 39, and 10^38 is beyond any data set.
const TOTAL_DIGITS: u8 = 38;
fn moments_footer<T: Sum>(moments: &Moments<T>) -> (String, String) {
    (moments.rows().to_string(), moments.columns().to_string())
}

const COLUMNS: &str = "pomona.columns";

/// `shards/<id>/moments.parquet`: one column `sum`, the sums and then the upper triangle of the sums of products.
pub fn write_shard_moments(moments: &ShardMoments, extractor: &str) -> Result<Bytes> {
    let (rows, columns) = moments_footer(moments);
    let values = Int64Array::from([moments.sums(), moments.products()].concat());
    let field = Field::new(SUM, DataType::Int64, false);
    write(vec![(field, Arc::new(values))], &[(EXTRACTOR, extractor), (ROWS, &rows), (COLUMNS, &columns)])
}

/// `moments/<id>.parquet`: the same as a 38-digit decimal.
pub fn write_total_moments(moments: &TotalMoments, extractor: &str) -> Result<Bytes> {
    let (rows, columns) = moments_footer(moments);
    let values = Decimal128Array::from([moments.sums(), moments.products()].concat())
        .with_precision_and_scale(TOTAL_DIGITS, 0)
        .map_err(bug)?;
    let field = Field::new(SUM, DataType::Decimal128(TOTAL_DIGITS, 0), false);
    write(vec![(field, Arc::new(values))], &[(EXTRACTOR, extractor), (ROWS, &rows), (COLUMNS, &columns)])
}

fn parts<T: Sum>(table: &Table<'_>, mut values: Vec<T>, columns: usize) -> Result<Moments<T>> {
    let parse = |text: &str| text.parse::<u64>().map_err(|e| corrupt(table.key).source(e));
    let rows = parse(table.footer(ROWS)?)?;
    if parse(table.footer(COLUMNS)?)? != columns as u64 || values.len() != columns + triangle(columns) {
        return Err(corrupt(table.key).context("sums", values.len()).context("expected columns", columns));
    }
    let products = values.split_off(columns);
    Moments::from_parts(rows, values, products)
}

/// Reads what [`write_shard_moments`] wrote.
pub fn read_shard_moments(file: Bytes, columns: usize, key: &str) -> Result<ShardMoments> {
    let table = Table::read(file, key)?;
    let mut values = Vec::new();
    table.each(SUM, |column| {
        values.extend(column.as_primitive_opt::<Int64Type>()?.values());
        Some(())
    })?;
    parts(&table, values, columns)
}

/// Reads what [`write_total_moments`] wrote.
pub fn read_total_moments(file: Bytes, columns: usize, key: &str) -> Result<TotalMoments> {
    let table = Table::read(file, key)?;
    let mut values = Vec::new();
    table.each(SUM, |column| {
        values.extend(column.as_primitive_opt::<Decimal128Type>()?.values());
        Some(())
    })?;
    parts(&table, values, columns)
}
