//! Lambda: lists some ranges of the keys of a large input.

use lambda_runtime::tracing;
use pomona::{
    Result,
    stages::{self, CancellationToken, ListDone, ListWork, Silent, Stores},
};
use pomona_host::MapItem;

async fn handle(event: MapItem<ListWork>, stop: CancellationToken) -> Result<ListDone> {
    let stores = Stores::open(&event.input, &event.output).await?;
    let done = stages::list(&stores, event.work.0, &Silent, &stop).await?;
    let ListDone { run, objects, ranges_left } = &done;
    tracing::info!(%run, objects, ranges_left, "keys listed");
    Ok(done)
}

/// Serves the function `list`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(handle).await
}
