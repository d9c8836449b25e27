//! Lambda: publishes the version, then writes its report. The answer is the output of the execution.

use lambda_runtime::tracing;
use pomona::{
    Result,
    dataset::timing::Timer,
    ids::RunId,
    report::{self, ReportInput, Reported},
    stages::{self, Published, RunInput, Stores},
};
use pomona_host::{Figures, Measured};
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
    /// `None` if the report could not be written. The version is published nevertheless.
    #[serde(flatten)]
    reported: Option<Reported>,
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        let dollars = self.reported.as_ref().map(|reported| reported.dollars);
        Figures { dollars, ..self.published.figures() }
    }
}

async fn handle(event: Event) -> Result<Answer> {
    let timer = Timer::start();
    let stores = Stores::open(&event.input, &event.output).await?;
    let published = stages::publish(&stores, RunInput { run: event.run.clone() }).await?;
    let Published { run, version, images, rejects, .. } = &published;
    tracing::info!(%run, %version, images, rejects, "version published");
    let reported = report::report(&stores, ReportInput { run: event.run, publish: timer.read() }).await;
    let reported = reported.inspect_err(|error| {
        tracing::warn!(%run, error_type = error.kind().name(), %error, "the report could not be written");
    });
    Ok(Answer { reported: reported.ok(), published })
}

/// Serves the function `publish`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(|event, _| handle(event)).await
}
