//! Duplicates and outliers of the version, and nearest neighbours among the scores of a sample.

use super::LISTED;
use crate::{
    Result,
    dataset::{
        Duplicates, Manifest, Outliers,
        tables::{self, DuplicateRow, OutlierRow},
    },
    store::Store,
};

/// What the tables of the version say.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) duplicates: Option<Duplicates>,
    /// Some of the groups: those with different labels or splits first, then those with the most images.
    pub(super) groups: Vec<Vec<DuplicateRow>>,
    pub(super) outliers: Option<Outliers>,
    /// The most distant outliers.
    pub(super) farthest: Vec<OutlierRow>,
}

/// Reads the tables of duplicates and outliers, which cover all images.
pub(super) async fn read(output: &dyn Store, manifest: &Manifest) -> Result<Found> {
    let mut found =
        Found { duplicates: manifest.duplicates.clone(), outliers: manifest.outliers.clone(), ..Found::default() };
    if let Some(duplicates) = &found.duplicates {
        let rows = tables::read_all(output, &duplicates.files, tables::read_duplicates).await?;
        let mut groups: Vec<&[DuplicateRow]> = rows.chunk_by(|a, b| a.group == b.group).collect();
        let flags = |group: &[DuplicateRow]| group.first().map(|row| (row.across_labels, row.across_splits));
        // The order of equal groups stays that of their first images.
        groups.sort_by(|a, b| flags(b).cmp(&flags(a)).then(b.len().cmp(&a.len())));
        found.groups = groups.into_iter().take(LISTED).map(<[DuplicateRow]>::to_vec).collect();
    }
    if let Some(outliers) = &found.outliers {
        let first = outliers.files.get(..1).unwrap_or_default();
        found.farthest = tables::read_all(output, first, tables::read_outliers).await?;
        found.farthest.truncate(LISTED);
    }
    Ok(found)
}

/// Scores of a sample of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores<'a> {
    /// `[rows, kept]`, row-major.
    pub(super) values: &'a [f32],
    pub(super) kept: usize,
}

impl<'a> Scores<'a> {
    pub(super) fn rows(&self) -> usize {
        self.values.len().checked_div(self.kept).unwrap_or(0)
    }

    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.kept..(i + 1) * self.kept]
    }

    /// Euclidean distance of two rows.
    pub(super) fn distance(&self, a: usize, b: usize) -> f64 {
        let squares = self.row(a).iter().zip(self.row(b)).map(|(x, y)| f64::from(x - y) * f64::from(x - y));
        squares.sum::<f64>().sqrt()
    }

    /// The `count` nearest neighbours of a row: row and distance, in ascending order.
    pub(super) fn nearest(&self, row: usize, count: usize) -> Vec<(usize, f64)> {
        let others = (0..self.rows()).filter(|other| *other != row);
        let mut all: Vec<(usize, f64)> = others.map(|other| (other, self.distance(row, other))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(count);
        all
    }
}

/// At most `count` of the numbers below `n`, evenly spread and ascending.
pub(super) fn evenly(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| i * n / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first() {
        let values = [0.0, 1.0, 3.0, -0.5];
        assert_eq!(Scores { values: &values, kept: 1 }.nearest(0, 2), [(3, 0.5), (1, 1.0)]);
    }

    #[test]
    fn chosen_rows_are_evenly_spread() {
        assert_eq!(evenly(10, 3), [0, 3, 6]);
        assert_eq!(evenly(2, 5), [0, 1]);
    }
}
