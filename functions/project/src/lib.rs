//! Lambda: scores of one shard, or of a batch of shards.

use lambda_runtime::tracing;
use pomona::{
    Result,
    stages::{self, Line, PartWork, PartsDone, Projected, Stores},
};
use pomona_host::{Figures, MapItem, Measured};
use serde::Serialize;

/// The answer: that of one part, or the sums over a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Part(Box<Projected>),
    Batch(PartsDone),
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        match self {
            Answer::Part(projected) => projected.figures(),
            Answer::Batch(done) => Figures { rows: Some(done.rows), ..Figures::default() },
        }
    }
}

async fn handle(event: MapItem<Line<PartWork>>) -> Result<Answer> {
    let stores = Stores::open(&event.input, &event.output).await?;
    match event.work.0 {
        Line::One(work) => {
            let (run, shard) = (work.run.clone(), work.shard.clone());
            let projected = stages::project(&stores, *work).await?;
            tracing::info!(%run, %shard, part = projected.part.part, rows = projected.part.rows, "part projected");
            Ok(Answer::Part(Box::new(projected)))
        }
        Line::Batch(batch) => {
            let done = stages::project_batch(&stores, &batch).await?;
            tracing::info!(run = %batch.run, parts = done.parts, rows = done.rows, "batch of parts projected");
            Ok(Answer::Batch(done))
        }
    }
}

/// Serves the function `project`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(|event, _| handle(event)).await
}
