//! Numbers against each other: ids, sums, totals and bases, computed again from the features.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, stream};

use super::{Fault, Survey, findings, index, scores::Scores};
use crate::{
    Error, Result,
    dataset::{
        Checksum, Classification, FileRef, GroupEntry, GroupRecord, Manifest, Part, ShardEntry,
        blocking::run_blocking,
        keys,
        labelling::Labels,
        manifest::{basis_id, moments_id},
        shard::ShardHasher,
        tables::{self, Compression, FeatureRows},
        training::TrainingRules,
    },
    ids::{GroupId, ShardId, Version},
    model::ExtractorInfo,
    pca::{
        self,
        moments::{ShardMoments, TotalMoments},
    },
    pipeline::Watcher,
    stages::{ClassGroup, KnownSums, WriteSums, encode_classifier, fit_classifier, moments_of, sums_of_shards},
    store::Store,
};

/// Shards that are in memory at a time.
const SHARDS_AT_A_TIME: usize = 2;

/// A shard and what uses it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) entry: ShardEntry,
    file: FileRef,
    extractor: ExtractorInfo,
    compression: Compression,
    groups: Vec<GroupId>,
    pub(super) parts: Vec<(Version, Part)>,
}

/// All shards with rows, in the order of their first keys, which is that of every version.
pub(super) fn shards(survey: &mut Survey) -> Vec<Shard> {
    let mut shards: BTreeMap<(String, ShardId), Shard> = BTreeMap::new();
    for manifest in survey.manifests() {
        for (entry, number) in manifest.groups.iter().zip(0..) {
            let Some(record) = survey.groups.get(&entry.id) else { continue };
            let list = survey.lists.get(&(manifest.version, number));
            let parts: HashMap<&ShardId, &Part> =
                list.into_iter().flat_map(|list| &list.parts).map(|part| (&part.shard, part)).collect();
            for shard in &record.shards {
                let Some(file) = shard.features() else { continue };
                let found = shards.entry((shard.first.clone(), shard.id.clone())).or_insert_with(|| Shard {
                    entry: shard.clone(),
                    file,
                    extractor: manifest.extractor.clone(),
                    compression: manifest.settings.compression(),
                    groups: Vec::new(),
                    parts: Vec::new(),
                });
                if !found.groups.contains(&entry.id) {
                    found.groups.push(entry.id.clone());
                }
                found.parts.extend(parts.get(&shard.id).map(|part| (manifest.version, (*part).clone())));
            }
        }
    }
    shards.into_values().collect()
}

/// Reads the features of all shards and compares what is computed from them.
pub(super) async fn check(
    survey: &mut Survey,
    output: &dyn Store,
    shards: Vec<Shard>,
    watcher: &dyn Watcher,
) -> Result<()> {
    let mut sums = Sums::new(&shards);
    let mut scores = Scores::open(survey, output).await?;
    let reads: Vec<_> = shards.into_iter().map(|shard| read(output, shard)).collect();
    let mut reads = stream::iter(reads).buffered(SHARDS_AT_A_TIME);
    while let Some((shard, read)) = reads.next().await {
        watcher.part_done();
        match read {
            Ok(table) => {
                survey.sound.insert(shard.file.key.clone());
                compare(survey, &shard, &table.rows);
                sums.add(survey, output, &shard, Some(&table.moments)).await?;
                scores.add(survey, output, &shard, Some(table.rows)).await?;
            }
            Err((fault, e)) => {
                survey.note(&shard.file.key, e, fault)?;
                sums.add(survey, output, &shard, None).await?;
                scores.add(survey, output, &shard, None).await?;
            }
        }
    }
    scores.finish(survey);
    findings::check(survey, output).await?;
    index::check(survey, output).await?;
    check_totals(survey, output).await
}

/// The features of a shard and their sums.
struct Table {
    rows: FeatureRows,
    moments: ShardMoments,
}

async fn read(output: &dyn Store, shard: Shard) -> (Shard, std::result::Result<Table, (Fault, Error)>) {
    let body = match shard.file.read(output).await {
        Ok(body) => body,
        Err(e) => return (shard, Err((Fault::Damaged, e))),
    };
    let (key, extractor) = (shard.file.key.clone(), shard.extractor.clone());
    let decoded = run_blocking(move || {
        let rows = tables::read_features(body, &extractor, &key)?;
        let moments = moments_of(&rows.features, &extractor)?;
        Ok(Table { rows, moments })
    });
    let decoded = decoded.await.map_err(|e| (Fault::Wrong, e));
    (shard, decoded)
}

