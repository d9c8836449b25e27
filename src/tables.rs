//! The Parquet files: schemas, writing and reading.
//!
//! Lists are plain `list<float>` with a child named `element`, compressed with Snappy: what pandas, Polars, DuckDB,
//! Spark and Athena all read as it is. `docs/file-formats.md` describes each file for its readers.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampMicrosecondArray,
    cast::AsArray,
    types::{Decimal128Type, Float32Type, Float64Type, Int64Type, TimestampMicrosecondType},
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
};

use crate::{
    Error, ErrorKind, Result,
    dataset::RejectedObject,
    moments::{Moments, ShardMoments, Sum, TotalMoments, triangle},
    pca::Basis,
};

/// Footer key of the extractor's id.
pub const EXTRACTOR: &str = "pomona.extractor";
/// Footer key of the basis's id.
pub const BASIS: &str = "pomona.basis";
const ROWS: &str = "pomona.rows";
/// The column of sums of moments.
const SUM: &str = "sum";
const TOTAL_VARIANCE: &str = "pomona.total_variance";
const SPECTRUM: &str = "pomona.spectrum";
/// Digits of a total: 2^127 has 39, and 10^38 is beyond any data set.
const TOTAL_DIGITS: u8 = 38;
/// Rows of one row group: 64 MB of 1280 features.
const GROUP_ROWS: usize = 12_800;

/// The rows of a shard's `features.parquet`, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureRows {
    pub paths: Vec<String>,
    pub labels: Vec<Option<String>>,
    /// Microseconds since 1970-01-01 UTC.
    pub modified: Vec<i64>,
    /// Bytes.
    pub lengths: Vec<i64>,
    pub etags: Vec<String>,
    /// `[rows, columns]`, row-major.
    pub features: Vec<f32>,
}

impl FeatureRows {
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, false)))
}

fn list(values: ArrayRef, width: usize, rows: usize) -> Result<ArrayRef> {
    let field = Arc::new(Field::new("element", values.data_type().clone(), false));
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(width, rows));
    Ok(Arc::new(ListArray::try_new(field, offsets, values, None).map_err(bug)?))
}

fn bug(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InternalBug, "a table could not be written").source(error)
}

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
        // Numbers repeat too rarely for a dictionary, and nobody filters by the bounds of a feature or of a sum.
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
    // Grown by doubling, a large file would be in memory twice.
    let mut file = Vec::with_capacity(batch.get_array_memory_size() + (64 << 10));
    let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties.build())).map_err(bug)?;
    writer.write(&batch).map_err(bug)?;
    writer.close().map_err(bug)?;
    Ok(file.into())
}

/// A Parquet file in memory and the name to use in errors.
struct Table<'a> {
    key: &'a str,
    batches: Vec<RecordBatch>,
    footer: Vec<KeyValue>,
}

impl<'a> Table<'a> {
    fn read(file: Bytes, key: &'a str) -> Result<Self> {
        Self::read_columns(file, key, &[])
    }

