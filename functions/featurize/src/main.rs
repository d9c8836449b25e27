//! Lambda: features and moments of one shard. The model is loaded once per environment, in the init phase.

use std::sync::Arc;

use lambda_runtime::tracing;
use pomona::{
    Result,
    model::{Extractor, FeatureRange, WorkerPool},
    stages::{self, CancellationToken, Featurized, ShardWork, Silent, Stores},
};
use pomona_host::{MapItem, init_log, serve};

async fn handle(workers: Arc<WorkerPool>, event: MapItem<ShardWork>) -> Result<Featurized> {
    let stores = Stores::open(&event.input, &event.output).await?;
    let run = event.work.run.clone();
    let made = stages::featurize(&stores, &workers, event.work, &Silent, &CancellationToken::default()).await?;
    let Featurized { planned, shard, rows, rejects, inferred, copied, .. } = &made;
    tracing::info!(%run, %shard, rows, rejects, inferred, copied, "shard computed");
    if planned != shard {
        tracing::warn!(%run, %planned, %shard, "some objects could not be read; the next run reads them again");
    }
    Ok(made)
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    init_log();
    // Lambda provides one processor per 1,769 MiB of memory.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let extractor = Extractor::embedded(FeatureRange::default())?;
    tracing::info!(extractor = %extractor.info().id, threads, "model loaded");
    let workers = Arc::new(WorkerPool::new(Arc::new(extractor), threads)?);
    serve(move |event| handle(workers.clone(), event)).await
}
