//! What a version consists of: its groups, shards, parts and files, of both formats.

use std::{collections::BTreeSet, pin::pin};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    Classification, GroupEntry, GroupRecord, Manifest, Part, PartList, RejectedObject, ShardEntry, ShardRecord,
    blocking::run_blocking,
    commit, delta, from_json, get_file, index_files, keys, partition,
    record::{Checksum, FileRef, damaged, from_record, get_checked},
    released::ReleasedShard,
    tables::{self, FeatureRows, LabelledFeatures, PredictionRow, ScoreRows},
};
use crate::{
    Error, ErrorKind, Result,
    classify::Classifier,
    compiled_once,
    ids::{GroupId, ShardId, Version},
    model::ExtractorInfo,
    store::Store,
};

/// Concurrent reads of records.
const CONCURRENCY: usize = 16;
/// Tables of predictions in memory at a time.
const TABLES: usize = 3;

/// Reads the record of a group that a manifest names. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn group(output: &dyn Store, entry: &GroupEntry) -> Result<GroupRecord> {
    GroupRef::of(entry).read(output).await
}

/// A group, for work lists. Without its keys: an erased image can be the first of a group of the base version, and the
/// work list belongs to the version without that image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRef {
    /// A hash of the ids of its shards.
    pub id: GroupId,
    /// `groups/<id>/group.json`
    pub record: Checksum,
}

impl GroupRef {
    /// The group of an entry.
    pub(crate) fn of(entry: &GroupEntry) -> Self {
        GroupRef { id: entry.id.clone(), record: entry.record.clone() }
    }

    /// Reads the record of the group. Fails with `Dataset.Corrupt`.
    pub(crate) async fn read(&self, output: &dyn Store) -> Result<GroupRecord> {
        let key = keys::group(&self.id);
        let file = get_checked(output, &key, Some(&self.record)).await?;
        group_record(&file, &key)
    }
}

/// Decodes the record of a group. Fails with `Dataset.Corrupt` if it is that of another group.
pub(crate) fn group_record(file: &[u8], key: &str) -> Result<GroupRecord> {
    let record: GroupRecord = from_record(file, key)?;
    if keys::group(&record.id) != key {
        return Err(damaged("this is the record of another group", key).context("group", record.id));
    }
    Ok(record)
}

/// Decodes the record of a shard. Fails with `Dataset.Corrupt` if it is that of another shard.
pub(crate) fn shard_record(file: &[u8], key: &str) -> Result<ShardRecord> {
    let record: ShardRecord = from_record(file, key)?;
    if keys::shard(&record.id) != key {
        return Err(damaged("this is the record of another shard", key).context("shard", record.id));
    }
    Ok(record)
}

/// Reads the record of a finished shard, and returns its file too. Fails with `Dataset.Corrupt`.
pub(crate) async fn shard(output: &dyn Store, id: &ShardId) -> Result<(ShardRecord, bytes::Bytes)> {
    let key = keys::shard(id);
    let file = get_file(output, &key).await?;
    Ok((shard_record(&file, &key)?, file))
}

/// Reads the records of groups that a manifest names, in their order.
#[compiled_once]
pub async fn groups(output: &dyn Store, groups: &[GroupEntry]) -> Result<Vec<GroupRecord>> {
    let reads: Vec<_> = groups.iter().map(|entry| group(output, entry)).collect();
    stream::iter(reads).buffered(CONCURRENCY).try_collect().await
}

/// The rows of a table of features, without keypoints: nothing compares these, and they need more memory than the rest. Fails
/// with `Dataset.Corrupt`.
pub(crate) async fn feature_rows(output: &dyn Store, extractor: &ExtractorInfo, file: &FileRef) -> Result<FeatureRows> {
    let (body, extractor, key) = (file.read(output).await?, extractor.clone(), file.key.clone());
    run_blocking(move || Ok(FeatureRows { keypoints: Vec::new(), ..tables::read_features(body, &extractor, &key)? }))
        .await
}

/// What searches and sums need of a table of features. Fails with `Dataset.Corrupt`.
pub(crate) async fn labelled_features(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    file: &FileRef,
) -> Result<LabelledFeatures> {
    let (body, extractor, key) = (file.read(output).await?, extractor.clone(), file.key.clone());
    run_blocking(move || tables::read_labelled_features(body, &extractor, &key)).await
}

