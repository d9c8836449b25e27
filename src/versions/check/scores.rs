//! Scores and CSV, computed again from features and basis.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{Fault, Survey, numbers::Shard};
use crate::{
    ErrorKind, Result,
    classify::Classifier,
    dataset::{
        Checksum, FileRef, Manifest, Part, PredictedPart, ShardEntry,
        blocking::run_blocking,
        contents, keys,
        record::Hasher,
        tables::{self, FeatureRows, ScoreRows},
    },
    ids::{BasisId, ClassifierId, Version},
    pca::Basis,
    stages::{self, PartFiles, PartWork, PredictWork, csv_header, part_files},
    store::Store,
};

/// What the scores of all versions are compared with.
pub(super) struct Scores {
    versions: HashMap<Version, Manifest>,
    /// Those that can be read.
    bases: HashMap<BasisId, Arc<Basis>>,
    /// Those that can be read.
    classifiers: HashMap<ClassifierId, Arc<Classifier>>,
    /// The CSV files of versions, as far as they are computed. None if a part is missing.
    csv: BTreeMap<Version, Option<Hasher>>,
}

impl Scores {
    /// Reads the bases of all versions.
    pub(super) async fn open(survey: &mut Survey, output: &dyn Store) -> Result<Self> {
        let mut scores = Scores {
            versions: HashMap::new(),
            bases: HashMap::new(),
            classifiers: HashMap::new(),
            csv: BTreeMap::new(),
        };
        for manifest in survey.manifests() {
            let file = &manifest.basis.file;
            if !scores.bases.contains_key(&manifest.basis.id) && !survey.problems.contains_key(&file.key) {
                match read_basis(output, &manifest).await {
                    Ok(basis) => drop(scores.bases.insert(manifest.basis.id.clone(), Arc::new(basis))),
                    Err(e) => survey.note(&file.key, e, Fault::Wrong)?,
                }
            }
            scores.open_classifier(survey, output, &manifest).await?;
            if manifest.settings.writes_csv() {
                let mut csv = Hasher::default();
                csv.push(&csv_header(manifest.basis.components));
                scores.csv.insert(manifest.version, Some(csv));
            }
            scores.versions.insert(manifest.version, manifest);
        }
        Ok(scores)
    }

    async fn open_classifier(&mut self, survey: &mut Survey, output: &dyn Store, manifest: &Manifest) -> Result<()> {
        let Some(work) = PredictWork::of(manifest.classifier.as_ref()) else { return Ok(()) };
        if self.classifiers.contains_key(&work.id) || survey.problems.contains_key(&work.file.key) {
            return Ok(());
        }
        match read_classifier(output, manifest).await {
            Ok(classifier) => self.classifiers.extend(classifier.map(|classifier| (work.id, classifier))),
            Err(e) => survey.note(&work.file.key, e, Fault::Wrong)?,
        }
        Ok(())
    }

    /// Compares the predictions of a part.
    async fn compare_predictions(
        &self,
        survey: &mut Survey,
        output: &dyn Store,
        manifest: &Manifest,
        part: &Part,
        rows: Arc<FeatureRows>,
    ) -> Result<()> {
        let Some(work) = PredictWork::of(manifest.classifier.as_ref()) else { return Ok(()) };
        let Some(classifier) = self.classifiers.get(&work.id) else { return Ok(()) };
        let key = keys::predictions(manifest.version, part.part);
        let made = predict(manifest, part.part, rows, Arc::clone(classifier)).await?;
        let same = match (made, &part.predictions) {
            (Some((made, _)), Some(found)) if made == *found => true,
            (Some((made, body)), Some(found)) if made.splits == found.splits => match found.file.read(output).await {
                // A release whose tables have other bytes gives the same numbers.
                Ok(found) => tables::read_predictions(found, &key)
                    .and_then(|found| Ok(found == tables::read_predictions(body, &key)?)),
                // Noted before.
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(true),
                Err(e) => Err(e),
            }
            .or_else(|e| survey.note(&key, e, Fault::Wrong).map(|()| true))?,
            _ => false,
        };
        if !same && !survey.problems.contains_key(&key) {
            let what = "these are not the predictions for the features of its shard";
            survey.report(&key, Fault::Wrong, what, &[manifest.version]);
        }
        Ok(())
    }

    /// Compares the parts of a shard; without rows, it cannot be read.
    pub(super) async fn add(
        &mut self,
        survey: &mut Survey,
        output: &dyn Store,
        shard: &Shard,
        rows: Option<FeatureRows>,
    ) -> Result<()> {
        let rows = rows.map(Arc::new);
        let mut projected: HashMap<BasisId, Arc<ScoreRows>> = HashMap::new();
        for (version, part) in &shard.parts {
            let Some(manifest) = self.versions.get(version) else { continue };
            let basis = self.bases.get(&manifest.basis.id);
            let (Some(rows), Some(basis)) = (&rows, basis) else {
                self.csv.entry(*version).and_modify(|csv| *csv = None);
                continue;
            };
            self.compare_predictions(survey, output, manifest, part, Arc::clone(rows)).await?;
            let scores = match projected.get(&manifest.basis.id) {
                Some(scores) => Arc::clone(scores),
                None => {
                    let scores = Arc::new(project(Arc::clone(rows), Arc::clone(basis)).await?);
                    projected.insert(manifest.basis.id.clone(), Arc::clone(&scores));
                    scores
                }
            };
            let made = make(manifest, &shard.entry, part.part, scores).await?;
            if let (Some(Some(csv)), Some((_, rows))) = (self.csv.get_mut(version), &made.csv) {
                csv.push(rows);
            }
            compare(survey, output, manifest, part, made.scores).await?;
        }
        Ok(())
    }

