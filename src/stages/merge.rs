//! The record and the exact sums of a group of shards.
//!
//! Reads the group's lines of `runs/<run>/shards-*.jsonl`, `featurized/`, the records of the shards, and features: those of
//! all shards, or those that distinguish the group from one of the base version, whichever are fewer. Writes
//! `groups/<id>/` and `runs/<run>/merged/<group>.json`.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Featurized, MergeWork, Merged, PlannedShard, STORE_CONCURRENCY, Stores, featurize::moments_of, records::featurized,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, Checksum, FileRef, GroupEntry, GroupRecord, RejectedObject, RunFigures, ShardEntry, ShardRecord,
        blocking::run_blocking,
        contents, keys,
        labelling::Labelling,
        shard::{ShardHasher, group_id},
        tables,
        timing::Timer,
    },
    ids::ShardId,
    image::{Reason, Reject},
    model::ExtractorInfo,
    pca::moments::TotalMoments,
    store::{self, Object, Store},
};

/// Tables of features that are read at a time.
const READ_AT_A_TIME: usize = 3;
/// Rows of features that are as large as the sums of a group.
const ROWS_OF_SUMS: u64 = 1_300;

/// Sums of shards of a group that were added while their features were in memory.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) shards: HashSet<ShardId>,
    pub(crate) sums: TotalMoments,
}

/// Finishes one group of shards: writes its record and its sums.
///
/// The objects of shards that failed within the tolerance of the map become rejects. Fails with `Dataset.Corrupt` if a file
/// of one of its shards is damaged.
pub async fn merge(stores: &Stores, work: MergeWork) -> Result<Merged> {
    merge_with(stores, work, None).await
}

/// [`merge`] with sums of some of the shards.
pub(crate) async fn merge_with(stores: &Stores, work: MergeWork, known: Option<Known>) -> Result<Merged> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let shards = read_shards(output, &work).await?;
    let mut record = record(&work, &shards);
    let entry = match finished(output, &record).await? {
        Some(entry) => entry,
        None => {
            if record.rows > 0 {
                let sums = sums(output, &work, &record, known.as_ref()).await?;
                let id = work.extractor.id.clone();
                let file = run_blocking(move || tables::write_group_sums(&sums, id.as_str())).await?;
                record.sums = Some(Checksum::of(&file));
                output.put(&keys::sums(&record.id), file).await?;
            }
            let file = dataset::to_record(&record)?;
            let entry = GroupEntry::new(&record, &file);
            output.put(&keys::group(&record.id), file).await?;
            entry
        }
    };
    let classes = match &work.classes {
        Some(classes) => super::classes::finish(output, &work.extractor, classes, &record, work.base.as_ref()).await?,
        None => None,
    };
    let made = shards.iter().filter_map(|shard| shard.made.as_ref());
    let merged = Merged {
        run: work.run.clone(),
        group: work.group,
        entry,
        classes,
        computed: made.clone().map(|made| made.shard.clone()).collect(),
        base_is_unknown: made.clone().any(|made| made.base_is_unknown),
        figures: figures(made, &shards),
        timing: timer.read(),
    };
    output.put(&keys::merge_record(&work.run, work.group), dataset::to_record(&merged)?).await?;
    Ok(merged)
}

/// The files of a group.
pub(crate) struct GroupFiles {
    pub(crate) record: Bytes,
    /// None without rows.
    pub(crate) sums: Option<Bytes>,
}

/// Makes the files of a group again as [`merge`] made them, without writing them. Fails with `Dataset.Corrupt` if a file of
/// the run or of a shard is damaged.
pub(crate) async fn remake_group(output: &dyn Store, work: &MergeWork) -> Result<GroupFiles> {
    let mut record = record(work, &read_shards(output, work).await?);
    let sums = if record.rows > 0 { Some(group_sums(output, &work.extractor, &record).await?) } else { None };
    record.sums = sums.as_ref().map(|sums| Checksum::of(sums));
    Ok(GroupFiles { record: dataset::to_record(&record)?, sums })
}

/// Computes the file of a group's sums from the features of its shards. Fails with `Dataset.Corrupt`.
pub(crate) async fn group_sums(output: &dyn Store, extractor: &ExtractorInfo, record: &GroupRecord) -> Result<Bytes> {
    let mut totals = TotalMoments::zero(extractor.columns);
    add(output, extractor, &mut totals, record.shards.iter()).await?;
    let (totals, id) = (check_rows(totals, record.rows)?, extractor.id.clone());
    run_blocking(move || tables::write_group_sums(&totals, id.as_str())).await
}

/// A shard of the group, and the work on it in this run.
struct Shard {
    record: ShardRecord,
    /// The file of the record. None if the function that worked on the shard failed.
    file: Option<Checksum>,
    made: Option<Featurized>,
}

