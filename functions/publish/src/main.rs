//! Lambda: makes the new version visible. Its answer is the execution's output.

use pomona::{
    Result,
    dataset::RunId,
    stages::{self, Published, RunInput},
};
use pomona_host::{Place, serve};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: String,
    output: String,
    run: RunId,
}

async fn handle(event: Event) -> Result<Published> {
    let site = Place { input: event.input, output: event.output }.open().await?;
    stages::publish(&site, RunInput { run: event.run }).await
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
