//! Exact sums of the training images, per fold and class.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};

use super::FOLDS;
use crate::{
    Error, ErrorKind, Result,
    pca::moments::{MAX_SHARD_ROWS, ShardMoments, TotalMoments},
};

/// Number of images of a class and the sums of their features, in quanta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassSum {
    /// Number of images.
    pub rows: u64,
    /// `[columns]`: sums of the columns.
    pub sums: Vec<i128>,
}

/// The sums of one fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldSums {
    /// Sums by label; no class is empty.
    pub classes: BTreeMap<String, ClassSum>,
    /// Sums of all classes, and sums of products.
    pub moments: TotalMoments,
}

/// Sums of the training images of a group of shards or of a data set, per fold and class. Adding and subtracting are exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSums {
    columns: usize,
    folds: Vec<FoldSums>,
}

impl ClassSum {
    /// Adds `sign` times the other sums. None if fewer images were added than are subtracted, or if a sum overflows.
    fn combine(&mut self, other: &ClassSum, sign: i128) -> Option<()> {
        self.rows = u64::try_from(i128::from(self.rows) + sign * i128::from(other.rows)).ok()?;
        self.sums.resize(self.sums.len().max(other.sums.len()), 0);
        for (to, from) in self.sums.iter_mut().zip(&other.sums) {
            *to = to.checked_add(sign * from)?;
        }
        Some(())
    }
}

impl FoldSums {
    /// The sums of no images.
    pub(super) fn zero(columns: usize) -> Self {
        FoldSums { classes: BTreeMap::new(), moments: TotalMoments::zero(columns) }
    }

    /// Adds `sign` times the sums of other images. Fails with `Dataset.Corrupt`.
    pub(super) fn combine(&mut self, other: &FoldSums, sign: i128) -> Result<()> {
        if sign > 0 { self.moments.add(&other.moments) } else { self.moments.subtract(&other.moments) }?;
        for (label, sum) in &other.classes {
            let class = self.classes.entry(label.clone()).or_default();
            let wrong = || Error::new(ErrorKind::DatasetCorrupt, "more rows are subtracted than were added");
            class.combine(sum, sign).ok_or_else(wrong)?;
        }
        self.classes.retain(|_, class| class.rows > 0);
        Ok(())
    }
}

impl ClassSums {
    /// The sums of no images.
    pub fn zero(columns: usize) -> Self {
        ClassSums { columns, folds: vec![FoldSums::zero(columns); FOLDS] }
    }

    /// Sums from their parts. Fails with `Dataset.Corrupt` if the classes of a fold do not add up to its moments.
    pub fn from_folds(columns: usize, folds: Vec<FoldSums>) -> Result<Self> {
        let sums = ClassSums { columns, folds };
        let whole = |fold: &FoldSums| {
            let mut total = ClassSum { rows: 0, sums: vec![0; columns] };
            let added = fold.classes.values().try_for_each(|class| {
                let fits = class.rows > 0 && class.sums.len() == columns;
                fits.then(|| total.combine(class, 1)).flatten()
            });
            added.is_some() && total.rows == fold.moments.rows() && total.sums == fold.moments.sums()
        };
        if sums.folds.len() == FOLDS && sums.folds.iter().all(whole) {
            return Ok(sums);
        }
        Err(Error::new(ErrorKind::DatasetCorrupt, "the sums of classes are not those of their folds"))
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The sums of each fold.
    pub fn folds(&self) -> &[FoldSums] {
        &self.folds
    }

    /// The number of training images.
    pub fn rows(&self) -> u64 {
        self.folds.iter().map(|fold| fold.moments.rows()).sum()
    }

    /// Numbers of images by label, of all folds.
    pub fn counts(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for (label, class) in self.folds.iter().flat_map(|fold| &fold.classes) {
            *counts.entry(label.as_str()).or_default() += class.rows;
        }
        counts
    }

    /// Adds rows of features `[rows, columns]`, each a multiple of 1 / `per_unit`, with their labels and folds. Rows without
    /// a label are left out.
    ///
    /// Fails with `Internal.Bug` as [`ShardMoments::from_features`], and if the lengths differ.
    pub fn add_rows<L: AsRef<str>>(
        &mut self,
        features: ArrayView2<'_, f32>,
        labels: &[Option<L>],
        folds: &[u8],
        per_unit: f64,
    ) -> Result<()> {
        let bug = |what: &'static str| Error::new(ErrorKind::InternalBug, what);
        if (labels.len(), folds.len(), self.columns) != (features.nrows(), features.nrows(), features.ncols()) {
            return Err(bug("labels, folds and features have different lengths"));
        }
        for (number, fold) in self.folds.iter_mut().enumerate() {
            let of_fold: Vec<usize> =
                (0..labels.len()).filter(|row| usize::from(folds[*row]) == number && labels[*row].is_some()).collect();
            for rows in of_fold.chunks(MAX_SHARD_ROWS) {
                let mut part = Array2::zeros((rows.len(), self.columns));
                for (mut to, row) in part.outer_iter_mut().zip(rows) {
                    to.assign(&features.row(*row));
                }
                // Checks that the values are multiples of the quantum.
                fold.moments.add(&ShardMoments::from_features(part.view(), per_unit)?)?;
            }
            for row in of_fold {
                let Some(label) = labels[row].as_ref().map(AsRef::as_ref) else { continue };
                if !fold.classes.contains_key(label) {
                    fold.classes.insert(label.to_owned(), ClassSum { rows: 0, sums: vec![0; self.columns] });
                }
                let Some(class) = fold.classes.get_mut(label) else { continue };
                class.rows += 1;
                for (sum, value) in class.sums.iter_mut().zip(features.row(row)) {
                    *sum += (f64::from(*value) * per_unit) as i128;
                }
            }
        }
        Ok(())
    }

    /// Adds the sums of other images. Fails with `Dataset.Corrupt` if the columns differ or a sum exceeds 128 bits.
    pub fn add(&mut self, other: &ClassSums) -> Result<()> {
        self.combine(other, 1)
    }

    /// Subtracts sums that were added before. Fails with `Dataset.Corrupt` if they were not.
    pub fn subtract(&mut self, other: &ClassSums) -> Result<()> {
        self.combine(other, -1)
    }

    fn combine(&mut self, other: &ClassSums, sign: i128) -> Result<()> {
        self.folds.iter_mut().zip(&other.folds).try_for_each(|(to, from)| to.combine(from, sign))
    }
}
