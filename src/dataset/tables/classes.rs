//! The table of a group's sums per class.

use std::{borrow::Borrow, collections::BTreeMap};

use arrow_array::types::Int64Type;
use arrow_schema::DataType;
use bytes::Bytes;

use super::{
    EXTRACTOR, Table, bug, corrupt,
    sums::{SUM, narrow, write_values},
};
use crate::{
    Error, ErrorKind, Result,
    classify::{ClassSum, ClassSums, FOLDS, FoldSums},
    pca::moments::{TotalMoments, triangle},
};

/// Key of the classes in the footer: for each fold, pairs of a label and its number of images.
const CLASSES: &str = "pomona.classes";
/// Key of the number of columns in the footer.
const COLUMNS: &str = "pomona.columns";

/// Most values of classes for which room is made before they are found: those of 819 classes with 1,280 features.
const RESERVED: usize = 1 << 20;

/// The classes of a fold.
type OfFold = Vec<(String, u64)>;
/// The classes of each fold.
type Classes = Vec<OfFold>;

/// Encodes `groups/<id>/classes-<rules>.parquet`: one column `sum` of 64-bit integers. For each fold: the sums of each class,
/// then the upper triangle of the sums of products of all its images. `extractor` is an id for the footer.
pub fn write_classes(sums: &ClassSums, extractor: &str) -> Result<Bytes> {
    write_folds(sums.folds().iter().collect(), sums.columns(), extractor)
}

/// [`write_classes`] of sums that are not needed afterwards, without a copy of them in memory.
pub fn write_last_classes(sums: ClassSums, extractor: &str) -> Result<Bytes> {
    let columns = sums.columns();
    write_folds(sums.into_folds(), columns, extractor)
}

fn write_folds<F: Borrow<FoldSums>>(folds: Vec<F>, columns: usize, extractor: &str) -> Result<Bytes> {
    let of_fold = |fold: &F| fold.borrow().classes.iter().map(|(label, class)| (label.clone(), class.rows)).collect();
    let classes: Classes = folds.iter().map(of_fold).collect();
    let count = classes.iter().map(|fold| fold.len() * columns + triangle(columns)).sum();
    let (classes, columns) = (serde_json::to_string(&classes).map_err(bug)?, columns.to_string());
    let footer = [(EXTRACTOR, extractor), (CLASSES, &*classes), (COLUMNS, &*columns)];
    write_values((folds.into_iter().flat_map(Values::new), count), DataType::Int64, &footer, narrow)
}

/// The values of a fold, in their order in the table.
struct Values<F> {
    fold: F,
    of_classes: Vec<i128>,
    next: usize,
}

impl<F: Borrow<FoldSums>> Values<F> {
    fn new(fold: F) -> Self {
        let of_classes = fold.borrow().classes.values().flat_map(|class| class.sums.iter().copied()).collect();
        Values { fold, of_classes, next: 0 }
    }
}

impl<F: Borrow<FoldSums>> Iterator for Values<F> {
    type Item = i128;

    fn next(&mut self) -> Option<i128> {
        let (at, products) = (self.next, self.fold.borrow().moments.products());
        self.next += 1;
        match at.checked_sub(self.of_classes.len()) {
            None => self.of_classes.get(at).copied(),
            Some(at) => (at < products.len()).then(|| products.at(at)),
        }
    }
}

/// Decodes a table of [`write_classes`] for `columns` features.
pub fn read_classes(file: Bytes, columns: usize, key: &str) -> Result<ClassSums> {
    let mut folds = Vec::with_capacity(FOLDS);
    each_fold(file, columns, key, |fold| {
        folds.push(fold);
        Ok(())
    })?;
    ClassSums::from_folds(columns, folds)
}

