//! Encodes columns as a Parquet file.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float32Array, ListArray, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use ndarray::Array2;
use parquet::{
    arrow::ArrowWriter,
    basic::{self, Encoding, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::ColumnPath,
};

use super::Compression;
use crate::{Error, ErrorKind, Result};

/// Rows of a row group: 64 MB of 1280 features.
const GROUP_ROWS: usize = 12_800;
/// Name of the writer in the footer. Without the release, so that a later one writes the same bytes.
const WRITER: &str = "pomona";
/// Level of Zstandard. Higher levels take longer and save nothing, because mantissas are nearly random.
const ZSTD_LEVEL: i32 = 1;

/// The type of a column of lists.
pub(super) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, false)))
}

/// A column of `rows` lists of `width` values each.
pub(super) fn list(values: ArrayRef, width: usize, rows: usize) -> Result<ArrayRef> {
    let field = Arc::new(Field::new("element", values.data_type().clone(), false));
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(width, rows));
    Ok(Arc::new(ListArray::try_new(field, offsets, values, None).map_err(bug)?))
}

/// The numbers of a matrix in row-major order, without a copy if it has that layout.
pub(super) fn floats(matrix: Array2<f32>) -> ArrayRef {
    if !matrix.is_standard_layout() {
        return Arc::new(Float32Array::from_iter_values(matrix));
    }
    let (length, (mut values, offset)) = (matrix.len(), matrix.into_raw_vec_and_offset());
    values.drain(..offset.unwrap_or(0));
    values.truncate(length);
    Arc::new(Float32Array::from(values))
}

pub(super) fn bug(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InternalBug, "a table cannot be encoded").source(error)
}

/// How a file is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A table that other programs read, compressed as the output's setting says.
    Rows(Compression),
    /// Exact sums, which only Pomona reads: one row group, Zstandard, bytes in separate streams. Their high bytes are alike
    /// and their low bytes are random, so that higher levels save nothing.
    Sums,
}

impl Layout {
    fn compression(self) -> Result<basic::Compression> {
        if self == Layout::Rows(Compression::Snappy) {
            return Ok(basic::Compression::SNAPPY);
        }
        Ok(basic::Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).map_err(bug)?))
    }

    /// Properties of a column. Only labels and splits repeat enough for a dictionary. Bounds help filters by path, time and
    /// length. All other values are plain, because Athena and Spark do not read delta encodings in all versions.
    fn column(self, field: &Field, properties: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
        let name = field.name().clone();
        let (path, item) = match field.data_type() {
            DataType::List(item) => (vec![name, "list".to_owned(), item.name().clone()], Some(item.data_type())),
            _ => (vec![name], None),
        };
        if let Some(DataType::Struct(parts)) = item {
            return parts.iter().fold(properties, |properties, part| {
                let path = ColumnPath::new([path.as_slice(), &[part.name().clone()]].concat());
                let properties = properties.set_column_dictionary_enabled(path.clone(), false);
                properties.set_column_statistics_enabled(path, EnabledStatistics::None)
            });
        }
        let path = ColumnPath::new(path);
        let split = match self {
            Layout::Rows(compression) => compression == Compression::Zstd && item == Some(&DataType::Float32),
            Layout::Sums => true,
        };
        let named = |names: &[&str]| names.contains(&field.name().as_str());
        let mut properties = properties.set_column_dictionary_enabled(path.clone(), named(&["label", "split"]));
        if split {
            properties = properties.set_column_encoding(path.clone(), Encoding::BYTE_STREAM_SPLIT);
        }
        if item.is_some() || self == Layout::Sums || named(&["etag", "content_sha256"]) {
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        properties
    }
}

/// Encodes columns as a Parquet file, with pairs for its footer.
pub(super) fn write(fields: Vec<(Field, ArrayRef)>, footer: &[(&str, &str)], layout: Layout) -> Result<Bytes> {
    let (fields, columns): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let bytes = columns.iter().map(|column| column.get_array_memory_size()).sum();
    write_pieces(fields, ([Ok(columns)], bytes), footer, layout)
}

/// Rows of the pieces of [`write_pieces`], but for the last one: a multiple of what the encoder takes at a time, so that the file
/// does not depend on the pieces.
pub(super) const PIECE_ROWS: usize = 1 << 16;

/// Encodes pieces of columns, which take about this number of bytes together. All but the last have [`PIECE_ROWS`] rows.
pub(super) fn write_pieces(
    fields: Vec<Field>,
    (pieces, bytes): (impl IntoIterator<Item = Result<Vec<ArrayRef>>>, usize),
    footer: &[(&str, &str)],
    layout: Layout,
) -> Result<Bytes> {
    let schema = Arc::new(Schema::new(fields));
    let pairs = footer.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), Some((*value).to_owned())));
    let properties = WriterProperties::builder()
        .set_compression(layout.compression()?)
        .set_created_by(WRITER.to_owned())
        .set_max_row_group_row_count((layout != Layout::Sums).then_some(GROUP_ROWS))
        .set_key_value_metadata(Some(pairs.collect()));
    let properties = schema.fields().iter().fold(properties, |properties, field| layout.column(field, properties));
    // Without this capacity, the growing buffer of a large file would be in memory twice.
    let mut file = Vec::with_capacity(bytes + (64 << 10));
    let mut writer = ArrowWriter::try_new(&mut file, schema.clone(), Some(properties.build())).map_err(bug)?;
    for piece in pieces {
        writer.write(&RecordBatch::try_new(schema.clone(), piece?).map_err(bug)?).map_err(bug)?;
    }
    writer.close().map_err(bug)?;
    Ok(file.into())
}
