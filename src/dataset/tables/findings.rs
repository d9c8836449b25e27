//! The tables of duplicates and of outliers.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray,
    cast::AsArray,
    types::{Float64Type, Int64Type},
};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use serde::Serialize;

use super::{BASIS, Compression, EXTRACTOR, Layout, Table, write};
use crate::{Result, dataset::FileRef, store::Store};

/// A row of the table of duplicates: an image of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct DuplicateRow {
    /// Number of the group, from 0, in the order of their first images.
    pub group: u64,
    /// Key of the image, relative to the input.
    pub path: String,
    /// Its label.
    pub label: Option<String>,
    /// Its split, as in the table of predictions.
    pub split: Option<String>,
    /// Euclidean distance of its features from those of the group's first image.
    pub distance: f64,
    /// Whether its bytes are those of the group's first image.
    pub same_bytes: bool,
    /// Whether the group has images of different labels.
    pub across_labels: bool,
    /// Whether the group has images of different splits.
    pub across_splits: bool,
}

/// A row of the table of outliers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierRow {
    /// Key of the image, relative to the input.
    pub path: String,
    /// Its label.
    pub label: Option<String>,
    /// Its Mahalanobis distance from the mean of all images.
    pub distance: f64,
}

/// Rows of a file of these tables.
const PART_ROWS: usize = 1 << 17;

/// The rows of each file, with its number. An empty table is a file too: readers then find the columns.
pub(crate) fn parts<T>(rows: &[T]) -> impl Iterator<Item = (u64, &[T])> {
    (0..).zip(rows.chunks(PART_ROWS).chain(rows.is_empty().then_some(rows)))
}

fn text<'a>(name: &str, nullable: bool, values: impl Iterator<Item = Option<&'a str>>) -> (Field, ArrayRef) {
    (Field::new(name, DataType::Utf8, nullable), Arc::new(values.collect::<StringArray>()))
}

fn numbers(name: &str, values: impl Iterator<Item = f64>) -> (Field, ArrayRef) {
    (Field::new(name, DataType::Float64, false), Arc::new(Float64Array::from_iter_values(values)))
}

fn flags(name: &str, values: impl Iterator<Item = bool>) -> (Field, ArrayRef) {
    (Field::new(name, DataType::Boolean, false), Arc::new(values.map(Some).collect::<BooleanArray>()))
}

/// Encodes `duplicates/v=<version>/part-<part>.parquet`; `extractor` is an id for the footer.
pub fn write_duplicates(rows: &[DuplicateRow], extractor: &str, compression: Compression) -> Result<Bytes> {
    let groups = Int64Array::from_iter_values(rows.iter().map(|row| row.group as i64));
    write(
        vec![
            (Field::new("group", DataType::Int64, false), Arc::new(groups)),
            text("path", false, rows.iter().map(|row| Some(row.path.as_str()))),
            text("label", true, rows.iter().map(|row| row.label.as_deref())),
            text("split", true, rows.iter().map(|row| row.split.as_deref())),
            numbers("distance", rows.iter().map(|row| row.distance)),
            flags("same_bytes", rows.iter().map(|row| row.same_bytes)),
            flags("across_labels", rows.iter().map(|row| row.across_labels)),
            flags("across_splits", rows.iter().map(|row| row.across_splits)),
        ],
        &[(EXTRACTOR, extractor)],
        Layout::Rows(compression),
    )
}

/// Decodes a table of [`write_duplicates`].
pub fn read_duplicates(file: Bytes, key: &str) -> Result<Vec<DuplicateRow>> {
    let table = Table::read(file, key)?;
    let flags = |name| -> Result<Vec<bool>> {
        let mut flags = Vec::new();
        table.each(name, |column| {
            flags.extend(column.as_boolean_opt()?.values().iter());
            Some(())
        })?;
        Ok(flags)
    };
    let (mut labels, mut splits) = (table.strings("label")?.into_iter(), table.strings("split")?.into_iter());
    let (groups, distances) = (table.numbers::<Int64Type>("group")?, table.numbers::<Float64Type>("distance")?);
    let [same_bytes, across_labels, across_splits] =
        [flags("same_bytes")?, flags("across_labels")?, flags("across_splits")?];
    let rows = table.present_strings("path")?.into_iter().enumerate().map(|(i, path)| DuplicateRow {
        group: groups[i] as u64,
        path,
        label: labels.next().flatten(),
        split: splits.next().flatten(),
        distance: distances[i],
        same_bytes: same_bytes[i],
        across_labels: across_labels[i],
        across_splits: across_splits[i],
    });
    Ok(rows.collect())
}

/// Encodes `outliers/v=<version>/part-<part>.parquet`; `extractor` and `basis` are ids for the footer.
pub fn write_outliers(rows: &[OutlierRow], extractor: &str, basis: &str, compression: Compression) -> Result<Bytes> {
    write(
        vec![
            text("path", false, rows.iter().map(|row| Some(row.path.as_str()))),
            text("label", true, rows.iter().map(|row| row.label.as_deref())),
            numbers("distance", rows.iter().map(|row| row.distance)),
        ],
        &[(EXTRACTOR, extractor), (BASIS, basis)],
        Layout::Rows(compression),
    )
}

/// Decodes a table of [`write_outliers`].
pub fn read_outliers(file: Bytes, key: &str) -> Result<Vec<OutlierRow>> {
    let table = Table::read(file, key)?;
    let (labels, distances) = (table.strings("label")?, table.numbers::<Float64Type>("distance")?);
    let rows = table.present_strings("path")?.into_iter().zip(labels).zip(distances);
    Ok(rows.map(|((path, label), distance)| OutlierRow { path, label, distance }).collect())
}

/// Reads all files of a table, in their order.
pub(crate) async fn read_all<T>(
    output: &dyn Store,
    files: &[FileRef],
    decode: fn(Bytes, &str) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for file in files {
        rows.append(&mut decode(file.read(output).await?, &file.key)?);
    }
    Ok(rows)
}
