//! The classifier of a version, a part of the stage `reduce`; and its predictions, a part of `project`.
//!
//! Reads the sums of classes of all groups, and then all features once: each training image is scored by the models that
//! have not seen its fold. Writes `classifier/<id>.parquet`, and sums of classes that `merge` has not written.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;

pub(crate) use super::classes::of_shards as sums_of_shards;
use super::{KnownSums, Plan, classes, sums::add_to};
use crate::{
    ErrorKind, Result,
    classify::{self, Candidates, ClassSums, Classifier, MAX_CLASSES, NoClassifier, SUSPECT_BELOW, Tally, TallyRow},
    dataset::{
        Checksum, Classification, ClassifierSummary, FileRef, GroupEntry, GroupRecord, Manifest, PredictedPart,
        ShardEntry, SplitCount,
        blocking::run_blocking,
        classification::{add_splits, classifier_id},
        keys,
        settings::Settings,
        tables::{self, Compression, FeatureRows, PredictionRow},
        training::{Training, TrainingRules},
    },
    ids::{ClassifierId, Version},
    model::ExtractorInfo,
    store::Store,
};

/// Tables of features that are scored at a time.
const SCORED_AT_A_TIME: usize = 2;

/// A group, and its sums of classes if they are known to be kept.
pub(crate) struct Group<'a> {
    pub(crate) entry: &'a GroupEntry,
    pub(crate) record: &'a GroupRecord,
    pub(crate) kept: Option<Checksum>,
}

impl Group<'_> {
    fn has_labels(&self) -> bool {
        self.record.labels.iter().any(|count| count.label.is_some())
    }
}

/// The classifier of a run, fitted or that of the base version. `merged` has the sums of classes that `merge` has kept in
/// this run, in the order of the groups; `known` has sums that are in memory. `on_fit` is dropped when no
/// sums are needed any more.
pub(super) async fn classify(
    output: &dyn Store,
    plan: &Plan,
    base: Option<&Manifest>,
    groups: &[GroupEntry],
    (records, merged): (&[GroupRecord], &[Option<Checksum>]),
    (known, on_fit): (KnownSums<ClassSums>, oneshot::Sender<()>),
) -> Result<Classification> {
    let settings = &plan.settings;
    if !settings.classifier {
        return Ok(Classification::None { reason: NoClassifier::Off });
    }
    let labels = records.iter().flat_map(|record| &record.labels).filter_map(|count| count.label.as_ref());
    if labels.collect::<BTreeSet<_>>().len() > MAX_CLASSES {
        return Ok(Classification::None { reason: NoClassifier::TooManyLabels });
    }
    let (base, rules) = (base.filter(|base| base.extractor.id == plan.extractor.id), settings.training_rules());
    let of_base = |group: &GroupEntry| {
        let (base, at) = base.and_then(|base| Some((base, base.groups.iter().position(|old| old.id == group.id)?)))?;
        kept_sums(base, at, &rules)
    };
    let kept = |(group, merged): (&GroupEntry, &Option<Checksum>)| merged.clone().or_else(|| of_base(group));
    let kept: Vec<Option<Checksum>> = groups.iter().zip(merged).map(kept).collect();
    if let Some(same) = base.and_then(|base| of_version(base, settings)).filter(|_| plan.keep_basis) {
        // Predictions of different versions are then comparable.
        let summary = ClassifierSummary { sums: kept, splits: Vec::new(), ..same.clone() };
        return Ok(Classification::Fitted(Box::new(summary)));
    }
    let groups = groups.iter().zip(records).zip(kept).map(|((entry, record), kept)| Group { entry, record, kept });
    let groups: Vec<Group<'_>> = groups.collect();
    let known = (known, || drop(on_fit));
    let fitted = fit(output, &plan.extractor, settings, &groups, known, Write::Missing).await?;
    let Fitted { classifier, grouped, sums } = match fitted {
        Ok(fitted) => fitted,
        Err(reason) => return Ok(Classification::None { reason }),
    };
    let made = encode(&plan.extractor, &settings.training_rules(), classifier).await?;
    let summary = made.summary(settings, grouped, sums);
    output.put(&summary.file.key, made.file).await?;
    Ok(Classification::Fitted(Box::new(summary)))
}

/// The classifier of a version, if it has one by the same rules and priors.
fn of_version<'a>(version: &'a Manifest, settings: &Settings) -> Option<&'a ClassifierSummary> {
    let summary = version.classifier.as_ref()?.fitted()?;
    (summary.rules == settings.training_rules() && summary.priors == settings.priors()).then_some(summary)
}

