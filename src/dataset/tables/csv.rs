//! Findings as CSV: the columns of the lists, and the cells of their rows.

use super::{DuplicateRow, OutlierRow};
use crate::dataset::RejectedObject;

/// Columns of a list of duplicates.
pub const DUPLICATES: [&str; 8] =
    ["group", "path", "label", "split", "distance", "same_bytes", "across_labels", "across_splits"];
/// Columns of a list of outliers.
pub const OUTLIERS: [&str; 3] = ["path", "label", "distance"];
/// Columns of a list of rejects.
pub const REJECTS: [&str; 3] = ["path", "reason", "detail"];

/// Encodes rows below their columns.
pub fn write<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(columns);
    for row in rows {
        let _ = writer.write_record(row);
    }
    writer.into_inner().unwrap_or_default()
}

/// A cell; empty for nothing.
pub fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

impl DuplicateRow {
    /// Its cells in a list.
    pub fn cells(&self) -> [String; 8] {
        [
            self.group.to_string(),
            self.path.clone(),
            text(self.label.as_deref()),
            text(self.split.as_deref()),
            self.distance.to_string(),
            self.same_bytes.to_string(),
            self.across_labels.to_string(),
            self.across_splits.to_string(),
        ]
    }
}

impl OutlierRow {
    /// Its cells in a list.
    pub fn cells(&self) -> [String; 3] {
        [self.path.clone(), text(self.label.as_deref()), self.distance.to_string()]
    }
}

impl RejectedObject {
    /// Its cells in a list.
    pub fn cells(&self) -> [String; 3] {
        [self.path.clone(), self.reject.reason.to_string(), self.reject.detail.clone()]
    }
}
