//! Total sums and the PCA.
//!
//! Reads `runs/<run>/plan.json`, `featurized/`, the records and moments of the shards, and the manifest of the base version.
//! Writes the total moments, the basis, `runs/<run>/rejects.parquet`, `reduced.json` and `project.jsonl`, and claims the
//! version number.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use rayon::join;

use super::{
    Featurized, PartWork, Plan, PlannedShard, Reduced, RunInput, STORE_CONCURRENCY, Stores,
    merge::{self, Sums},
    plan::is_up_to_date,
    records::{REJECTS, featurized, read_objects},
    reuse,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, BasisSummary, LabelCount, Manifest, RejectedObject, RunFigures, ShardEntry, ShardRecord,
        blocking::run_blocking,
        inbox, keys, lease,
        manifest::{basis_id, moments_id},
        shard::ShardHasher,
        tables,
        timing::Timer,
    },
    ids::{ShardId, Version},
    image::{Reason, Reject},
    pca::{self, moments::TotalMoments},
    store::{Object, Store},
};

/// Fits the basis of a run whose shards are all computed, and plans its projection.
///
/// Fails with `Dataset.TooManyRejects` if more images are rejected than `max_reject_percent` allows; the rejects table is
/// then in `runs/<run>/`. Fails with `Input.Vanished` if more than half of the images are gone, and with the `Pca.*` errors
/// of [`pca::fit`].
pub async fn reduce(stores: &Stores, input: RunInput) -> Result<Reduced> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    let run = input.run;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let Gathered { shards, labels, rejects, found, base_is_unknown, mut figures } = gather(output, &plan).await?;
    keep_rejects(output, &plan, &rejects).await?;

    let base = match plan.base {
        Some(version) => Some(dataset::version(output, Some(version.0)).await?),
        None => None,
    };
    let base = base.as_ref();
    reuse::count_changes(output, &plan, base, &found, &mut figures).await?;
    let images: u64 = shards.iter().map(|shard| shard.rows).sum();
    figures.removed = (plan.base_images + figures.added).saturating_sub(images);
    // Rows of another extractor, and of a damaged table, are not compared: all of them count as removed.
    if !base_is_unknown && base.is_some_and(|base| base.extractor.id == plan.extractor.id) {
        plan.mode.check_vanished(figures.removed, plan.base_images)?;
    }
    if let Some(base) = base.filter(|base| is_up_to_date(base, &plan, shards.iter().map(|shard| &shard.id))) {
        return nothing_new(output, &plan, base, figures).await;
    }
    let totals = total(output, &plan, &shards, base.filter(|_| plan.from_base)).await?;
    let Fitted { basis, moments } = fit(output, &plan, totals, base).await?;

    // The number is claimed as late as possible: a run that fails before this line leaves no claim.
    let version = dataset::claim(output, &run).await?;
    let work = parts(&plan, &shards, version, &basis);
    let parts = work.len() as u64;
    let work = match base.filter(|base| base.basis.id == basis.id) {
        Some(base) => reuse::copy_parts(output, &plan, base, work).await?,
        None => work,
    };
    let work_list = keys::run(&run, "project.jsonl");
    output.put(&work_list, dataset::to_json_lines(&work)?).await?;
    let timing = timer.read();
    figures.reduce_ms = timing.milliseconds;
    let reduced = Reduced {
        up_to_date: false,
        version,
        images,
        rejects: rejects.len() as u64,
        basis,
        moments,
        parts,
        parts_to_project: work.len() as u64,
        work_list,
        labels,
        shards,
        figures,
        timing,
        run: run.clone(),
    };
    output.put(&Reduced::key(&run), dataset::to_json(&reduced)?).await?;
    Ok(reduced)
}

/// Ends a run that found only what the base version has: for example, an object that still cannot be read.
async fn nothing_new(output: &dyn Store, plan: &Plan, base: &Manifest, figures: RunFigures) -> Result<Reduced> {
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
        parts: base.outputs.parts.len() as u64,
        parts_to_project: 0,
        work_list: String::new(),
        labels: base.labels.clone(),
        shards: base.shards.clone(),
        figures: RunFigures { added: 0, changed: 0, removed: 0, ..figures },
        timing: Timer::start().read(),
    })
}

/// A stored basis, and the key of the total moments that it was fitted to.
struct Fitted {
    basis: BasisSummary,
    moments: String,
}

