//! Scores and predictions of one shard: one part of these tables.
//!
//! Reads the basis, the classifier and the features of the shard. Writes `pca/v=<version>/part-*.parquet`, or one such file
//! per label, `predictions/v=<version>/part-*.parquet`, `runs/<run>/projected/<part>.json`, and with a CSV `runs/<run>/csv/<part>.csv`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryFutureExt, TryStreamExt, stream, try_join};
use ndarray::Axis;
use tokio::sync::OnceCell;

use super::{PartWork, Projected, STORE_CONCURRENCY, Stores, classify::predict, damage::noted};
use crate::{
    Error, ErrorKind, Result,
    classify::Classifier,
    compiled_once,
    dataset::{
        self, FileRef, Part, PredictedPart,
        blocking::run_blocking,
        keys, partition,
        review::is_formula,
        tables::{self, LabelColumn, ScoreRows},
        timing::Timer,
    },
    ids::ShardId,
    pca::Basis,
    store::Store,
};

/// Projects the features of one shard onto the basis of the run.
///
/// Fails with `Dataset.Corrupt` if the basis or the features are missing or cannot be decoded.
#[compiled_once]
pub async fn project(stores: &Stores, work: PartWork) -> Result<Projected> {
    project_with(stores, work, &Models::default()).await
}

/// [`project`] with what earlier parts of the same run have read.
pub(crate) async fn project_with(stores: &Stores, work: PartWork, models: &Models) -> Result<Projected> {
    let run = work.run.clone();
    noted(stores.output.as_ref(), &run, write_part(stores, work, models)).await
}

/// The basis and the classifier of a run, read with its first part.
#[derive(Debug, Default)]
pub(crate) struct Models {
    basis: OnceCell<Arc<Basis>>,
    classifier: OnceCell<Arc<Classifier>>,
}

impl Models {
    async fn basis(&self, output: &dyn Store, work: &PartWork) -> Result<Arc<Basis>> {
        let read = || work.basis_file.decode(output, work.extractor.columns, tables::read_basis).map_ok(Arc::new);
        self.basis.get_or_try_init(read).await.cloned()
    }

    /// None if the run has no classifier.
    async fn classifier(&self, output: &dyn Store, work: &PartWork) -> Result<Option<Arc<Classifier>>> {
        let Some(predict) = &work.predict else { return Ok(None) };
        let read = || predict.file.decode(output, work.extractor.columns, tables::read_classifier).map_ok(Arc::new);
        self.classifier.get_or_try_init(read).await.cloned().map(Some)
    }
}

async fn write_part(stores: &Stores, work: PartWork, models: &Models) -> Result<Projected> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let (basis, classifier, features) =
        try_join!(models.basis(output, &work), models.classifier(output, &work), work.features.read(output))?;
    let job = work.clone();
    let (rows, files) = run_blocking(move || {
        let features = tables::read_labelled_features(features, &job.extractor, &job.features.key)?.into_rows();
        let scores = basis.project(features.features.view());
        let predictions = match (&job.predict, classifier) {
            (Some(work), Some(classifier)) => {
                let to = (job.version, job.part, job.compression);
                Some(predict(&classifier, work, &features, &job.extractor, to)?)
            }
            _ => None,
        };
        let rows = ScoreRows { paths: features.paths, labels: features.labels, scores };
        Ok((rows.paths.len() as u64, Files { predictions, ..files(&job, &rows)? }))
    })
    .await?;
    let part = files.part(work.part, work.shard, rows);
    let csv = files.csv.as_ref().map(file_ref);
    let predictions = files.predictions.map(|(part, body)| (part.file.key, body));
    let projected = Projected { run: work.run.clone(), part, csv, timing: Some(timer.read()) };
    let record = (keys::projected(&work.run, work.part), dataset::to_record(&projected)?);
    let files = files.scores.into_iter().chain(files.csv).chain(predictions).chain([record]);
    let puts: Vec<_> = files.map(|(key, body)| async move { output.put(&key, body).await }).collect();
    stream::iter(puts).buffer_unordered(STORE_CONCURRENCY).try_collect::<()>().await?;
    Ok(projected)
}

fn file_ref((key, body): &(String, Bytes)) -> FileRef {
    FileRef::of(key.clone(), body)
}

/// Keys and contents of the files of one part.
pub(crate) struct Files {
    /// In the order of their keys.
    pub(crate) scores: Vec<(String, Bytes)>,
    pub(crate) csv: Option<(String, Bytes)>,
    /// None without a classifier.
    pub(crate) predictions: Option<(PredictedPart, Bytes)>,
}

