//! The content of damaged files, made again from other files of the output.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Survey, copy_of, findings, numbers,
    scores::{make, predict, project, read_basis, read_classifier},
    states::Claim,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Checksum, Manifest, PartList, ShardEntry, ShardRecord, VersionState, add_labels, contents, keys,
        manifest::basis_id,
        record::{Hasher, damaged},
        registry,
        tables::{self, FeatureRows},
        to_record,
    },
    ids::{GroupId, ShardId},
    model::ExtractorRecord,
    pca::Basis,
    stages::{
        Makes, MergeWork, PartFiles, Plan, csv_header, group_sums, read_sums, remake_group, segment, sum_of_groups,
    },
    store::Store,
};

/// Makes the content of a file. None if it cannot be made from the output. Fails with `Dataset.Corrupt` if a file that is
/// needed is damaged too.
pub(super) async fn content(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(kind) = registry::kind_of(key) else { return Ok(None) };
    match *kind {
        registry::MARKER => dataset::commit::marker(is_old(survey)).map(Some),
        registry::VERSION => state(survey, key),
        registry::RUN_MANIFEST => match survey.published().find(|manifest| copy_of(manifest) == key) {
            Some(manifest) => dataset::get_file(output, &keys::version(manifest.version)).await.map(Some),
            None => Ok(None),
        },
        registry::CLAIM => claim(survey, key),
        registry::SHARD => shard_record(survey, output, key).await,
        registry::GROUP | registry::SUMS => group(survey, output, key).await,
        registry::TOTALS => totals(survey, output, key).await,
        registry::BASIS => basis(survey, output, key).await,
        registry::CLASSES => classes(survey, output, key).await,
        registry::INDEX => segment_of(survey, output, key).await,
        registry::CLASSIFIER => classifier(survey, output, key).await,
        registry::PREDICTIONS => predictions(survey, output, key).await,
        registry::PART | registry::LABEL_PART => part(survey, output, key).await,
        registry::PART_LIST => part_list(survey, output, key).await,
        registry::DUPLICATES | registry::OUTLIERS => found(survey, output, key).await,
        registry::REJECTS | registry::RUN_REJECTS => rejects(survey, key),
        registry::SYMLINKS => symlinks(survey, output, key),
        registry::EXTRACTOR => extractor(survey, key),
        registry::DELTA_COMMIT => Ok(super::delta::log(survey)?.and_then(|log| log.get(key).cloned())),
        registry::SUCCESS => Ok(Some(Bytes::new())),
        _ => Ok(None),
    }
}

/// Whether no run has written to the output since it had format 1.
fn is_old(survey: &Survey) -> bool {
    survey.published().next().is_some() && survey.published().all(|manifest| manifest.released.is_some())
}

/// The first version that names a file.
fn owner<'a>(survey: &'a Survey, key: &str) -> Option<&'a Manifest> {
    let named = survey.named.get(key)?;
    survey.published().find(|manifest| named.versions.contains(&manifest.version) && manifest.released.is_none())
}

/// The record of a version number: the copy of its manifest, or what its neighbours say.
fn state(survey: &Survey, key: &str) -> Result<Option<Bytes>> {
    let Some((number, _)) = keys::parse_version(key) else { return Ok(None) };
    let Some(known) = survey.versions.get(&number) else { return Ok(None) };
    match (&known.copy, &known.state) {
        (Some(copy), _) => Ok(Some(copy.clone())),
        (None, Some(state @ VersionState::Abandoned { .. })) => to_record(state).map(Some),
        // A vacuum removes the copy and the tables, and keeps the number.
        (None, None) if !has_tables(survey, number) => to_record(&VersionState::Removed { version: number }).map(Some),
        _ => Ok(None),
    }
}

fn has_tables(survey: &Survey, number: crate::ids::Version) -> bool {
    let folder = format!("v={number}");
    survey.listed.keys().any(|key| key.split(['/', '.']).any(|part| part == folder))
}

