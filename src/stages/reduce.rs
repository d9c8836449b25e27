//! Total sums, the PCA and the classifier.
//!
//! Reads `runs/<run>/plan.json`, `merged/`, the records and sums of the groups, and the manifest of the base version. Writes
//! the total sums, the basis, the classifier, `runs/<run>/rejects.parquet`, `reduced.json` and `project.jsonl`, and claims the version
//! number.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream, try_join};
use tokio::sync::oneshot;

use super::{
    PartWork, Plan, PlannedGroup, PredictWork, Reduced, RunInput, STORE_CONCURRENCY, Stores,
    batch::write_work,
    classify::classify,
    damage::noted,
    plan::is_up_to_date,
    records::{REJECTS, read_merged},
    reuse,
    sums::KnownGroups,
    totals,
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, BasisSummary, Checksum, Classification, FileRef, GroupEntry, GroupRecord, LabelCount, Manifest, Moments,
        RejectedObject, RunFigures, SearchIndex, ShardEntry, blocking::run_blocking, contents, inbox, keys, lease,
        manifest::basis_id, tables, timing::Timer,
    },
    ids::{GroupId, ShardId, Version},
    pca::{self, moments::TotalMoments},
    store::Store,
};

/// Fits the basis of a run whose groups are all finished, and plans its projection.
///
/// Fails with `Dataset.TooManyRejects` if more images are rejected than `max_reject_percent` allows; the rejects table is
/// then in `runs/<run>/`. Fails with `Input.Vanished` if more than half of the images are gone, and with the `Pca.*` errors
/// of [`pca::fit`].
#[compiled_once]
pub async fn reduce(stores: &Stores, input: RunInput) -> Result<Reduced> {
    let run = input.run.clone();
    noted(stores.output.as_ref(), &run, reduce_with(stores, input, KnownGroups::default())).await
}

/// [`reduce`] with the sums of some of the groups.
pub(crate) async fn reduce_with(stores: &Stores, input: RunInput, known: KnownGroups) -> Result<Reduced> {
    let timer = Timer::start();
    let (output, run) = (stores.output.as_ref(), input.run);
    let plan = Plan::read(output, &run).await?;
    let base = base_of(output, &plan).await?;
    let base = base.as_ref();
    let Gathered { groups, records, classes, index, shards, labels, rejects, found, base_is_unknown, mut figures } =
        gather(output, &plan, base).await?;
    let rejects_table = keep_rejects(output, &plan, &rejects).await?;
    reuse::count_changes(output, &plan, base, &found, &mut figures).await?;
    let images: u64 = groups.iter().map(|group| group.rows).sum();
    figures.removed = (plan.base_images + figures.added).saturating_sub(images);
    check_vanished(&plan, base.filter(|_| !base_is_unknown), figures.removed)?;
    if let Some(base) = base.filter(|base| is_unchanged(base, &plan, &groups)) {
        return nothing_new(output, &plan, base, rejects_table, figures).await;
    }
    let totals = totals::total(output, &plan, &groups, base, known.moments).await?;
    // Eigenvectors take one processor. They are computed beside the cross-validation, not beside the models, which need most memory.
    let (on_fit, is_fitted) = oneshot::channel();
    let (classifier, Fitted { basis, moments }) = try_join!(
        classify(output, &plan, base, &groups, (&records, &classes), (known.classes, on_fit)),
        fit(output, &plan, totals, &groups, (base, is_fitted))
    )?;

    // The number is claimed as late as possible: a run that fails before this line leaves no claim.
    let version = dataset::claim(output, &run).await?;
    let work = parts(&plan, &shards, version, &basis, &classifier);
    let parts = work.len() as u64;
    let work = match base.filter(|base| has_same_parts(base, &basis, &classifier)) {
        Some(base) => reuse::copy_parts(output, &plan, base, work).await?,
        None => work,
    };
    let work_list = keys::run(&run, "project.jsonl");
    let size = plan.parts_per_call(work.len() as u64, (images, parts));
    let batch_list = write_work(output, &run, &work_list, &work, (size, plan.extractor.recipe())).await?;
    let timing = timer.read();
    figures.reduce_ms += timing.milliseconds;
    let reduced = Reduced {
        up_to_date: false,
        version,
        images,
        rejects: rejects.len() as u64,
        basis,
        moments,
        classifier: Some(classifier),
        index,
        parts,
        parts_to_project: work.len() as u64,
        work_list,
        batch_list,
        labels,
        groups,
        rejects_table,
        figures,
        timing,
        run: run.clone(),
    };
    output.put(&Reduced::key(&run), dataset::to_record(&reduced)?).await?;
    Ok(reduced)
}

async fn base_of(output: &dyn Store, plan: &Plan) -> Result<Option<Manifest>> {
    match plan.base {
        Some(version) => dataset::version(output, Some(version.0)).await.map(Some),
        None => Ok(None),
    }
}

/// Fails with `Input.Vanished`. Rows of another extractor, and of a damaged table, are not compared: all of them count as removed.
fn check_vanished(plan: &Plan, base: Option<&Manifest>, removed: u64) -> Result<()> {
    if base.is_some_and(|base| base.extractor.id == plan.extractor.id) {
        plan.mode.check_vanished(removed, plan.base_images)?;
    }
    Ok(())
}

