//! The tables of a version's scores and rejects.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use ndarray::Array2;

use super::{BASIS, Compression, EXTRACTOR, Layout, Table, floats, list, list_of, write};
use crate::{Result, dataset::RejectedObject};

/// Whether a part has a column `label`. In a folder `label=...` the folder has the label, as in Hive and Spark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelColumn {
    /// The part has the column.
    Included,
    /// The part is in a folder of its label.
    InFolder,
}

/// The columns of a part of the table of scores, `[rows]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreRows {
    /// Keys of the images, relative to the input.
    pub paths: Vec<String>,
    /// Labels of the images.
    pub labels: Vec<Option<String>>,
    /// `[rows, kept]`: scores of the kept components.
    pub scores: Array2<f32>,
}

/// Encodes a part of the table of scores; `extractor` and `basis` are ids for the footer.
pub fn write_scores(
    rows: ScoreRows,
    label: LabelColumn,
    extractor: &str,
    basis: &str,
    compression: Compression,
) -> Result<Bytes> {
    let (count, kept) = rows.scores.dim();
    let mut fields: Vec<(Field, ArrayRef)> =
        vec![(Field::new("path", DataType::Utf8, false), Arc::new(StringArray::from(rows.paths)))];
    if label == LabelColumn::Included {
        fields.push((Field::new("label", DataType::Utf8, true), Arc::new(StringArray::from(rows.labels))));
    }
    let scores = list(floats(rows.scores), kept, count)?;
    fields.push((Field::new("pca_features", list_of(DataType::Float32), false), scores));
    write(fields, &[(EXTRACTOR, extractor), (BASIS, basis)], Layout::Rows(compression))
}

/// Decodes a part of the table of scores, with `kept` scores in each row. Without a column `label`, labels are None.
pub fn read_scores(file: Bytes, kept: usize, key: &str) -> Result<ScoreRows> {
    let table = Table::read(file, key)?;
    let paths = table.present_strings("path")?;
    let labels = table.strings_if_any("label")?;
    let scores = table.matrix("pca_features", kept)?;
    Ok(ScoreRows { paths, labels, scores })
}

/// Encodes `rejects/v=<version>.parquet`; `extractor` is an id for the footer.
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
        Layout::Rows(Compression::Snappy),
    )
}

/// Decodes path, reason and detail of each row of a rejects table.
pub fn read_rejects(file: Bytes, key: &str) -> Result<Vec<[String; 3]>> {
    let table = Table::read(file, key)?;
    let (paths, reasons, details) =
        (table.present_strings("path")?, table.present_strings("reason")?, table.present_strings("detail")?);
    Ok(paths.into_iter().zip(reasons).zip(details).map(|((path, reason), detail)| [path, reason, detail]).collect())
}
