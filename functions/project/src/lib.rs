//! Lambda: scores of one shard.

use lambda_runtime::tracing;
use pomona::{
    Result,
    stages::{self, PartWork, Projected, Stores},
};
use pomona_host::MapItem;

async fn handle(event: MapItem<PartWork>) -> Result<Projected> {
    let stores = Stores::open(&event.input, &event.output).await?;
    let (run, shard) = (event.work.0.run.clone(), event.work.0.shard.clone());
    let projected = stages::project(&stores, event.work.0).await?;
    tracing::info!(%run, %shard, part = projected.part.part, rows = projected.part.rows, "part projected");
    Ok(projected)
}

/// Serves the function `project`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(|event, _| handle(event)).await
}
