//! Lambda: makes the new version visible, then writes its report. The answer is the execution's output.

use pomona::{
    Result,
    dataset::timing::Timer,
    ids::RunId,
    report::{self, ReportInput, Reported},
    stages::{self, Published, RunInput},
};
use pomona_host::{Figures, Measured, Place, serve, warn};
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
    /// None when no report could be written: the version is published.
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
    let stores = Place { input: event.input, output: event.output }.open().await?;
    let published = stages::publish(&stores, RunInput { run: event.run.clone() }).await?;
    let reported = report::report(&stores, ReportInput { run: event.run, publish: timer.read() }).await;
    let reported = reported.map_err(|error| warn("no report could be written", &error)).ok();
    Ok(Answer { published, reported })
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