/// The rows of a file of scores of a version. In a partitioned table, their label is that of the folder. Fails with
/// `Dataset.Corrupt`.
pub(crate) async fn score_rows(
    output: &dyn Store,
    version: Version,
    components: usize,
    file: &FileRef,
) -> Result<ScoreRows> {
    let (body, key) = (file.read(output).await?, file.key.clone());
    run_blocking(move || {
        let mut rows = tables::read_scores(body, components, &key)?;
        if let Some((Some(folder), _)) = keys::parse_part(version, &key) {
            rows.labels.fill(partition::label_of_folder(folder));
        }
        Ok(rows)
    })
    .await
}

/// All shards of a version, in key order. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn shards(output: &dyn Store, version: &Manifest) -> Result<Vec<ShardEntry>> {
    if let Some(released) = &version.released {
        return Ok(released.shards.clone());
    }
    Ok(groups(output, &version.groups).await?.into_iter().flat_map(|group| group.shards).collect())
}

/// Objects without features of a version, in key order. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn rejects(output: &dyn Store, version: &Manifest) -> Result<Vec<RejectedObject>> {
    let Some(released) = &version.released else {
        return Ok(groups(output, &version.groups).await?.into_iter().flat_map(|group| group.rejects).collect());
    };
    let shards = released.shards.iter().filter(|shard| shard.rejects > 0);
    let reads: Vec<_> = shards
        .map(|shard| async move {
            let key = keys::shard(&shard.id);
            from_json::<ReleasedShard>(&get_file(output, &key).await?, &key)
        })
        .collect();
    let read: Vec<ReleasedShard> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
    Ok(read.into_iter().flat_map(|shard| shard.rejects).collect())
}

/// All parts of a version, in key order. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn parts(output: &dyn Store, version: &Manifest) -> Result<Vec<Part>> {
    if version.released.is_some() {
        return Ok(released_parts(version));
    }
    let lists = version.outputs.scores.iter().zip(0..).map(|(list, group)| async move {
        let read: PartList = from_record(&list.read(output).await?, &list.key)?;
        if (read.version, read.group) != (version.version, group) {
            return Err(damaged("this is the list of another group or version", &list.key));
        }
        Ok::<_, Error>(read.parts)
    });
    let lists: Vec<_> = lists.collect();
    let lists: Vec<Vec<Part>> = stream::iter(lists).buffered(CONCURRENCY).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}

/// In format 1, part i belongs to the i-th shard that has rows.
fn released_parts(version: &Manifest) -> Vec<Part> {
    let Some(released) = &version.released else { return Vec::new() };
    let shards = released.shards.iter().filter(|shard| shard.rows > 0).zip(0..);
    let mut parts: Vec<Part> = shards
        .map(|(shard, part)| Part {
            part,
            shard: shard.id.clone(),
            rows: shard.rows,
            scores: Vec::new(),
            predictions: None,
        })
        .collect();
    for key in &released.parts {
        let part =
            keys::parse_part(version.version, key).and_then(|(_, part)| parts.get_mut(usize::try_from(part).ok()?));
        if let Some(part) = part {
            part.scores.push(FileRef { key: key.clone(), checksum: None });
        }
    }
    parts
}

/// A table of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The features of all images.
    Features,
    /// Their scores.
    Scores,
    /// What the classifier says about them.
    Predictions,
    /// Images that are there twice.
    Duplicates,
    /// Images that are unlike the others.
    Outliers,
    /// Objects without features.
    Rejects,
}

impl Table {
    /// The table of this name, such as `features`. Fails with `Input.Invalid` for other names.
    pub fn of_name(name: &str) -> Result<Self> {
        Ok(match name {
            "features" => Table::Features,
            "scores" => Table::Scores,
            "predictions" => Table::Predictions,
            "duplicates" => Table::Duplicates,
            "outliers" => Table::Outliers,
            "rejects" => Table::Rejects,
            _ => return Err(Error::new(ErrorKind::InputInvalid, "there is no such table").context("table", name)),
        })
    }
}

