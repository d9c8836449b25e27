//! Publishing: the tables of a whole version, and its manifest.
//!
//! Reads `runs/<run>/plan.json`, `reduced.json`, `rejects.parquet`, `projected/` and `csv/`. Writes the rejects table and
//! the CSV, then `versions/<number>.json`, which makes the version visible.

use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Plan, Published, Reduced, RunInput, Stores,
    project::csv_header,
    records::{REJECTS, read_projected},
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, FORMAT, Manifest, Outputs, inbox, keys, lease, timing::now},
    ids::RunId,
    store::Store,
};

/// Publishes a run whose parts are all written.
///
/// Fails with `Dataset.Conflict` if another run has published since this one was planned; the parts of this run are then
/// deleted.
pub async fn publish(stores: &Stores, input: RunInput) -> Result<Published> {
    let output = stores.output.as_ref();
    let run = input.run;
    let plan: Plan = dataset::read_json(output, &Plan::key(&run)).await?;
    let reduced: Reduced = dataset::read_json(output, &Reduced::key(&run)).await?;
    let notices = plan.notices.clone();
    let manifest = manifest(output, plan, reduced).await?;
    let published = answer(&manifest);
    let outputs = manifest.outputs.clone();
    match dataset::commit(output, manifest).await {
        Ok(()) => {
            output.put_if_absent(&keys::success(published.version), Bytes::new()).await?;
            inbox::clear(output, &notices).await?;
            lease::leave(output, &run).await?;
            Ok(published)
        }
        Err(e) if e.is(ErrorKind::DatasetConflict) => {
            for key in outputs.parts.iter().chain(&outputs.csv).chain([&outputs.rejects]) {
                output.delete(key).await?;
            }
            lease::leave(output, &run).await?;
            Err(e)
        }
        Err(e) => Err(e),
    }
}

/// Writes the rejects table and the CSV, and returns the manifest of the version.
async fn manifest(output: &dyn Store, plan: Plan, reduced: Reduced) -> Result<Manifest> {
    let (run, version) = (&plan.run, reduced.version);
    let mut figures = reduced.figures.clone();
    let (parts, milliseconds) = parts(output, run, reduced.parts).await?;
    figures.project_ms += milliseconds;
    let csv = if plan.settings.writes_csv() { Some(join_csv(output, run, &reduced).await?) } else { None };
    let rejects = keys::rejects(version);
    output.put(&rejects, output.get(&keys::run(run, REJECTS)).await?).await?;
    Ok(Manifest {
        format: FORMAT,
        version,
        parent: plan.base,
        created: plan.timing.began,
        finished: now(),
        pomona: env!("CARGO_PKG_VERSION").to_owned(),
        input: plan.input,
        input_identity: plan.input_identity,
        settings: plan.settings,
        extractor: plan.extractor,
        images: reduced.images,
        rejects: reduced.rejects,
        ignored: plan.ignored,
        labels: reduced.labels,
        basis: reduced.basis,
        moments: reduced.moments,
        outputs: Outputs { parts, csv, rejects },
        shards: reduced.shards,
        figures,
        run: plan.run,
    })
}

/// Keys of all parts, and the milliseconds of their projection.
async fn parts(output: &dyn Store, run: &RunId, parts: u64) -> Result<(Vec<String>, u64)> {
    let (mut keys, mut milliseconds) = (Vec::new(), 0);
    let mut projected = pin!(read_projected(output, run, parts));
    while let Some(part) = projected.try_next().await? {
        milliseconds += part.timing.map_or(0, |timing| timing.milliseconds);
        keys.extend(part.keys);
    }
    Ok((keys, milliseconds))
}

fn answer(manifest: &Manifest) -> Published {
    Published {
        run: manifest.run.clone(),
        version: manifest.version,
        images: manifest.images,
        rejects: manifest.rejects,
        components: manifest.basis.components,
        explained: manifest.basis.explained_variance_ratio.iter().sum(),
        manifest: keys::version(manifest.version),
        basis: manifest.basis.key.clone(),
        pca: keys::pca(manifest.version),
        rejects_table: manifest.outputs.rejects.clone(),
        csv: manifest.outputs.csv.clone(),
    }
}

/// Writes one CSV file: the header, then the rows of all parts, one part at a time. Returns its key.
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
