//! Duplicates and outliers, from the tables of the version, which cover all images.

use super::{
    LISTED, MEMBERS,
    lists::{self, List, ROWS},
};
use crate::{
    Result,
    dataset::{
        Duplicates, FileRef, Manifest, Outliers,
        tables::{self, DuplicateRow, OutlierRow, csv},
    },
    store::Store,
};

/// What the tables of the version say.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// None for versions of older releases.
    pub(super) duplicates: Option<Duplicates>,
    /// Some of the groups: those with different labels or splits first, then those with the most images.
    pub(super) groups: Vec<Group>,
    pub(super) listed_duplicates: List,
    /// None for versions of older releases.
    pub(super) outliers: Option<Outliers>,
    /// The most distant outliers.
    pub(super) farthest: Vec<OutlierRow>,
    pub(super) listed_outliers: List,
}

/// A group of duplicates.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Some images: of each label and split the first, then the others.
    pub(super) first: Vec<DuplicateRow>,
    pub(super) images: u64,
    /// The largest distance from the group's first image.
    pub(super) farthest: f64,
    /// Whether all images have the same bytes.
    pub(super) same_bytes: bool,
}

impl Group {
    fn new(row: DuplicateRow) -> Self {
        Group { images: 1, farthest: row.distance, same_bytes: row.same_bytes, first: vec![row] }
    }

    fn add(&mut self, row: DuplicateRow) {
        self.images += 1;
        self.farthest = self.farthest.max(row.distance);
        self.same_bytes &= row.same_bytes;
        let seen = |other: &DuplicateRow| (&other.label, &other.split) == (&row.label, &row.split);
        let is_twin = self.first.iter().any(seen);
        if self.first.len() < MEMBERS {
            self.first.push(row);
        } else if !is_twin {
            // An image with another label says more than a further one with the same label.
            let twins = |i: &usize| {
                let own = (&self.first[*i].label, &self.first[*i].split);
                self.first[..*i].iter().any(|other| (&other.label, &other.split) == own)
            };
            if let Some(place) = (1..self.first.len()).rev().find(twins) {
                self.first[place] = row;
            }
        }
    }

    pub(super) fn across_labels(&self) -> bool {
        self.first.iter().any(|row| row.across_labels)
    }

    pub(super) fn across_splits(&self) -> bool {
        self.first.iter().any(|row| row.across_splits)
    }
}

/// Reads the tables of duplicates and outliers, file by file.
pub(super) async fn read(output: &dyn Store, manifest: &Manifest) -> Result<Found> {
    let mut found =
        Found { duplicates: manifest.duplicates.clone(), outliers: manifest.outliers.clone(), ..Found::default() };
    if let Some(duplicates) = &manifest.duplicates {
        (found.groups, found.listed_duplicates) = groups(output, &duplicates.files).await?;
    }
    if let Some(outliers) = &manifest.outliers {
        // The most distant come first.
        let mut rows: Vec<OutlierRow> = Vec::new();
        for file in &outliers.files {
            if rows.len() >= ROWS {
                break;
            }
            rows.extend(tables::read_outliers(file.read(output).await?, &file.key)?);
        }
        found.listed_outliers = lists::outliers(&rows, outliers.rows);
        rows.truncate(LISTED);
        found.farthest = rows;
    }
    Ok(found)
}

/// The groups to show, and the rows to list. A group can go on in the next file.
async fn groups(output: &dyn Store, files: &[FileRef]) -> Result<(Vec<Group>, List)> {
    let mut list = List::new(csv::DUPLICATES, std::iter::empty());
    let (mut shown, mut open): (Vec<Group>, Option<(u64, Group)>) = (Vec::new(), None);
    for file in files {
        for row in tables::read_duplicates(file.read(output).await?, &file.key)? {
            list.push(row.cells());
            match &mut open {
                Some((number, group)) if *number == row.group => group.add(row),
                _ => {
                    let number = row.group;
                    let ended = open.replace((number, Group::new(row)));
                    keep(&mut shown, ended.map(|(_, group)| group));
                }
            }
        }
    }
    keep(&mut shown, open.map(|(_, group)| group));
    Ok((shown, list))
}

/// Adds a group to those that are shown, if it is one of the first. The order of equal groups stays that of their first
/// images.
fn keep(shown: &mut Vec<Group>, group: Option<Group>) {
    shown.extend(group);
    let flags = |group: &Group| (group.across_labels(), group.across_splits(), group.images);
    shown.sort_by_key(|group| std::cmp::Reverse(flags(group)));
    shown.truncate(LISTED);
}

/// At most `count` of the numbers below `n`, evenly spread and ascending.
pub(super) fn evenly(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| (i as u128 * n as u128 / count as u128) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: u64, path: &str, label: &str) -> DuplicateRow {
        DuplicateRow {
            group,
            path: path.to_owned(),
            label: Some(label.to_owned()),
            split: None,
            distance: 0.5,
            same_bytes: false,
            across_labels: label == "b",
            across_splits: false,
        }
    }

    #[test]
    fn chosen_rows_are_evenly_spread() {
        assert_eq!(evenly(10, 3), [0, 3, 6]);
        assert_eq!(evenly(2, 5), [0, 1]);
    }

    #[test]
    fn a_group_shows_an_image_of_each_label_however_late_it_comes() {
        let mut group = Group::new(row(0, "0", "a"));
        (1..10).for_each(|i| group.add(row(0, &i.to_string(), "a")));
        group.add(row(0, "last", "b"));
        assert_eq!((group.images, group.first.len(), group.across_labels()), (11, MEMBERS, true));
        assert_eq!(group.first.last().map(|row| row.path.as_str()), Some("last"));
    }

    #[test]
    fn groups_across_labels_come_first_then_large_ones() {
        let mut shown = Vec::new();
        for (i, label) in ["a", "b"].into_iter().enumerate() {
            keep(&mut shown, Some(Group::new(row(i as u64, label, label))));
        }
        let mut large = Group::new(row(2, "large", "a"));
        large.add(row(2, "large 2", "a"));
        keep(&mut shown, Some(large));
        let paths: Vec<&str> = shown.iter().map(|group| group.first[0].path.as_str()).collect();
        assert_eq!(paths, ["b", "large", "a"]);
        (0..100).for_each(|i| keep(&mut shown, Some(Group::new(row(i + 3, "more", "a")))));
        assert_eq!(shown.len(), LISTED);
    }
}