impl Files {
    /// The part as a list of parts has it.
    pub(crate) fn part(&self, part: u64, shard: ShardId, rows: u64) -> Part {
        let predictions = self.predictions.as_ref().map(|(predictions, _)| predictions.clone());
        Part { part, shard, rows, scores: self.scores.iter().map(file_ref).collect(), predictions }
    }
}

/// Encodes the files of one part, except for its predictions.
pub(crate) fn files(work: &PartWork, rows: &ScoreRows) -> Result<Files> {
    let write = |rows: ScoreRows, label| {
        tables::write_scores(rows, label, work.extractor.id.as_str(), work.basis.as_str(), work.compression)
    };
    let (mut files, mut csv) = (Vec::new(), None);
    if work.csv {
        let text = if work.csv_for_spreadsheets { CsvText::ForSpreadsheets } else { CsvText::Exact };
        csv = Some((keys::csv_part(&work.run, work.part), csv_rows(rows, text)?));
    }
    if work.partition_by_label {
        for (label, rows) in by_label(rows) {
            let folder = partition::folder_value(label.as_deref());
            files.push((keys::part(work.version, Some(&folder), work.part), write(rows, LabelColumn::InFolder)?));
        }
    } else {
        files.push((keys::part(work.version, None, work.part), write(rows.clone(), LabelColumn::Included)?));
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Files { scores: files, csv, predictions: None })
}

/// The rows of each label, in their order.
fn by_label(rows: &ScoreRows) -> BTreeMap<Option<String>, ScoreRows> {
    let mut groups: BTreeMap<&Option<String>, Vec<usize>> = BTreeMap::new();
    for (row, label) in rows.labels.iter().enumerate() {
        groups.entry(label).or_default().push(row);
    }
    let select = |selected: Vec<usize>| ScoreRows {
        paths: selected.iter().map(|row| rows.paths[*row].clone()).collect(),
        labels: selected.iter().map(|row| rows.labels[*row].clone()).collect(),
        scores: rows.scores.select(Axis(0), &selected),
    };
    groups.into_iter().map(|(label, selected)| (label.clone(), select(selected))).collect()
}

/// How paths and labels are written to `result.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CsvText {
    /// As in the other tables.
    Exact,
    /// With an apostrophe before text that a spreadsheet would run as a formula.
    ForSpreadsheets,
}

impl CsvText {
    fn cell(self, text: &str) -> String {
        if self == CsvText::ForSpreadsheets && is_formula(text) { format!("'{text}") } else { text.to_owned() }
    }
}

/// Rows of `result.csv`, without the header. Numbers have as many digits as they need to be read back as the same `f32`.
fn csv_rows(rows: &ScoreRows, text: CsvText) -> Result<Bytes> {
    let bug = |e: csv::Error| Error::new(ErrorKind::InternalBug, "the CSV could not be written").source(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    for ((path, label), scores) in rows.paths.iter().zip(&rows.labels).zip(rows.scores.outer_iter()) {
        let numbers = scores.iter().map(f32::to_string);
        let fields = [text.cell(path), text.cell(label.as_deref().unwrap_or_default())].into_iter().chain(numbers);
        writer.write_record(fields).map_err(bug)?;
    }
    let text = writer.into_inner().map_err(|e| bug(e.into_error().into()))?;
    Ok(text.into())
}

/// The header of `result.csv` for `kept` components.
pub(crate) fn csv_header(kept: usize) -> Bytes {
    let numbers = (0..kept).map(|i| format!("pc_{i}"));
    let names: Vec<String> = ["path", "label"].map(str::to_owned).into_iter().chain(numbers).collect();
    (names.join(",") + "\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_a_spreadsheet_would_run_gets_an_apostrophe_and_numbers_stay() {
        let paths = ["=1+1/a.png", "+a", "-a", "@a", "\ta", "\ra", "a=b", "'a"].map(str::to_owned).to_vec();
        let labels = vec![Some("=1+1".to_owned()), None, None, None, None, None, Some("a".to_owned()), None];
        let rows = ScoreRows { paths, labels, scores: ndarray::Array2::from_elem((8, 1), -1.5) };
        let csv = |text| String::from_utf8(csv_rows(&rows, text).unwrap().to_vec()).unwrap();
        assert_eq!(
            csv(CsvText::ForSpreadsheets),
            "'=1+1/a.png,'=1+1,-1.5\n'+a,,-1.5\n'-a,,-1.5\n'@a,,-1.5\n'\ta,,-1.5\n\"'\ra\",,-1.5\na=b,a,-1.5\n'a,,-1.5\n"
        );
        assert!(csv(CsvText::Exact).starts_with("=1+1/a.png,=1+1,-1.5\n+a,,-1.5\n"));
    }
}
