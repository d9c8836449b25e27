//! Adds the sums up and fits the PCA.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Featurized, PartWork, Plan, PlannedShard, RunInput, STORE_CONCURRENCY, Site, changes, featurize, kept_parts,
    merge::{self, Sums},
};
use crate::{
    Error, ErrorKind, Result,
    compute::{both, compute},
    dataset::{
        self, BasisSummary, LabelCount, Manifest, RejectedObject, RunFigures, RunId, ShardEntry, ShardRecord, Version,
        keys,
    },
    effort::{Effort, Timer},
    extractor::ExtractorId,
    moments::TotalMoments,
    pca::{self, Basis},
    preprocess::{Reason, Reject},
    settings::Settings,
    shard::{ShardHasher, ShardId, short_hex},
    store::{Object, Store},
    tables,
};

/// The rejects table of a run, below `runs/<run>/`.
pub(super) const REJECTS: &str = "rejects.parquet";

/// `runs/<run>/reduced.json`, and (without the lists) what the stage answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduced {
    pub run: RunId,
    /// The number that was claimed for this run.
    pub version: Version,
    pub images: u64,
    pub rejects: u64,
    pub basis: BasisSummary,
    /// Key of the total moments.
    pub moments: String,
    /// Parts of the PCA table, one per shard that has rows.
    pub parts: u64,
    /// Those of them that are not there yet.
    pub parts_to_project: u64,
    /// JSON lines, one [`PartWork`] each.
    pub manifest: String,
    pub labels: Vec<LabelCount>,
    pub shards: Vec<ShardEntry>,
    pub figures: RunFigures,
    #[serde(default)]
    pub effort: Effort,
}

impl Reduced {
    pub fn key(run: &RunId) -> String {
        keys::run(run, "reduced.json")
    }
}

/// Fits the basis of a run whose shards are all finished.
///
/// Fails with `Dataset.TooManyRejects` beyond the limit, with the rejects table written below `runs/`, and with the
/// `Pca.*` errors of [`pca::fit`].
pub async fn reduce(site: &Site, input: RunInput) -> Result<Reduced> {
    let timer = Timer::start();
    let output = site.output.as_ref();
    let run = input.run;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let Gathered { shards, labels, rejects, found, mut figures } = gather(output, &plan).await?;
    keep_rejects(output, &plan, &rejects).await?;

    let base = match plan.base {
        Some(version) => Some(dataset::version(output, Some(version.0)).await?),
        None => None,
    };
    let base = base.as_ref();
    changes::count(output, &plan, base, &found, &mut figures).await?;
    let images: u64 = shards.iter().map(|shard| shard.rows).sum();
    figures.removed = (plan.base_images + figures.added).saturating_sub(images);
    let totals = total(output, &plan, &shards, base.filter(|_| plan.from_base)).await?;
    let kept = base.filter(|_| plan.keep_basis).map(|base| base.basis.clone());
    let extractor = plan.extractor.clone();
    let settings = plan.settings.clone();
    let fitted = compute(move || {
        let write = || (totals_id(&totals), tables::write_total_moments(&totals, extractor.id.as_str()));
        if let Some(kept) = kept {
            let (totals_id, totals_file) = write();
            return Ok((kept, None, totals_id, totals_file?));
        }
        let fit = || pca::fit(&totals, extractor.feature_range.per_unit(), settings.standardize, settings.pca);
        let ((totals_id, totals_file), basis) = both(write, fit);
        let basis = basis?;
        let id = basis_id(&extractor.id, &settings, &totals_id)?;
        let basis_file = tables::write_basis(&basis, extractor.id.as_str(), &id)?;
        Ok((summary(&basis, id), Some(basis_file), totals_id, totals_file?))
    });
    let (summary, basis_file, totals_id, totals_file) = fitted.await?;
    output.put(&keys::totals(&totals_id), totals_file).await?;
    if let Some(file) = basis_file {
        output.put(&summary.key, file).await?;
    }

    // The number is claimed as late as can be: a run that fails before leaves none behind.
    let version = dataset::claim(output, &run).await?;
    let manifest = keys::run(&run, "project.jsonl");
    let work: Vec<PartWork> = shards
        .iter()
        .filter(|shard| shard.rows > 0)
        .enumerate()
        .map(|(part, shard)| PartWork {
            run: run.clone(),
            part: part as u64,
            shard: shard.id.clone(),
            version,
            basis: summary.id.clone(),
            extractor: plan.extractor.id.clone(),
            columns: summary.columns,
            partition_by_label: plan.settings.partition_by_label,
            csv: plan.settings.csv,
        })
        .collect();
    let parts = work.len() as u64;
    let work = match base.filter(|base| base.basis.id == summary.id) {
        Some(base) => kept_parts::copy(output, &plan, base, work).await?,
        None => work,
    };
    output.put(&manifest, super::plan::json_lines(&work)?).await?;
    let effort = timer.read();
    figures.reduce_ms = effort.milliseconds;
    let reduced = Reduced {
        version,
        images,
        rejects: rejects.len() as u64,
        basis: summary,
        moments: keys::totals(&totals_id),
        parts,
        parts_to_project: work.len() as u64,
        manifest,
        labels,
        shards,
        figures,
        effort,
        run: run.clone(),
    };
    output.put(&Reduced::key(&run), dataset::to_json(&reduced)?).await?;
    Ok(reduced)
}

