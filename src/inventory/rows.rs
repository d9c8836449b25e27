//! The rows of an inventory's files: CSV, also compressed with gzip, and Parquet.

use std::{
    io::{BufReader, Read},
    panic::{AssertUnwindSafe, catch_unwind},
};

use arrow_array::{
    Array, ArrayRef, RecordBatch,
    cast::AsArray,
    types::{
        Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType,
    },
};
use arrow_schema::{DataType, TimeUnit};
use flate2::read::MultiGzDecoder;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use percent_encoding::percent_decode_str;

use super::{
    file::RangeFile,
    sort::{MAX_TEXT, Row, Sorter},
};
use crate::{Error, ErrorKind, Result};

/// Rows of Parquet that are decoded at once.
const BATCH: usize = 4_096;

/// A column, with the names that it has in inventories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Bucket,
    Key,
    Etag,
    Size,
    Modified,
    IsLatest,
    IsDeleteMarker,
    Sequence,
    RecordType,
}

/// Names in lower case and without `_`: those of S3 Inventory, of S3 Metadata, and of Pomona's tables.
const NAMES: [(Column, &[&str]); 9] = [
    (Column::Bucket, &["bucket"]),
    (Column::Key, &["key", "path"]),
    (Column::Etag, &["etag"]),
    (Column::Size, &["size", "length"]),
    (Column::Modified, &["lastmodifieddate", "lastmodified", "modified"]),
    (Column::IsLatest, &["islatest"]),
    (Column::IsDeleteMarker, &["isdeletemarker"]),
    (Column::Sequence, &["sequencenumber"]),
    (Column::RecordType, &["recordtype"]),
];
const REQUIRED: [(Column, &str); 4] =
    [(Column::Key, "key"), (Column::Etag, "etag"), (Column::Size, "size"), (Column::Modified, "last_modified_date")];

fn column_of(name: &str) -> Option<Column> {
    let plain: String = name.trim().chars().filter(|c| *c != '_').collect::<String>().to_ascii_lowercase();
    NAMES.iter().find(|(_, names)| names.contains(&plain.as_str())).map(|(column, _)| *column)
}

/// How the files of an inventory are to be read.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// Names of the columns of CSV files without a header; then the keys are URL-encoded.
    pub(super) schema: Option<Vec<String>>,
    /// The bucket of the input; rows of others are left out.
    pub(super) bucket: Option<String>,
    /// What keys start with; it is taken off.
    pub(super) prefix: String,
}

/// Numbers of the columns.
type Places = Vec<(Column, usize)>;

fn invalid(message: impl Into<String>, file: &str) -> Error {
    Error::new(ErrorKind::InputInvalid, message).context("inventory", file)
}

/// Finds the columns by their names. Fails if one is missing.
fn places<'n>(names: impl Iterator<Item = &'n str>, file: &str) -> Result<Places> {
    let mut places: Places = Vec::new();
    for (number, name) in names.enumerate() {
        if let Some(column) = column_of(name)
            && places.iter().all(|(known, _)| *known != column)
        {
            places.push((column, number));
        }
    }
    let has = |column: Column| places.iter().any(|(known, _)| *known == column);
    let missing: Vec<&str> = REQUIRED.iter().filter(|(column, _)| !has(*column)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(places);
    }
    let message = format!("the inventory has no column {}; add it to the inventory's fields", missing.join(", "));
    Err(invalid(message, file))
}

/// The values of a row, as texts.
#[derive(Default)]
struct Values {
    bucket: Option<String>,
    key: Option<String>,
    etag: Option<String>,
    size: Option<String>,
    modified: Option<String>,
    is_latest: Option<String>,
    is_delete_marker: Option<String>,
    sequence: Option<String>,
    record_type: Option<String>,
}

