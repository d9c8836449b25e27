//! Lambda: features and sums of one shard. The model is loaded once per environment, in the init phase.

use std::sync::Arc;

use pomona::{
    Result,
    model::FeatureRange,
    model::{Extractor, WorkerPool},
    stages::{self, CancellationToken, Featurized, ShardWork, Silent},
};
use pomona_host::{Place, serve};
use serde::Deserialize;

/// One item of the map.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: String,
    output: String,
    work: ShardWork,
}

async fn handle(engine: Arc<WorkerPool>, event: Event) -> Result<Featurized> {
    let stores = Place { input: event.input, output: event.output }.open().await?;
    stages::featurize(&stores, &engine, event.work, &Silent, &CancellationToken::default()).await
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    // Lambda gives a share of a processor for every 1,769 MB; this counts those that it gave.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let extractor = Extractor::embedded(FeatureRange::default())?;
    let engine = Arc::new(WorkerPool::new(Arc::new(extractor), threads)?);
    serve(move |event| handle(engine.clone(), event)).await
}
