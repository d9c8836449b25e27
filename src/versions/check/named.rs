//! The files that versions name, collected piece by piece.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Fault, Named, Survey, detail};
use crate::{
    ErrorKind, Result,
    dataset::{
        self, Checksum, FileRef, GroupEntry, GroupRecord, Manifest, PartList, ShardEntry, add_labels, contents, delta,
        from_record, keys,
    },
    ids::Version,
    store::Store,
};

/// Concurrent reads of records.
const CONCURRENCY: usize = 16;

/// Collects what the versions name, and reads the records of groups and the lists of parts.
pub(super) async fn collect(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let versions: Vec<Manifest> = survey.published().cloned().collect();
    for manifest in versions {
        if manifest.released.is_some() {
            let files = contents::files(output, &manifest).await?;
            files.into_iter().for_each(|file| survey.name(manifest.version, file.key, file.checksum, true));
            continue;
        }
        name_tables(survey, &manifest);
        read_groups(survey, output, &manifest).await?;
        read_lists(survey, output, &manifest).await?;
        name_groups(survey, &manifest);
        check_counts(survey, &manifest);
    }
    Ok(())
}

impl Survey {
    fn name(&mut self, version: Version, key: String, checksum: Option<Checksum>, released: bool) {
        let new = || Named { checksum: checksum.clone(), versions: BTreeSet::new(), released };
        let named = self.named.entry(key.clone()).or_insert_with(new);
        named.versions.insert(version);
        // A version of format 2 can name files of an older one only together with their checksums.
        named.released &= released;
        if named.checksum.is_none() {
            named.checksum.clone_from(&checksum);
        }
        if checksum.is_some() && named.checksum != checksum {
            self.report(&key, Fault::Wrong, "versions name it with different checksums", &[version]);
        }
    }

    fn name_file(&mut self, version: Version, file: &FileRef) {
        self.name(version, file.key.clone(), file.checksum.clone(), false);
    }
}

/// The files that a manifest names itself.
fn name_tables(survey: &mut Survey, manifest: &Manifest) {
    let (version, outputs) = (manifest.version, &manifest.outputs);
    for file in [&manifest.basis.file, &manifest.moments.file, &outputs.rejects]
        .into_iter()
        .chain(&outputs.csv)
        .chain(&outputs.scores)
        .chain(contents::findings(manifest))
        .chain(outputs.features.iter().filter_map(|folder| folder.list.as_ref()))
    {
        survey.name_file(version, file);
    }
    // Rules without an id are those of another release. The classifier is named by its own file then.
    for file in contents::of_classifier(manifest).unwrap_or_default() {
        survey.name_file(version, &file);
    }
    for file in dataset::index_files(manifest) {
        survey.name_file(version, &file);
    }
    if let Some(file) = &manifest.settings.labels {
        survey.name(version, keys::labels(file), Some(file.clone()), false);
    }
    survey.name(version, keys::success(version), None, false);
    survey.name(version, keys::extractor(&manifest.extractor.id), None, false);
    if let Some(words) = manifest.extractor.recipe().words {
        survey.name(version, keys::vocabulary(&words), None, false);
    }
    // A model that was on the computer of a run is not kept.
    if let Some(model) = manifest.extractor.recipe().model {
        let key = keys::model(&model.model_sha256);
        if survey.listed.contains_key(&key) {
            survey.name(version, key, None, false);
        }
    }
    for group in &manifest.groups {
        survey.name(version, keys::group(&group.id), Some(group.record.clone()), false);
        group.sums().iter().for_each(|sums| survey.name_file(version, sums));
    }
}

/// Reads records that are not read yet, and notes those that cannot be.
async fn read_all<T, K>(
    survey: &mut Survey,
    output: &dyn Store,
    wanted: Vec<(K, FileRef)>,
    decode: impl Fn(&Bytes, &str) -> Result<T>,
) -> Result<Vec<(K, T, Bytes)>> {
    let reads: Vec<_> = wanted
        .into_iter()
        .map(|(what, file)| async move {
            let read = file.read(output).await;
            (what, file.key, read)
        })
        .collect();
    let mut reads = stream::iter(reads).buffered(CONCURRENCY);
    let mut found = Vec::new();
    while let Some((what, key, read)) = reads.next().await {
        match read {
            Err(e) => survey.note(&key, e, Fault::Damaged)?,
            Ok(body) => match decode(&body, &key) {
                Err(e) => survey.note(&key, e, Fault::Wrong)?,
                Ok(record) => {
                    survey.sound.insert(key);
                    found.push((what, record, body));
                }
            },
        }
    }
    Ok(found)
}

async fn read_groups(survey: &mut Survey, output: &dyn Store, manifest: &Manifest) -> Result<()> {
    let wanted: Vec<(GroupEntry, FileRef)> = manifest
        .groups
        .iter()
        .map(|entry| (entry.clone(), survey.file(&keys::group(&entry.id))))
        .filter(|(_, file)| !survey.is_sound(&file.key) && !survey.problems.contains_key(&file.key))
        .collect();
    let read = read_all(survey, output, wanted, |body, key| contents::group_record(body, key)).await?;
    for (entry, record, body) in read {
        if GroupEntry::new(&record, &body) != entry {
            let key = keys::group(&entry.id);
            survey.report(&key, Fault::Wrong, "the manifest describes the group differently", &[manifest.version]);
        }
        survey.groups.insert(entry.id, Arc::new(record));
    }
    Ok(())
}