/// The files of a table, in key order of their rows; none if the version does not have the table. Fails with
/// `Dataset.Corrupt`.
#[compiled_once]
pub async fn tables(output: &dyn Store, version: &Manifest, table: Table) -> Result<Vec<FileRef>> {
    Ok(match table {
        Table::Features => shards(output, version).await?.iter().filter_map(ShardEntry::features).collect(),
        Table::Scores => parts(output, version).await?.into_iter().flat_map(|part| part.scores).collect(),
        Table::Predictions => {
            let parts = parts(output, version).await?.into_iter();
            parts.filter_map(|part| Some(part.predictions?.file)).collect()
        }
        Table::Duplicates => version.duplicates.iter().flat_map(|found| found.files.clone()).collect(),
        Table::Outliers => version.outliers.iter().flat_map(|found| found.files.clone()).collect(),
        Table::Rejects => vec![version.outputs.rejects.clone()],
    })
}

/// All files of a version except for its manifest and `runs/`. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn files(output: &dyn Store, version: &Manifest) -> Result<Vec<FileRef>> {
    let shards = shards(output, version).await?;
    let bare = |key: String| FileRef { key, checksum: None };
    let mut files: Vec<FileRef> = vec![
        version.basis.file.clone(),
        version.moments.file.clone(),
        version.outputs.rejects.clone(),
        bare(keys::success(version.version)),
    ];
    files.extend(version.outputs.csv.clone());
    files.extend(findings(version).cloned());
    let labels = version.settings.labels.clone();
    files.extend(labels.map(|file| FileRef { key: keys::labels(&file), checksum: Some(file) }));
    files.extend(version.outputs.scores.iter().cloned());
    let parts = parts(output, version).await?;
    for shard in &shards {
        if version.released.is_some() {
            files.extend([keys::features(&shard.id), keys::moments(&shard.id), keys::shard(&shard.id)].map(bare));
        }
        files.extend(shard.features().filter(|_| version.released.is_none()));
        if delta::has(version) {
            files.extend(shard.features().map(|table| FileRef { key: keys::delta_part(&shard.id), ..table }));
        }
        files.extend(shard.record.clone().map(|sum| FileRef { key: keys::shard(&shard.id), checksum: Some(sum) }));
    }
    for group in &version.groups {
        files.push(FileRef { key: keys::group(&group.id), checksum: Some(group.record.clone()) });
        files.extend(group.sums());
    }
    files.extend(of_classifier(version)?);
    files.extend(index_files(version));
    if version.released.is_none() {
        files.push(bare(keys::extractor(&version.extractor.id)));
        files.extend(version.extractor.recipe().words.map(|words| bare(keys::vocabulary(&words))));
    }
    files.extend(features(version, &shards));
    files.extend(delta::commits(version).map(bare));
    files.extend(parts.into_iter().flat_map(|part| part.scores.into_iter().chain(part.predictions.map(|p| p.file))));
    // With one group, its sums are the total.
    files.sort_by(|a, b| a.key.cmp(&b.key));
    files.dedup_by(|a, b| a.key == b.key);
    Ok(files)
}

/// The predictions of a version, in key order, part by part; none without a classifier. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn predictions<'a>(
    output: &'a dyn Store,
    version: &Manifest,
) -> Result<impl Stream<Item = Result<Vec<PredictionRow>>> + use<'a>> {
    let files = parts(output, version).await?.into_iter().filter_map(|part| part.predictions).map(|part| part.file);
    let reads = files.map(move |file| async move {
        let body = file.read(output).await?;
        run_blocking(move || tables::read_predictions(body, &file.key)).await
    });
    Ok(stream::iter(reads.collect::<Vec<_>>()).buffered(TABLES))
}

/// The `count` most suspect rows of a version: those with the smallest probability of their label. Equal ones by key.
#[compiled_once]
pub async fn suspects(output: &dyn Store, version: &Manifest, count: usize) -> Result<Vec<PredictionRow>> {
    let mut suspects: Vec<PredictionRow> = Vec::new();
    let mut parts = pin!(predictions(output, version).await?);
    while let Some(rows) = parts.try_next().await? {
        keep_suspects(&mut suspects, rows, count);
    }
    Ok(suspects)
}