/// Reads the records of the group's shards, in key order.
async fn read_shards(output: &dyn Store, work: &MergeWork) -> Result<Vec<Shard>> {
    let planned: Vec<PlannedShard> = work.shards.read(output).await?;
    let reads: Vec<_> = planned.iter().map(|shard| read_shard(output, work, shard)).collect();
    stream::iter(reads).buffered(STORE_CONCURRENCY).try_collect().await
}

async fn read_shard(output: &dyn Store, work: &MergeWork, planned: &PlannedShard) -> Result<Shard> {
    let made = match &planned.objects {
        None => None,
        Some(objects) => match featurized(output, &work.run, planned.id.clone()).await? {
            Some(made) => Some(made),
            None => {
                let record = record_of_failed(work, objects.read_objects(output, &work.labels).await?);
                return Ok(Shard { record, file: None, made: None });
            }
        },
    };
    let id = made.as_ref().map_or(&planned.id, |made| &made.shard);
    let (record, file) = contents::shard(output, id).await?;
    Ok(Shard { record, file: Some(Checksum::of(&file)), made })
}

/// The record of a shard that failed within the tolerance of the map: all of its objects are rejects. Its id differs from
/// that of the planned shard, so the next run computes the shard again.
fn record_of_failed(work: &MergeWork, (objects, labelling): (Vec<Object>, Labelling)) -> ShardRecord {
    let reason = Reason::Unreadable;
    let reject = Reject::new(reason, "the function that worked on this shard failed; see the execution for the cause");
    let mut hasher = ShardHasher::new(&work.extractor.id, work.compression);
    for object in &objects {
        hasher.push(&object.key, &reason.placeholder(), labelling.of(&object.key));
    }
    let path = |object: Option<&Object>| object.map(|o| o.key.clone()).unwrap_or_default();
    ShardRecord {
        id: hasher.finish(),
        extractor: work.extractor.id.clone(),
        rows: 0,
        first: path(objects.first()),
        last: path(objects.last()),
        labels: Vec::new(),
        rejects: objects.iter().map(|o| RejectedObject { path: o.key.clone(), reject: reject.clone() }).collect(),
        features: None,
    }
}

/// The record of the group, still without its sums.
fn record(work: &MergeWork, shards: &[Shard]) -> GroupRecord {
    let mut group = GroupRecord {
        id: group_id(shards.iter().map(|shard| &shard.record.id)),
        extractor: work.extractor.id.clone(),
        rows: 0,
        labels: Vec::new(),
        shards: Vec::with_capacity(shards.len()),
        rejects: Vec::new(),
        sums: None,
    };
    for Shard { record, file, .. } in shards {
        group.rows += record.rows;
        dataset::add_labels(&mut group.labels, &record.labels);
        group.rejects.extend(record.rejects.iter().cloned());
        group.shards.push(ShardEntry {
            id: record.id.clone(),
            rows: record.rows,
            rejects: record.rejects.len() as u64,
            first: record.first.clone(),
            last: record.last.clone(),
            features: record.features.clone(),
            record: file.clone(),
        });
    }
    group
}

fn figures<'a>(made: impl Iterator<Item = &'a Featurized> + Clone, shards: &[Shard]) -> RunFigures {
    let computed = made.clone().count() as u64;
    let sum = |figure: fn(&Featurized) -> u64| made.clone().map(figure).sum::<u64>();
    RunFigures {
        inferred: sum(|made| made.inferred),
        copied: sum(|made| made.copied),
        added: sum(|made| made.added),
        changed: sum(|made| made.changed),
        shards_computed: computed,
        // A failed shard has no rows and is not counted.
        shards_reused: shards.iter().filter(|shard| shard.made.is_none() && shard.record.rows > 0).count() as u64,
        featurize_ms: sum(|made| made.timing.milliseconds),
        ..RunFigures::default()
    }
}

/// The entry of the group, if an earlier run has finished it and neither file is damaged.
async fn finished(output: &dyn Store, record: &GroupRecord) -> Result<Option<GroupEntry>> {
    let key = keys::group(&record.id);
    let Some(file) = store::get_opt(output, &key).await? else { return Ok(None) };
    let Ok(found) = contents::group_record(&file, &key) else { return Ok(None) };
    if *record != (GroupRecord { sums: None, ..found.clone() }) {
        return Ok(None);
    }
    let entry = GroupEntry::new(&found, &file);
    match entry.sums() {
        None => Ok((record.rows == 0).then_some(entry)),
        Some(sums) => match sums.read(output).await {
            Ok(_) => Ok(Some(entry)),
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
            Err(e) => Err(e),
        },
    }
}

