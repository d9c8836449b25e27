//! Lambda: lists the images, cuts them into shards, writes the work lists of the maps.

use pomona::{
    Result,
    aws::request::Request,
    ids::RunId,
    model::FeatureRange,
    stages::{self, CancellationToken, PlanInput, Planned, Silent},
};
use pomona_host::{Figures, Measured, Place, serve};
use serde::{Deserialize, Serialize};

/// The execution's input, its name, and how often the run has been planned.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    request: serde_json::Value,
    run: String,
    attempt: u32,
}

/// What the state machine carries on: keys and counts.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    planned: Planned,
    input: String,
    output: String,
    attempt: u32,
    /// Where the maps find their lists.
    bucket: String,
    featurize_key: String,
    merge_key: String,
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        self.planned.figures()
    }
}

async fn handle(event: Event) -> Result<Answer> {
    let Request { input, output, settings, mode } = Request::parse(event.request)?;
    let (bucket, prefix) = pomona::store::bucket_and_prefix(&output)?;
    let place = Place { input, output };
    let run = RunId::try_from(event.run)?.attempt(event.attempt)?;
    let info = pomona::model::embedded_info(FeatureRange::default());
    let input = PlanInput { run, settings, mode };
    let planned = stages::plan(&place.open().await?, &info, input, &Silent, &CancellationToken::default()).await?;
    Ok(Answer {
        featurize_key: format!("{prefix}{}", planned.work_list),
        merge_key: format!("{prefix}{}", planned.merge_work_list),
        input: place.input,
        output: place.output,
        attempt: event.attempt,
        bucket,
        planned,
    })
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