impl Values {
    fn set(&mut self, column: Column, value: Option<String>) {
        *match column {
            Column::Bucket => &mut self.bucket,
            Column::Key => &mut self.key,
            Column::Etag => &mut self.etag,
            Column::Size => &mut self.size,
            Column::Modified => &mut self.modified,
            Column::IsLatest => &mut self.is_latest,
            Column::IsDeleteMarker => &mut self.is_delete_marker,
            Column::Sequence => &mut self.sequence,
            Column::RecordType => &mut self.record_type,
        } = value;
    }

    /// The row; `None` if it is about no object of the input.
    fn row(self, form: &Form) -> std::result::Result<Option<Row>, String> {
        let is = |value: &Option<String>, text: &str| value.as_deref().is_some_and(|v| v.eq_ignore_ascii_case(text));
        if self.bucket.is_some() && form.bucket.is_some() && self.bucket != form.bucket || is(&self.is_latest, "false")
        {
            return Ok(None);
        }
        let key = self.key.ok_or("a row has no key")?;
        if key.len() > MAX_TEXT {
            return Err(format!("a key has {} bytes", key.len()));
        }
        let key = key.strip_prefix(form.prefix.as_str()).filter(|key| !key.is_empty());
        let Some(key) = key.map(str::to_owned) else { return Ok(None) };
        let exists = !is(&self.is_delete_marker, "true") && !is(&self.record_type, "delete");
        let value = |value: Option<String>, name: &str| match value.filter(|value| !value.is_empty()) {
            Some(value) => Ok(value),
            None if exists => Err(format!("a row has no {name} (key: {key})")),
            None => Ok(String::new()),
        };
        let etag = value(self.etag, "etag")?.trim_matches('"').to_owned();
        let size = value(self.size, "size")?;
        let size = if size.is_empty() { Ok(0) } else { size.parse().map_err(|_| format!("{size:?} is no size")) };
        let modified = time(&value(self.modified, "last_modified_date")?)?;
        let sequence = self.sequence.unwrap_or_default();
        if etag.len().max(sequence.len()) > MAX_TEXT {
            return Err("an etag or a sequence number is too long".to_owned());
        }
        Ok(Some(Row { key, sequence, modified, exists, etag, size: size? }))
    }
}

/// Microseconds since 1970 of a time in ISO 8601, or of a number of microseconds.
fn time(text: &str) -> std::result::Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    if let Ok(micros) = text.parse() {
        return Ok(micros);
    }
    text.parse::<jiff::Timestamp>().map(|time| time.as_microsecond()).map_err(|_| format!("{text:?} is no time"))
}

/// Reads a CSV file.
pub(super) fn csv(file: &RangeFile, name: &str, form: &Form, sorter: &mut Sorter) -> Result<()> {
    let body = BufReader::with_capacity(64 << 10, file.read_from(0));
    if name.ends_with(".gz") {
        // A file may consist of several parts.
        csv_from(MultiGzDecoder::new(body), name, form, sorter)
    } else {
        csv_from(body, name, form, sorter)
    }
}

fn csv_from(body: impl Read, name: &str, form: &Form, sorter: &mut Sorter) -> Result<()> {
    let broken = |e: csv::Error| invalid("the inventory cannot be read", name).source(e);
    let mut reader = csv::ReaderBuilder::new().has_headers(form.schema.is_none()).flexible(true).from_reader(body);
    let places = match &form.schema {
        Some(schema) => places(schema.iter().map(String::as_str), name)?,
        None => places(reader.headers().map_err(broken)?.iter(), name)?,
    };
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(broken)? {
        let mut values = Values::default();
        for (column, number) in &places {
            let value = record.get(*number).filter(|value| !value.is_empty());
            values.set(
                *column,
                match (value, column) {
                    (Some(key), Column::Key) if form.schema.is_some() => Some(decoded(key, name)?),
                    (value, _) => value.map(str::to_owned),
                },
            );
        }
        push(values, form, name, sorter)?;
    }
    Ok(())
}

/// A key of S3 Inventory, which writes a space as `+` or `%20`, and a plus as `%2B`.
fn decoded(key: &str, name: &str) -> Result<String> {
    let spaced = key.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|e| invalid("a key is not UTF-8", name).source(e))
}

