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
    dataset::{
        RejectedObject,
        review::is_formula,
        tables::{OutlierRow, csv},
    },
    versions::findings::DuplicateGroup,
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
    let rows = part.of(view.outliers.rows.iter()).collect::<Vec<&OutlierRow>>();
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
fn csv_of<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Vec<u8> {
    let safe = |cell: String| if is_formula(&cell) { format!("'{cell}") } else { cell };
    csv::write(columns, rows.map(|row| row.map(safe)))
}

pub(super) async fn duplicates_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    let rows = view.duplicates.rows.iter().flat_map(DuplicateGroup::rows).map(|row| row.cells());
    Ok(download("duplicates.csv", csv_of(csv::DUPLICATES, rows)))
}

pub(super) async fn suspects_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    let columns = ["path", "label", "label_probability", "predicted", "probability"];
    let suspects = view.table.suspects();
    let rows = suspects.iter().filter_map(|row| view.table.shown(*row)).map(|image| {
        let number = |number: Option<f32>| number.map(|n| n.to_string()).unwrap_or_default();
        let (label, predicted) = (csv::text(image.label), csv::text(image.predicted));
        [image.path.to_owned(), label, number(image.label_probability), predicted, number(image.probability)]
    });
    Ok(download("suspects.csv", csv_of(columns, rows)))
}

pub(super) async fn outliers_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    Ok(download("outliers.csv", csv_of(csv::OUTLIERS, view.outliers.rows.iter().map(OutlierRow::cells))))
}

pub(super) async fn rejects_csv(State(local): Shared) -> Answer {
    let view = local.view().await?;
    Ok(download("rejects.csv", csv_of(csv::REJECTS, view.rejects.iter().map(RejectedObject::cells))))
}