/// The sums of the group. Sums are exact, so all ways give the same bits.
async fn sums(
    output: &dyn Store,
    work: &MergeWork,
    record: &GroupRecord,
    known: Option<&Known>,
) -> Result<TotalMoments> {
    let is_known = |shard: &ShardEntry| known.is_some_and(|known| known.shards.contains(&shard.id));
    let missing = |shards: &[&ShardEntry]| {
        shards.iter().filter(|shard| shard.rows > 0 && !is_known(shard)).map(|shard| shard.rows).sum::<u64>()
    };
    let all: Vec<&ShardEntry> = record.shards.iter().collect();
    let mut totals = TotalMoments::zero(work.extractor.columns);
    if let Some(known) = known {
        totals.add(&known.sums)?;
    }
    if let Some(base) = base_of(output, work).await? {
        let (old, new) = (ids(&base.shards), ids(&record.shards));
        let added: Vec<_> = record.shards.iter().filter(|shard| !old.contains(&shard.id)).collect();
        let dropped: Vec<_> = base.shards.iter().filter(|shard| !new.contains(&shard.id)).collect();
        let of_base: HashSet<_> = added.iter().map(|shard| &shard.id).collect();
        let usable = known.is_none_or(|known| known.shards.iter().all(|shard| of_base.contains(shard)));
        let dropped_rows: u64 = dropped.iter().map(|shard| shard.rows).sum();
        if usable && ROWS_OF_SUMS + missing(&added) + dropped_rows < missing(&all) {
            match from_base(output, work, &base, totals.clone(), (&added, &dropped), &is_known).await {
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => {}
                sums => return sums,
            }
        }
    }
    add(output, &work.extractor, &mut totals, all.into_iter().filter(|shard| !is_known(shard))).await?;
    check_rows(totals, record.rows)
}

fn ids(shards: &[ShardEntry]) -> HashSet<&ShardId> {
    shards.iter().map(|shard| &shard.id).collect()
}

/// The group of the base version, unless it is damaged.
async fn base_of(output: &dyn Store, work: &MergeWork) -> Result<Option<GroupRecord>> {
    let Some(base) = &work.base else { return Ok(None) };
    match base.read(output).await {
        Ok(record) => Ok((record.extractor == work.extractor.id && record.sums.is_some()).then_some(record)),
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The sums of a group of the base version, plus those of new shards, minus those of shards that are gone.
async fn from_base(
    output: &dyn Store,
    work: &MergeWork,
    base: &GroupRecord,
    mut totals: TotalMoments,
    (added, dropped): (&[&ShardEntry], &[&ShardEntry]),
    is_known: &impl Fn(&ShardEntry) -> bool,
) -> Result<TotalMoments> {
    let file = FileRef { key: keys::sums(&base.id), checksum: base.sums.clone() };
    totals.add(&read_sums(output, &file, work.extractor.columns).await?)?;
    add(output, &work.extractor, &mut totals, added.iter().copied().filter(|shard| !is_known(shard))).await?;
    let mut gone = TotalMoments::zero(work.extractor.columns);
    add(output, &work.extractor, &mut gone, dropped.iter().copied()).await?;
    totals.subtract(&gone)?;
    let rows = base.rows + added.iter().map(|s| s.rows).sum::<u64>() - dropped.iter().map(|s| s.rows).sum::<u64>();
    check_rows(totals, rows)
}

fn check_rows(totals: TotalMoments, rows: u64) -> Result<TotalMoments> {
    if totals.rows() == rows {
        return Ok(totals);
    }
    Err(Error::new(ErrorKind::DatasetCorrupt, "the sums of a group are not those of its shards")
        .context("rows", totals.rows())
        .context("expected", rows))
}

/// Reads a file of sums. Fails with `Dataset.Corrupt`.
pub(crate) async fn read_sums(output: &dyn Store, file: &FileRef, columns: usize) -> Result<TotalMoments> {
    let (body, key) = (file.read(output).await?, file.key.clone());
    run_blocking(move || tables::read_sums(body, columns, &key)).await
}

/// Adds the sums of shards, computed from their features.
async fn add<'a>(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    totals: &mut TotalMoments,
    shards: impl Iterator<Item = &'a ShardEntry>,
) -> Result<()> {
    let reads: Vec<_> = shards
        .filter_map(ShardEntry::features)
        .map(|file| async move {
            let (body, key, extractor) = (file.read(output).await?, file.key, extractor.clone());
            run_blocking(move || moments_of(&tables::read_features(body, &extractor, &key)?.features, &extractor)).await
        })
        .collect();
    let mut reads = stream::iter(reads).buffer_unordered(READ_AT_A_TIME);
    while let Some(moments) = reads.try_next().await? {
        totals.add(&moments)?;
    }
    Ok(())
}
