//! The table of a classifier.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    cast::AsArray,
    types::{Float64Type, Int32Type, Int64Type},
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use bytes::Bytes;
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use super::{Compression, EXTRACTOR, Layout, Table, bug, corrupt, list, list_of, write};
use crate::{
    Result,
    classify::{Accuracy, Class, Classifier, Discriminant, FOLDS, Priors, SHRINKAGES},
};

/// Key of the classifier's id in the footer of a table.
pub const CLASSIFIER: &str = "pomona.classifier";
/// Key of the results of the cross-validation in the footer.
const RESULTS: &str = "pomona.results";

/// What the footer has: the numbers of a classifier that are not of one class.
#[derive(Serialize, Deserialize)]
struct Results {
    priors: Priors,
    shrinkage: f64,
    temperature: f64,
    log_loss: f64,
    familiar_distance: f64,
    /// Images and correct ones by fold.
    folds: Vec<(u64, u64)>,
    /// Correct ones by shrinkage.
    shrinkages: Vec<(f64, u64)>,
}

/// Encodes `classifier/<id>.parquet`: a row for each class of the model of all training images, with the mean of the class;
/// then for the models without each fold. `extractor` and `id` are ids for the footer.
pub fn write_classifier(classifier: &Classifier, extractor: &str, id: &str) -> Result<Bytes> {
    let models: Vec<(Option<i32>, &Discriminant)> = std::iter::once((None, &classifier.model))
        .chain((0..).zip(&classifier.without).filter_map(|(fold, model)| Some((Some(fold), model.as_ref()?))))
        .collect();
    let rows = || models.iter().flat_map(|(fold, model)| model.classes.iter().map(move |class| (*fold, *class)));
    let labels: Vec<&str> = rows().map(|(_, class)| classifier.classes[class].label.as_str()).collect();
    let images: Vec<Option<i64>> = rows()
        .map(|(fold, class)| {
            fold.is_none().then(|| i64::try_from(classifier.classes[class].images).unwrap_or(i64::MAX))
        })
        .collect();
    let folds: Vec<Option<i32>> = rows().map(|(fold, _)| fold).collect();
    let count = labels.len();
    let bias: Vec<f64> = models.iter().flat_map(|(_, model)| &model.bias).copied().collect();
    let weights = Float64Array::from_iter_values(models.iter().flat_map(|(_, model)| &model.weights).copied());
    let results = Results {
        priors: classifier.priors,
        shrinkage: classifier.shrinkage,
        temperature: classifier.temperature,
        log_loss: classifier.log_loss,
        familiar_distance: classifier.familiar,
        folds: classifier.folds.iter().map(|fold| (fold.images, fold.correct)).collect(),
        shrinkages: SHRINKAGES.into_iter().zip(classifier.correct.iter().copied()).collect(),
    };
    let results = serde_json::to_string(&results).map_err(bug)?;
    let columns = classifier.columns();
    write(
        vec![
            (Field::new("fold", DataType::Int32, true), Arc::new(Int32Array::from(folds))),
            (Field::new("label", DataType::Utf8, false), Arc::new(StringArray::from(labels))),
            (Field::new("images", DataType::Int64, true), Arc::new(Int64Array::from(images))),
            (Field::new("bias", DataType::Float64, false), Arc::new(Float64Array::from(bias))),
            (Field::new("weights", list_of(DataType::Float64), false), list(Arc::new(weights), columns, count)?),
            (Field::new("mean", list_of(DataType::Float64), true), means(classifier, count)?),
        ],
        &[(EXTRACTOR, extractor), (CLASSIFIER, id), (RESULTS, &results)],
        Layout::Rows(Compression::Snappy),
    )
}

/// The means of the classes; null in the rows of the other models.
fn means(classifier: &Classifier, rows: usize) -> Result<ArrayRef> {
    let classes = classifier.means.nrows();
    let lengths = (0..rows).map(|row| if row < classes { classifier.columns() } else { 0 });
    let present: NullBuffer = (0..rows).map(|row| row < classes).collect::<Vec<bool>>().into();
    let DataType::List(item) = list_of(DataType::Float64) else { return Err(corrupt("")) };
    let values = Float64Array::from_iter_values(classifier.means.iter().copied());
    let lists = ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(values), Some(present));
    Ok(Arc::new(lists.map_err(bug)?))
}

/// The rows of a table, as columns.
struct Rows {
    folds: Vec<Option<i32>>,
    labels: Vec<String>,
    images: Vec<Option<i64>>,
    bias: Vec<f64>,
    weights: Array2<f64>,
    means: Array2<f64>,
}

