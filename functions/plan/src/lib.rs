//! Lambda: lists the images, cuts them into shards and writes the work lists of the maps.

use lambda_runtime::tracing;
use pomona::{
    Result,
    aws::request::Request,
    dataset::keys,
    ids::RunId,
    model::FeatureRange,
    stages::{self, CancellationToken, PlanInput, Planned, Silent, Stores},
};
use pomona_host::{Figures, Measured};
use serde::{Deserialize, Serialize};

/// The execution's input, its name and ARN, and the number of the attempt, from 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    request: serde_json::Value,
    run: String,
    execution: Option<String>,
    attempt: u32,
    /// `MaxConcurrency` of the maps.
    concurrency: Option<u32>,
}

/// The state of the execution: keys and counts.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    planned: Planned,
    input: String,
    output: String,
    attempt: u32,
    /// Bucket and keys of the work lists of the maps.
    bucket: String,
    featurize_key: String,
    merge_key: String,
    /// Prefix in the bucket for the results of the maps.
    map_results: String,
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        self.planned.figures()
    }
}

async fn handle(event: Event, stop: CancellationToken) -> Result<Answer> {
    let Request { input, output, inventory, settings, mode, labels, decoding } = Request::parse(event.request)?;
    let (bucket, prefix) = pomona::store::bucket_and_prefix(&output)?;
    let name = RunId::try_from(event.run)?;
    let (run, earlier) = (name.attempt(event.attempt)?, (1..event.attempt).map(|earlier| name.attempt(earlier)));
    let info = pomona::model::embedded_info(FeatureRange::default(), decoding);
    let stores = Stores::open_inventory(&input, &output, inventory.as_deref()).await?;
    let Event { execution, concurrency, .. } = event;
    let plan = PlanInput {
        settings,
        mode,
        labels,
        execution,
        concurrency,
        earlier: earlier.collect::<Result<_>>()?,
        ..PlanInput::new(run)
    };
    let planned = stages::plan(&stores, &info, plan, &Silent, &stop).await?;
    let Planned { run, up_to_date, objects, shards, shards_to_featurize, .. } = &planned;
    tracing::info!(%run, up_to_date, objects, shards, shards_to_featurize, "run planned");
    Ok(Answer {
        featurize_key: format!("{prefix}{}", planned.batch_list.as_ref().unwrap_or(&planned.work_list)),
        merge_key: format!("{prefix}{}", planned.merge_work_list),
        map_results: format!("{prefix}{}", keys::map_results(&planned.run)),
        input,
        output,
        attempt: event.attempt,
        bucket,
        planned,
    })
}

/// Serves the function `plan`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(handle).await
}