/// The sums of classes of a group of a version, if it kept them by these rules.
pub(super) fn kept_sums(version: &Manifest, group: usize, rules: &TrainingRules) -> Option<Checksum> {
    let summary = version.classifier.as_ref()?.fitted().filter(|summary| summary.rules == *rules)?;
    summary.sums.get(group).cloned().flatten()
}

/// Whether sums that are computed are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Those of large groups that are not kept.
    Missing,
    /// None.
    Nothing,
}

/// A fitted classifier.
pub(crate) struct Fitted {
    pub(crate) classifier: Classifier,
    /// Training images that the pattern of the folds matches; None without a pattern.
    pub(crate) grouped: Option<u64>,
    /// The sums of each group that are kept.
    pub(crate) sums: Vec<Option<Checksum>>,
}

/// Fits a classifier to groups, given the sums of some of them. Calls `on_fit` when it needs no sums any more. Fails with
/// `Dataset.Corrupt` if a file is damaged.
pub(crate) async fn fit(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    settings: &Settings,
    groups: &[Group<'_>],
    (known, on_fit): (KnownSums<ClassSums>, impl FnOnce()),
    write: Write,
) -> Result<std::result::Result<Fitted, NoClassifier>> {
    let rules = settings.training_rules();
    let mut total = known.total;
    let mut kept = Vec::with_capacity(groups.len());
    for group in groups {
        if known.groups.contains(&group.entry.id) {
            kept.push(group.kept.clone());
            continue;
        }
        kept.push(add_sums_of(output, extractor, &rules, (group, &mut total), write).await?);
    }
    let total = total.unwrap_or_else(|| ClassSums::zero(extractor.columns));
    let (priors, per_unit) = (settings.priors(), extractor.feature_range.per_unit());
    let candidates = match run_blocking(move || classify::fit(total, per_unit, priors)).await? {
        Ok(candidates) => Arc::new(candidates),
        Err(reason) => return Ok(Err(reason)),
    };
    on_fit();
    let training = Arc::new(Training::new(&rules)?);
    let shards = groups.iter().filter(|group| group.has_labels()).flat_map(|group| &group.record.shards);
    let tallies: Vec<_> = shards
        .filter_map(ShardEntry::features)
        .map(|file| tally(output, extractor, Arc::clone(&candidates), Arc::clone(&training), file))
        .collect();
    let mut tallies = stream::iter(tallies).buffer_unordered(SCORED_AT_A_TIME);
    let (mut all, mut grouped) = (candidates.no_tally(), 0);
    while let Some((tally, of_shard)) = tallies.try_next().await? {
        all.add(tally);
        grouped += of_shard;
    }
    let grouped = rules.fold_pattern.is_some().then_some(grouped);
    Ok(Ok(Fitted { classifier: candidates.choose(&all), grouped, sums: kept }))
}

/// Adds the sums of classes of a group: those that are kept, unless they are damaged, or from its features. Returns the checksum of
/// those that are kept.
async fn add_sums_of(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    rules: &TrainingRules,
    (group, total): (&Group<'_>, &mut Option<ClassSums>),
    write: Write,
) -> Result<Option<Checksum>> {
    if !group.has_labels() {
        return Ok(None);
    }
    let key = keys::classes(&group.entry.id, &rules.id()?);
    if let Some(checksum) = &group.kept {
        let file = FileRef { key: key.clone(), checksum: Some(checksum.clone()) };
        match classes::add(output, &file, total, extractor.columns).await {
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => {}
            added => return added.map(|()| Some(checksum.clone())),
        }
    }
    let sums = classes::of_shards(output, extractor, rules, group.record.shards.iter()).await?;
    if write == Write::Nothing {
        return add_to(total, sums, |total, sums| total.add(sums)).map(|()| group.kept.clone());
    }
    let (sums, file) = classes::encode(extractor, sums).await?;
    add_to(total, sums, |total, sums| total.add(sums))?;
    let Some(file) = file else { return Ok(None) };
    let checksum = Checksum::of(&file);
    output.put(&key, file).await?;
    Ok(Some(checksum))
}

/// Scores the training images of a shard. Also returns how many of them the pattern of the folds matches.
async fn tally(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    candidates: Arc<Candidates>,
    training: Arc<Training>,
    file: FileRef,
) -> Result<(Tally, u64)> {
    let rows = classes::rows_of(output, extractor, file).await?;
    run_blocking(move || {
        let images = training.roles(&rows);
        let learned = images.iter().map(|image| TallyRow { label: image.learns, fold: image.fold });
        let tally = candidates.tally(rows.features.view(), &learned.collect::<Vec<_>>());
        let grouped = images.iter().filter(|image| image.learns.is_some() && image.grouped).count();
        Ok((tally, grouped as u64))
    })
    .await
}

/// An encoded classifier.
pub(crate) struct Made {
    pub(crate) classifier: Classifier,
    pub(crate) id: ClassifierId,
    pub(crate) file: Bytes,
}

/// Encodes a classifier.
pub(crate) async fn encode(extractor: &ExtractorInfo, rules: &TrainingRules, classifier: Classifier) -> Result<Made> {
    let (extractor, rules) = (extractor.id.clone(), rules.clone());
    run_blocking(move || {
        let id = classifier_id(extractor.as_str(), &rules, &classifier);
        let file = tables::write_classifier(&classifier, extractor.as_str(), id.as_str())?;
        Ok(Made { classifier, id, file })
    })
    .await
}

impl Made {
    fn summary(&self, settings: &Settings, grouped: Option<u64>, sums: Vec<Option<Checksum>>) -> ClassifierSummary {
        let classifier = &self.classifier;
        ClassifierSummary {
            id: self.id.clone(),
            file: FileRef::of(keys::classifier(&self.id), &self.file),
            rules: settings.training_rules(),
            priors: settings.priors(),
            classes: classifier.classes.len() as u64,
            images: classifier.accuracy.images,
            correct: classifier.accuracy.correct,
            grouped,
            shrinkage: classifier.shrinkage,
            temperature: classifier.temperature,
            log_loss: classifier.log_loss,
            sums,
            splits: Vec::new(),
        }
    }
}

/// What predictions need, for work lists.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictWork {
    /// The classifier.
    pub id: ClassifierId,
    /// Its file.
    pub file: FileRef,
    /// How training images and folds were chosen.
    pub rules: TrainingRules,
}

impl PredictWork {
    /// The work of a version with this classifier; None without one.
    pub(crate) fn of(classification: Option<&Classification>) -> Option<Self> {
        let ClassifierSummary { id, file, rules, .. } = classification?.fitted()?;
        Some(PredictWork { id: id.clone(), file: file.clone(), rules: rules.clone() })
    }
}

/// The file of predictions of a shard, and its counts.
pub(crate) fn predict(
    classifier: &Classifier,
    work: &PredictWork,
    rows: &FeatureRows,
    extractor: &ExtractorInfo,
    (version, part, compression): (Version, u64, Compression),
) -> Result<(PredictedPart, Bytes)> {
    let training = Training::new(&work.rules)?;
    let (predictions, splits) = predictions(classifier, &training, rows);
    let file = tables::write_predictions(&predictions, extractor.id.as_str(), work.id.as_str(), compression)?;
    Ok((PredictedPart { file: FileRef::of(keys::predictions(version, part), &file), splits }, file))
}

fn predictions(
    classifier: &Classifier,
    training: &Training,
    rows: &FeatureRows,
) -> (Vec<PredictionRow>, Vec<SplitCount>) {
    let roles = training.roles(rows);
    let asked =
        rows.labels.iter().zip(&roles).map(|(label, role)| TallyRow { label: label.as_deref(), fold: role.fold });
    let asked: Vec<TallyRow<'_>> = asked.collect();
    let answers = classifier.answers(rows.features.view(), &asked, |row| roles[row].learns.is_some());
    let (mut predictions, mut splits) = (Vec::with_capacity(answers.len()), Vec::new());
    let name = |class: usize| classifier.classes[class].label.clone();
    for ((answer, role), (path, label)) in answers.into_iter().zip(&roles).zip(rows.paths.iter().zip(&rows.labels)) {
        let row = PredictionRow {
            path: path.clone(),
            label: label.clone(),
            split: role.split.map(str::to_owned),
            predicted: name(answer.first.class),
            probability: answer.first.probability,
            second: answer.second.map(|second| name(second.class)),
            margin: answer.margin(),
            label_probability: answer.label,
            suspect: answer.label.is_some_and(|probability| probability < SUSPECT_BELOW),
        };
        if let Some(label) = &row.label {
            let count = SplitCount {
                split: row.split.clone(),
                images: 1,
                known: u64::from(classifier.number(label).is_some()),
                correct: u64::from(*label == row.predicted),
                suspects: u64::from(row.suspect),
            };
            add_splits(&mut splits, &[count]);
        }
        predictions.push(row);
    }
    (predictions, splits)
}