/// Compares the rows of a shard with its entry, and their hash with its id.
fn compare(survey: &mut Survey, shard: &Shard, rows: &FeatureRows) {
    let entry = &shard.entry;
    let (first, last) = (rows.paths.first(), rows.paths.last());
    let inside = first.is_some_and(|path| *path >= entry.first) && last.is_some_and(|path| *path <= entry.last);
    let mut wrong = |what: &str| survey.report(&shard.file.key, Fault::Wrong, what, &[]);
    if rows.len() as u64 != entry.rows || !inside {
        wrong("its rows are not those that the record of the group describes");
        return;
    }
    if entry.rejects > 0 {
        // The etags of rejects are not stored.
        return;
    }
    let mut hasher = ShardHasher::new(&shard.extractor.id, shard.compression);
    for (i, (path, etag)) in rows.paths.iter().zip(&rows.etags).enumerate() {
        let [label, split] = [&rows.labels, &rows.splits].map(|column| column.get(i).and_then(Option::as_deref));
        hasher.push(path, etag, Labels { label, split });
    }
    if hasher.finish() != entry.id || first != Some(&entry.first) || last != Some(&entry.last) {
        wrong("its paths and etags do not have the hash that is its id");
    }
}

/// Sums of groups whose shards are being read.
struct Sums {
    /// Shards that are still to be read.
    left: HashMap<GroupId, usize>,
    /// None if a shard cannot be read.
    open: HashMap<GroupId, Option<TotalMoments>>,
}

impl Sums {
    fn new(shards: &[Shard]) -> Self {
        let mut left = HashMap::new();
        for group in shards.iter().flat_map(|shard| &shard.groups) {
            *left.entry(group.clone()).or_default() += 1;
        }
        Sums { left, open: HashMap::new() }
    }

    /// Adds a shard to its groups, and compares those that are complete.
    async fn add(
        &mut self,
        survey: &mut Survey,
        output: &dyn Store,
        shard: &Shard,
        moments: Option<&ShardMoments>,
    ) -> Result<()> {
        for group in &shard.groups {
            let zero = || Some(TotalMoments::zero(shard.extractor.columns));
            let open = self.open.entry(group.clone()).or_insert_with(zero);
            match (open.as_mut(), moments) {
                (Some(totals), Some(moments)) => totals.add(moments)?,
                _ => *open = None,
            }
            let left = self.left.entry(group.clone()).or_insert(1);
            *left -= 1;
            if *left == 0
                && let Some(Some(totals)) = self.open.remove(group)
            {
                compare_sums(survey, output, group, totals).await?;
            }
        }
        Ok(())
    }
}

async fn compare_sums(survey: &mut Survey, output: &dyn Store, group: &GroupId, totals: TotalMoments) -> Result<()> {
    let key = keys::sums(group);
    if let Some(found) = read_sums(survey, output, &key, totals.columns()).await?
        && found != totals
    {
        survey.report(&key, Fault::Wrong, "these are not the sums of the features of its shards", &[]);
    }
    Ok(())
}

/// Reads a file of sums. None if it cannot be read; that is noted.
async fn read_sums(survey: &mut Survey, output: &dyn Store, key: &str, columns: usize) -> Result<Option<TotalMoments>> {
    if survey.problems.contains_key(key) {
        return Ok(None);
    }
    match survey.file(key).decode(output, columns, tables::read_sums).await {
        Ok(sums) => Ok(Some(sums)),
        Err(e) => survey.note(key, e, Fault::Wrong).map(|()| None),
    }
}