fn claim(survey: &Survey, key: &str) -> Result<Option<Bytes>> {
    let Some((version, _)) = keys::parse_version(key) else { return Ok(None) };
    match survey.versions.get(&version).and_then(|known| known.state.as_ref()) {
        Some(VersionState::Published(manifest)) if manifest.released.is_none() => {
            to_record(&Claim { version, run: manifest.run.clone() }).map(Some)
        }
        _ => Ok(None),
    }
}

/// The entry of a shard, and the rejects of its group.
fn entry_of<'a>(survey: &'a Survey, id: &ShardId) -> Option<(&'a ShardEntry, &'a [dataset::RejectedObject])> {
    survey.groups.values().find_map(|record| {
        let entry = record.shards.iter().find(|shard| shard.id == *id)?;
        Some((entry, record.rejects.as_slice()))
    })
}

/// The record of a shard, from its features and its group.
async fn shard_record(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let Some((entry, rejects)) = keys::parse_shard(key).and_then(|id| entry_of(survey, &id)) else { return Ok(None) };
    let mut labels = Vec::new();
    if let Some(file) = entry.features() {
        let rows = tables::read_features(file.read(output).await?, &manifest.extractor, &file.key)?;
        for label in rows.labels {
            add_labels(&mut labels, &[dataset::LabelCount { label, images: 1 }]);
        }
    }
    let inside = |path: &str| path >= entry.first.as_str() && path <= entry.last.as_str();
    let record = ShardRecord {
        id: entry.id.clone(),
        extractor: manifest.extractor.id.clone(),
        rows: entry.rows,
        first: entry.first.clone(),
        last: entry.last.clone(),
        labels,
        rejects: rejects.iter().filter(|reject| inside(&reject.path)).cloned().collect(),
        features: entry.features.clone(),
    };
    to_record(&record).map(Some)
}

/// The record or the sums of a group: as the run of one of its versions made them.
async fn group(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let is_sums = registry::SUMS.parse(key).is_some();
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let wanted = |id: &GroupId| if is_sums { keys::sums(id) == key } else { keys::group(id) == key };
    if let Some(record) = survey.groups.values().find(|record| is_sums && wanted(&record.id)) {
        return group_sums(output, &manifest.extractor, record).await.map(Some);
    }
    let mut outcome = Ok(None);
    for manifest in survey.manifests() {
        let Some(number) = manifest.groups.iter().position(|group| wanted(&group.id)) else { continue };
        let made = async {
            let plan = Plan::read(output, &manifest.run).await?;
            let Some(planned) = plan.groups.get(number) else { return Ok::<_, Error>(None) };
            let work = MergeWork {
                run: plan.run.clone(),
                group: number as u64,
                shards: planned.list.clone(),
                base: None,
                base_segment: None,
                extractor: plan.extractor.clone(),
                compression: plan.settings.compression(),
                classes: None,
                makes: Makes::Sums,
                labels: plan.settings.label_rules(),
            };
            let files = remake_group(output, &work).await?;
            Ok(if is_sums { files.sums } else { Some(files.record) })
        };
        match made.await {
            Ok(Some(body)) if fits(survey, key, &body) => return Ok(Some(body)),
            Err(e) if !e.is(ErrorKind::DatasetCorrupt) && !e.is(ErrorKind::StoreNotFound) => return Err(e),
            other => outcome = other,
        }
    }
    outcome
}

/// Whether this is the content that the versions name.
pub(super) fn fits(survey: &Survey, key: &str, body: &[u8]) -> bool {
    let named = survey.named.get(key).and_then(|named| named.checksum.as_ref());
    named.is_none_or(|checksum| *checksum == Checksum::of(body))
}

/// Total sums, from those of the groups.
async fn totals(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let totals = sum_of_groups(output, &manifest.groups, manifest.extractor.columns).await?;
    tables::write_total_sums(&totals, manifest.extractor.id.as_str()).map(Some)
}