/// Adds the suspects of some rows to the `count` most suspect ones, which are sorted.
pub(crate) fn keep_suspects(to: &mut Vec<PredictionRow>, rows: Vec<PredictionRow>, count: usize) {
    let probability = |row: &PredictionRow| row.label_probability.unwrap_or(1.0);
    to.extend(rows.into_iter().filter(|row| row.suspect));
    to.sort_by(|a, b| probability(a).total_cmp(&probability(b)).then(a.path.cmp(&b.path)));
    to.truncate(count);
}

/// The classifier of a version; None without one. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn classifier(output: &dyn Store, version: &Manifest) -> Result<Option<Classifier>> {
    let Some(summary) = version.classifier.as_ref().and_then(Classification::fitted) else { return Ok(None) };
    summary.file.decode(output, version.extractor.columns, tables::read_classifier).await.map(Some)
}

/// The classifier of a version and the sums of classes that it was fitted to, as far as they are kept.
pub(crate) fn of_classifier(version: &Manifest) -> Result<Vec<FileRef>> {
    let Some(summary) = version.classifier.as_ref().and_then(Classification::fitted) else { return Ok(Vec::new()) };
    let rules = summary.rules.id()?;
    let sums = version.groups.iter().zip(&summary.sums).filter_map(|(group, sums)| Some((group, sums.clone()?)));
    let sums = sums.map(|(group, sums)| FileRef { key: keys::classes(&group.id, &rules), checksum: Some(sums) });
    Ok(sums.chain([summary.file.clone()]).collect())
}

/// The tables of duplicates and outliers of a version.
pub(crate) fn findings(version: &Manifest) -> impl Iterator<Item = &FileRef> {
    let duplicates = version.duplicates.iter().flat_map(|found| &found.files);
    duplicates.chain(version.outliers.iter().flat_map(|found| &found.files))
}

/// The files in the folder of a version's features.
pub(crate) fn features(version: &Manifest, shards: &[ShardEntry]) -> Vec<FileRef> {
    let Some(folder) = &version.outputs.features else { return Vec::new() };
    if let Some(list) = &folder.list {
        return vec![list.clone()];
    }
    let tables = shards.iter().filter_map(ShardEntry::features).zip(0..);
    tables.map(|(table, part)| FileRef { key: keys::features_part(version.version, part), ..table }).collect()
}

/// Links the tables of these shards again in the folders of all versions: a table that was written again is another file
/// than the one that the folders have.
pub(crate) async fn link_again(output: &dyn Store, records: &BTreeSet<String>) -> Result<()> {
    for version in commit::published(output).await? {
        let linked = version.outputs.features.as_ref().is_some_and(|folder| folder.list.is_none());
        let wanted = linked || delta::has(&version);
        let Some(shards) = (if wanted { shards(output, &version).await.ok() } else { None }) else { continue };
        if delta::has(&version) {
            delta::link(output, shards.iter().filter(|shard| records.contains(&keys::shard(&shard.id)))).await?;
        }
        if !linked {
            continue;
        }
        let tables = shards.iter().filter_map(|shard| Some((shard.features()?, keys::shard(&shard.id))));
        for ((table, record), part) in tables.zip(0..) {
            if records.contains(&record) {
                output.link(&table.key, &keys::features_part(version.version, part)).await?;
            }
        }
    }
    Ok(())
}

/// Keys of the files that belong to this version and to no other.
pub(crate) async fn files_of_version_only(output: &dyn Store, version: &Manifest) -> Result<Vec<String>> {
    let folder = format!("v={}", version.version);
    let files = files(output, version).await?;
    Ok(files.into_iter().map(|file| file.key).filter(|key| key.contains(&folder)).collect())
}

/// The list of a version's tables of features, as Hive's `SymlinkTextInputFormat` reads it: full locations, one per line.
pub(crate) fn symlinks(output: &dyn Store, tables: impl Iterator<Item = String>) -> bytes::Bytes {
    let place = output.place();
    let place = place.trim_end_matches('/');
    tables.map(|key| format!("{place}/{key}\n")).collect::<String>().into()
}
