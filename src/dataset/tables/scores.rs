//! Scores of a version, and the images that have none.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use ndarray::Array2;

use super::{BASIS, EXTRACTOR, Table, floats, list, list_of, write};
use crate::{Result, dataset::RejectedObject};

/// Scores of consecutive rows of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreRows {
    pub paths: Vec<String>,
    pub labels: Vec<Option<String>>,
    /// `[rows, kept]`
    pub scores: Array2<f32>,
}

/// A part of the PCA table. In a folder `label=...` the folder carries the label, as in Hive and Spark.
pub fn write_scores(rows: ScoreRows, with_label: bool, extractor: &str, basis: &str) -> Result<Bytes> {
    let (count, kept) = rows.scores.dim();
    let mut fields: Vec<(Field, ArrayRef)> =
        vec![(Field::new("path", DataType::Utf8, false), Arc::new(StringArray::from(rows.paths)))];
    if with_label {
        fields.push((Field::new("label", DataType::Utf8, true), Arc::new(StringArray::from(rows.labels))));
    }
    let scores = list(floats(rows.scores), kept, count)?;
    fields.push((Field::new("pca_features", list_of(DataType::Float32), false), scores));
    write(fields, &[(EXTRACTOR, extractor), (BASIS, basis)])
}

/// Reads a part that has a label column; for showing its first rows.
pub fn read_scores(file: Bytes, kept: usize, key: &str) -> Result<ScoreRows> {
    let table = Table::read(file, key)?;
    let paths = table.present_strings("path")?;
    let labels = table.strings("label").unwrap_or_else(|_| vec![None; paths.len()]);
    let scores = table.matrix("pca_features", kept)?;
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