/// Whether the scores and predictions of a shard are those that it has in the base version.
fn has_same_parts(base: &Manifest, basis: &BasisSummary, classifier: &Classification) -> bool {
    base.basis.id == basis.id && PredictWork::of(base.classifier.as_ref()) == PredictWork::of(Some(classifier))
}

/// Whether the run would publish the base version again. A group that was made again can have other bytes than that of an
/// older release.
fn is_unchanged(base: &Manifest, plan: &Plan, groups: &[GroupEntry]) -> bool {
    base.groups == groups && is_up_to_date(base, plan, groups.iter().map(|group| &group.id))
}

/// Ends a run that found only what the base version has: for example, an object that still cannot be read.
async fn nothing_new(
    output: &dyn Store,
    plan: &Plan,
    base: &Manifest,
    rejects_table: FileRef,
    figures: RunFigures,
) -> Result<Reduced> {
    inbox::clear(output, &plan.notices).await?;
    lease::leave(output, &plan.run).await?;
    Ok(Reduced {
        run: plan.run.clone(),
        up_to_date: true,
        version: base.version,
        images: base.images,
        rejects: base.rejects,
        basis: base.basis.clone(),
        moments: base.moments.clone(),
        classifier: base.classifier.clone(),
        index: base.index.clone(),
        parts: 0,
        parts_to_project: 0,
        work_list: String::new(),
        batch_list: None,
        labels: base.labels.clone(),
        groups: base.groups.clone(),
        rejects_table,
        figures: RunFigures { added: 0, changed: 0, removed: 0, ..figures },
        timing: Timer::start().read(),
    })
}

/// A stored basis, and the total sums that it was fitted to.
struct Fitted {
    basis: BasisSummary,
    moments: Moments,
}

/// Fits a basis to the sums, or keeps the basis of the base version. Stores the total sums and a new basis. The fit begins when
/// the models of the classifier are fitted, which takes memory.
async fn fit(
    output: &dyn Store,
    plan: &Plan,
    totals: TotalMoments,
    groups: &[GroupEntry],
    (base, is_fitted): (Option<&Manifest>, oneshot::Receiver<()>),
) -> Result<Fitted> {
    let (extractor, settings) = (plan.extractor.clone(), plan.settings.clone());
    let (totals, moments) = totals::keep(output, plan, totals, groups).await?;
    if let Some(base) = base.filter(|_| plan.keep_basis) {
        return Ok(Fitted { basis: base.basis.clone(), moments });
    }
    // The sender sends nothing, and is dropped.
    let _ = is_fitted.await;
    let sums = moments.id.clone();
    let fitted = run_blocking(move || {
        let basis = pca::fit(&totals, extractor.feature_range.per_unit(), settings.scaling(), settings.pca)?;
        let id = basis_id(&extractor.id, &settings, &sums)?;
        let file = tables::write_basis(&basis, extractor.id.as_str(), id.as_str())?;
        Ok((BasisSummary::new(&basis, id, &file), file))
    });
    let (basis, file) = fitted.await?;
    output.put(&basis.file.key, file).await?;
    Ok(Fitted { basis, moments })
}

/// The work of the stage `project`: one part of the PCA table for each shard that has rows.
fn parts(
    plan: &Plan,
    shards: &[ShardEntry],
    version: Version,
    basis: &BasisSummary,
    classifier: &Classification,
) -> Vec<PartWork> {
    let predict = PredictWork::of(Some(classifier));
    let shards = shards.iter().filter_map(|shard| Some((shard.features()?, shard))).zip(0..);
    let work = shards.map(|((features, shard), part)| PartWork {
        run: plan.run.clone(),
        part,
        shard: shard.id.clone(),
        features,
        version,
        basis: basis.id.clone(),
        basis_file: basis.file.clone(),
        extractor: plan.extractor.clone(),
        compression: plan.settings.compression(),
        partition_by_label: plan.settings.partitions(),
        csv: plan.settings.writes_csv(),
        csv_for_spreadsheets: plan.settings.csv_for_spreadsheets,
        predict: predict.clone(),
    });
    work.collect()
}

/// The records of all groups, combined.
struct Gathered {
    groups: Vec<GroupEntry>,
    /// The records of the groups, without their rejects.
    records: Vec<GroupRecord>,
    /// The sums of classes that this run has kept.
    classes: Vec<Option<Checksum>>,
    index: Option<SearchIndex>,
    shards: Vec<ShardEntry>,
    labels: Vec<LabelCount>,
    rejects: Vec<RejectedObject>,
    /// Shards with rows that neither this run has computed nor the base version has.
    found: Vec<ShardEntry>,
    /// Whether the rows of the base version are not all known.
    base_is_unknown: bool,
    figures: RunFigures,
}

