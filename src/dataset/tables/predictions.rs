//! The table of predictions.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, StringArray, cast::AsArray, types::Float64Type};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::{Compression, EXTRACTOR, Layout, Table, classifier::CLASSIFIER, corrupt, write};
use crate::Result;

/// A row of the table of predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictionRow {
    /// Key of the image, relative to the input.
    pub path: String,
    /// Its label.
    pub label: Option<String>,
    /// Its split.
    pub split: Option<String>,
    /// The most probable class: by the model without the image's fold, if it is a training image.
    pub predicted: String,
    /// Its probability.
    pub probability: f64,
    /// The next class; None if the model knows one class only.
    pub second: Option<String>,
    /// The probability of the first class minus that of the second.
    pub margin: f64,
    /// The probability of the label. None without a label, and if the model does not know it.
    pub label_probability: Option<f64>,
    /// Whether the label is probably wrong: its probability is below the limit.
    pub suspect: bool,
}

/// Encodes `predictions/v=<version>/part-<part>.parquet`; `extractor` and `classifier` are ids for the footer.
pub fn write_predictions(
    rows: &[PredictionRow],
    extractor: &str,
    classifier: &str,
    compression: Compression,
) -> Result<Bytes> {
    let text = |name: &str, nullable, of: &dyn Fn(&PredictionRow) -> Option<String>| -> (Field, ArrayRef) {
        let column: StringArray = rows.iter().map(of).collect();
        (Field::new(name, DataType::Utf8, nullable), Arc::new(column))
    };
    let number = |name: &str, nullable, of: &dyn Fn(&PredictionRow) -> Option<f64>| -> (Field, ArrayRef) {
        let column: Float64Array = rows.iter().map(of).collect();
        (Field::new(name, DataType::Float64, nullable), Arc::new(column))
    };
    let suspect: BooleanArray = rows.iter().map(|row| Some(row.suspect)).collect();
    write(
        vec![
            text("path", false, &|row| Some(row.path.clone())),
            text("label", true, &|row| row.label.clone()),
            text("split", true, &|row| row.split.clone()),
            text("predicted", false, &|row| Some(row.predicted.clone())),
            number("probability", false, &|row| Some(row.probability)),
            text("second", true, &|row| row.second.clone()),
            number("margin", false, &|row| Some(row.margin)),
            number("label_probability", true, &|row| row.label_probability),
            (Field::new("suspect", DataType::Boolean, false), Arc::new(suspect)),
        ],
        &[(EXTRACTOR, extractor), (CLASSIFIER, classifier)],
        Layout::Rows(compression),
    )
}

/// Decodes a table of [`write_predictions`].
pub fn read_predictions(file: Bytes, key: &str) -> Result<Vec<PredictionRow>> {
    let table = Table::read(file, key)?;
    let optional = |name| -> Result<Vec<Option<f64>>> {
        let mut all = Vec::new();
        table.each(name, |column| {
            all.extend(column.as_primitive_opt::<Float64Type>()?.iter());
            Some(())
        })?;
        Ok(all)
    };
    let mut suspects = Vec::new();
    table.each("suspect", |column| {
        suspects.extend(column.as_boolean_opt().filter(|c| c.null_count() == 0)?.values().iter());
        Some(())
    })?;
    let (paths, predicted) = (table.present_strings("path")?, table.present_strings("predicted")?);
    let (labels, splits, seconds) = (table.strings("label")?, table.strings("split")?, table.strings("second")?);
    let (probability, margin) = (table.numbers::<Float64Type>("probability")?, table.numbers::<Float64Type>("margin")?);
    let of_label = optional("label_probability")?;
    let lengths = [predicted.len(), labels.len(), splits.len(), seconds.len(), probability.len(), of_label.len()];
    if lengths.iter().any(|length| *length != paths.len())
        || suspects.len() != paths.len()
        || margin.len() != paths.len()
    {
        return Err(corrupt(key).context("rows", paths.len()));
    }
    let rows = paths.into_iter().zip(labels).zip(splits).zip(predicted).zip(seconds).enumerate();
    Ok(rows
        .map(|(row, ((((path, label), split), predicted), second))| PredictionRow {
            path,
            label,
            split,
            predicted,
            probability: probability[row],
            second,
            margin: margin[row],
            label_probability: of_label[row],
            suspect: suspects[row],
        })
        .collect())
}
