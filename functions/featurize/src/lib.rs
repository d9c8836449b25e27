//! Lambda: features of one shard. The model is loaded once per environment, in the init phase.
//!
//! Before the deadline of the function, the rows so far are kept and the answer is `Run.Interrupted`. The state machine then
//! calls the function again, which continues.

use std::sync::Arc;

use lambda_runtime::tracing;
use pomona::{
    Result,
    dataset::Sealed,
    model::{FeatureRange, Recipe, WorkerPool},
    stages::{self, CancellationToken, Featurized, Line, ShardWork, ShardsDone, Silent, Stores},
    store::Store,
};
use pomona_host::{Figures, MapItem, Measured};
use serde::Serialize;
use tokio::sync::Mutex;

/// The extractors that were needed so far. Nearly all environments need one of them.
struct Pools(Mutex<Vec<(Recipe, Arc<WorkerPool>)>>);

impl Pools {
    /// With the built-in network.
    fn new() -> Result<Self> {
        let recipe = Recipe::default();
        let pool = Arc::new(pomona_host::workers(FeatureRange::default(), &recipe, None)?);
        Ok(Pools(Mutex::new(vec![(recipe, pool)])))
    }

    /// The output is where visual words and models are.
    async fn get(&self, recipe: Recipe, output: &dyn Store) -> Result<Arc<WorkerPool>> {
        let mut pools = self.0.lock().await;
        if let Some((_, pool)) = pools.iter().find(|(known, _)| *known == recipe) {
            return Ok(Arc::clone(pool));
        }
        let file = pomona_host::extractor_file(output, &recipe).await?;
        let pool = Arc::new(pomona_host::workers(FeatureRange::default(), &recipe, file)?);
        pools.push((recipe, Arc::clone(&pool)));
        Ok(pool)
    }
}

/// The answer: that of one shard, or the sums over a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Shard(Box<Featurized>),
    Batch(ShardsDone),
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        match self {
            Answer::Shard(made) => made.figures(),
            Answer::Batch(ShardsDone { rows, rejects, inferred, copied, .. }) => Figures {
                rows: Some(*rows),
                rejects: Some(*rejects),
                inferred: Some(*inferred),
                copied: Some(*copied),
                ..Figures::default()
            },
        }
    }
}

async fn handle(pools: Arc<Pools>, event: MapItem<Line<ShardWork>>, stop: CancellationToken) -> Result<Answer> {
    let MapItem { input, output, work: Sealed(line) } = event;
    let stores = Stores::open(&input, &output).await?;
    match line {
        Line::One(work) => shard(&pools, &stores, *work, &stop).await.map(Box::new).map(Answer::Shard),
        Line::Batch(batch) => {
            let workers = pools.get(batch.recipe(), stores.output.as_ref()).await?;
            let done = stages::featurize_batch(&stores, &workers, &batch, &Silent, &stop).await?;
            let ShardsDone { shards, rows, rejects, inferred, copied } = done;
            tracing::info!(run = %batch.run, shards, rows, rejects, inferred, copied, "batch of shards computed");
            Ok(Answer::Batch(done))
        }
    }
}

async fn shard(pools: &Pools, stores: &Stores, work: ShardWork, stop: &CancellationToken) -> Result<Featurized> {
    let workers = pools.get(work.recipe(), stores.output.as_ref()).await?;
    let run = work.run.clone();
    let made = stages::featurize(stores, &workers, work, &Silent, stop).await?;
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
    // In the init phase, so that no invocation waits for it but the first.
    let pools = Arc::new(Pools::new()?);
    pomona_host::serve(move |event, stop| handle(pools.clone(), event, stop)).await
}