struct Gathered {
    shards: Vec<ShardEntry>,
    labels: Vec<LabelCount>,
    rejects: Vec<RejectedObject>,
    /// Shards with rows that were there when the run was planned.
    found: Vec<ShardEntry>,
    figures: RunFigures,
}

/// Reads the records of all shards, in their order.
async fn gather(output: &dyn Store, plan: &Plan) -> Result<Gathered> {
    let mut gathered = Gathered {
        shards: Vec::with_capacity(plan.shards.len()),
        labels: Vec::new(),
        rejects: Vec::new(),
        found: Vec::new(),
        figures: RunFigures { plan_ms: plan.effort.milliseconds, ..RunFigures::default() },
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
            // Reused; or failed, which counts for nothing.
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
                figures.featurize_ms += made.effort.milliseconds;
            }
        }
        dataset::add_labels(&mut gathered.labels, &record.labels);
        gathered.shards.push(entry);
        gathered.rejects.extend(record.rejects);
    }
    Ok(gathered)
}

/// The record of a shard, and what it took to make it when this run did.
async fn read_record(
    output: &dyn Store,
    plan: &Plan,
    planned: &PlannedShard,
) -> Result<(ShardRecord, Option<Featurized>)> {
    let Some(objects) = &planned.objects else {
        return Ok((dataset::read_json(output, &keys::shard(&planned.id)).await?, None));
    };
    match merge::featurized(output, &plan.run, planned).await? {
        Some(made) => Ok((dataset::read_json(output, &keys::shard(&made.shard)).await?, Some(made))),
        None => Ok((record_of_failed(plan, &featurize::read_objects(output, objects).await?), None)),
    }
}

/// A shard that could not be made, and whose failure was tolerated: all of its objects are rejects this time. Its id
/// is not that of the planned shard, so the next run makes it again.
fn record_of_failed(plan: &Plan, objects: &[Object]) -> ShardRecord {
    let reason = Reason::Unreadable;
    let reject = Reject::new(reason, "the function that worked on this shard failed; the execution tells why");
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

/// Writes the rejects table of the run; fails when there are too many.
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

/// The sums over all shards: those of the base version less what it had and we have not, plus what is new.
async fn total(
    output: &dyn Store,
    plan: &Plan,
    shards: &[ShardEntry],
    base: Option<&Manifest>,
) -> Result<TotalMoments> {
    // How often each shard is to be added.
    let mut change: HashMap<&ShardId, i64> = HashMap::new();
    if plan.groups == 0 {
        // A shard without rows adds nothing, and one whose making failed has no file of sums.
        for shard in shards.iter().filter(|shard| shard.rows > 0) {
            *change.entry(&shard.id).or_default() += 1;
        }
    }
    let groups = (0..plan.groups).map(|group| Sums::Total(keys::merged(&plan.run, group)));
    // What is taken away is in the base.
    let mut sums: Vec<Sums> = groups.chain(base.map(|base| Sums::Total(base.moments.clone()))).collect();
    if let Some(base) = base {
        let kept: HashSet<&ShardId> = plan.shards.iter().map(|shard| &shard.id).collect();
        for shard in base.shards.iter().filter(|shard| shard.rows > 0) {
            // What was added beforehand left out the shards that stay; there only the others are taken away.
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

fn totals_id(totals: &TotalMoments) -> String {
    let mut sha = Sha256::new();
    sha.update(totals.rows().to_le_bytes());
    for sum in totals.sums().iter().chain(totals.products()) {
        sha.update(sum.to_le_bytes());
    }
    short_hex(&sha.finalize())
}

/// A basis is told by what it was fitted on and how.
pub(super) fn basis_id(extractor: &ExtractorId, settings: &Settings, totals_id: &str) -> Result<String> {
    let how = dataset::to_json(&(extractor, totals_id, settings.pca, settings.standardize))?;
    Ok(short_hex(&Sha256::digest(&how)))
}

fn summary(basis: &Basis, id: String) -> BasisSummary {
    BasisSummary {
        key: keys::basis(&id),
        id,
        components: basis.kept(),
        explained_variance: basis.explained_variance.clone(),
        explained_variance_ratio: basis.explained_variance_ratio.clone(),
        total_variance: basis.total_variance,
        columns: basis.columns(),
        constant_columns: basis.scale.iter().filter(|scale| **scale == 0.0).count(),
        components_for_90_percent: basis.components_for(0.90),
        components_for_99_percent: basis.components_for(0.99),
    }
}
