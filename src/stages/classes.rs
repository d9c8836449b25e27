//! Sums of a group per class and fold.
//!
//! A group with many training images keeps them in `groups/<id>/classes-<rules>.parquet`, so that a later run reads neither
//! its features nor those of the groups that have not changed. Of a small group, the features are smaller than these sums,
//! and are read again.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Error, ErrorKind, Result,
    classify::{ClassSums, FOLDS, MAX_CLASSES, Summer},
    dataset::{
        Checksum, FileRef, GroupRecord, GroupRef, ShardEntry,
        blocking::run_blocking,
        contents, keys,
        tables::{self, FeatureRows, LabelledFeatures},
        training::{Role, Training, TrainingRules},
    },
    ids::ShardId,
    model::ExtractorInfo,
    pca::moments::TotalMoments,
    store::Store,
};

/// Files of features that are read at a time.
const READ_AT_A_TIME: usize = 2;
/// Most rows of shards that are in memory together to be compared: 40 MB.
const COMPARED_ROWS: u64 = 8_192;

/// The large group whose sums are added up, by two threads, or whose segment of the search index is made. That takes up to 100 MB,
/// and with a base version more, so the other groups of the process wait.
static TURNS: Semaphore = Semaphore::const_new(1);

/// Waits until no other large group is worked on.
pub(super) async fn turn() -> Option<SemaphorePermit<'static>> {
    // The semaphore is never closed, so there is no error.
    TURNS.acquire().await.ok()
}

/// The sums of classes that a group needs, for work lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassWork {
    /// How training images and folds are chosen.
    pub rules: TrainingRules,
    /// The sums of the nearest group of the base version, if it kept them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Checksum>,
}

/// Whether the sums of so many images are kept: whether their features are larger.
pub(super) fn are_kept(images: u64, columns: usize) -> bool {
    images > (FOLDS * (columns + 1)) as u64
}

/// A group of the base version whose sums of classes were kept.
pub(super) struct BaseClasses {
    pub(super) record: GroupRecord,
    pub(super) sums: FileRef,
}

