//! Adds the sums up and fits the PCA.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Featurized, PartWork, Plan, PlannedShard, RunInput, STORE_CONCURRENCY, Site, featurize, merge, milliseconds,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        self, BasisSummary, Fate, LabelCount, Manifest, RejectedObject, RunFigures, RunId, ShardEntry, ShardRecord,
        Version, keys,
    },
    moments::TotalMoments,
    pca::{self, Basis},
    preprocess::{Reason, Reject},
    settings::Settings,
    shard::{ShardHasher, ShardId, short_hex},
    store::{Object, Store},
    tables,
};

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
    /// JSON lines, one [`PartWork`] each.
    pub manifest: String,
    pub labels: Vec<LabelCount>,
    pub shards: Vec<ShardEntry>,
    pub figures: RunFigures,
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
    let started = Instant::now();
    let output = site.output.as_ref();
    let run = input.run;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let Gathered { shards, labels, rejects, mut figures } = gather(output, &plan).await?;
    check_rejects(output, &plan, &rejects).await?;

    let base = match plan.base.filter(|_| plan.from_base) {
        Some(version) => match dataset::fate(output, version).await? {
            Fate::Published(base) => Some(*base),
            Fate::Abandoned { .. } => None,
        },
        None => None,
    };
    let totals = total(output, &plan, &shards, base.as_ref()).await?;
    let extractor = plan.extractor.clone();
    let settings = plan.settings.clone();
    let fitted = tokio::task::spawn_blocking(move || {
        let basis = pca::fit(&totals, extractor.feature_range.per_unit(), settings.standardize, settings.pca)?;
        let totals_id = totals_id(&totals);
        let id = basis_id(extractor.id.as_str(), &settings, &totals_id)?;
        let totals_file = tables::write_total_moments(&totals, extractor.id.as_str())?;
        let basis_file = tables::write_basis(&basis, extractor.id.as_str(), &id)?;
        Ok((basis, id, basis_file, totals_id, totals_file))
    });
    let (basis, id, basis_file, totals_id, totals_file) =
        fitted.await.unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "the PCA was not made").source(e)))?;
    let summary = summary(&basis, id);
    output.put(&keys::totals(&totals_id), totals_file).await?;
    output.put(&summary.key, basis_file).await?;

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
    output.put(&manifest, super::plan::json_lines(&work)?).await?;
    figures.reduce_ms = milliseconds(started);
    let reduced = Reduced {
        version,
        images: shards.iter().map(|shard| shard.rows).sum(),
        rejects: rejects.len() as u64,
        basis: summary,
        moments: keys::totals(&totals_id),
        parts: work.len() as u64,
        manifest,
        labels,
        shards,
        figures,
        run: run.clone(),
    };
    output.put(&Reduced::key(&run), dataset::to_json(&reduced)?).await?;
    Ok(reduced)
}

pub(super) struct Gathered {
    pub shards: Vec<ShardEntry>,
    pub labels: Vec<LabelCount>,
    pub rejects: Vec<RejectedObject>,
    pub figures: RunFigures,
}

/// Reads the records of all shards, in their order.
pub(super) async fn gather(output: &dyn Store, plan: &Plan) -> Result<Gathered> {
    let mut gathered = Gathered {
        shards: Vec::with_capacity(plan.shards.len()),
        labels: Vec::new(),
        rejects: Vec::new(),
        figures: RunFigures { plan_ms: plan.milliseconds, ..RunFigures::default() },
    };
    let reads: Vec<_> = plan.shards.iter().map(|planned| read_record(output, plan, planned)).collect();
    let mut records = stream::iter(reads).buffered(STORE_CONCURRENCY);
    while let Some((record, made)) = records.try_next().await? {
        let figures = &mut gathered.figures;
        match made {
            // Reused; or failed, which counts for nothing.
            None => figures.shards_reused += u64::from(record.rows > 0),
            Some(made) => {
                figures.shards_computed += 1;
                figures.inferred += made.inferred;
                figures.copied += made.copied;
                figures.featurize_ms += made.milliseconds;
            }
        }
        dataset::add_labels(&mut gathered.labels, &record.labels);
        gathered.shards.push(ShardEntry {
            id: record.id,
            rows: record.rows,
            rejects: record.rejects.len() as u64,
            first: record.first,
            last: record.last,
        });
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

async fn check_rejects(output: &dyn Store, plan: &Plan, rejects: &[RejectedObject]) -> Result<()> {
    let allowed = plan.settings.allowed_rejects(plan.objects);
    if rejects.len() as u64 <= allowed {
        return Ok(());
    }
    let key = keys::run(&plan.run, "rejects.parquet");
    output.put(&key, tables::write_rejects(rejects, plan.extractor.id.as_str())?).await?;
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
    let columns = plan.extractor.columns;
    let mut totals = TotalMoments::zero(columns);
    // How often each shard is to be added.
    let mut change: HashMap<&ShardId, i64> = HashMap::new();
    if plan.groups == 0 {
        // A shard without rows adds nothing, and one whose making failed has no file of sums.
        for shard in shards.iter().filter(|shard| shard.rows > 0) {
            *change.entry(&shard.id).or_default() += 1;
        }
    }
    for group in 0..plan.groups {
        let key = keys::merged(&plan.run, group);
        totals.add(&tables::read_total_moments(output.get(&key).await?, columns, &key)?)?;
    }
    if let Some(base) = base {
        totals.add(&tables::read_total_moments(output.get(&base.moments).await?, columns, &base.moments)?)?;
        let kept: HashSet<&ShardId> = plan.shards.iter().map(|shard| &shard.id).collect();
        for shard in base.shards.iter().filter(|shard| shard.rows > 0) {
            // What was added beforehand left out the shards that stay; there only the others are taken away.
            if plan.groups == 0 || !kept.contains(&shard.id) {
                *change.entry(&shard.id).or_default() -= 1;
            }
        }
    }
    let changed = change.into_iter().map(|(id, times)| (id.clone(), times)).collect();
    merge::add(output, &mut totals, changed).await?;
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
fn basis_id(extractor: &str, settings: &Settings, totals_id: &str) -> Result<String> {
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
