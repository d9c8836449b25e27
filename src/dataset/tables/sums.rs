//! The tables of exact sums: 64-bit integers for a group of shards, 38-digit decimals for a data set.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, ArrowPrimitiveType, Decimal128Array, Int64Array,
    types::{Decimal128Type, Int64Type},
};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::{
    EXTRACTOR, Layout, ROWS, Table, bug, corrupt,
    writing::{PIECE_ROWS, write_pieces},
};
use crate::{
    Error, ErrorKind, Result,
    pca::moments::{Sums, TotalMoments, triangle},
};

/// The only column.
pub(super) const SUM: &str = "sum";
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
    table(DataType::Int64, sums, extractor, narrow)
}

/// Encodes `moments/<id>.parquet`: the same column with 38-digit decimals.
pub fn write_total_sums(sums: &TotalMoments, extractor: &str) -> Result<Bytes> {
    table(DataType::Decimal128(TOTAL_DIGITS, 0), sums, extractor, |piece| {
        let column = Decimal128Array::from_iter_values(piece);
        let column = column.with_precision_and_scale(TOTAL_DIGITS, 0).map_err(bug)?;
        column.validate_decimal_precision(TOTAL_DIGITS).map_err(bug)?;
        Ok(Arc::new(column))
    })
}

/// Sums of a group as 64-bit integers.
pub(super) fn narrow(piece: &mut dyn Iterator<Item = i128>) -> Result<ArrayRef> {
    let narrow = |sum: i128| {
        let error = || Error::new(ErrorKind::InternalBug, "a sum of a group exceeds 64 bits").context("sum", sum);
        i64::try_from(sum).map_err(|_| error())
    };
    Ok(Arc::new(Int64Array::from(piece.map(narrow).collect::<Result<Vec<i64>>>()?)))
}

fn table(
    kind: DataType,
    sums: &TotalMoments,
    extractor: &str,
    encode: impl Fn(&mut dyn Iterator<Item = i128>) -> Result<ArrayRef>,
) -> Result<Bytes> {
    let (rows, columns) = (sums.rows().to_string(), sums.columns().to_string());
    let footer = [(EXTRACTOR, extractor), (ROWS, &*rows), (COLUMNS, &*columns)];
    let count = sums.columns() + triangle(sums.columns());
    write_values((sums.sums().iter().chain(sums.products().iter()), count), kind, &footer, encode)
}

/// Encodes a number of sums a piece at a time: they are not in memory twice.
pub(super) fn write_values(
    (mut values, count): (impl Iterator<Item = i128>, usize),
    kind: DataType,
    footer: &[(&str, &str)],
    encode: impl Fn(&mut dyn Iterator<Item = i128>) -> Result<ArrayRef>,
) -> Result<Bytes> {
    let pieces = (0..count).step_by(PIECE_ROWS).map(|_| Ok(vec![encode(&mut values.by_ref().take(PIECE_ROWS))?]));
    let bytes = count * kind.primitive_width().unwrap_or_default();
    write_pieces(vec![Field::new(SUM, kind, false)], (pieces, bytes), footer, Layout::Sums)
}

/// Decodes a table of [`write_group_sums`] or [`write_total_sums`] for `columns` features. Sums of format 1 have the same
/// columns: `shards/<id>/moments.parquet` and `moments/<id>.parquet`.
pub fn read_sums(file: Bytes, columns: usize, key: &str) -> Result<TotalMoments> {
    match Table::type_in(file.clone(), key, SUM)? {
        Some(DataType::Int64) => decode::<Int64Type>(file, columns, key),
        Some(DataType::Decimal128(_, 0)) => decode::<Decimal128Type>(file, columns, key),
        _ => Err(corrupt(key).context("column", SUM)),
    }
}

fn decode<T: ArrowPrimitiveType>(file: Bytes, columns: usize, key: &str) -> Result<TotalMoments>
where
    Sums: From<Vec<T::Native>>,
{
    let start = |table: &Table<'_>| {
        let parse = |name| table.footer(name)?.parse::<u64>().map_err(|e| corrupt(key).source(e));
        if parse(COLUMNS)? != columns as u64 {
            return Err(corrupt(key).context("expected columns", columns));
        }
        Ok((parse(ROWS)?, Vec::with_capacity(columns), Vec::with_capacity(triangle(columns))))
    };
    let found = Table::fold::<T, (u64, Vec<T::Native>, Vec<T::Native>)>(file, (key, SUM), start, |found, values| {
        let (sums, products) = values.split_at(values.len().min(columns - found.1.len()));
        found.1.extend_from_slice(sums);
        found.2.extend_from_slice(products);
        Ok(())
    });
    let (rows, sums, products) = found?;
    if sums.len() != columns || products.len() != triangle(columns) {
        let found = sums.len() + products.len();
        return Err(corrupt(key).context("sums", found).context("expected columns", columns));
    }
    TotalMoments::from_parts(rows, sums, products)
}