/// Adds the sums of a table of [`write_classes`] to others, with one fold of it in memory at a time. After an error, the others
/// are as they were.
pub fn add_classes(to: &mut ClassSums, file: Bytes, key: &str) -> Result<()> {
    let (columns, mut added) = (to.columns(), 0);
    let failed = each_fold(file.clone(), columns, key, |fold| {
        to.add_fold(added, &fold)?;
        added += 1;
        Ok(())
    });
    let Err(error) = failed else { return Ok(()) };
    // The folds before the damage are the same again, and subtraction is exact.
    let mut taken = 0;
    let again = each_fold(file, columns, key, |fold| {
        if taken < added {
            to.subtract_fold(taken, &fold)?;
            taken += 1;
        }
        Ok(())
    });
    if taken < added {
        again?;
    }
    Err(error)
}

/// Decodes a table of [`write_classes`] a fold at a time.
fn each_fold(file: Bytes, columns: usize, key: &str, mut take: impl FnMut(FoldSums) -> Result<()>) -> Result<()> {
    let wrong = |e: &dyn std::fmt::Display| corrupt(key).source(e.to_string());
    let start = |table: &Table<'_>| {
        let classes: Classes = serde_json::from_str(table.footer(CLASSES)?).map_err(|e| wrong(&e))?;
        if table.footer(COLUMNS)? != columns.to_string() || classes.len() != FOLDS {
            return Err(corrupt(key).context("folds", classes.len()).context("expected columns", columns));
        }
        Ok((classes.into_iter(), None))
    };
    let damaged =
        |e: Error| Error::new(ErrorKind::DatasetCorrupt, "these are not sums of classes").context("key", key).source(e);
    // The classes of the folds to come, and the fold that is open.
    type State = (std::vec::IntoIter<OfFold>, Option<Open>);
    let (mut rest, open) = Table::fold::<Int64Type, State>(file, (key, SUM), start, |(folds, open), mut values| {
        while !values.is_empty() {
            let Some(mut fold) = open.take().or_else(|| folds.next().map(|classes| Open::new(classes, columns))) else {
                return Err(corrupt(key).context("too many sums for folds", FOLDS));
            };
            values = fold.take(values, columns);
            if fold.is_whole(columns) {
                take(fold.finish(columns).map_err(damaged)?)?;
            } else {
                *open = Some(fold);
            }
        }
        Ok(())
    })?;
    match open.map(|open| open.classes).or_else(|| rest.next()) {
        Some(classes) => Err(corrupt(key).context("too few sums for a fold of classes", classes.len())),
        None => Ok(()),
    }
}

/// A fold of which not all values have been found.
struct Open {
    classes: OfFold,
    of_classes: Vec<i64>,
    products: Vec<i64>,
}

impl Open {
    fn new(classes: OfFold, columns: usize) -> Self {
        // A damaged footer can name any number of classes.
        let of_classes = Vec::with_capacity((classes.len() * columns).min(RESERVED));
        Open { classes, of_classes, products: Vec::with_capacity(triangle(columns)) }
    }

    /// Takes the values that belong to this fold, and returns the others.
    fn take<'a>(&mut self, values: &'a [i64], columns: usize) -> &'a [i64] {
        let missing = self.classes.len() * columns - self.of_classes.len();
        let (of_classes, values) = values.split_at(values.len().min(missing));
        let (products, others) = values.split_at(values.len().min(triangle(columns) - self.products.len()));
        self.of_classes.extend_from_slice(of_classes);
        self.products.extend_from_slice(products);
        others
    }

    fn is_whole(&self, columns: usize) -> bool {
        self.products.len() == triangle(columns)
    }

    /// The sums of all values. Fails with `Dataset.Corrupt` if the classes do not add up.
    fn finish(self, columns: usize) -> Result<FoldSums> {
        let (mut classes, mut rows, mut sums) = (BTreeMap::new(), 0u64, vec![0i128; columns]);
        for ((label, images), class) in self.classes.into_iter().zip(self.of_classes.chunks_exact(columns.max(1))) {
            sums.iter_mut().zip(class).for_each(|(sum, of_class)| *sum += i128::from(*of_class));
            rows = rows.saturating_add(images);
            classes.insert(label, ClassSum { rows: images, sums: class.iter().copied().map(i128::from).collect() });
        }
        let fold = FoldSums { classes, moments: TotalMoments::from_parts(rows, sums, self.products)? };
        fold.checked(columns)
    }
}