/// Reads the records of all groups, in key order.
async fn gather(output: &dyn Store, plan: &Plan, base: Option<&Manifest>) -> Result<Gathered> {
    let mut gathered = Gathered {
        groups: Vec::with_capacity(plan.groups.len()),
        records: Vec::with_capacity(plan.groups.len()),
        classes: Vec::with_capacity(plan.groups.len()),
        index: plan.has_index().then(SearchIndex::default),
        shards: Vec::new(),
        labels: Vec::new(),
        rejects: Vec::new(),
        found: Vec::new(),
        base_is_unknown: plan.base_is_unknown,
        figures: RunFigures { plan_ms: plan.timing.milliseconds, ..RunFigures::default() },
    };
    let of_base: HashMap<&GroupId, &GroupEntry> =
        base.iter().flat_map(|base| &base.groups).map(|group| (&group.id, group)).collect();
    let segments = base.map(dataset::segments_of).unwrap_or_default();
    let reads: Vec<_> = plan
        .groups
        .iter()
        .zip(0..)
        .map(|(planned, number)| read_group(output, plan, (planned, number), of_base.get(&planned.id).copied()))
        .collect();
    let mut reads = stream::iter(reads).buffered(STORE_CONCURRENCY);
    while let Some(group) = reads.try_next().await? {
        let Group { entry, mut record, classes, segment, computed, figures, base_is_unknown, reduce_ms } = group;
        gathered.base_is_unknown |= base_is_unknown;
        gathered.figures.reduce_ms += reduce_ms;
        gathered.figures.add(&figures);
        dataset::add_labels(&mut gathered.labels, &record.labels);
        gathered.rejects.append(&mut record.rejects);
        if !of_base.contains_key(&entry.id) {
            let found = record.shards.iter().filter(|shard| shard.rows > 0 && !computed.contains(&shard.id));
            gathered.found.extend(found.cloned());
        }
        gathered.shards.extend(record.shards.iter().cloned());
        gathered.records.push(record);
        gathered.classes.push(classes);
        if let Some(index) = &mut gathered.index {
            index.segments.push(segment.or_else(|| segments.get(&entry.id).copied().flatten().cloned()));
        }
        gathered.groups.push(entry);
    }
    Ok(gathered)
}

/// A finished group, and the work of this run on it.
struct Group {
    entry: GroupEntry,
    record: GroupRecord,
    /// The sums of classes that this run has kept.
    classes: Option<Checksum>,
    /// The segment of the search index that this run has written.
    segment: Option<Checksum>,
    computed: HashSet<ShardId>,
    figures: RunFigures,
    base_is_unknown: bool,
    reduce_ms: u64,
}

/// Reads the group with this number; `of_base` is its entry in the base version, if that has it.
async fn read_group(
    output: &dyn Store,
    plan: &Plan,
    (planned, number): (&PlannedGroup, u64),
    of_base: Option<&GroupEntry>,
) -> Result<Group> {
    if !planned.ready {
        let merged = read_merged(output, &plan.run, number).await?;
        let record = contents::group(output, &merged.entry).await?;
        let indexed = plan.indexed(output, &merged).await?;
        let computed = merged.computed.into_iter().collect();
        let (entry, figures, base_is_unknown) = (merged.entry, merged.figures, merged.base_is_unknown);
        let reduce_ms = merged.timing.milliseconds + indexed.as_ref().map_or(0, |indexed| indexed.timing.milliseconds);
        let (classes, segment) = (merged.classes, merged.index.or_else(|| indexed?.index));
        return Ok(Group { entry, record, classes, segment, computed, figures, base_is_unknown, reduce_ms });
    }
    let (entry, record) = match of_base {
        Some(entry) => (entry.clone(), contents::group(output, entry).await?),
        None => {
            let key = keys::group(&planned.id);
            let file = dataset::get_file(output, &key).await?;
            let record = contents::group_record(&file, &key)?;
            (GroupEntry::new(&record, &file), record)
        }
    };
    let reused = record.shards.iter().filter(|shard| shard.rows > 0).count() as u64;
    let figures = RunFigures { shards_reused: reused, ..RunFigures::default() };
    let (classes, segment, computed) = (None, None, HashSet::new());
    Ok(Group { entry, record, classes, segment, computed, figures, base_is_unknown: false, reduce_ms: 0 })
}

/// Writes the rejects table of the run. Fails with `Dataset.TooManyRejects`.
async fn keep_rejects(output: &dyn Store, plan: &Plan, rejects: &[RejectedObject]) -> Result<FileRef> {
    let key = keys::run(&plan.run, REJECTS);
    let table = tables::write_rejects(rejects, plan.extractor.id.as_str())?;
    let file = FileRef::of(key.clone(), &table);
    output.put(&key, table).await?;
    let allowed = plan.settings.allowed_rejects(plan.objects);
    if rejects.len() as u64 <= allowed {
        return Ok(file);
    }
    let message = format!("{} of {} images were rejected; {allowed} are allowed", rejects.len(), plan.objects);
    let mut error = Error::new(ErrorKind::DatasetTooManyRejects, message).context("rejects table", key);
    if let Some(first) = rejects.first() {
        error = error.context("first", format!("{}: {}", first.path, first.reject.reason));
    }
    Err(error)
}
