//! Sums of a group per class and fold.
//!
//! A group with many training images keeps them in `groups/<id>/classes-<rules>.parquet`, so that a later run reads neither
//! its features nor those of the groups that have not changed. Of a small group, the features are smaller than these sums,
//! and are read again.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    ErrorKind, Result,
    classify::{ClassSums, FOLDS, MAX_CLASSES, Summer},
    dataset::{
        Checksum, FileRef, GroupRecord, GroupRef, ShardEntry,
        blocking::run_blocking,
        keys,
        tables::{self, FeatureRows},
        training::{Training, TrainingRules},
    },
    ids::ShardId,
    model::ExtractorInfo,
    store::Store,
};

/// Tables of features that are read at a time.
const READ_AT_A_TIME: usize = 2;

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
    sums.add(&of_shards(output, extractor, rules, added.into_iter()).await?)?;
    if !gone.is_empty() {
        sums.subtract(&of_shards(output, extractor, rules, gone.into_iter()).await?)?;
    }
    Ok(Some(sums))
}

/// Reads a file of sums. Fails with `Dataset.Corrupt`.
pub(crate) async fn read(output: &dyn Store, file: &FileRef, columns: usize) -> Result<ClassSums> {
    let (body, key) = (file.read(output).await?, file.key.clone());
    run_blocking(move || tables::read_classes(body, columns, &key)).await
}

/// The sums of shards, from their features, in two threads.
pub(crate) async fn of_shards<'a>(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    rules: &TrainingRules,
    shards: impl Iterator<Item = &'a ShardEntry>,
) -> Result<ClassSums> {
    let training = Training::new(rules)?;
    let tables: Vec<FileRef> = shards.filter_map(ShardEntry::features).collect();
    let halves = tables.chunks(tables.len().div_ceil(READ_AT_A_TIME).max(1)).map(|tables| {
        let training = training.clone();
        async move {
            let mut summer = Summer::new(extractor.columns, extractor.feature_range.per_unit());
            for file in tables {
                let (body, key, info) = (file.read(output).await?, file.key.clone(), extractor.clone());
                let training = training.clone();
                let add = move || {
                    let rows = tables::read_features(body, &info, &key)?;
                    add(&mut summer, &training, &rows)?;
                    Ok(summer)
                };
                summer = run_blocking(add).await?;
            }
            run_blocking(move || summer.finish()).await
        }
    });
    let halves: Vec<_> = halves.collect();
    let mut halves = stream::iter(halves).buffer_unordered(READ_AT_A_TIME);
    let mut total: Option<ClassSums> = None;
    while let Some(sums) = halves.try_next().await? {
        match &mut total {
            Some(total) => total.add(&sums)?,
            None => total = Some(sums),
        }
    }
    Ok(total.unwrap_or_else(|| ClassSums::zero(extractor.columns)))
}

fn add(summer: &mut Summer, training: &Training, rows: &FeatureRows) -> Result<()> {
    let roles = rows.paths.iter().zip(&rows.labels).zip(&rows.splits);
    let roles = roles.map(|((path, label), split)| training.role(path, label.as_deref(), split.as_deref()));
    let (labels, folds): (Vec<Option<&str>>, Vec<u8>) = roles.map(|role| (role.learns, role.fold)).unzip();
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

/// Computes the sums of a group that `merge` has finished, and keeps them if it is large enough.
pub(super) async fn finish(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    work: &ClassWork,
    record: &GroupRecord,
    base: Option<&GroupRef>,
) -> Result<Option<Checksum>> {
    // Labels and splits can only make the images fewer. With too many labels, there is no classifier.
    let labels = record.labels.iter().filter(|count| count.label.is_some()).count();
    if !are_kept(record.rows, extractor.columns) || labels > MAX_CLASSES {
        return Ok(None);
    }
    let base = BaseClasses::read(output, base, work).await?;
    let sums = of_group(output, extractor, &work.rules, record, base).await?;
    let (_, file) = encode(extractor, sums).await?;
    let Some(file) = file else { return Ok(None) };
    let checksum = Checksum::of(&file);
    output.put(&keys::classes(&record.id, &work.rules.id()?), file).await?;
    Ok(Some(checksum))
}
