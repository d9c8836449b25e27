//! The lists that the page offers as CSV, in the columns of `pomona list --csv`.

use serde::Serialize;

use crate::dataset::tables::{OutlierRow, PredictionRow, csv};

/// Most rows of a list in the page.
pub const ROWS: usize = 10_000;

/// A list of findings: all rows, or the first [`ROWS`].
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct List {
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    /// Rows of the table.
    #[serde(skip)]
    pub(super) all: u64,
}

impl List {
    /// The rows of an iterator, and how many there are.
    pub(super) fn new<const N: usize>(head: [&'static str; N], rows: impl Iterator<Item = [String; N]>) -> Self {
        let mut list = List { head: head.to_vec(), ..List::default() };
        rows.for_each(|row| list.push(row));
        list
    }

    pub(super) fn push<const N: usize>(&mut self, row: [String; N]) {
        self.all += 1;
        if self.rows.len() < ROWS {
            self.rows.push(row.to_vec());
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.rows.len() as u64 == self.all
    }
}

/// The lists by name.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Lists {
    pub(super) duplicates: List,
    pub(super) suspects: List,
    pub(super) outliers: List,
    pub(super) rejects: List,
}

const SUSPECTS: [&str; 6] = ["path", "label", "split", "label_probability", "predicted", "probability"];

pub(super) fn suspects(rows: &[PredictionRow], all: u64) -> List {
    let row = |row: &PredictionRow| {
        let probability = row.label_probability.map(|p| p.to_string());
        let [label, split, probability] =
            [row.label.as_deref(), row.split.as_deref(), probability.as_deref()].map(csv::text);
        [row.path.clone(), label, split, probability, row.predicted.clone(), row.probability.to_string()]
    };
    List { all, ..List::new(SUSPECTS, rows.iter().map(row)) }
}

pub(super) fn outliers(rows: &[OutlierRow], all: u64) -> List {
    List { all, ..List::new(csv::OUTLIERS, rows.iter().map(OutlierRow::cells)) }
}

pub(super) fn rejects(rows: &[[String; 3]]) -> List {
    List::new(csv::REJECTS, rows.iter().cloned())
}