/// Compares totals, bases and rejects of all versions.
async fn check_totals(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let (mut bases, mut added) = (HashSet::new(), HashSet::new());
    for manifest in survey.manifests() {
        check_rejects(survey, output, &manifest).await?;
        let (key, columns) = (&manifest.moments.file.key, manifest.extractor.columns);
        let Some(totals) = read_sums(survey, output, key, columns).await? else { continue };
        if moments_id(&totals) != manifest.moments.id || totals.rows() != manifest.images {
            survey.report(key, Fault::Wrong, "its sums do not have the hash that is its id", &[manifest.version]);
            continue;
        }
        let groups: Vec<GroupId> = manifest.groups.iter().map(|group| group.id.clone()).collect();
        if added.insert((key.clone(), groups))
            && let Some(sum) = sum_of_groups(survey, output, &manifest).await?
            && sum != totals
        {
            survey.report(key, Fault::Wrong, "these are not the sums of the groups", &[manifest.version]);
            continue;
        }
        let fitted = basis_id(&manifest.extractor.id, &manifest.settings, &manifest.moments.id)?;
        // A basis that a run has kept was fitted to the sums of an older version.
        if fitted != manifest.basis.id {
            continue;
        }
        if bases.insert(fitted) {
            check_basis(survey, output, &manifest, totals).await?;
        }
        // A run that keeps the basis keeps the classifier.
        check_classifier(survey, output, &manifest).await?;
    }
    Ok(())
}

/// The sums of all groups; None if one cannot be read.
async fn sum_of_groups(survey: &mut Survey, output: &dyn Store, manifest: &Manifest) -> Result<Option<TotalMoments>> {
    let mut sum = TotalMoments::zero(manifest.extractor.columns);
    for file in manifest.groups.iter().filter_map(|group| group.sums()) {
        match read_sums(survey, output, &file.key, manifest.extractor.columns).await? {
            Some(sums) => sum.add(&sums)?,
            None => return Ok(None),
        }
    }
    Ok(Some(sum))
}

/// Fits a basis again. A release whose tables have other bytes gives the same numbers.
async fn check_basis(survey: &mut Survey, output: &dyn Store, manifest: &Manifest, totals: TotalMoments) -> Result<()> {
    let key = manifest.basis.file.key.clone();
    if survey.problems.contains_key(&key) {
        return Ok(());
    }
    let found = match manifest.basis.file.read(output).await {
        Ok(found) => found,
        Err(e) => return survey.note(&key, e, Fault::Damaged),
    };
    let fitted = fit(manifest, totals).await?;
    let (columns, name) = (manifest.extractor.columns, key.clone());
    let same = run_blocking(move || {
        Ok(found == fitted || tables::read_basis(found, columns, &name)? == tables::read_basis(fitted, columns, &name)?)
    });
    match same.await {
        Ok(true) => Ok(()),
        Ok(false) => {
            survey.report(&key, Fault::Wrong, "this is not the basis of the sums", &[manifest.version]);
            Ok(())
        }
        Err(e) => survey.note(&key, e, Fault::Wrong),
    }
}

/// Fits a classifier again, and compares the sums of classes that were kept. A release whose tables have other bytes gives
/// the same numbers.
async fn check_classifier(survey: &mut Survey, output: &dyn Store, manifest: &Manifest) -> Result<()> {
    let Some(summary) = manifest.classifier.as_ref().and_then(Classification::fitted) else { return Ok(()) };
    let (columns, key) = (manifest.extractor.columns, summary.file.key.clone());
    for (entry, kept) in manifest.groups.iter().zip(&summary.sums) {
        let name = keys::classes(&entry.id, &summary.rules.id()?);
        let (Some(checksum), Some(record)) = (kept, survey.groups.get(&entry.id).cloned()) else { continue };
        if survey.problems.contains_key(&name) || record.shards.iter().any(|shard| !survey.is_whole(shard)) {
            continue;
        }
        let body = classes(output, manifest, &summary.rules, &record).await?;
        if Checksum::of(&body) == *checksum {
            continue;
        }
        let found = match survey.file(&name).read(output).await {
            Ok(found) => tables::read_classes(found, columns, &name),
            Err(e) => Err(e),
        };
        match found {
            Ok(found) if found == tables::read_classes(body, columns, &name)? => {}
            Ok(_) => survey.report(&name, Fault::Wrong, "these are not the sums of the features of its shards", &[]),
            Err(e) => survey.note(&name, e, Fault::Wrong)?,
        }
    }
    if survey.problems.contains_key(&key) {
        return Ok(());
    }
    let Some(fitted) = classifier(survey, output, manifest).await? else { return Ok(()) };
    let found = match summary.file.read(output).await {
        Ok(found) if found == fitted => return Ok(()),
        Ok(found) => tables::read_classifier(found, columns, &key),
        Err(e) => Err(e),
    };
    match found {
        Ok(found) if found == tables::read_classifier(fitted, columns, &key)? => Ok(()),
        Ok(_) => {
            survey.report(&key, Fault::Wrong, "this is not the classifier of the features", &[manifest.version]);
            Ok(())
        }
        Err(e) => survey.note(&key, e, Fault::Wrong),
    }
}

