//! Lambda: features of one shard. The model is loaded once per environment, in the init phase.
//!
//! Before the deadline of the function, the rows so far are kept and the answer is `Run.Interrupted`. The state machine then
//! calls the function again, which continues.

use std::sync::Arc;

use lambda_runtime::tracing;
use pomona::{
    Result,
    dataset::Sealed,
    model::{Decoding, Extractor, FeatureRange, WorkerPool},
    stages::{self, CancellationToken, Featurized, ShardWork, Silent, Stores},
};
use pomona_host::MapItem;
use tokio::sync::OnceCell;

/// The model with each decoding of JPEGs. Nearly all environments need one of them.
#[derive(Default)]
struct Pools {
    full: OnceCell<Arc<WorkerPool>>,
    scaled: OnceCell<Arc<WorkerPool>>,
}

impl Pools {
    async fn get(&self, decoding: Decoding) -> Result<Arc<WorkerPool>> {
        let cell = match decoding {
            Decoding::Full => &self.full,
            Decoding::Scaled => &self.scaled,
        };
        cell.get_or_try_init(async || load(decoding)).await.cloned()
    }
}

fn load(decoding: Decoding) -> Result<Arc<WorkerPool>> {
    // Lambda provides one processor per 1,769 MiB of memory.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let extractor = Extractor::embedded(FeatureRange::default())?.with_decoding(decoding);
    tracing::info!(extractor = %extractor.info().id, threads, "model loaded");
    Ok(Arc::new(WorkerPool::new(Arc::new(extractor), threads)?))
}

async fn handle(pools: Arc<Pools>, event: MapItem<ShardWork>, stop: CancellationToken) -> Result<Featurized> {
    let MapItem { input, output, work: Sealed(work) } = event;
    let workers = pools.get(work.decoding).await?;
    let stores = Stores::open(&input, &output).await?;
    let run = work.run.clone();
    let made = stages::featurize(&stores, &workers, work, &Silent, &stop).await?;
    let Featurized { planned, shard, rows, rejects, inferred, copied, .. } = &made;
    tracing::info!(%run, %shard, rows, rejects, inferred, copied, "shard computed");
    if planned != shard {
        tracing::warn!(%run, %planned, %shard, "some objects could not be read; the next run reads them again");
    }
    Ok(made)
}

/// Serves the function `featurize`, and loads the model before.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    let pools = Arc::new(Pools::default());
    // In the init phase, so that no invocation waits for it but the first.
    pools.get(Decoding::Full).await?;
    pomona_host::serve(move |event, stop| handle(pools.clone(), event, stop)).await
}
