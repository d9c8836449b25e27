//! Lambda: adds the sums of a group of shards, or fits the PCA.

use pomona::{
    Error, ErrorKind, Result,
    ids::RunId,
    stages::{self, MergeWork, Merged, Reduced, RunInput},
};
use pomona_host::{Figures, Measured, Place, serve};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: String,
    output: String,
    /// One item of the merging map; without it, the run itself.
    work: Option<MergeWork>,
    run: Option<RunId>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Merged(Merged),
    Reduced(ReducedKeys),
}

/// Keys and counts of [`Reduced`]; the lists stay in the store.
#[derive(Serialize)]
struct ReducedKeys {
    version: u64,
    images: u64,
    rejects: u64,
    components: usize,
    parts_to_project: u64,
    basis: String,
    /// Where the next map finds its list.
    project_key: String,
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        match self {
            Answer::Merged(merged) => merged.figures(),
            Answer::Reduced(reduced) => {
                Figures { images: Some(reduced.images), rejects: Some(reduced.rejects), ..Figures::default() }
            }
        }
    }
}

async fn handle(event: Event) -> Result<Answer> {
    let (_, prefix) = pomona::store::bucket_and_prefix(&event.output)?;
    let stores = Place { input: event.input, output: event.output }.open().await?;
    match (event.work, event.run) {
        (Some(work), None) => stages::merge(&stores, work).await.map(Answer::Merged),
        (None, Some(run)) => {
            let reduced: Reduced = stages::reduce(&stores, RunInput { run }).await?;
            Ok(Answer::Reduced(ReducedKeys {
                version: reduced.version.0,
                images: reduced.images,
                rejects: reduced.rejects,
                components: reduced.basis.components,
                parts_to_project: reduced.parts_to_project,
                basis: reduced.basis.key,
                project_key: format!("{prefix}{}", reduced.work_list),
            }))
        }
        _ => Err(Error::new(ErrorKind::InputInvalid, "an event has either a run or work")),
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve(handle).await
}