/// Fits a basis to the sums, or keeps the basis of the base version. Stores the total moments and a new basis.
async fn fit(output: &dyn Store, plan: &Plan, totals: TotalMoments, base: Option<&Manifest>) -> Result<Fitted> {
    let kept = base.filter(|_| plan.keep_basis).map(|base| base.basis.clone());
    let (extractor, settings) = (plan.extractor.clone(), plan.settings.clone());
    let fitted = run_blocking(move || {
        let write = || (moments_id(&totals), tables::write_total_moments(&totals, extractor.id.as_str()));
        if let Some(kept) = kept {
            let (moments, totals_file) = write();
            return Ok((kept, None, moments, totals_file?));
        }
        let fit = || pca::fit(&totals, extractor.feature_range.per_unit(), settings.scaling(), settings.pca);
        let ((moments, totals_file), basis) = join(write, fit);
        let basis = basis?;
        let id = basis_id(&extractor.id, &settings, &moments)?;
        let basis_file = tables::write_basis(&basis, extractor.id.as_str(), id.as_str())?;
        Ok((BasisSummary::new(&basis, id), Some(basis_file), moments, totals_file?))
    });
    let (basis, basis_file, moments, totals_file) = fitted.await?;
    let moments = keys::totals(&moments);
    output.put(&moments, totals_file).await?;
    if let Some(file) = basis_file {
        output.put(&basis.key, file).await?;
    }
    Ok(Fitted { basis, moments })
}

/// The work of the stage `project`: one part of the PCA table for each shard that has rows.
fn parts(plan: &Plan, shards: &[ShardEntry], version: Version, basis: &BasisSummary) -> Vec<PartWork> {
    let shards = shards.iter().filter(|shard| shard.rows > 0).enumerate();
    let work = shards.map(|(part, shard)| PartWork {
        run: plan.run.clone(),
        part: part as u64,
        shard: shard.id.clone(),
        version,
        basis: basis.id.clone(),
        extractor: plan.extractor.id.clone(),
        columns: basis.columns,
        partition_by_label: plan.settings.partition_by_label,
        csv: plan.settings.writes_csv(),
        csv_for_spreadsheets: plan.settings.csv_for_spreadsheets,
    });
    work.collect()
}

/// The records of all shards, combined.
struct Gathered {
    shards: Vec<ShardEntry>,
    labels: Vec<LabelCount>,
    rejects: Vec<RejectedObject>,
    /// Shards with rows that this run did not compute.
    found: Vec<ShardEntry>,
    /// Whether the rows of the base version are not all known.
    base_is_unknown: bool,
    figures: RunFigures,
}

/// Reads the records of all shards, in key order.
async fn gather(output: &dyn Store, plan: &Plan) -> Result<Gathered> {
    let mut gathered = Gathered {
        shards: Vec::with_capacity(plan.shards.len()),
        labels: Vec::new(),
        rejects: Vec::new(),
        found: Vec::new(),
        base_is_unknown: false,
        figures: RunFigures { plan_ms: plan.timing.milliseconds, ..RunFigures::default() },
    };
    let reads: Vec<_> = plan.shards.iter().map(|planned| read_record(output, plan, planned)).collect();
    let mut records = stream::iter(reads).buffered(STORE_CONCURRENCY);
    while let Some((record, made)) = records.try_next().await? {
        let figures = &mut gathered.figures;
        let entry = ShardEntry {
            id: record.id,
            rows: record.rows,
            rejects: record.rejects.len() as u64,
            first: record.first,
            last: record.last,
        };
        match made {
            // A reused shard. A failed shard has no rows and is not counted.
            None if record.rows > 0 => {
                figures.shards_reused += 1;
                gathered.found.push(entry.clone());
            }
            None => {}
            Some(made) => {
                figures.shards_computed += 1;
                figures.inferred += made.inferred;
                figures.copied += made.copied;
                figures.added += made.added;
                figures.changed += made.changed;
                gathered.base_is_unknown |= made.base_is_unknown;
                figures.featurize_ms += made.timing.milliseconds;
            }
        }
        dataset::add_labels(&mut gathered.labels, &record.labels);
        gathered.shards.push(entry);
        gathered.rejects.extend(record.rejects);
    }
    Ok(gathered)
}