async fn read_lists(survey: &mut Survey, output: &dyn Store, manifest: &Manifest) -> Result<()> {
    let lists = (0u64..).zip(manifest.outputs.scores.iter().cloned()).collect();
    let read = read_all(survey, output, lists, |body, key| from_record::<PartList>(body, key)).await?;
    for (group, list, _) in read {
        if (list.version, list.group) == (manifest.version, group) {
            survey.lists.insert((manifest.version, group), list);
        } else {
            let key = keys::part_list(manifest.version, group);
            survey.report(&key, Fault::Wrong, "this is the list of another group or version", &[manifest.version]);
        }
    }
    Ok(())
}

/// The files of shards and of parts. The numbers of parts behind a damaged group come from the lists.
fn name_groups(survey: &mut Survey, manifest: &Manifest) {
    let version = manifest.version;
    let in_folder = manifest.outputs.features.as_ref().is_some_and(|folder| folder.list.is_none());
    let mut next = Some(0);
    for (entry, number) in manifest.groups.iter().zip(0..) {
        let record = survey.groups.get(&entry.id).cloned();
        let list = survey.lists.get(&(version, number)).cloned();
        let parts = list.as_ref().map(|list| list.parts.as_slice()).unwrap_or_default();
        let start = parts.first().map(|part| part.part).or(next);
        for part in parts {
            let predictions = part.predictions.iter().map(|predictions| &predictions.file);
            part.scores.iter().chain(predictions).for_each(|file| survey.name_file(version, file));
        }
        let shards = record.as_ref().map(|record| record.shards.as_slice()).unwrap_or_default();
        for shard in shards {
            shard.features().iter().for_each(|file| survey.name_file(version, file));
            if let Some(sum) = &shard.record {
                survey.name(version, keys::shard(&shard.id), Some(sum.clone()), false);
            }
            name_in_delta(survey, manifest, shard);
        }
        let tables: Vec<&ShardEntry> = shards.iter().filter(|shard| shard.rows > 0).collect();
        if let Some(start) = start.filter(|_| in_folder) {
            for (table, part) in tables.iter().zip(start..) {
                survey.name(version, keys::features_part(version, part), table.features.clone(), false);
            }
        }
        let count = if record.is_some() { Some(tables.len()) } else { list.as_ref().map(|list| list.parts.len()) };
        next = start.zip(count).map(|(start, count)| start + count as u64);
        if record.is_some() && list.is_some() && !same_shards(&tables, parts) {
            survey.report(
                &keys::part_list(version, number),
                Fault::Wrong,
                "its shards are not those of the group",
                &[version],
            );
        }
    }
}

/// The table of a shard in the Delta table. Delta's own VACUUM may have deleted those that the newest version does not have.
fn name_in_delta(survey: &mut Survey, manifest: &Manifest, shard: &ShardEntry) {
    let key = keys::delta_part(&shard.id);
    let newest = survey.published().next_back().is_some_and(|newest| newest.version == manifest.version);
    if delta::has(manifest) && shard.rows > 0 && (newest || survey.exists(&key)) {
        survey.name(manifest.version, key, shard.features.clone(), false);
    }
}

fn same_shards(tables: &[&ShardEntry], parts: &[crate::dataset::Part]) -> bool {
    tables.len() == parts.len()
        && tables.iter().zip(parts).all(|(table, part)| (&table.id, table.rows) == (&part.shard, part.rows))
}

/// Compares the numbers of a manifest with those of its groups.
fn check_counts(survey: &mut Survey, manifest: &Manifest) {
    let records: Option<Vec<Arc<GroupRecord>>> =
        manifest.groups.iter().map(|entry| survey.groups.get(&entry.id).cloned()).collect();
    let Some(records) = records else { return };
    let mut labels = Vec::new();
    records.iter().for_each(|record| add_labels(&mut labels, &record.labels));
    let images: u64 = records.iter().map(|record| record.rows).sum();
    let rejects: u64 = records.iter().map(|record| record.rejects.len() as u64).sum();
    let parts = manifest.outputs.scores.len();
    if (images, rejects, &labels, records.len()) != (manifest.images, manifest.rejects, &manifest.labels, parts) {
        let what = format!("its groups have {images} images and {rejects} rejects, or other labels");
        survey.report(&keys::version(manifest.version), Fault::Wrong, what, &[manifest.version]);
    }
    check_order(survey, manifest, &records);
}

/// The shards of a version must be in key order, without overlap.
fn check_order(survey: &mut Survey, manifest: &Manifest, records: &[Arc<GroupRecord>]) {
    let mut last: Option<String> = None;
    for record in records {
        for shard in &record.shards {
            if last.as_ref().is_some_and(|last| *last >= shard.first) || shard.first > shard.last {
                let what = format!("shard {} is not behind the shard before it", shard.id);
                survey.report(&keys::group(&record.id), Fault::Wrong, what, &[manifest.version]);
            }
            last = Some(shard.last.clone());
        }
    }
}

/// Whether an error says that a file is missing or damaged; its detail if so.
pub(super) fn damage(error: &crate::Error) -> Option<String> {
    error.is(ErrorKind::DatasetCorrupt).then(|| detail(error))
}
