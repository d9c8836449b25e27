//! Lambda: scores of one shard.

use pomona::{
    Result,
    stages::{self, PartWork, Projected},
};
use pomona_host::{Place, serve};
use serde::Deserialize;

/// One item of the map.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: String,
    output: String,
    work: PartWork,
}

async fn handle(event: Event) -> Result<Projected> {
    let stores = Place { input: event.input, output: event.output }.open().await?;
    stages::project(&stores, event.work).await
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