    /// Reads some columns; without a name, all.
    fn read_columns(file: Bytes, key: &'a str, names: &[&str]) -> Result<Self> {
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

    /// Gives each batch's column of that name to `take`, which says no when it has another type.
    fn each(&self, name: &'static str, mut take: impl FnMut(&ArrayRef) -> Option<()>) -> Result<()> {
        for batch in &self.batches {
            batch.column_by_name(name).and_then(&mut take).ok_or_else(|| corrupt(self.key).context("column", name))?;
        }
        Ok(())
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
    Error::new(ErrorKind::DatasetCorrupt, "this table cannot be read").context("key", key)
}

/// `shards/<id>/features.parquet`
pub fn write_features(rows: FeatureRows, columns: usize, extractor: &str) -> Result<Bytes> {
    let count = rows.len();
    let features = list(Arc::new(Float32Array::from(rows.features)), columns, count)?;
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

/// Reads what [`write_features`] wrote; every row must have `columns` features.
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
    table.each("features", |column| {
        let lists = column.as_list_opt::<i32>()?;
        if (0..lists.len()).any(|i| lists.value_length(i) as usize != columns) {
            return None;
        }
        let offsets = lists.value_offsets();
        let values = lists.values().as_primitive_opt::<Float32Type>()?.values();
        rows.features.extend_from_slice(values.get(*offsets.first()? as usize..*offsets.last()? as usize)?);
        Some(())
    })?;
    Ok(rows)
}

/// Key and etag of each row of a features file.
pub fn read_etags(file: Bytes, key: &str) -> Result<Vec<(String, String)>> {
    let table = Table::read_columns(file, key, &["path", "etag"])?;
    Ok(table.present_strings("path")?.into_iter().zip(table.present_strings("etag")?).collect())
}

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

/// `basis/<id>.parquet`: the rows `mean` and `scale`, then one row per component.
pub fn write_basis(basis: &Basis, extractor: &str, id: &str) -> Result<Bytes> {
    let (kept, columns) = (basis.kept(), basis.columns());
    let kinds: Vec<&str> = ["mean", "scale"].into_iter().chain(std::iter::repeat_n("component", kept)).collect();
    let behind = |values: &[f64]| [None, None].into_iter().chain(values.iter().copied().map(Some)).collect::<Vec<_>>();
    let numbers: Vec<Option<i32>> = [None, None].into_iter().chain((0..kept as i32).map(Some)).collect();
    let mut sum = 0.0;
    let cumulative: Vec<f64> = basis
        .explained_variance_ratio
        .iter()
        .map(|ratio| {
            sum += ratio;
            sum
        })
        .collect();
    let values = Float64Array::from([&basis.mean[..], &basis.scale, &basis.components].concat());
    let spectrum = serde_json::to_string(&basis.spectrum).map_err(bug)?;
    write(
        vec![
            (Field::new("kind", DataType::Utf8, false), Arc::new(StringArray::from(kinds))),
            (Field::new("component", DataType::Int32, true), Arc::new(Int32Array::from(numbers))),
            (
                Field::new("explained_variance", DataType::Float64, true),
                Arc::new(Float64Array::from(behind(&basis.explained_variance))),
            ),
            (
                Field::new("explained_variance_ratio", DataType::Float64, true),
                Arc::new(Float64Array::from(behind(&basis.explained_variance_ratio))),
            ),
            (
                Field::new("cumulative_ratio", DataType::Float64, true),
                Arc::new(Float64Array::from(behind(&cumulative))),
            ),
            (Field::new("values", list_of(DataType::Float64), false), list(Arc::new(values), columns, kept + 2)?),
        ],
        &[
            (EXTRACTOR, extractor),
            (BASIS, id),
            (ROWS, &basis.rows.to_string()),
            (TOTAL_VARIANCE, &basis.total_variance.to_string()),
            (SPECTRUM, &spectrum),
        ],
    )
}

/// Reads what [`write_basis`] wrote.
pub fn read_basis(file: Bytes, columns: usize, key: &str) -> Result<Basis> {
    let table = Table::read(file, key)?;
    let mut values: Vec<f64> = Vec::new();
    table.each("values", |column| {
        values.extend(column.as_list_opt::<i32>()?.values().as_primitive_opt::<Float64Type>()?.values());
        Some(())
    })?;
    let floats = |name| -> Result<Vec<f64>> {
        let mut all = Vec::new();
        table.each(name, |column| {
            all.extend(column.as_primitive_opt::<Float64Type>()?.iter().flatten());
            Some(())
        })?;
        Ok(all)
    };
    let explained_variance = floats("explained_variance")?;
    let kept = explained_variance.len();
    if values.len() != (kept + 2) * columns {
        return Err(corrupt(key).context("columns", columns));
    }
    let components = values.split_off(2 * columns);
    let scale = values.split_off(columns);
    let number = |e: &dyn std::fmt::Display| corrupt(key).source(e.to_string());
    Ok(Basis {
        mean: values,
        scale,
        components,
        explained_variance,
        explained_variance_ratio: floats("explained_variance_ratio")?,
        total_variance: table.footer(TOTAL_VARIANCE)?.parse().map_err(|e| number(&e))?,
        spectrum: serde_json::from_str(table.footer(SPECTRUM)?).map_err(|e| number(&e))?,
        rows: table.footer(ROWS)?.parse().map_err(|e| number(&e))?,
    })
}

/// Scores of consecutive rows of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreRows {
    pub paths: Vec<String>,
    pub labels: Vec<Option<String>>,
    /// `[rows, kept]`, row-major.
    pub scores: Vec<f32>,
}

/// A part of the PCA table. In a folder `label=...` the label is told by the folder, as Hive and Spark have it.
pub fn write_scores(rows: ScoreRows, kept: usize, with_label: bool, extractor: &str, basis: &str) -> Result<Bytes> {
    let count = rows.paths.len();
    let mut fields: Vec<(Field, ArrayRef)> =
        vec![(Field::new("path", DataType::Utf8, false), Arc::new(StringArray::from(rows.paths)))];
    if with_label {
        fields.push((Field::new("label", DataType::Utf8, true), Arc::new(StringArray::from(rows.labels))));
    }
    let scores = list(Arc::new(Float32Array::from(rows.scores)), kept, count)?;
    fields.push((Field::new("pca_features", list_of(DataType::Float32), false), scores));
    write(fields, &[(EXTRACTOR, extractor), (BASIS, basis)])
}

/// Reads a part that has a label column; for showing its first rows.
pub fn read_scores(file: Bytes, key: &str) -> Result<ScoreRows> {
    let table = Table::read(file, key)?;
    let paths = table.present_strings("path")?;
    let labels = table.strings("label").unwrap_or_else(|_| vec![None; paths.len()]);
    let mut scores = Vec::new();
    table.each("pca_features", |column| {
        scores.extend(column.as_list_opt::<i32>()?.values().as_primitive_opt::<Float32Type>()?.values());
        Some(())
    })?;
    Ok(ScoreRows { paths, labels, scores })
}

/// `rejects/v=<version>.parquet`
pub fn write_rejects(rejects: &[RejectedObject], extractor: &str) -> Result<Bytes> {
    let column = |name: &str, value: &dyn Fn(&RejectedObject) -> String| -> (Field, ArrayRef) {
        let values: Vec<String> = rejects.iter().map(value).collect();
        (Field::new(name, DataType::Utf8, false), Arc::new(StringArray::from(values)))
    };
    write(
        vec![
            column("path", &|r| r.path.clone()),
            column("reason", &|r| r.reject.reason.to_string()),
            column("detail", &|r| r.reject.detail.clone()),
        ],
        &[(EXTRACTOR, extractor)],
    )
}

/// Path, reason and detail of each row of a rejects table.
pub fn read_rejects(file: Bytes, key: &str) -> Result<Vec<[String; 3]>> {
    let table = Table::read(file, key)?;
    let (paths, reasons, details) =
        (table.present_strings("path")?, table.present_strings("reason")?, table.present_strings("detail")?);
    Ok(paths.into_iter().zip(reasons).zip(details).map(|((path, reason), detail)| [path, reason, detail]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_reads_back_what_was_written() {
        let rows = FeatureRows {
            paths: vec!["Äpfel/1.jpg".into(), "2.jpg".into()],
            labels: vec![Some("Äpfel".into()), None],
            modified: vec![1, -1],
            lengths: vec![10, 20],
            etags: vec!["a".into(), "b".into()],
            features: vec![0.5, 0.25, 3.0, 6.0],
        };
        let file = write_features(rows.clone(), 2, "x").unwrap();
        assert_eq!(read_features(file.clone(), 2, "k").unwrap(), rows);
        assert!(read_features(file.clone(), 3, "k").is_err());
        assert!(read_features(file.slice(..file.len() / 2), 2, "k").is_err());

        let shard = ShardMoments::of(&rows.features, 2, 1024.0).unwrap();
        assert_eq!(read_shard_moments(write_shard_moments(&shard, "x").unwrap(), 2, "k").unwrap(), shard);
        let mut total = TotalMoments::zero(2);
        total.add(&shard).unwrap();
        assert_eq!(read_total_moments(write_total_moments(&total, "x").unwrap(), 2, "k").unwrap(), total);

        let basis = crate::pca::fit(&total, 1024.0, true, None).unwrap();
        assert_eq!(read_basis(write_basis(&basis, "x", "b").unwrap(), 2, "k").unwrap(), basis);
    }
}