/// The file of the sums of classes of a group, from its features.
pub(super) async fn classes(
    output: &dyn Store,
    manifest: &Manifest,
    rules: &TrainingRules,
    record: &GroupRecord,
) -> Result<bytes::Bytes> {
    let sums = sums_of_shards(output, &manifest.extractor, rules, record.shards.iter()).await?;
    let id = manifest.extractor.id.clone();
    run_blocking(move || tables::write_classes(&sums, id.as_str())).await
}

/// The file of the classifier that is fitted to a version. None if a group or a table is not known, or if there is none.
pub(super) async fn classifier(
    survey: &Survey,
    output: &dyn Store,
    manifest: &Manifest,
) -> Result<Option<bytes::Bytes>> {
    let Some(summary) = manifest.classifier.as_ref().and_then(Classification::fitted) else { return Ok(None) };
    let rules = summary.rules.id()?;
    let records: Option<Vec<_>> = manifest.groups.iter().map(|entry| survey.groups.get(&entry.id).cloned()).collect();
    let Some(records) = records else { return Ok(None) };
    if records.iter().flat_map(|record| &record.shards).any(|shard| !survey.is_whole(shard)) {
        return Ok(None);
    }
    let sound = |entry: &GroupEntry| !survey.problems.contains_key(&keys::classes(&entry.id, &rules));
    let groups = manifest.groups.iter().zip(&records).zip(&summary.sums);
    let groups: Vec<ClassGroup<'_>> = groups
        .map(|((entry, record), kept)| ClassGroup { entry, record, kept: kept.clone().filter(|_| sound(entry)) })
        .collect();
    let fitted = fit_classifier(
        output,
        &manifest.extractor,
        &manifest.settings,
        &groups,
        (KnownSums::default(), || ()),
        WriteSums::Nothing,
    )
    .await?;
    let Ok(fitted) = fitted else { return Ok(None) };
    encode_classifier(&manifest.extractor, &summary.rules, fitted.classifier).await.map(|made| Some(made.file))
}

impl Survey {
    /// Whether the table of a shard is not damaged.
    pub(super) fn is_whole(&self, shard: &ShardEntry) -> bool {
        shard.features().is_none_or(|file| !self.problems.contains_key(&file.key))
    }
}

/// The file of the basis that is fitted to these sums.
pub(super) async fn fit(manifest: &Manifest, totals: TotalMoments) -> Result<bytes::Bytes> {
    let (extractor, settings, id) = (manifest.extractor.clone(), manifest.settings.clone(), manifest.basis.id.clone());
    run_blocking(move || {
        let basis = pca::fit(&totals, extractor.feature_range.per_unit(), settings.scaling(), settings.pca)?;
        tables::write_basis(&basis, extractor.id.as_str(), id.as_str())
    })
    .await
}

/// Compares the table of rejects with the records of the groups.
async fn check_rejects(survey: &mut Survey, output: &dyn Store, manifest: &Manifest) -> Result<()> {
    let file = &manifest.outputs.rejects;
    let Some(table) = rejects(survey, manifest)? else { return Ok(()) };
    if survey.problems.contains_key(&file.key) || file.checksum == Some(Checksum::of(&table)) {
        return Ok(());
    }
    let found = match file.read(output).await {
        Ok(found) => tables::read_rejects(found, &file.key),
        Err(e) => Err(e),
    };
    match found {
        Ok(found) if found == tables::read_rejects(table, &file.key)? => Ok(()),
        Ok(_) => {
            survey.report(&file.key, Fault::Wrong, "these are not the rejects of the groups", &[manifest.version]);
            Ok(())
        }
        Err(e) => survey.note(&file.key, e, Fault::Wrong),
    }
}

/// The table of rejects of a version; None if a group cannot be read.
pub(super) fn rejects(survey: &Survey, manifest: &Manifest) -> Result<Option<bytes::Bytes>> {
    let records: Option<Vec<_>> = manifest.groups.iter().map(|entry| survey.groups.get(&entry.id)).collect();
    let Some(records) = records else { return Ok(None) };
    let rejects: Vec<_> = records.iter().flat_map(|record| record.rejects.iter().cloned()).collect();
    tables::write_rejects(&rejects, manifest.extractor.id.as_str()).map(Some)
}
