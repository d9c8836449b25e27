//! The Parquet tables: schemas, writing and reading.
//!
//! Lists are plain `list<float>` with a child named `element`, compressed with Snappy, which pandas, Polars, DuckDB, Spark
//! and Athena read. `docs/file-formats.md` describes the columns of each table.
//!
//! Functions that write fail with `Internal.Bug`. Functions that read fail with `Dataset.Corrupt`, which names the key.

mod basis;
mod features;
mod scores;
mod sums;

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float32Array, ListArray, RecordBatch, cast::AsArray, types::Float32Type};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use ndarray::Array2;
use parquet::{
    arrow::{ArrowWriter, ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
};

pub use basis::{read_basis, write_basis};
pub(crate) use features::etags;
pub use features::{FeatureRows, read_features, write_features};
pub use scores::{LabelColumn, ScoreRows, read_rejects, read_scores, write_rejects, write_scores};
pub use sums::{read_shard_moments, read_total_moments, write_shard_moments, write_total_moments};

use crate::{Error, ErrorKind, Result};

/// Key of the extractor's id in the footer of a table.
pub const EXTRACTOR: &str = "pomona.extractor";
/// Key of the basis's id in the footer of a table.
pub const BASIS: &str = "pomona.basis";
/// Key of the number of rows of features in the footer of moments and bases.
const ROWS: &str = "pomona.rows";
/// The column of moments.
const SUM: &str = "sum";
/// Rows of a row group: 64 MB of 1280 features.
const GROUP_ROWS: usize = 12_800;

/// The type of a column of lists.
fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, false)))
}

/// A column of `rows` lists of `width` values each.
fn list(values: ArrayRef, width: usize, rows: usize) -> Result<ArrayRef> {
    let field = Arc::new(Field::new("element", values.data_type().clone(), false));
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(width, rows));
    Ok(Arc::new(ListArray::try_new(field, offsets, values, None).map_err(bug)?))
}

/// The numbers of a matrix in row-major order, without a copy if it has that layout.
fn floats(matrix: Array2<f32>) -> ArrayRef {
    if !matrix.is_standard_layout() {
        return Arc::new(Float32Array::from_iter_values(matrix));
    }
    let (length, (mut values, offset)) = (matrix.len(), matrix.into_raw_vec_and_offset());
    values.drain(..offset.unwrap_or(0));
    values.truncate(length);
    Arc::new(Float32Array::from(values))
}

fn bug(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InternalBug, "a table cannot be encoded").source(error)
}

/// Encodes one record batch as a Parquet file, with pairs for its footer.
fn write(fields: Vec<(Field, ArrayRef)>, footer: &[(&str, &str)]) -> Result<Bytes> {
    let (fields, columns): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns).map_err(bug)?;
    let pairs = footer.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), Some((*value).to_owned())));
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(concat!("pomona ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_key_value_metadata(Some(pairs.collect()));
    for field in schema.fields() {
        // Numbers repeat too rarely for a dictionary. Bounds of features and sums are no use to filters.
        let (path, bounds) = match field.data_type() {
            DataType::List(_) => (vec![field.name().clone(), "list".to_owned(), "element".to_owned()], false),
            DataType::Utf8 => continue,
            _ => (vec![field.name().clone()], field.name() != SUM),
        };
        let path = parquet::schema::types::ColumnPath::new(path);
        properties = properties.set_column_dictionary_enabled(path.clone(), false);
        if !bounds {
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    // Without this capacity, the growing buffer of a large file would be in memory twice.
    let mut file = Vec::with_capacity(batch.get_array_memory_size() + (64 << 10));
    let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties.build())).map_err(bug)?;
    writer.write(&batch).map_err(bug)?;
    writer.close().map_err(bug)?;
    Ok(file.into())
}

/// A decoded Parquet file.
struct Table<'a> {
    /// For errors.
    key: &'a str,
    batches: Vec<RecordBatch>,
    footer: Vec<KeyValue>,
}

impl<'a> Table<'a> {
    fn read(file: Bytes, key: &'a str) -> Result<Self> {
        Self::read_columns(file, key, &[])
    }

    /// Decodes the columns with these names, or all columns if there are no names.
    fn read_columns(file: Bytes, key: &'a str, names: &[&str]) -> Result<Self> {
        // The decoder panics on some damaged files.
        std::panic::catch_unwind(|| Self::decode(file, key, names))
            .unwrap_or_else(|_| Err(corrupt(key).source("the decoder panicked")))
    }

