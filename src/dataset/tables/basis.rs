//! The table of a basis.

use std::sync::Arc;

use arrow_array::{Float64Array, Int32Array, StringArray, cast::AsArray, types::Float64Type};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use ndarray::Array2;

use super::{BASIS, Compression, EXTRACTOR, Layout, ROWS, Table, bug, corrupt, list, list_of, write};
use crate::{Result, pca::Basis};

const TOTAL_VARIANCE: &str = "pomona.total_variance";
const SPECTRUM: &str = "pomona.spectrum";

/// Encodes `basis/<id>.parquet`: the rows `mean` and `scale`, then one row per component. `extractor` and `id` are ids for
/// the footer.
pub fn write_basis(basis: &Basis, extractor: &str, id: &str) -> Result<Bytes> {
    let (kept, columns) = (basis.kept(), basis.columns());
    let kinds: Vec<&str> = ["mean", "scale"].into_iter().chain(std::iter::repeat_n("component", kept)).collect();
    let after_two_nulls =
        |values: &[f64]| [None, None].into_iter().chain(values.iter().copied().map(Some)).collect::<Vec<_>>();
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
    let values = basis.mean.iter().chain(&basis.scale).chain(&basis.components).copied();
    let values = Float64Array::from_iter_values(values);
    let spectrum = serde_json::to_string(&basis.spectrum).map_err(bug)?;
    write(
        vec![
            (Field::new("kind", DataType::Utf8, false), Arc::new(StringArray::from(kinds))),
            (Field::new("component", DataType::Int32, true), Arc::new(Int32Array::from(numbers))),
            (
                Field::new("explained_variance", DataType::Float64, true),
                Arc::new(Float64Array::from(after_two_nulls(&basis.explained_variance))),
            ),
            (
                Field::new("explained_variance_ratio", DataType::Float64, true),
                Arc::new(Float64Array::from(after_two_nulls(&basis.explained_variance_ratio))),
            ),
            (
                Field::new("cumulative_ratio", DataType::Float64, true),
                Arc::new(Float64Array::from(after_two_nulls(&cumulative))),
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
        Layout::Rows(Compression::Snappy),
    )
}

/// Decodes a table of [`write_basis`] for `columns` features.
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
    let components = Array2::from_shape_vec((kept, columns), components).map_err(|e| corrupt(key).source(e))?;
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