impl Rows {
    fn read(table: &Table<'_>, columns: usize) -> Result<Self> {
        let (mut folds, mut images) = (Vec::new(), Vec::new());
        table.each("fold", |column| {
            folds.extend(column.as_primitive_opt::<Int32Type>()?.iter());
            Some(())
        })?;
        table.each("images", |column| {
            images.extend(column.as_primitive_opt::<Int64Type>()?.iter());
            Some(())
        })?;
        let (labels, bias) = (table.present_strings("label")?, table.numbers::<Float64Type>("bias")?);
        let (weights, means) = (matrix(table, "weights", columns)?, matrix(table, "mean", columns)?);
        let rows = Rows { folds, labels, images, bias, weights, means };
        let (count, lengths) = (rows.labels.len(), [rows.folds.len(), rows.images.len(), rows.bias.len()]);
        if lengths != [count; 3] || rows.weights.nrows() != count || rows.means.nrows() != rows.of_all() {
            return Err(corrupt(table.key).context("rows", count));
        }
        Ok(rows)
    }

    /// Number of rows of the model of all images, which come first.
    fn of_all(&self) -> usize {
        self.folds.iter().take_while(|fold| fold.is_none()).count()
    }

    /// The classes, which are sorted. None if they are not.
    fn classes(&self) -> Option<Vec<Class>> {
        let rows = self.labels.iter().zip(&self.images).take(self.of_all());
        let class = |(label, images): (&String, &Option<i64>)| {
            Some(Class { label: label.clone(), images: u64::try_from((*images)?).ok()? })
        };
        let classes: Option<Vec<Class>> = rows.map(class).collect();
        classes.filter(|classes| classes.windows(2).all(|pair| pair[0].label < pair[1].label))
    }

    /// The model without a fold, or of all images. The outer None if its classes are not sorted or not known.
    fn model(&self, fold: Option<i32>, classes: &[Class]) -> Option<Option<Discriminant>> {
        let rows: Vec<usize> = (0..self.labels.len()).filter(|row| self.folds[*row] == fold).collect();
        let number = |row: &usize| classes.binary_search_by(|class| class.label.cmp(&self.labels[*row])).ok();
        let numbers: Vec<usize> = rows.iter().map(number).collect::<Option<_>>()?;
        if numbers.windows(2).any(|pair| pair[0] >= pair[1]) {
            return None;
        }
        let (weights, bias) = (self.weights.select(Axis(0), &rows), rows.iter().map(|row| self.bias[*row]).collect());
        Some((!rows.is_empty()).then_some(Discriminant { classes: numbers, weights, bias }))
    }
}

/// The lists of a column that are not null.
fn matrix(table: &Table<'_>, name: &'static str, columns: usize) -> Result<Array2<f64>> {
    let (mut values, mut rows): (Vec<f64>, usize) = (Vec::new(), 0);
    table.each(name, |column| {
        for list in column.as_list_opt::<i32>()?.iter().flatten() {
            let numbers = list.as_primitive_opt::<Float64Type>().filter(|v| v.null_count() == 0)?;
            values.extend(Some(numbers.values()).filter(|values| values.len() == columns)?);
            rows += 1;
        }
        Some(())
    })?;
    Array2::from_shape_vec((rows, columns), values).map_err(|e| corrupt(table.key).source(e))
}

/// Decodes a table of [`write_classifier`] for `columns` features.
pub fn read_classifier(file: Bytes, columns: usize, key: &str) -> Result<Classifier> {
    let table = Table::read(file, key)?;
    let results: Results = serde_json::from_str(table.footer(RESULTS)?).map_err(|e| corrupt(key).source(e))?;
    let rows = Rows::read(&table, columns)?;
    let unknown = || corrupt(key).context("column", "label");
    let classes = rows.classes().ok_or_else(unknown)?;
    let models = (0..FOLDS as i32).map(|fold| rows.model(Some(fold), &classes));
    let without: Vec<Option<Discriminant>> = models.collect::<Option<_>>().ok_or_else(unknown)?;
    let model = rows.model(None, &classes).flatten().ok_or_else(unknown)?;
    if results.folds.len() != FOLDS || results.shrinkages.len() != SHRINKAGES.len() {
        return Err(corrupt(key).context("missing in the footer", RESULTS));
    }
    let folds: Vec<Accuracy> =
        results.folds.iter().map(|(images, correct)| Accuracy { images: *images, correct: *correct }).collect();
    let sum = |of: fn(&Accuracy) -> u64| folds.iter().map(of).fold(0u64, u64::saturating_add);
    Ok(Classifier {
        means: rows.means,
        classes,
        priors: results.priors,
        shrinkage: results.shrinkage,
        temperature: results.temperature,
        log_loss: results.log_loss,
        accuracy: Accuracy { images: sum(|fold| fold.images), correct: sum(|fold| fold.correct) },
        folds: folds.clone(),
        correct: results.shrinkages.iter().map(|(_, correct)| *correct).collect(),
        familiar: results.familiar_distance,
        model,
        without,
    })
}
