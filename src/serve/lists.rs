//! The findings of a version as lists: parts as JSON for the page, and all rows as CSV.

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};
use serde::Deserialize;

use super::{
    api::query,
    failure::{Failure, json},
    local::{Local, Part, Rows, download},
};
use crate::{
    dataset::{RejectedObject, review::is_formula},
    versions::findings::{DuplicateGroup, Outlier},
};

type Answer = Result<Response, Failure>;
type Shared = State<Arc<Local>>;

/// Which groups of duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Across {
    #[default]
    Any,
    Labels,
    Splits,
}

impl Across {
    fn has(self, group: &DuplicateGroup) -> bool {
        match self {
            Across::Any => true,
            Across::Labels => group.across_labels,
            Across::Splits => group.across_splits,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    #[serde(default)]
    across: Across,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

pub(super) async fn duplicates(State(local): Shared, uri: Uri) -> Answer {
    let Groups { across, offset, limit } = query(&uri)?;
    let view = local.view().await?;
    let groups: Vec<&DuplicateGroup> = view.duplicates.rows.iter().filter(|group| across.has(group)).collect();
    let rows = Part { offset, limit }.of(groups.iter()).collect();
    Ok(json(&Rows { version: view.version(), total: groups.len(), rows, note: view.duplicates.note.clone() }))
}

pub(super) async fn suspects(State(local): Shared, uri: Uri) -> Answer {
    let part: Part = query(&uri)?;
    let view = local.view().await?;
    let suspects = view.table.suspects();
    let rows = part.of(suspects.iter()).filter_map(|row| view.table.shown(*row)).collect();
    let none = view.opened.version().classifier.as_ref().and_then(crate::dataset::Classification::fitted).is_none();
    let note = none.then(|| "the version has no classifier, so no image is suspect".to_owned());
    Ok(json(&Rows { version: view.version(), total: suspects.len(), rows, note }))
}

pub(super) async fn outliers(State(local): Shared, uri: Uri) -> Answer {
    let part: Part = query(&uri)?;
    let view = local.view().await?;
    let rows = part.of(view.outliers.rows.iter()).collect::<Vec<&Outlier>>();
    let (total, note) = (view.outliers.rows.len(), view.outliers.note.clone());
    Ok(json(&Rows { version: view.version(), total, rows, note }))
}

pub(super) async fn rejects(State(local): Shared, uri: Uri) -> Answer {
    let part: Part = query(&uri)?;
    let view = local.view().await?;
    let rows = part.of(view.rejects.iter()).collect::<Vec<&RejectedObject>>();
    Ok(json(&Rows { version: view.version(), total: view.rejects.len(), rows, note: None }))
}

/// Rows as CSV. Text that a spreadsheet would run as a formula starts with an apostrophe, as in `--csv-for-spreadsheets`.
fn csv<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(head);
    for row in rows {
        let _ = writer.write_record(row.map(|cell| if is_formula(&cell) { format!("'{cell}") } else { cell }));
    }
    writer.into_inner().unwrap_or_default()
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

pub(super) async fn duplicates_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    let head = ["group", "path", "label", "split", "distance", "same_bytes", "across_labels", "across_splits"];
    let rows = view.duplicates.rows.iter().flat_map(|group| {
        let rows =
            group.paths.iter().zip(&group.labels).zip(&group.splits).zip(group.distances.iter().zip(&group.copies));
        rows.map(|(((path, label), split), (distance, copy))| {
            let (label, split) = (text(label.as_deref()), text(split.as_deref()));
            let [across_labels, across_splits] =
                [group.across_labels, group.across_splits].map(|flag| flag.to_string());
            let (number, distance, copy) = (group.group.to_string(), distance.to_string(), copy.to_string());
            [number, path.clone(), label, split, distance, copy, across_labels, across_splits]
        })
    });
    Ok(download("duplicates.csv", csv(head, rows)))
}

pub(super) async fn suspects_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    let head = ["path", "label", "label_probability", "predicted", "probability"];
    let suspects = view.table.suspects();
    let rows = suspects.iter().filter_map(|row| view.table.shown(*row)).map(|image| {
        let number = |number: Option<f32>| number.map(|n| n.to_string()).unwrap_or_default();
        let (label, predicted) = (text(image.label), text(image.predicted));
        [image.path.to_owned(), label, number(image.label_probability), predicted, number(image.probability)]
    });
    Ok(download("suspects.csv", csv(head, rows)))
}

pub(super) async fn outliers_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    let row = |row: &Outlier| [row.path.clone(), text(row.label.as_deref()), row.distance.to_string()];
    Ok(download("outliers.csv", csv(["path", "label", "distance"], view.outliers.rows.iter().map(row))))
}

pub(super) async fn rejects_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    let row = |row: &RejectedObject| [row.path.clone(), row.reject.reason.to_string(), row.reject.detail.clone()];
    Ok(download("rejects.csv", csv(["path", "reason", "detail"], view.rejects.iter().map(row))))
}