fn push(values: Values, form: &Form, name: &str, sorter: &mut Sorter) -> Result<()> {
    let row = values.row(form).map_err(|e| invalid(e, name))?;
    row.map_or(Ok(()), |row| sorter.push(row))
}

/// Reads a Parquet file.
pub(super) fn parquet(file: &RangeFile, name: &str, form: &Form, sorter: &mut Sorter) -> Result<()> {
    // The decoder panics on some damaged files.
    catch_unwind(AssertUnwindSafe(|| parquet_guarded(file, name, form, sorter)))
        .unwrap_or_else(|_| Err(invalid("the inventory cannot be read", name).source("the decoder panicked")))
}

fn parquet_guarded(file: &RangeFile, name: &str, form: &Form, sorter: &mut Sorter) -> Result<()> {
    let broken = |e: &dyn std::fmt::Display| invalid("the inventory cannot be read", name).source(e.to_string());
    let builder = ParquetRecordBatchReaderBuilder::try_new(file.clone()).map_err(|e| broken(&e))?;
    let fields = builder.schema().fields().clone();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let places = places(names.iter().copied(), name)?;
    let wanted = ProjectionMask::roots(builder.parquet_schema(), places.iter().map(|(_, number)| *number));
    let reader = builder.with_projection(wanted).with_batch_size(BATCH).build().map_err(|e| broken(&e))?;
    for batch in reader {
        let batch: RecordBatch = batch.map_err(|e| broken(&e))?;
        let columns: Option<Vec<(Column, &ArrayRef)>> =
            places.iter().map(|(column, number)| Some((*column, batch.column_by_name(names.get(*number)?)?))).collect();
        let columns = columns.ok_or_else(|| broken(&"a column is missing"))?;
        for row in 0..batch.num_rows() {
            let mut values = Values::default();
            for (column, array) in &columns {
                let value = text(array, row).map_err(|e| broken(&format!("column {column:?}: {e}")))?;
                values.set(*column, value);
            }
            push(values, form, name, sorter)?;
        }
    }
    Ok(())
}

/// A value as text; times as microseconds since 1970.
fn text(array: &ArrayRef, row: usize) -> std::result::Result<Option<String>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    let scaled = |value: i64, factor: i64| value.checked_mul(factor).ok_or("a time is out of range");
    Ok(Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).to_owned(),
        DataType::Utf8View => array.as_string_view().value(row).to_owned(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => scaled(array.as_primitive::<TimestampSecondType>().value(row), 1_000_000)?,
            TimeUnit::Millisecond => scaled(array.as_primitive::<TimestampMillisecondType>().value(row), 1_000)?,
            TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
            TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000),
        }
        .to_string(),
        other => return Err(format!("type {other} is not read")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_columns_are_those_of_aws_and_of_pomona() {
        for (name, column) in [
            ("Key", Column::Key),
            ("LastModifiedDate", Column::Modified),
            ("last_modified_date", Column::Modified),
            ("e_tag", Column::Etag),
            ("ETag", Column::Etag),
            ("is_delete_marker", Column::IsDeleteMarker),
            ("IsLatest", Column::IsLatest),
            ("sequence_number", Column::Sequence),
            ("path", Column::Key),
            ("length", Column::Size),
        ] {
            assert_eq!(column_of(name), Some(column), "{name}");
        }
        assert_eq!(column_of("storage_class"), None);
    }

    #[test]
    fn times_are_iso_8601_or_microseconds() {
        assert_eq!(time("2023-11-14T22:13:20.000Z"), Ok(1_700_000_000_000_000));
        assert_eq!((time("1700000000000000"), time("")), (Ok(1_700_000_000_000_000), Ok(0)));
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn keys_of_s3_are_decoded() {
        assert_eq!(decoded("a%20b+c%2B%C3%84/1.jpg", "f").unwrap(), "a b c+Ä/1.jpg");
        assert!(decoded("%ff", "f").is_err());
    }
}
