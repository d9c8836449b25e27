//! Lambda: deletes old versions of an output, on a schedule.

use lambda_runtime::tracing;
use pomona::{
    Result,
    aws::executions::RunningExecutions,
    dataset::lease::Judge,
    store,
    versions::vacuum::{self, Action, Policy, Vacuumed},
};
use pomona_host::{init_log, serve};
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
    let output = store::open(&event.output).await?;
    let judge = Judge { executions: Some(&RunningExecutions), ..Judge::default() };
    let vacuumed = vacuum::vacuum(output.as_ref(), policy, Action::Delete, judge, &|_| {}).await?;
    let Vacuumed { kept, removed, objects, bytes } = &vacuumed;
    tracing::info!(kept = kept.len(), removed = removed.len(), objects, bytes, "old versions deleted");
    Ok(vacuumed)
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    init_log();
    serve(handle).await
}
