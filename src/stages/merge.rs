//! The record and the exact sums of a group of shards.
//!
//! Reads the group's lines of `runs/<run>/shards-*.jsonl`, `featurized/`, the records of the shards, and features: those of
//! all shards, or those that distinguish the group from one of the base version, whichever are fewer. Writes
//! `groups/<id>/` and `runs/<run>/merged/<group>.json`; for the segment of the search index, `index/<id>`. If another function
//! makes the segment, it writes `runs/<run>/indexed/<group>.json`.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, try_join};
use serde::Serialize;

use super::{
    Featurized, Indexed, Makes, MergeWork, Merged, PlannedShard, STORE_CONCURRENCY, Stores,
    classes::Turn,
    damage::noted,
    records::featurized,
    sums::{GroupSums, Known, moments_of, read_sums},
};
use crate::{
    Error, ErrorKind, Result,
    classify::ClassSums,
    compiled_once,
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

/// What `merge` has made of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MergeDone {
    /// The record and the sums, perhaps with the segment of the search index.
    Group(Box<Merged>),
    /// The segment alone.
    Segment(Indexed),
}

/// Finishes one group of shards: writes its record and its sums, its segment of the search index, or both.
///
/// Objects of shards that failed within the map's tolerance become rejects. `Dataset.Corrupt`: a shard's file is damaged.
#[compiled_once]
pub async fn merge(stores: &Stores, work: MergeWork) -> Result<MergeDone> {
    let run = work.run.clone();
    let done = async {
        if work.makes == Makes::Segment {
            return segment(stores.output.as_ref(), &work).await.map(MergeDone::Segment);
        }
        let (merged, _) = merge_with(stores, work, Known::default()).await?;
        Ok(MergeDone::Group(Box::new(merged)))
    };
    noted(stores.output.as_ref(), &run, done).await
}

/// Makes the segment of a group beside the function that sums it.
async fn segment(output: &dyn Store, work: &MergeWork) -> Result<Indexed> {
    let timer = Timer::start();
    let record = record(work, &read_shards(output, work).await?);
    let index = super::index::write(output, work, &record).await?;
    let (run, group) = (work.run.clone(), work.group);
    let indexed = Indexed { run, group, id: record.id, index, timing: timer.read() };
    output.put(&keys::index_record(&work.run, group), dataset::to_record(&indexed)?).await?;
    Ok(indexed)
}

/// [`merge`] with sums of some of the shards. Also returns the sums of a group that has rows and was not finished before.
pub(crate) async fn merge_with(stores: &Stores, work: MergeWork, known: Known) -> Result<(Merged, GroupSums)> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let shards = read_shards(output, &work).await?;
    let record = record(&work, &shards);
    let summed = all_sums(output, &work, &record, &known);
    let indexed =
        async { if work.makes == Makes::Both { super::index::write(output, &work, &record).await } else { Ok(None) } };
    // Beside each other they take more memory, and a first run merges several groups.
    let (((entry, file, sums), classes), index) =
        if work.base.is_some() { try_join!(summed, indexed)? } else { (summed.await?, indexed.await?) };
    let (classes, of_classes) = classes.unzip();
    let group = keys::group(&entry.id);
    let made = shards.iter().filter_map(|shard| shard.made.as_ref());
    let merged = Merged {
        run: work.run.clone(),
        group: work.group,
        entry,
        classes,
        index,
        computed: made.clone().map(|made| made.shard.clone()).collect(),
        base_is_unknown: made.clone().any(|made| made.base_is_unknown),
        figures: figures(made, &shards),
        timing: timer.read(),
    };
    let put_group = async {
        match file {
            Some(file) => output.put(&group, file).await,
            None => Ok(()),
        }
    };
    let (record, key) = (dataset::to_record(&merged)?, keys::merge_record(&work.run, work.group));
    try_join!(put_group, output.put(&key, record))?;
    Ok((merged, GroupSums { moments: sums, classes: of_classes.flatten() }))
}

/// The entry of a group; its record, which is to be written afterwards; and its sums. The last two only if it was not finished
/// before.
type Finished = (GroupEntry, Option<Bytes>, Option<TotalMoments>);

/// Writes the sums of a group and of its classes.
async fn all_sums(
    output: &dyn Store,
    work: &MergeWork,
    record: &GroupRecord,
    known: &Known,
) -> Result<(Finished, Option<(Checksum, Option<ClassSums>)>)> {
    let finished = finished(output, record).await?;
    let turn = Turn::wait(&work.extractor, work.classes.as_ref(), record).await;
    // Without earlier sums, those of the classes and of all rows come from the same products.
    let (classes, all) = match &turn {
        Some(turn) if finished.is_none() && work.base.is_none() && known.is_empty() => {
            turn.all(output, &work.extractor, record).await.map(|(classes, all)| (Some(classes), Some(all)))?
        }
        _ => (None, None),
    };
    let finished = match finished {
        Some(entry) => (entry, None, None),
        None => finish(output, work, record.clone(), (known, all)).await?,
    };
    let classes = match turn {
        Some(turn) => turn.keep(output, &work.extractor, (record, work.base.as_ref()), classes).await?,
        None => None,
    };
    Ok((finished, classes))
}

