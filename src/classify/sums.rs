//! Exact sums of the training images, per fold and class.

use std::collections::BTreeMap;

use ndarray::ArrayView2;

use super::FOLDS;
use crate::{
    Error, ErrorKind, Result,
    pca::moments::{BLOCK_ROWS, MAX_SHARD_ROWS, ShardMoments, TotalMoments},
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

/// Adds up rows that come in any order. Rows of a fold wait until there are enough of them for a fast product.
#[derive(Debug)]
pub struct Summer {
    columns: usize,
    per_unit: f64,
    folds: Vec<OpenFold>,
}

#[derive(Debug)]
struct OpenFold {
    classes: BTreeMap<String, ClassSum>,
    /// Of rows that add up in 64 bits.
    part: ShardMoments,
    /// Of the rows before.
    whole: Option<TotalMoments>,
    /// Features of the rows that wait.
    waiting: Vec<f32>,
}

/// Rows that are multiplied at a time.
const TOGETHER: usize = 2 * BLOCK_ROWS;

impl Summer {
    /// Sums of no rows, of features that are multiples of 1 / `per_unit`.
    pub fn new(columns: usize, per_unit: f64) -> Self {
        let fold = || OpenFold {
            classes: BTreeMap::new(),
            part: ShardMoments::zero(columns),
            whole: None,
            waiting: Vec::new(),
        };
        Summer { columns, per_unit, folds: std::iter::repeat_with(fold).take(FOLDS).collect() }
    }

    /// Sums of no rows, of the same features.
    pub fn empty(&self) -> Self {
        Summer::new(self.columns, self.per_unit)
    }

    /// Adds rows of features `[rows, columns]` with their labels and folds. Rows without a label are left out.
    ///
    /// Fails with `Internal.Bug` if the lengths differ, and as [`ShardMoments::from_features`] does.
    pub fn add_rows<L: AsRef<str>>(
        &mut self,
        features: ArrayView2<'_, f32>,
        labels: &[Option<L>],
        folds: &[u8],
    ) -> Result<()> {
        let bug = |what: &'static str| Error::new(ErrorKind::InternalBug, what);
        if (labels.len(), folds.len(), self.columns) != (features.nrows(), features.nrows(), features.ncols()) {
            return Err(bug("labels, folds and features have different lengths"));
        }
        let columns = self.columns;
        for ((row, label), fold) in features.outer_iter().zip(labels).zip(folds) {
            let Some(label) = label.as_ref().map(AsRef::as_ref) else { continue };
            let fold = self.folds.get_mut(usize::from(*fold)).ok_or_else(|| bug("there is no such fold"))?;
            if !fold.classes.contains_key(label) {
                fold.classes.insert(label.to_owned(), ClassSum { rows: 0, sums: vec![0; columns] });
            }
            if let Some(class) = fold.classes.get_mut(label) {
                class.rows += 1;
                for (sum, value) in class.sums.iter_mut().zip(row) {
                    *sum += (f64::from(*value) * self.per_unit) as i128;
                }
            }
            fold.waiting.extend(row);
            if fold.waiting.len() >= TOGETHER * columns {
                fold.flush(columns, self.per_unit)?;
            }
        }
        Ok(())
    }

    /// The sums of all rows. Fails as [`Summer::add_rows`] does.
    pub fn finish(self) -> Result<ClassSums> {
        let folds = self.folds.into_iter().map(|mut fold| {
            fold.flush(self.columns, self.per_unit)?;
            let mut moments = TotalMoments::from(fold.part);
            if let Some(whole) = fold.whole {
                moments.add(&whole)?;
            }
            Ok(FoldSums { classes: fold.classes, moments })
        });
        let folds = folds.collect::<Result<_>>()?;
        Ok(ClassSums { columns: self.columns, folds })
    }
}

impl OpenFold {
    /// Multiplies the rows that wait.
    fn flush(&mut self, columns: usize, per_unit: f64) -> Result<()> {
        let rows = self.waiting.len() / columns.max(1);
        let bug = |e| Error::new(ErrorKind::InternalBug, "rows have features of different lengths").source(e);
        if self.part.rows() + rows as u64 > MAX_SHARD_ROWS as u64 {
            let whole = self.whole.get_or_insert_with(|| TotalMoments::zero(columns));
            whole.add(&self.part)?;
            self.part = ShardMoments::zero(columns);
        }
        if rows > 0 {
            let waiting = ArrayView2::from_shape((rows, columns), &self.waiting).map_err(bug)?;
            // Checks that the values are multiples of the quantum.
            self.part.add_features(waiting, per_unit)?;
            self.waiting.clear();
        }
        Ok(())
    }
}

fn wrong_folds() -> Error {
    Error::new(ErrorKind::DatasetCorrupt, "the sums of classes are not those of their folds")
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

    /// These sums. Fails with `Dataset.Corrupt` if the classes do not add up to the moments.
    pub(crate) fn checked(self, columns: usize) -> Result<Self> {
        let mut total = ClassSum { rows: 0, sums: vec![0; columns] };
        let added = self.classes.values().try_for_each(|class| {
            let fits = class.rows > 0 && class.sums.len() == columns;
            fits.then(|| total.combine(class, 1)).flatten()
        });
        let same = total.rows == self.moments.rows() && self.moments.sums().iter().eq(total.sums.iter().copied());
        if added.is_some() && same { Ok(self) } else { Err(wrong_folds()) }
    }

    /// Adds `sign` times the sums of other images. Fails with `Dataset.Corrupt`.
    pub(super) fn combine(&mut self, other: &FoldSums, sign: i128) -> Result<()> {
        if sign > 0 { self.moments.add(&other.moments) } else { self.moments.subtract(&other.moments) }?;
        self.combine_classes(&other.classes, sign)
    }

    fn combine_classes(&mut self, others: &BTreeMap<String, ClassSum>, sign: i128) -> Result<()> {
        for (label, sum) in others {
            let class = self.classes.entry(label.clone()).or_default();
            let wrong = || Error::new(ErrorKind::DatasetCorrupt, "more rows are subtracted than were added");
            class.combine(sum, sign).ok_or_else(wrong)?;
        }
        self.classes.retain(|_, class| class.rows > 0);
        Ok(())
    }

    /// The sums of the images of `all` that are not of this fold, in the memory of its own. Fails with `Dataset.Corrupt`.
    pub(super) fn complement(self, all: &FoldSums) -> Result<Self> {
        let mut rest = FoldSums { classes: all.classes.clone(), moments: self.moments.complement(&all.moments)? };
        rest.combine_classes(&self.classes, -1)?;
        Ok(rest)
    }
}

impl ClassSums {
    /// The sums of no images.
    pub fn zero(columns: usize) -> Self {
        ClassSums { columns, folds: vec![FoldSums::zero(columns); FOLDS] }
    }

    /// Sums from their parts. Fails with `Dataset.Corrupt` if the classes of a fold do not add up to its moments.
    pub fn from_folds(columns: usize, folds: Vec<FoldSums>) -> Result<Self> {
        let folds: Vec<FoldSums> = folds.into_iter().map(|fold| fold.checked(columns)).collect::<Result<_>>()?;
        if folds.len() == FOLDS { Ok(ClassSums { columns, folds }) } else { Err(wrong_folds()) }
    }

    /// Adds the sums of other images of a fold. Fails with `Dataset.Corrupt` if there is no such fold, and as
    /// [`ClassSums::add`] does.
    pub(crate) fn add_fold(&mut self, number: usize, other: &FoldSums) -> Result<()> {
        self.folds.get_mut(number).ok_or_else(wrong_folds)?.combine(other, 1)
    }

    /// Subtracts sums that were added to a fold before.
    pub(crate) fn subtract_fold(&mut self, number: usize, other: &FoldSums) -> Result<()> {
        self.folds.get_mut(number).ok_or_else(wrong_folds)?.combine(other, -1)
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The sums of each fold.
    pub fn folds(&self) -> &[FoldSums] {
        &self.folds
    }

    /// [`ClassSums::folds`], to take them apart.
    pub(crate) fn into_folds(self) -> Vec<FoldSums> {
        self.folds
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

    /// The sums of rows of features `[rows, columns]`: see [`Summer::add_rows`].
    pub fn from_rows<L: AsRef<str>>(
        features: ArrayView2<'_, f32>,
        labels: &[Option<L>],
        folds: &[u8],
        per_unit: f64,
    ) -> Result<Self> {
        let mut summer = Summer::new(features.ncols(), per_unit);
        summer.add_rows(features, labels, folds)?;
        summer.finish()
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
