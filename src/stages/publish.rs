//! The last step: the tables that span all parts, and the version that makes everything visible.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{Plan, Projected, Reduced, RunInput, STORE_CONCURRENCY, Site, project::csv_header, reduce::REJECTS};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, FORMAT, Manifest, Outputs, RunId, Version, keys},
    inbox,
    store::Store,
    vacuum,
};

/// What a run has made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    pub run: RunId,
    pub version: Version,
    pub images: u64,
    pub rejects: u64,
    pub components: usize,
    /// Share of the variance that the components explain together.
    pub explained: f64,
    /// Keys, relative to the output.
    pub manifest: String,
    pub basis: String,
    pub pca: String,
    pub rejects_table: String,
    pub csv: Option<String>,
}

/// Publishes a run whose parts are all written. Fails with `Dataset.Conflict` when another run was faster; then its
/// parts are removed again.
pub async fn publish(site: &Site, input: RunInput) -> Result<Published> {
    let output = site.output.as_ref();
    let run = input.run;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let reduced: Reduced = dataset::read_json(output, &Reduced::key(&run)).await?;
    let version = reduced.version;

    let mut figures = reduced.figures.clone();
    let mut parts = Vec::new();
    let mut projected = stream::iter(0..reduced.parts)
        .map(|part| {
            let key = keys::projected(&run, part);
            async move { dataset::read_json::<Projected>(output, &key).await }
        })
        .buffered(STORE_CONCURRENCY);
    while let Some(part) = projected.try_next().await? {
        figures.project_ms += part.effort.milliseconds;
        parts.extend(part.keys);
    }
    drop(projected);

    let csv = if plan.settings.csv { Some(join_csv(output, &run, &reduced).await?) } else { None };
    let rejects_table = keys::rejects(version);
    output.put(&rejects_table, output.get(&keys::run(&run, REJECTS)).await?).await?;

    let published = Published {
        run: run.clone(),
        version,
        images: reduced.images,
        rejects: reduced.rejects,
        components: reduced.basis.components,
        explained: reduced.basis.explained_variance_ratio.iter().sum(),
        manifest: keys::version(version),
        basis: reduced.basis.key.clone(),
        pca: keys::pca(version),
        rejects_table: rejects_table.clone(),
        csv: csv.clone(),
    };
    let manifest = Manifest {
        format: FORMAT,
        version,
        parent: plan.base,
        run: run.clone(),
        created: plan.effort.began,
        finished: dataset::now(),
        pomona: env!("CARGO_PKG_VERSION").to_owned(),
        input: plan.input,
        settings: plan.settings,
        extractor: plan.extractor,
        images: reduced.images,
        rejects: reduced.rejects,
        ignored: plan.ignored,
        labels: reduced.labels,
        basis: reduced.basis,
        moments: reduced.moments,
        outputs: Outputs { parts, csv, rejects: rejects_table },
        shards: reduced.shards,
        figures,
    };
    let written: Vec<String> = manifest
        .outputs
        .parts
        .iter()
        .chain(&manifest.outputs.csv)
        .chain([&manifest.outputs.rejects])
        .cloned()
        .collect();
    match dataset::commit(output, manifest).await {
        Ok(()) => {
            output.put_if_absent(&keys::success(version), Bytes::new()).await?;
            inbox::clear(output, &plan.notes).await?;
            vacuum::leave(output, &run).await?;
            Ok(published)
        }
        Err(e) if e.is(ErrorKind::DatasetConflict) => {
            for key in written {
                output.delete(&key).await?;
            }
            vacuum::leave(output, &run).await?;
            Err(e)
        }
        Err(e) => Err(e),
    }
}

/// Joins the CSV rows of all parts behind one header, a part at a time.
async fn join_csv(output: &dyn Store, run: &RunId, reduced: &Reduced) -> Result<String> {
    let key = keys::csv(reduced.version);
    let parts = stream::iter(0..reduced.parts).then(|part| async move {
        let key = keys::csv_part(run, part);
        output.get(&key).await
    });
    let header = csv_header(reduced.basis.components);
    let body = stream::once(async { Ok::<_, Error>(header) }).chain(parts).boxed();
    output.put_stream(&key, body).await?;
    for part in 0..reduced.parts {
        output.delete(&keys::csv_part(run, part)).await?;
    }
    Ok(key)
}
