//! Decodes Parquet files, which may be damaged.

use std::panic::AssertUnwindSafe;

use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch, cast::AsArray, types::Float32Type};
use arrow_schema::{ArrowError, DataType, FieldRef, SchemaRef};
use bytes::Bytes;
use ndarray::Array2;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    file::metadata::KeyValue,
};

use crate::{Error, ErrorKind, Result};

/// Rows that are decoded at a time.
const BATCH: usize = 4_096;
/// Fewer, if they have lists: for each number of a list, the decoder needs twice the memory of the number.
const BATCH_OF_LISTS: usize = 128;

/// The decoder panics on some damaged files.
fn caught<T>(key: &str, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(corrupt(key).source("the decoder panicked")))
}

/// A decoded Parquet file.
pub(super) struct Table<'a> {
    /// For errors.
    pub(super) key: &'a str,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    footer: Vec<KeyValue>,
}

impl<'a> Table<'a> {
    pub(super) fn read(file: Bytes, key: &'a str) -> Result<Self> {
        Self::read_columns(file, key, &[])
    }

    /// Decodes the columns with these names, or all columns if there are no names.
    pub(super) fn read_columns(file: Bytes, key: &'a str, names: &[&str]) -> Result<Self> {
        caught(key, || {
            let (mut table, reader) = Self::open(file, key, names)?;
            let corrupt = |e: ArrowError| corrupt(key).source(e.to_string());
            table.batches = reader.collect::<std::result::Result<_, _>>().map_err(corrupt)?;
            Ok(table)
        })
    }

    /// Decodes the only column, numbers without nulls, a batch at a time: a large one is never in memory as a whole. `start`
    /// gets a table without rows, and `take` what it returns.
    pub(super) fn fold<T: ArrowPrimitiveType, S>(
        file: Bytes,
        (key, name): (&'a str, &'static str),
        start: impl FnOnce(&Self) -> Result<S>,
        mut take: impl FnMut(&mut S, &[T::Native]) -> Result<()>,
    ) -> Result<S> {
        caught(key, || {
            let (mut table, reader) = Self::open(file, key, &[])?;
            let mut state = start(&table)?;
            for batch in reader {
                table.batches = vec![batch.map_err(|e| corrupt(key).source(e.to_string()))?];
                let mut taken = Ok(());
                table.each(name, |column| {
                    let values = column.as_primitive_opt::<T>().filter(|c| c.null_count() == 0)?.values();
                    taken = take(&mut state, values);
                    Some(())
                })?;
                taken?;
            }
            Ok(state)
        })
    }

    /// The type of the column of this name in a file. None if the file has no such column.
    pub(super) fn type_in(file: Bytes, key: &'a str, name: &str) -> Result<Option<DataType>> {
        caught(key, || Ok(Self::open(file, key, &[])?.0.type_of(name).cloned()))
    }

    fn open(file: Bytes, key: &'a str, names: &[&str]) -> Result<(Self, ParquetRecordBatchReader)> {
        let corrupt = |e: &dyn std::fmt::Display| corrupt(key).source(e.to_string());
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| corrupt(&e))?;
        let footer = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let schema = builder.schema().clone();
        let wanted = match names {
            [] => ProjectionMask::all(),
            _ => ProjectionMask::columns(builder.parquet_schema(), names.iter().copied()),
        };
        let is_list = |field: &FieldRef| matches!(field.data_type(), DataType::List(_));
        let rows = if schema.fields().iter().any(is_list) { BATCH_OF_LISTS } else { BATCH };
        let reader = builder.with_projection(wanted).with_batch_size(rows).build().map_err(|e| corrupt(&e))?;
        Ok((Table { key, schema, batches: Vec::new(), footer }, reader))
    }

    /// The type of the column of this name. None if the file has no such column.
    pub(super) fn type_of(&self, name: &str) -> Option<&DataType> {
        self.schema.column_with_name(name).map(|(_, field)| field.data_type())
    }

    /// The number of rows.
    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// [`Table::strings`] of a column that older files do not have; None for all rows then.
    pub(super) fn strings_if_any(&self, name: &'static str) -> Result<Vec<Option<String>>> {
        if self.type_of(name).is_some() { self.strings(name) } else { Ok(vec![None; self.rows()]) }
    }

    pub(super) fn footer(&self, name: &str) -> Result<&str> {
        let pair = self.footer.iter().find(|pair| pair.key == name);
        pair.and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| corrupt(self.key).context("missing in the footer", name))
    }

    /// Calls `take` with the column of that name of each batch. `take` returns None if the type is wrong.
    pub(super) fn each(&self, name: &'static str, mut take: impl FnMut(&ArrayRef) -> Option<()>) -> Result<()> {
        for batch in &self.batches {
            batch.column_by_name(name).and_then(&mut take).ok_or_else(|| corrupt(self.key).context("column", name))?;
        }
        Ok(())
    }

    /// A column of numbers without nulls.
    pub(super) fn numbers<T: ArrowPrimitiveType>(&self, name: &'static str) -> Result<Vec<T::Native>> {
        let mut numbers = Vec::new();
        self.each(name, |column| {
            numbers.extend_from_slice(column.as_primitive_opt::<T>().filter(|c| c.null_count() == 0)?.values());
            Some(())
        })?;
        Ok(numbers)
    }

    /// A column of lists of `columns` numbers as a matrix `[rows, columns]`.
    pub(super) fn matrix(&self, name: &'static str, columns: usize) -> Result<Array2<f32>> {
        let (mut seen, mut wrong, mut count) = (0, None, 0);
        self.each(name, |column| {
            count += column.as_list_opt::<i32>()?.values().len();
            Some(())
        })?;
        let mut numbers: Vec<f32> = Vec::with_capacity(count);
        self.each(name, |column| {
            let lists = column.as_list_opt::<i32>().filter(|lists| lists.null_count() == 0)?;
            let row = (0..lists.len()).find(|i| lists.value_length(*i) as usize != columns);
            wrong = wrong.or(row.map(|row| seen + row));
            seen += lists.len();
            let offsets = lists.value_offsets();
            let values = lists.values().as_primitive_opt::<Float32Type>().filter(|v| v.null_count() == 0)?.values();
            numbers.extend_from_slice(values.get(*offsets.first()? as usize..*offsets.last()? as usize)?);
            Some(())
        })?;
        if let Some(row) = wrong {
            return Err(corrupt(self.key).context("row", row).context("expected columns", columns));
        }
        Array2::from_shape_vec((self.rows(), columns), numbers).map_err(|e| corrupt(self.key).source(e))
    }

    pub(super) fn strings(&self, name: &'static str) -> Result<Vec<Option<String>>> {
        let mut values = Vec::new();
        self.each(name, |column| {
            values.extend(column.as_string_opt::<i32>()?.iter().map(|v| v.map(str::to_owned)));
            Some(())
        })?;
        Ok(values)
    }

    pub(super) fn present_strings(&self, name: &'static str) -> Result<Vec<String>> {
        let values: Option<Vec<_>> = self.strings(name)?.into_iter().collect();
        values.ok_or_else(|| corrupt(self.key).context("missing value in column", name))
    }
}

pub(super) fn corrupt(key: &str) -> Error {
    Error::new(ErrorKind::DatasetCorrupt, "this table cannot be decoded").context("key", key)
}
