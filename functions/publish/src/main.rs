//! Lambda: makes the new version visible, then writes its report. The answer is the execution's output.

use pomona::{
    Result,
    dataset::RunId,
    effort::Timer,
    stages::{self, Published, ReportInput, Reported, RunInput},
};
use pomona_host::{Place, serve, warn};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: String,
    output: String,
    run: RunId,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    published: Published,
    /// None when no report could be written: the version stands all the same.
    #[serde(flatten)]
    reported: Option<Reported>,
}

async fn handle(event: Event) -> Result<Answer> {
    let timer = Timer::start();
    let site = Place { input: event.input, output: event.output }.open().await?;
    let published = stages::publish(&site, RunInput { run: event.run.clone() }).await?;
    let report = stages::report(&site, ReportInput { run: event.run, publish: timer.read() }).await;
    let reported = report.map_err(|error| warn("no report could be written", &error)).ok();
    Ok(Answer { published, reported })
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
