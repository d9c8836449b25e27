//! Lambda: finishes a group of shards with their sums (stage `merge`), or fits the PCA (stage `reduce`).

use lambda_runtime::tracing;
use pomona::{
    Error, ErrorKind, Result,
    dataset::Sealed,
    ids::RunId,
    stages::{self, MergeDone, MergeWork, Reduced, RunInput, Stores},
};
use pomona_host::{Figures, Measured};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: String,
    output: String,
    /// For `merge`: one line of its work list.
    work: Option<Sealed<MergeWork>>,
    /// For `reduce`: the run.
    run: Option<RunId>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Merged(MergeDone),
    Reduced(ReducedKeys),
}

/// Keys and counts of [`Reduced`]. The state of an execution must not grow with the data set, so the lists stay in S3.
#[derive(Serialize)]
struct ReducedKeys {
    up_to_date: bool,
    version: u64,
    images: u64,
    rejects: u64,
    components: usize,
    parts_to_project: u64,
    basis: String,
    /// Key of the work list of `project`, in the bucket.
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
    let stores = Stores::open(&event.input, &event.output).await?;
    match (event.work, event.run) {
        (Some(Sealed(work)), None) => merge(&stores, work).await.map(Answer::Merged),
        (None, Some(run)) => reduce(&stores, run, &prefix).await.map(Answer::Reduced),
        _ => Err(Error::new(ErrorKind::InputInvalid, "an event has either the field \"run\" or the field \"work\"")),
    }
}

async fn merge(stores: &Stores, work: MergeWork) -> Result<MergeDone> {
    let done = stages::merge(stores, work).await?;
    match &done {
        MergeDone::Group(merged) => {
            tracing::info!(run = %merged.run, group = merged.group, rows = merged.entry.rows, "group finished");
        }
        MergeDone::Segment(indexed) => tracing::info!(run = %indexed.run, group = indexed.group, "group indexed"),
    }
    Ok(done)
}

async fn reduce(stores: &Stores, run: RunId, prefix: &str) -> Result<ReducedKeys> {
    let reduced = stages::reduce(stores, RunInput { run }).await?;
    let Reduced { run, up_to_date, version, images, rejects, basis, parts, parts_to_project, .. } = reduced;
    let work_list = reduced.batch_list.unwrap_or(reduced.work_list);
    let components = basis.components;
    tracing::info!(%run, up_to_date, %version, images, rejects, components, parts, parts_to_project, "basis fitted");
    Ok(ReducedKeys {
        up_to_date,
        version: version.0,
        images,
        rejects,
        components,
        parts_to_project,
        basis: basis.file.key,
        project_key: format!("{prefix}{work_list}"),
    })
}

/// Serves the function `reduce`.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    pomona_host::serve(|event, _| handle(event)).await
}
