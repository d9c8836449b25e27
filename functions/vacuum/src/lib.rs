//! Lambda: deletes old versions of an output, and checks the others, on a schedule.

use lambda_runtime::tracing;
use pomona::{
    Result,
    aws::executions::RunningExecutions,
    dataset::lease::Judge,
    stages::Silent,
    store,
    versions::{
        check::{self, Depth},
        vacuum::{self, Action, Policy, Vacuumed},
    },
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    output: String,
    keep_versions: usize,
    older_than_days: u32,
    /// Whether every file is compared with its checksum afterwards.
    #[serde(default)]
    check: bool,
}

async fn handle(event: Event) -> Result<Vacuumed> {
    let policy = Policy { keep_versions: event.keep_versions, older_than_days: event.older_than_days };
    let output = store::open(&event.output).await?;
    let judge = Judge { executions: Some(&RunningExecutions), ..Judge::default() };
    let vacuumed = vacuum::vacuum(output.as_ref(), policy, Action::Delete, judge, &|_| {}).await?;
    let Vacuumed { kept, removed, objects, bytes } = &vacuumed;
    tracing::info!(kept = kept.len(), removed = removed.len(), objects, bytes, "old versions deleted");
    if event.check {
        let checked = check::check(output.as_ref(), Depth::Files, judge, &Silent).await?;
        for problem in &checked.problems {
            tracing::error!(file = problem.file, detail = problem.detail, "damaged");
        }
        checked.expect_sound()?;
        tracing::info!(files = checked.files, bytes = checked.bytes, "no file is damaged");
    }
    Ok(vacuumed)
}

/// Serves the function `vacuum`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(|event, _| handle(event)).await
}
