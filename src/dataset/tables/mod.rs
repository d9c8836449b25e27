//! The Parquet tables: schemas, writing and reading.
//!
//! Lists are `list<float>` with a child named `element`. With [`Compression::Snappy`], pandas, Polars, DuckDB, Spark and
//! Athena read them.
//! `docs/file-formats.md` describes the columns of each table. [`csv`] has the columns of lists that are printed or saved.
//!
//! Functions that write fail with `Internal.Bug`. Functions that read fail with `Dataset.Corrupt`, which names the key. They
//! read the tables of format 1 too.

mod basis;
mod classes;
mod classifier;
pub mod csv;
mod descriptors;
mod features;
mod findings;
mod members;
mod predictions;
mod reading;
mod scores;
mod sums;
mod writing;

pub use basis::{read_basis, write_basis};
pub use classes::{add_classes, read_classes, write_classes, write_last_classes};
pub use classifier::{CLASSIFIER, read_classifier, write_classifier};
pub use descriptors::write_descriptors;
pub(crate) use features::etags;
pub use features::{FeatureRows, LabelledFeatures, read_features, read_labelled_features, write_features};
pub use findings::{DuplicateRow, OutlierRow, read_duplicates, read_outliers, write_duplicates, write_outliers};
pub(crate) use findings::{parts, read_all};
pub(crate) use members::{ArchiveRef, Container, read_container, write_container};
pub use predictions::{PredictionRow, read_predictions, write_predictions};
use reading::{Table, corrupt};
pub use scores::{LabelColumn, ScoreRows, read_rejects, read_scores, write_rejects, write_scores};
use serde::{Deserialize, Serialize};
pub use sums::{read_sums, write_group_sums, write_total_sums};
use writing::{Layout, bug, floats, list, list_of, write};

/// Key of the extractor's id in the footer of a table.
pub const EXTRACTOR: &str = "pomona.extractor";
/// Key of the basis's id in the footer of a table.
pub const BASIS: &str = "pomona.basis";
/// Key of the number of rows of features in the footer of sums and bases.
const ROWS: &str = "pomona.rows";

/// How the features and the scores of an output are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Snappy, with the numbers as they are. Every program that reads Parquet reads it.
    #[default]
    Snappy,
    /// Zstandard at level 1, with the bytes of floats in separate streams (`BYTE_STREAM_SPLIT`). Smaller, and slower.
    /// Spark 4.0 reads it only without its vectorized reader.
    Zstd,
}

#[cfg(test)]
mod tests;