/// The record of a shard; if this run computed it, also the record of that work.
async fn read_record(
    output: &dyn Store,
    plan: &Plan,
    planned: &PlannedShard,
) -> Result<(ShardRecord, Option<Featurized>)> {
    let Some(objects) = &planned.objects else {
        return Ok((read_shard(output, &planned.id).await?, None));
    };
    match featurized(output, &plan.run, planned).await? {
        Some(made) => Ok((read_shard(output, &made.shard).await?, Some(made))),
        None => Ok((record_of_failed(plan, &read_objects(output, objects).await?), None)),
    }
}

async fn read_shard(output: &dyn Store, shard: &ShardId) -> Result<ShardRecord> {
    let key = keys::shard(shard);
    dataset::from_json(&dataset::get_file(output, &key).await?, &key)
}

/// The record of a shard that failed within the tolerance of the map: all of its objects are rejects. Its id differs from
/// that of the planned shard, so the next run computes the shard again.
fn record_of_failed(plan: &Plan, objects: &[Object]) -> ShardRecord {
    let reason = Reason::Unreadable;
    let reject = Reject::new(reason, "the function that worked on this shard failed; see the execution for the cause");
    let mut hasher = ShardHasher::new(&plan.extractor.id);
    for object in objects {
        hasher.push(&object.key, &reason.placeholder());
    }
    let path = |object: Option<&Object>| object.map(|o| o.key.clone()).unwrap_or_default();
    ShardRecord {
        id: hasher.finish(),
        rows: 0,
        first: path(objects.first()),
        last: path(objects.last()),
        labels: Vec::new(),
        rejects: objects.iter().map(|o| RejectedObject { path: o.key.clone(), reject: reject.clone() }).collect(),
    }
}

/// Writes the rejects table of the run. Fails with `Dataset.TooManyRejects`.
async fn keep_rejects(output: &dyn Store, plan: &Plan, rejects: &[RejectedObject]) -> Result<()> {
    let key = keys::run(&plan.run, REJECTS);
    output.put(&key, tables::write_rejects(rejects, plan.extractor.id.as_str())?).await?;
    let allowed = plan.settings.allowed_rejects(plan.objects);
    if rejects.len() as u64 <= allowed {
        return Ok(());
    }
    let message = format!("{} of {} images were rejected; {allowed} are allowed", rejects.len(), plan.objects);
    let mut error = Error::new(ErrorKind::DatasetTooManyRejects, message).context("rejects table", key);
    if let Some(first) = rejects.first() {
        error = error.context("first", format!("{}: {}", first.path, first.reject.reason));
    }
    Err(error)
}

/// The sums over all shards. With a base version: its sums, minus those of shards that the run does not have, plus those
/// of new shards. Sums are exact, so both ways give the same bits.
async fn total(
    output: &dyn Store,
    plan: &Plan,
    shards: &[ShardEntry],
    base: Option<&Manifest>,
) -> Result<TotalMoments> {
    // How many times the sums of each shard are added.
    let mut change: HashMap<&ShardId, i64> = HashMap::new();
    if plan.groups == 0 {
        // Shards without rows are left out: a failed shard has no file of sums.
        for shard in shards.iter().filter(|shard| shard.rows > 0) {
            *change.entry(&shard.id).or_default() += 1;
        }
    }
    let groups = (0..plan.groups).map(|group| Sums::Total(keys::merged(&plan.run, group)));
    // Totals come first: it is an error to subtract more rows than have been added.
    let mut sums: Vec<Sums> = groups.chain(base.map(|base| Sums::Total(base.moments.clone()))).collect();
    if let Some(base) = base {
        let kept: HashSet<&ShardId> = plan.shards.iter().map(|shard| &shard.id).collect();
        for shard in base.shards.iter().filter(|shard| shard.rows > 0) {
            // With groups, shards that stay were neither added nor need to be subtracted.
            if plan.groups == 0 || !kept.contains(&shard.id) {
                *change.entry(&shard.id).or_default() -= 1;
            }
        }
    }
    let change = change.into_iter().filter(|(_, times)| *times != 0);
    sums.extend(change.map(|(id, times)| Sums::Shard(id.clone(), times)));
    let mut totals = TotalMoments::zero(plan.extractor.columns);
    merge::add(output, &mut totals, sums).await?;
    Ok(totals)
}