/// A basis, fitted again to the sums of a version whose run has fitted it.
async fn basis(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    for manifest in survey.manifests().iter().filter(|manifest| manifest.basis.file.key == key) {
        if basis_id(&manifest.extractor.id, &manifest.settings, &manifest.moments.id)? == manifest.basis.id {
            let totals = read_sums(output, &manifest.moments.file, manifest.extractor.columns).await?;
            return numbers::fit(manifest, totals).await.map(Some);
        }
    }
    Ok(None)
}

/// The sums of classes of a group.
async fn classes(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let Some(record) = keys::parse_classes(key).and_then(|id| survey.groups.get(&id)) else { return Ok(None) };
    let Some(summary) = manifest.classifier.as_ref().and_then(dataset::Classification::fitted) else { return Ok(None) };
    numbers::classes(output, manifest, &summary.rules, record).await.map(Some)
}

/// A segment of the search index.
async fn segment_of(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let Some(record) = keys::parse_index(key).and_then(|id| survey.groups.get(&id)) else { return Ok(None) };
    segment(output, &manifest.extractor, record).await
}

/// A classifier, fitted again to a version whose run has fitted it.
async fn classifier(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let named = |manifest: &&Manifest| contents::of_classifier(manifest).is_ok_and(|f| f.iter().any(|f| f.key == key));
    for manifest in survey.manifests().iter().filter(named) {
        if let Some(body) = numbers::classifier(survey, output, manifest).await?
            && fits(survey, key, &body)
        {
            return Ok(Some(body));
        }
    }
    Ok(None)
}

async fn predictions(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let Some(tables) = tables_of(survey, manifest) else { return Ok(None) };
    let Some(number) = keys::parse_predictions(manifest.version, key) else { return Ok(None) };
    let shards: Vec<ShardEntry> = tables.into_iter().flatten().collect();
    let Some(shard) = usize::try_from(number).ok().and_then(|number| shards.get(number)) else { return Ok(None) };
    let Some(classifier) = read_classifier(output, manifest).await? else { return Ok(None) };
    let rows = Arc::new(rows(output, manifest, shard).await?);
    Ok(predict(manifest, number, rows, classifier).await?.map(|(_, body)| body))
}

/// The shards with rows of a version, by group. None if a group cannot be read.
pub(super) fn tables_of(survey: &Survey, manifest: &Manifest) -> Option<Vec<Vec<ShardEntry>>> {
    let shards = |group: &dataset::GroupEntry| {
        let record = survey.groups.get(&group.id)?;
        Some(record.shards.iter().filter(|shard| shard.rows > 0).cloned().collect())
    };
    manifest.groups.iter().map(shards).collect()
}

/// Projects a shard.
async fn made(
    output: &dyn Store,
    manifest: &Manifest,
    basis: &Arc<Basis>,
    shard: &ShardEntry,
    part: u64,
) -> Result<PartFiles> {
    let rows = rows(output, manifest, shard).await?;
    let scores = project(Arc::new(rows), Arc::clone(basis)).await?;
    make(manifest, shard, part, Arc::new(scores)).await
}

/// The features of a shard that has rows.
async fn rows(output: &dyn Store, manifest: &Manifest, shard: &ShardEntry) -> Result<FeatureRows> {
    let Some(file) = shard.features() else {
        return Err(Error::new(ErrorKind::InternalBug, "a shard without rows has no part"));
    };
    contents::feature_rows(output, &manifest.extractor, &file).await
}

async fn part(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let Some(tables) = tables_of(survey, manifest) else { return Ok(None) };
    let Some((_, number)) = keys::parse_part(manifest.version, key) else { return Ok(None) };
    let shards: Vec<ShardEntry> = tables.into_iter().flatten().collect();
    let Some(shard) = usize::try_from(number).ok().and_then(|number| shards.get(number)) else { return Ok(None) };
    let basis = Arc::new(read_basis(output, manifest).await?);
    let made = made(output, manifest, &basis, shard, number).await?;
    Ok(made.scores.into_iter().find(|(name, _)| name == key).map(|(_, body)| body))
}

