//! Cells of Parquet files, decoded with the Parquet library alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Float32Type, Float64Type},
};
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Rows that are decoded at once.
const BATCH: usize = 1_024;

/// Decodes a Parquet file. The decoder panics on some damaged files; that is an error like any other.
pub(super) fn each_batch(body: Bytes, mut each: impl FnMut(&RecordBatch)) -> std::result::Result<(), String> {
    let read = AssertUnwindSafe(|| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(body).map_err(|e| e.to_string())?;
        let reader = reader.with_batch_size(BATCH).build().map_err(|e| e.to_string())?;
        for batch in reader {
            each(&batch.map_err(|e| e.to_string())?);
        }
        Ok(())
    });
    catch_unwind(read).unwrap_or_else(|_| Err("the Parquet decoder panicked".to_owned()))
}

/// Whether [`texts`] and [`vectors`] cover a type, or it can hold neither a path nor features.
pub(super) fn is_searched(kind: &DataType) -> bool {
    use DataType::{Binary, Float32, Float64, LargeUtf8, List, Utf8};
    match kind {
        Utf8 | LargeUtf8 | Binary => true,
        List(field) => match field.data_type() {
            // Keypoints.
            DataType::Struct(parts) => parts.iter().all(|part| is_fixed(part.data_type())),
            kind => matches!(kind, Float32 | Float64) || kind.is_integer(),
        },
        kind => is_fixed(kind),
    }
}

/// Whether all values of a type have the same size, so that none is a path.
fn is_fixed(kind: &DataType) -> bool {
    kind.is_primitive() || matches!(kind, DataType::Boolean | DataType::Null | DataType::FixedSizeBinary(_))
}

/// The texts of a column, one per row; empty for rows and columns without text. Columns of lists give no text.
pub(super) fn texts(column: &dyn Array) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
    match column.data_type() {
        DataType::Utf8 => Box::new(column.as_string::<i32>().iter().map(|t| t.unwrap_or_default().as_bytes().to_vec())),
        DataType::LargeUtf8 => {
            Box::new(column.as_string::<i64>().iter().map(|t| t.unwrap_or_default().as_bytes().to_vec()))
        }
        DataType::Binary => Box::new(column.as_binary::<i32>().iter().map(|t| t.unwrap_or_default().to_vec())),
        _ => Box::new(std::iter::empty()),
    }
}

/// The lists of numbers of a column, with their rows, as little-endian bytes. Of keypoints, they are the descriptors.
pub(super) fn vectors(column: &dyn Array) -> Vec<(usize, Vec<u8>)> {
    let DataType::List(field) = column.data_type() else { return Vec::new() };
    let kind = field.data_type().clone();
    let lists = column.as_list::<i32>();
    let bytes = |values: &dyn Array| -> Option<Vec<u8>> {
        match kind {
            DataType::Float32 => {
                let values = values.as_primitive::<Float32Type>().values();
                Some(values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            DataType::Float64 => {
                // Features in double precision are still those features.
                let values = values.as_primitive::<Float64Type>().values();
                Some(values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect())
            }
            DataType::Struct(_) => {
                let columns = values.as_struct().columns().iter();
                let binary = columns.filter_map(|column| column.as_fixed_size_binary_opt());
                Some(binary.flat_map(|column| column.iter().flatten().flatten()).copied().collect())
            }
            _ => None,
        }
    };
    lists
        .iter()
        .enumerate()
        .filter_map(|(row, list)| Some((row, bytes(list?.as_ref())?)))
        .filter(|(_, vector)| !vector.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::{
        dataset::tables::{self, Compression, FeatureRows},
        orb::Keypoint,
    };

    #[test]
    fn every_column_of_features_with_keypoints_is_searched() {
        let keypoint = |byte| Keypoint { x: 1.0, y: 2.0, octave: 0, angle: 3.0, response: 4.0, descriptor: [byte; 32] };
        let rows = FeatureRows {
            paths: vec!["a.jpg".to_owned(), "b.jpg".to_owned(), "c.jpg".to_owned()],
            labels: vec![None; 3],
            splits: vec![None; 3],
            modified: vec![0; 3],
            lengths: vec![1; 3],
            etags: vec![String::new(); 3],
            contents: vec![Some("0a".repeat(32)); 3],
            features: Array2::zeros((3, 2)),
            thumbnails: Array2::zeros((3, 0)),
            keypoints: vec![vec![keypoint(7)], vec![], vec![keypoint(8), keypoint(9)]],
        };
        let file = tables::write_features(rows, "x", Compression::Snappy).unwrap();
        let mut found = Vec::new();
        each_batch(file, |batch| {
            assert!(batch.schema().fields().iter().all(|field| is_searched(field.data_type())));
            found.extend(batch.column_by_name("keypoints").map(|column| vectors(column.as_ref())).unwrap());
        })
        .unwrap();
        assert_eq!(found, [(0, vec![7; 32]), (2, [[8; 32], [9; 32]].concat())]);
    }
}
