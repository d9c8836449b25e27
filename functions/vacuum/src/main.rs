//! Lambda: deletes old versions of an output, on a schedule.

use pomona::{
    Result, store,
    versions::vacuum::{self, Action, Policy, Vacuumed},
};
use pomona_host::serve;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    output: String,
    keep_versions: usize,
    older_than_days: u32,
}

async fn handle(event: Event) -> Result<Vacuumed> {
    let policy = Policy { keep_versions: event.keep_versions, older_than_days: event.older_than_days };
    vacuum::vacuum(store::open(&event.output).await?.as_ref(), policy, Action::Delete, &|_| {}).await
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