impl BaseClasses {
    /// The group of the work's base version. None if there is none, or if it is damaged.
    pub(super) async fn read(output: &dyn Store, base: Option<&GroupRef>, work: &ClassWork) -> Result<Option<Self>> {
        let Some((base, checksum)) = base.zip(work.base.clone()) else { return Ok(None) };
        let sums = FileRef { key: keys::classes(&base.id, &work.rules.id()?), checksum: Some(checksum) };
        match base.read(output).await {
            Ok(record) => Ok(Some(BaseClasses { record, sums })),
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The sums of a group. Sums are exact, so all ways give the same bits.
pub(super) async fn of_group(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    rules: &TrainingRules,
    record: &GroupRecord,
    base: Option<BaseClasses>,
) -> Result<ClassSums> {
    if let Some(base) = base {
        match from_base(output, extractor, rules, record, &base).await {
            Ok(Some(sums)) => return Ok(sums),
            Err(e) if !e.is(ErrorKind::DatasetCorrupt) => return Err(e),
            // What is damaged is not needed.
            Ok(None) | Err(_) => {}
        }
    }
    of_shards(output, extractor, rules, record.shards.iter()).await
}

/// The sums of a group of the base version, plus those of new shards, minus those of shards that are gone. None if that
/// reads more than the features of all shards.
async fn from_base(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    rules: &TrainingRules,
    record: &GroupRecord,
    base: &BaseClasses,
) -> Result<Option<ClassSums>> {
    let ids = |shards: &[ShardEntry]| -> HashSet<ShardId> { shards.iter().map(|shard| shard.id.clone()).collect() };
    let (old, new) = (ids(&base.record.shards), ids(&record.shards));
    let added: Vec<&ShardEntry> = record.shards.iter().filter(|shard| !old.contains(&shard.id)).collect();
    let gone: Vec<&ShardEntry> = base.record.shards.iter().filter(|shard| !new.contains(&shard.id)).collect();
    let rows = |shards: &[&ShardEntry]| shards.iter().map(|shard| shard.rows).sum::<u64>();
    // Summing a row takes longer than reading a row of sums.
    if base.record.extractor != extractor.id || rows(&added) + rows(&gone) + extractor.columns as u64 > record.rows {
        return Ok(None);
    }
    let mut sums = read(output, &base.sums, extractor.columns).await?;
    let (added, gone) = if gone.is_empty() || rows(&added) + rows(&gone) > COMPARED_ROWS {
        let gone = of_shards(output, extractor, rules, gone.into_iter()).await?;
        (of_shards(output, extractor, rules, added.into_iter()).await?, gone)
    } else {
        differing(output, extractor, rules, added, gone).await?
    };
    sums.add(&added)?;
    sums.subtract(&gone)?;
    Ok(Some(sums))
}

/// The sums of the rows that only the first shards have, and of those that only the others have. If an image is new in a
/// shard, all other rows of the shard are also in the one that it replaces.
async fn differing(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    rules: &TrainingRules,
    added: Vec<&ShardEntry>,
    gone: Vec<&ShardEntry>,
) -> Result<(ClassSums, ClassSums)> {
    let tables = |shards: Vec<&ShardEntry>| {
        let files: Vec<FileRef> = shards.into_iter().filter_map(ShardEntry::features).collect();
        let reads: Vec<_> = files.into_iter().map(|file| rows_of(output, extractor, file)).collect();
        stream::iter(reads).buffered(READ_AT_A_TIME).try_collect::<Vec<FeatureRows>>()
    };
    let (added, gone) = (tables(added).await?, tables(gone).await?);
    let (training, columns, per_unit) = (Training::new(rules)?, extractor.columns, extractor.feature_range.per_unit());
    run_blocking(move || {
        let only_in = |tables: &[FeatureRows], others: &[FeatureRows]| {
            let others = others.iter().flat_map(|table| table.paths.iter().enumerate().map(move |at| (table, at)));
            let others: HashMap<&str, _> = others.map(|(table, (row, path))| (path.as_str(), (table, row))).collect();
            let mut summer = Summer::new(columns, per_unit);
            for table in tables {
                let other = |row: usize| others.get(table.paths[row].as_str());
                let differs = |row| other(row).is_none_or(|(other, at)| !sums_as(table, row, other, *at));
                add_rows(&mut summer, &training.roles(table), table, differs)?;
            }
            summer.finish()
        };
        Ok((only_in(&added, &gone)?, only_in(&gone, &added)?))
    })
    .await
}

/// Whether two rows of one image contribute the same to sums.
fn sums_as(a: &FeatureRows, row: usize, b: &FeatureRows, other: usize) -> bool {
    a.labels[row] == b.labels[other] && a.splits[row] == b.splits[other] && a.features.row(row) == b.features.row(other)
}

/// The rows of a table of features. Fails with `Dataset.Corrupt`.
pub(super) async fn rows_of(output: &dyn Store, extractor: &ExtractorInfo, file: FileRef) -> Result<FeatureRows> {
    contents::labelled_features(output, extractor, &file).await.map(LabelledFeatures::into_rows)
}

/// Reads a file of sums. Fails with `Dataset.Corrupt`.
pub(crate) async fn read(output: &dyn Store, file: &FileRef, columns: usize) -> Result<ClassSums> {
    file.decode(output, columns, tables::read_classes).await
}

/// Adds a file of sums to others, of which there may be none. These are unchanged if the file cannot be read.
pub(super) async fn add(
    output: &dyn Store,
    file: &FileRef,
    total: &mut Option<ClassSums>,
    columns: usize,
) -> Result<()> {
    if total.is_none() {
        *total = Some(read(output, file, columns).await?);
        return Ok(());
    }
    let (body, key, mut sums) = (file.read(output).await?, file.key.clone(), total.take());
    let add = move || {
        let added = sums.as_mut().map_or(Ok(()), |sums| tables::add_classes(sums, body, &key));
        Ok((sums, added))
    };
    let added;
    (*total, added) = run_blocking(add).await?;
    added
}

/// The sums of shards, from their features.
pub(crate) async fn of_shards<'a>(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    rules: &TrainingRules,
    shards: impl Iterator<Item = &'a ShardEntry>,
) -> Result<ClassSums> {
    Ok(summed(output, extractor, (rules, Others::LeftOut), shards).await?.0)
}

/// What happens to rows from which the classifier does not learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    LeftOut,
    /// They are summed too, all together.
    Summed,
}

/// Sums of the rows from which the classifier learns, and of the others.
struct Sums {
    learned: Summer,
    others: Option<Summer>,
}

impl Sums {
    fn add(&mut self, training: &Training, rows: &FeatureRows, others: Others) -> Result<()> {
        let roles = training.roles(rows);
        add_rows(&mut self.learned, &roles, rows, |_| true)?;
        if others == Others::LeftOut {
            return Ok(());
        }
        let labels: Vec<Option<&str>> = roles.iter().map(|role| role.learns.is_none().then_some("")).collect();
        if labels.iter().any(Option::is_some) {
            let summer = self.others.get_or_insert_with(|| self.learned.empty());
            summer.add_rows(rows.features.view(), &labels, &vec![0; labels.len()])?;
        }
        Ok(())
    }