    /// Compares the CSV files.
    pub(super) fn finish(self, survey: &mut Survey) {
        for (version, csv) in self.csv {
            let file = self.versions.get(&version).and_then(|manifest| manifest.outputs.csv.as_ref());
            let (Some(csv), Some(file)) = (csv, file) else { continue };
            let computed = csv.finish();
            let complete = survey.manifests().iter().any(|m| m.version == version && all_known(survey, m));
            if complete && file.checksum != Some(computed) {
                survey.report(&file.key, Fault::Wrong, "these are not the scores of the features", &[version]);
            }
        }
    }
}

/// Whether all groups and lists of a version could be read.
fn all_known(survey: &Survey, manifest: &Manifest) -> bool {
    manifest.groups.iter().zip(0..).all(|(entry, number)| {
        survey.groups.contains_key(&entry.id) && survey.lists.contains_key(&(manifest.version, number))
    })
}

/// Reads the basis of a version. Fails with `Dataset.Corrupt`.
pub(super) async fn read_basis(output: &dyn Store, manifest: &Manifest) -> Result<Basis> {
    manifest.basis.file.decode(output, manifest.extractor.columns, tables::read_basis).await
}

/// Reads the classifier of a version, if it has one. Fails with `Dataset.Corrupt`.
pub(super) async fn read_classifier(output: &dyn Store, manifest: &Manifest) -> Result<Option<Arc<Classifier>>> {
    Ok(contents::classifier(output, manifest).await?.map(Arc::new))
}

/// The predictions for the rows of a part, made again.
pub(super) async fn predict(
    manifest: &Manifest,
    part: u64,
    rows: Arc<FeatureRows>,
    classifier: Arc<Classifier>,
) -> Result<Option<(PredictedPart, Bytes)>> {
    let Some(work) = PredictWork::of(manifest.classifier.as_ref()) else { return Ok(None) };
    let to = (manifest.version, part, manifest.settings.compression());
    let extractor = manifest.extractor.clone();
    run_blocking(move || stages::predict(&classifier, &work, &rows, &extractor, to).map(Some)).await
}

/// Projects rows onto a basis.
pub(super) async fn project(rows: Arc<FeatureRows>, basis: Arc<Basis>) -> Result<ScoreRows> {
    run_blocking(move || {
        let scores = basis.project(rows.features.view());
        Ok(ScoreRows { paths: rows.paths.clone(), labels: rows.labels.clone(), scores })
    })
    .await
}

/// The files of a part, made again.
pub(super) async fn make(
    manifest: &Manifest,
    shard: &ShardEntry,
    part: u64,
    scores: Arc<ScoreRows>,
) -> Result<PartFiles> {
    let work = work(manifest, shard, part);
    run_blocking(move || part_files(&work, &scores)).await
}

fn work(manifest: &Manifest, shard: &ShardEntry, part: u64) -> PartWork {
    PartWork {
        run: manifest.run.clone(),
        part,
        shard: shard.id.clone(),
        features: FileRef { key: keys::features(&shard.id), checksum: shard.features.clone() },
        version: manifest.version,
        basis: manifest.basis.id.clone(),
        basis_file: manifest.basis.file.clone(),
        extractor: manifest.extractor.clone(),
        compression: manifest.settings.compression(),
        partition_by_label: manifest.settings.partitions(),
        csv: manifest.settings.writes_csv(),
        csv_for_spreadsheets: manifest.settings.csv_for_spreadsheets,
        predict: PredictWork::of(manifest.classifier.as_ref()),
    }
}

/// Compares the files of a part with those on record. A release whose tables have other bytes gives the same numbers.
async fn compare(
    survey: &mut Survey,
    output: &dyn Store,
    manifest: &Manifest,
    part: &Part,
    made: Vec<(String, Bytes)>,
) -> Result<()> {
    let kept = manifest.basis.components;
    for (key, body) in made {
        let recorded = part.scores.iter().find(|file| file.key == key);
        if survey.problems.contains_key(&key) || recorded.is_some_and(|f| f.checksum == Some(Checksum::of(&body))) {
            continue;
        }
        let same = match recorded {
            Some(file) => match file.read(output).await {
                Ok(found) => tables::read_scores(found, kept, &key)
                    .and_then(|found| Ok(found == tables::read_scores(body, kept, &key)?)),
                Err(e) => Err(e),
            },
            None => Ok(false),
        };
        match same {
            Ok(true) => {}
            Ok(false) => {
                let what = "these are not the scores of the features of its shard";
                survey.report(&key, Fault::Wrong, what, &[manifest.version]);
            }
            Err(e) => survey.note(&key, e, Fault::Wrong)?,
        }
    }
    Ok(())
}
