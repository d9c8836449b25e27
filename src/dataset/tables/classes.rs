//! The table of a group's sums per class.

use std::{collections::BTreeMap, sync::Arc};

use arrow_array::{Int64Array, types::Int64Type};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::{EXTRACTOR, Layout, Table, bug, corrupt, write};
use crate::{
    Error, ErrorKind, Result,
    classify::{ClassSum, ClassSums, FOLDS, FoldSums},
    pca::moments::{TotalMoments, triangle},
};

const SUM: &str = "sum";
/// Key of the classes in the footer: for each fold, pairs of a label and its number of images.
const CLASSES: &str = "pomona.classes";
/// Key of the number of columns in the footer.
const COLUMNS: &str = "pomona.columns";

/// The classes of each fold.
type Classes = Vec<Vec<(String, u64)>>;

/// Encodes `groups/<id>/classes-<rules>.parquet`: one column `sum` of 64-bit integers. For each fold: the sums of each class,
/// then the upper triangle of the sums of products of all its images. `extractor` is an id for the footer.
pub fn write_classes(sums: &ClassSums, extractor: &str) -> Result<Bytes> {
    let narrow = |sum: &i128| {
        let error = || Error::new(ErrorKind::InternalBug, "a sum of a group exceeds 64 bits").context("sum", sum);
        i64::try_from(*sum).map_err(|_| error())
    };
    let mut values: Vec<i64> = Vec::new();
    let mut classes: Classes = Vec::new();
    for fold in sums.folds() {
        classes.push(fold.classes.iter().map(|(label, class)| (label.clone(), class.rows)).collect());
        let of_classes = fold.classes.values().flat_map(|class| &class.sums);
        for sum in of_classes.chain(fold.moments.products()) {
            values.push(narrow(sum)?);
        }
    }
    let (classes, columns) = (serde_json::to_string(&classes).map_err(bug)?, sums.columns().to_string());
    let footer = [(EXTRACTOR, extractor), (CLASSES, &*classes), (COLUMNS, &*columns)];
    let column = Arc::new(Int64Array::from(values));
    write(vec![(Field::new(SUM, DataType::Int64, false), column)], &footer, Layout::Sums)
}

/// Decodes a table of [`write_classes`] for `columns` features.
pub fn read_classes(file: Bytes, columns: usize, key: &str) -> Result<ClassSums> {
    let table = Table::read(file, key)?;
    let wrong = |e: &dyn std::fmt::Display| corrupt(key).source(e.to_string());
    let classes: Classes = serde_json::from_str(table.footer(CLASSES)?).map_err(|e| wrong(&e))?;
    let values = table.numbers::<Int64Type>(SUM)?;
    let expected: usize = classes.iter().map(|fold| fold.len() * columns + triangle(columns)).sum();
    if table.footer(COLUMNS)? != columns.to_string() || classes.len() != FOLDS || values.len() != expected {
        return Err(corrupt(key).context("sums", values.len()).context("expected", expected));
    }
    let mut values = values.into_iter().map(i128::from);
    let mut folds = Vec::with_capacity(FOLDS);
    for of_fold in classes {
        let (mut classes, mut rows, mut sums) = (BTreeMap::new(), 0u64, vec![0i128; columns]);
        for (label, images) in of_fold {
            let class: Vec<i128> = values.by_ref().take(columns).collect();
            sums.iter_mut().zip(&class).for_each(|(sum, of_class)| *sum += of_class);
            rows = rows.saturating_add(images);
            classes.insert(label, ClassSum { rows: images, sums: class });
        }
        let products = values.by_ref().take(triangle(columns)).collect();
        folds.push(FoldSums { classes, moments: TotalMoments::from_parts(rows, sums, products)? });
    }
    ClassSums::from_folds(columns, folds).map_err(|e| {
        Error::new(ErrorKind::DatasetCorrupt, "these are not sums of classes").context("key", key).source(e)
    })
}
