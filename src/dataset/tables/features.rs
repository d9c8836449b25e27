//! The table of a shard's features.

use std::sync::Arc;

use arrow_array::{
    Int64Array, StringArray, TimestampMicrosecondArray,
    cast::AsArray,
    types::{Int64Type, TimestampMicrosecondType},
};
use arrow_schema::{DataType, Field, TimeUnit};
use bytes::Bytes;
use ndarray::Array2;

use super::{EXTRACTOR, Table, floats, list, list_of, write};
use crate::{
    Result,
    dataset::{get_file, keys},
    ids::ShardId,
    store::Store,
};

/// The columns of a shard's `features.parquet`, `[rows]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureRows {
    /// Keys of the images, relative to the input.
    pub paths: Vec<String>,
    /// Labels of the images.
    pub labels: Vec<Option<String>>,
    /// Modification times, microseconds since 1970-01-01 UTC.
    pub modified: Vec<i64>,
    /// Sizes of the image files, bytes.
    pub lengths: Vec<i64>,
    /// Etags of the image files.
    pub etags: Vec<String>,
    /// `[rows, columns]`: features, multiples of the quantum.
    pub features: Array2<f32>,
}

impl FeatureRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Encodes `shards/<id>/features.parquet`; `extractor` is an id for the footer.
pub fn write_features(rows: FeatureRows, extractor: &str) -> Result<Bytes> {
    let (count, columns) = rows.features.dim();
    let features = list(floats(rows.features), columns, count)?;
    write(
        vec![
            (Field::new("path", DataType::Utf8, false), Arc::new(StringArray::from(rows.paths))),
            (Field::new("label", DataType::Utf8, true), Arc::new(StringArray::from(rows.labels))),
            (
                Field::new("modified", timestamp(), false),
                Arc::new(TimestampMicrosecondArray::from(rows.modified).with_timezone("UTC")),
            ),
            (Field::new("length", DataType::Int64, false), Arc::new(Int64Array::from(rows.lengths))),
            (Field::new("etag", DataType::Utf8, false), Arc::new(StringArray::from(rows.etags))),
            (Field::new("features", list_of(DataType::Float32), false), features),
        ],
        &[(EXTRACTOR, extractor)],
    )
}

/// Decodes a table of [`write_features`]. Each row must have `columns` features.
pub fn read_features(file: Bytes, columns: usize, key: &str) -> Result<FeatureRows> {
    let table = Table::read(file, key)?;
    let mut rows = FeatureRows {
        paths: table.present_strings("path")?,
        labels: table.strings("label")?,
        etags: table.present_strings("etag")?,
        ..FeatureRows::default()
    };
    table.each("modified", |column| {
        rows.modified.extend(column.as_primitive_opt::<TimestampMicrosecondType>()?.values());
        Some(())
    })?;
    table.each("length", |column| {
        rows.lengths.extend(column.as_primitive_opt::<Int64Type>()?.values());
        Some(())
    })?;
    rows.features = table.matrix("features", columns)?;
    Ok(rows)
}

/// Decodes path and etag of each row of a table of [`write_features`].
pub(crate) fn read_etags(file: Bytes, key: &str) -> Result<Vec<(String, String)>> {
    let table = Table::read_columns(file, key, &["path", "etag"])?;
    Ok(table.present_strings("path")?.into_iter().zip(table.present_strings("etag")?).collect())
}

/// Reads path and etag of each row of a shard.
pub(crate) async fn etags(output: &dyn Store, shard: &ShardId) -> Result<Vec<(String, String)>> {
    let key = keys::features(shard);
    read_etags(get_file(output, &key).await?, &key)
}