async fn part_list(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let Some(tables) = tables_of(survey, manifest) else { return Ok(None) };
    let named = |group: &u64| keys::part_list(manifest.version, *group) == key;
    let Some(group) = (0..tables.len() as u64).find(named) else { return Ok(None) };
    let basis = Arc::new(read_basis(output, manifest).await?);
    let classifier = read_classifier(output, manifest).await?;
    let mut list = PartList { version: manifest.version, group, parts: Vec::new() };
    let mut number = 0;
    for (shards, of) in tables.iter().zip(0..) {
        for shard in shards {
            if of == group {
                let mut files = made(output, manifest, &basis, shard, number).await?;
                if let Some(classifier) = &classifier {
                    let rows = Arc::new(rows(output, manifest, shard).await?);
                    files.predictions = predict(manifest, number, rows, Arc::clone(classifier)).await?;
                }
                list.parts.push(files.part(number, shard.id.clone(), shard.rows));
            }
            number += 1;
        }
    }
    to_record(&list).map(Some)
}

/// A file of duplicates or outliers.
async fn found(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let files = if registry::DUPLICATES.parse(key).is_some() {
        findings::duplicates(output, manifest).await?
    } else {
        findings::outliers(output, manifest).await?
    };
    Ok(files.into_iter().find(|(name, _)| name == key).map(|(_, body)| body))
}

fn rejects(survey: &Survey, key: &str) -> Result<Option<Bytes>> {
    owner(survey, key).map_or(Ok(None), |manifest| numbers::rejects(survey, manifest))
}

fn symlinks(survey: &Survey, output: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    let tables = tables_of(survey, manifest).unwrap_or_default();
    let keys = tables.into_iter().flatten().map(|shard| keys::features(&shard.id));
    Ok(Some(contents::symlinks(output, keys)))
}

/// The record of an extractor, with the time per image of the first version that has it.
fn extractor(survey: &Survey, key: &str) -> Result<Option<Bytes>> {
    let Some(manifest) = owner(survey, key) else { return Ok(None) };
    to_record(&ExtractorRecord::new(&manifest.extractor, manifest.figures.milliseconds_per_image())).map(Some)
}

/// Writes the CSV of a version again. Fails with `Dataset.Corrupt`, and writes nothing, if it does not get the content that
/// the version names.
pub(super) async fn csv(survey: &Survey, output: &dyn Store, key: &str) -> Result<bool> {
    let Some((manifest, wanted)) = owner(survey, key).zip(survey.named.get(key)) else { return Ok(false) };
    let Some(tables) = tables_of(survey, manifest) else { return Ok(false) };
    let basis = Arc::new(read_basis(output, manifest).await?);
    let shards = stream::iter(tables.into_iter().flatten().zip(0..));
    let rows = shards.then(|(shard, part)| {
        let basis = Arc::clone(&basis);
        async move {
            let files = made(output, manifest, &basis, &shard, part).await?;
            Ok(files.csv.map(|(_, rows)| rows).unwrap_or_default())
        }
    });
    let written = Mutex::new(Hasher::default());
    let lock = || written.lock().unwrap_or_else(PoisonError::into_inner);
    let header = csv_header(manifest.basis.components);
    let body = stream::once(async { Ok::<_, Error>(header) }).chain(rows).inspect_ok(|piece| {
        lock().push(piece);
    });
    let end = stream::once(async {
        if wanted.checksum == Some(lock().clone().finish()) {
            return Ok(Bytes::new());
        }
        Err(damaged("what is made again has another content than the file on record", key))
    });
    output.put_stream(key, pin!(body.chain(end)).boxed()).await.map(|()| true)
}