    fn decode(file: Bytes, key: &'a str, names: &[&str]) -> Result<Self> {
        let corrupt = |e: &dyn std::fmt::Display| corrupt(key).source(e.to_string());
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| corrupt(&e))?;
        let footer = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let wanted = match names {
            [] => ProjectionMask::all(),
            _ => ProjectionMask::columns(builder.parquet_schema(), names.iter().copied()),
        };
        let reader = builder.with_projection(wanted).with_batch_size(4_096).build().map_err(|e| corrupt(&e))?;
        let batches = reader.collect::<std::result::Result<_, _>>().map_err(|e| corrupt(&e))?;
        Ok(Table { key, batches, footer })
    }

    fn footer(&self, name: &str) -> Result<&str> {
        let pair = self.footer.iter().find(|pair| pair.key == name);
        pair.and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| corrupt(self.key).context("missing in the footer", name))
    }

    /// Calls `take` with the column of that name of each batch. `take` returns None if the type is wrong.
    fn each(&self, name: &'static str, mut take: impl FnMut(&ArrayRef) -> Option<()>) -> Result<()> {
        for batch in &self.batches {
            batch.column_by_name(name).and_then(&mut take).ok_or_else(|| corrupt(self.key).context("column", name))?;
        }
        Ok(())
    }

    /// A column of lists of `columns` numbers as a matrix `[rows, columns]`.
    fn matrix(&self, name: &'static str, columns: usize) -> Result<Array2<f32>> {
        let mut numbers: Vec<f32> = Vec::new();
        self.each(name, |column| {
            let lists = column.as_list_opt::<i32>()?;
            if (0..lists.len()).any(|i| lists.value_length(i) as usize != columns) {
                return None;
            }
            let offsets = lists.value_offsets();
            let values = lists.values().as_primitive_opt::<Float32Type>()?.values();
            numbers.extend_from_slice(values.get(*offsets.first()? as usize..*offsets.last()? as usize)?);
            Some(())
        })?;
        let rows = numbers.len().checked_div(columns).unwrap_or(0);
        Array2::from_shape_vec((rows, columns), numbers).map_err(|e| corrupt(self.key).source(e))
    }

    fn strings(&self, name: &'static str) -> Result<Vec<Option<String>>> {
        let mut values = Vec::new();
        self.each(name, |column| {
            values.extend(column.as_string_opt::<i32>()?.iter().map(|v| v.map(str::to_owned)));
            Some(())
        })?;
        Ok(values)
    }

    fn present_strings(&self, name: &'static str) -> Result<Vec<String>> {
        let values: Option<Vec<_>> = self.strings(name)?.into_iter().collect();
        values.ok_or_else(|| corrupt(self.key).context("missing value in column", name))
    }
}

fn corrupt(key: &str) -> Error {
    Error::new(ErrorKind::DatasetCorrupt, "this table cannot be decoded").context("key", key)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::pca::moments::{ShardMoments, TotalMoments};

    #[test]
    fn each_table_is_read_as_written() {
        let rows = FeatureRows {
            paths: vec!["Äpfel/1.jpg".into(), "2.jpg".into()],
            labels: vec![Some("Äpfel".into()), None],
            modified: vec![1, -1],
            lengths: vec![10, 20],
            etags: vec!["a".into(), "b".into()],
            features: array![[0.5, 0.25], [3.0, 6.0]],
        };
        let file = write_features(rows.clone(), "x").unwrap();
        assert_eq!(read_features(file.clone(), 2, "k").unwrap(), rows);
        assert!(read_features(file.clone(), 3, "k").is_err());
        assert!(read_features(file.slice(..file.len() / 2), 2, "k").is_err());

        let shard = ShardMoments::from_features(rows.features.view(), 1024.0).unwrap();
        assert_eq!(read_shard_moments(write_shard_moments(&shard, "x").unwrap(), 2, "k").unwrap(), shard);
        let mut total = TotalMoments::zero(2);
        total.add(&shard).unwrap();
        assert_eq!(read_total_moments(write_total_moments(&total, "x").unwrap(), 2, "k").unwrap(), total);

        let basis = crate::pca::fit(&total, 1024.0, crate::pca::Scaling::Standardized, None).unwrap();
        assert_eq!(read_basis(write_basis(&basis, "x", "b").unwrap(), 2, "k").unwrap(), basis);
    }
}