/// Writes the sums of a group, which may be known. Also returns its record, which is to be written afterwards, as a file.
async fn finish(
    output: &dyn Store,
    work: &MergeWork,
    mut record: GroupRecord,
    (known, all): (&Known, Option<TotalMoments>),
) -> Result<Finished> {
    let mut sums_of_group = None;
    if record.rows > 0 {
        let sums = match all {
            Some(all) => check_rows(all, record.rows)?,
            None => sums(output, work, &record, known).await?,
        };
        let id = work.extractor.id.clone();
        let written = run_blocking(move || {
            let file = tables::write_group_sums(&sums, id.as_str())?;
            Ok((sums, Checksum::of(&file), file))
        });
        let (sums, checksum, file) = written.await?;
        record.sums = Some(checksum);
        sums_of_group = Some(sums);
        output.put(&keys::sums(&record.id), file).await?;
    }
    let file = dataset::to_record(&record)?;
    Ok((GroupEntry::new(&record, &file), Some(file), sums_of_group))
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
        hasher.push(&object.key, &reason.placeholder(), labelling.of_object(object));
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
async fn sums(output: &dyn Store, work: &MergeWork, record: &GroupRecord, known: &Known) -> Result<TotalMoments> {
    let base = base_of(output, work).await?;
    let all = Way::of_all(record, known);
    let ways = base.iter().flat_map(|base| ways_from(base, record, known));
    let least = ways.min_by_key(|way| way.rows(work.extractor.columns));
    if let Some(way) = least.filter(|way| way.rows(work.extractor.columns) < all.rows(work.extractor.columns)) {
        match way.sums(output, work, record, known).await {
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => {}
            sums => return sums,
        }
    }
    all.sums(output, work, record, known).await
}

/// A way to the sums of a group: what is added and subtracted, in addition to the sums that are known.
struct Way<'a> {
    /// The group of the base version to start from.
    base: Option<&'a GroupRecord>,
    /// Shards whose features are read and added.
    added: Vec<&'a ShardEntry>,
    /// Shards whose features are read and subtracted.
    removed: Vec<&'a ShardEntry>,
    /// Whether the known changes are applied.
    changes: bool,
}

impl<'a> Way<'a> {
    /// From the features of all shards.
    fn of_all(record: &'a GroupRecord, known: &Known) -> Way<'a> {
        let added = record.shards.iter().filter(|shard| !known.whole.contains(&shard.id)).collect();
        Way { base: None, added, removed: Vec::new(), changes: false }
    }

    /// What is read, in rows of features. The sums of a group are as large as about as many rows as there are columns.
    fn rows(&self, columns: usize) -> u64 {
        let read = self.added.iter().chain(&self.removed).map(|shard| shard.rows).sum::<u64>();
        read + if self.base.is_some() { columns as u64 } else { 0 }
    }

    async fn sums(
        &self,
        output: &dyn Store,
        work: &MergeWork,
        record: &GroupRecord,
        known: &Known,
    ) -> Result<TotalMoments> {
        let extractor = &work.extractor;
        let mut totals = match self.base {
            Some(base) => {
                let file = FileRef { key: keys::sums(&base.id), checksum: base.sums.clone() };
                read_sums(output, &file, extractor.columns).await?
            }
            None => TotalMoments::zero(extractor.columns),
        };
        let [plus, minus] = [&known.added, &known.removed].map(|change| change.as_ref().filter(|_| self.changes));
        for sums in known.sums.iter().chain(plus) {
            totals.add(sums)?;
        }
        add(output, extractor, &mut totals, self.added.iter().copied()).await?;
        if let Some(sums) = minus {
            totals.subtract(sums)?;
        }
        if !self.removed.is_empty() {
            let mut gone = TotalMoments::zero(extractor.columns);
            add(output, extractor, &mut gone, self.removed.iter().copied()).await?;
            totals.subtract(&gone)?;
        }
        check_rows(totals, record.rows)
    }
}

/// The ways that start from a group of the base version: with the known changes, if they apply, and without them.
fn ways_from<'a>(base: &'a GroupRecord, record: &'a GroupRecord, known: &Known) -> Vec<Way<'a>> {
    let (old, new) = (ids(&base.shards), ids(&record.shards));
    // The base has the rows of a shard that was computed again because it was damaged.
    if known.whole.iter().chain(&known.changed).any(|shard| old.contains(shard)) {
        return Vec::new();
    }
    let added = record.shards.iter().filter(|shard| !old.contains(&shard.id) && !known.whole.contains(&shard.id));
    let removed = base.shards.iter().filter(|shard| !new.contains(&shard.id));
    let way = |changes: bool| Way {
        base: Some(base),
        added: added.clone().filter(|shard| !(changes && known.changed.contains(&shard.id))).collect(),
        removed: removed.clone().filter(|shard| !(changes && known.covers(&shard.id))).collect(),
        changes,
    };
    let with_changes = (!known.changed.is_empty() && known.changes_apply(base, record)).then(|| way(true));
    with_changes.into_iter().chain([way(false)]).collect()
}

fn ids(shards: &[ShardEntry]) -> HashSet<&ShardId> {
    shards.iter().map(|shard| &shard.id).collect()
}

/// The group of the base version, unless it is damaged.
async fn base_of(output: &dyn Store, work: &MergeWork) -> Result<Option<GroupRecord>> {
    let Some(base) = &work.base else { return Ok(None) };
    match base.read(output).await {
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
        read => Ok(Some(read?).filter(|record| record.extractor == work.extractor.id && record.sums.is_some())),
    }
}

fn check_rows(totals: TotalMoments, rows: u64) -> Result<TotalMoments> {
    if totals.rows() == rows {
        return Ok(totals);
    }
    Err(Error::new(ErrorKind::DatasetCorrupt, "the sums of a group are not those of its shards")
        .context("rows", totals.rows())
        .context("expected", rows))
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
            let (table, extractor) = (contents::labelled_features(output, extractor, &file).await?, extractor.clone());
            run_blocking(move || moments_of(&table.features, &extractor)).await
        })
        .collect();
    let mut reads = stream::iter(reads).buffer_unordered(READ_AT_A_TIME);
    while let Some(moments) = reads.try_next().await? {
        totals.add(&moments)?;
    }
    Ok(())
}