    /// The sums of classes, and those of the other rows.
    fn finish(self) -> Result<(ClassSums, Option<ClassSums>)> {
        Ok((self.learned.finish()?, self.others.map(Summer::finish).transpose()?))
    }
}

/// The sums of classes of shards, from their features, and those of the other rows.
async fn summed<'a>(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    (rules, others): (&TrainingRules, Others),
    shards: impl Iterator<Item = &'a ShardEntry>,
) -> Result<(ClassSums, Option<ClassSums>)> {
    let training = Training::new(rules)?;
    let read = |file: FileRef| async move { Ok::<_, Error>((file.read(output).await?, file.key)) };
    let reads: Vec<_> = shards.filter_map(ShardEntry::features).map(read).collect();
    let mut reads = stream::iter(reads).buffered(READ_AT_A_TIME);
    let learned = Summer::new(extractor.columns, extractor.feature_range.per_unit());
    let mut sums = Sums { learned, others: None };
    while let Some((file, key)) = reads.try_next().await? {
        let (training, extractor) = (training.clone(), extractor.clone());
        // Decoding takes several times the memory of a table, so only the next file is read meanwhile.
        let add = move || {
            let rows = tables::read_labelled_features(file, &extractor, &key)?.into_rows();
            sums.add(&training, &rows, others)?;
            Ok(sums)
        };
        sums = run_blocking(add).await?;
    }
    run_blocking(move || sums.finish()).await
}

/// Adds those rows of a table that `counts` says.
fn add_rows(summer: &mut Summer, roles: &[Role<'_>], rows: &FeatureRows, counts: impl Fn(usize) -> bool) -> Result<()> {
    let learned = roles.iter().enumerate().map(|(row, role)| (role.learns.filter(|_| counts(row)), role.fold));
    let (labels, folds): (Vec<Option<&str>>, Vec<u8>) = learned.unzip();
    summer.add_rows(rows.features.view(), &labels, &folds)
}

/// Encodes the sums of a group, if they are kept.
pub(crate) async fn encode(extractor: &ExtractorInfo, sums: ClassSums) -> Result<(ClassSums, Option<bytes::Bytes>)> {
    if !are_kept(sums.rows(), extractor.columns) {
        return Ok((sums, None));
    }
    let id = extractor.id.clone();
    run_blocking(move || {
        let file = tables::write_classes(&sums, id.as_str())?;
        Ok((sums, Some(file)))
    })
    .await
}

/// [`encode`] of sums that are not needed afterwards.
async fn encode_last(extractor: &ExtractorInfo, sums: ClassSums) -> Result<Option<bytes::Bytes>> {
    if !are_kept(sums.rows(), extractor.columns) {
        return Ok(None);
    }
    let id = extractor.id.clone();
    run_blocking(move || tables::write_last_classes(sums, id.as_str()).map(Some)).await
}

/// The sums of the classes of a group that are to be kept, and the turn to compute them.
pub(super) struct Turn<'a> {
    work: &'a ClassWork,
    /// Dropped when the sums are written.
    _turn: SemaphorePermit<'static>,
}

impl<'a> Turn<'a> {
    /// Waits for a turn. None if the sums of the group are not kept.
    pub(super) async fn wait(
        extractor: &ExtractorInfo,
        work: Option<&'a ClassWork>,
        record: &GroupRecord,
    ) -> Option<Turn<'a>> {
        // Labels and splits can only make the images fewer. With too many labels, there is no classifier.
        let labels = record.labels.iter().filter(|count| count.label.is_some()).count();
        if !are_kept(record.rows, extractor.columns) || labels == 0 || labels > MAX_CLASSES {
            return None;
        }
        Some(Turn { work: work?, _turn: turn().await? })
    }

    /// The sums of classes of a group, and those of all of its rows. Each row is read and multiplied once.
    pub(super) async fn all(
        &self,
        output: &dyn Store,
        extractor: &ExtractorInfo,
        record: &GroupRecord,
    ) -> Result<(ClassSums, TotalMoments)> {
        let with_others = (&self.work.rules, Others::Summed);
        let (classes, others) = summed(output, extractor, with_others, record.shards.iter()).await?;
        run_blocking(move || {
            let mut all = TotalMoments::zero(classes.columns());
            for fold in classes.folds().iter().chain(others.iter().flat_map(|others| others.folds())) {
                if fold.moments.rows() > 0 {
                    all.add(&fold.moments)?;
                }
            }
            Ok((classes, all))
        })
        .await
    }

    /// Keeps the sums of a group that `merge` has finished, after computing them if they are not given. Also returns them, unless
    /// there is no base version: in a first run, each group would wait for all others with 33 MB, and reading them takes a
    /// small part of the run.
    pub(super) async fn keep(
        self,
        output: &dyn Store,
        extractor: &ExtractorInfo,
        (record, base): (&GroupRecord, Option<&GroupRef>),
        sums: Option<ClassSums>,
    ) -> Result<Option<(Checksum, Option<ClassSums>)>> {
        let sums = match sums {
            Some(sums) => sums,
            None => {
                let base = BaseClasses::read(output, base, self.work).await?;
                of_group(output, extractor, &self.work.rules, record, base).await?
            }
        };
        let (sums, file) = match base {
            Some(_) => encode(extractor, sums).await.map(|(sums, file)| (Some(sums), file))?,
            None => (None, encode_last(extractor, sums).await?),
        };
        let Some(file) = file else { return Ok(None) };
        let checksum = Checksum::of(&file);
        output.put(&keys::classes(&record.id, &self.work.rules.id()?), file).await?;
        Ok(Some((checksum, sums)))
    }
}
