//! Code that the Lambdas share: events, error types, log lines and metrics.
//!
//! The `main.rs` of a function decodes its event, calls a stage and encodes the answer. An error of the library becomes a
//! Lambda error whose `errorType` is the name of its kind. The `Retry` and `Catch` fields of the state machine match these
//! names.
//!
//! [`event`] is used by the trigger alone. It is here so that all functions have the same dependencies with the same
//! features, and one build of them serves all.

mod cache;
mod deadline;
pub mod event;
mod installed;
mod meter;
mod metrics;
mod spending;

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
pub use cache::extractor_file;
use deadline::Deadline;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn, tracing};
pub use meter::{Measurement, Meter};
use metrics::{Answer, line};
pub use metrics::{Figures, Measured};
use pomona::{
    Error, ErrorKind, Result,
    dataset::Sealed,
    model::{Extractor, FeatureRange, Recipe, WorkerPool, check_instructions},
    stages::CancellationToken,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Event of a function that a map calls: the locations of the run, and one line of the map's work list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "Work: DeserializeOwned + Serialize"))]
pub struct MapItem<Work> {
    /// Location of the images.
    pub input: String,
    /// Location of the data set.
    pub output: String,
    /// The line of the work list.
    pub work: Sealed<Work>,
}

/// Serves invocations with `handle` until the environment ends. Work before this call belongs to the init phase of the
/// environment, which happens once. Every invocation fails with `Input.Invalid` if the environment variable
/// `POMONA_INSTRUCTIONS` is invalid. The token of an invocation is cancelled 40 s before its deadline.
///
/// Each invocation writes one line with its metrics to standard output, which is the log.
pub async fn serve<In, Out, Fut>(
    handle: impl Fn(In, CancellationToken) -> Fut,
) -> std::result::Result<(), lambda_runtime::Error>
where
    In: DeserializeOwned,
    Out: Measured,
    Fut: Future<Output = Result<Out>>,
{
    let handle = &handle;
    serve_json(&|event, stop| {
        let handled = decode(event).map(|input| handle(input, stop));
        Box::pin(async move { Answer::new(&handled?.await?) })
    })
    .await
}

/// A handler of JSON.
type Handler<'h> = dyn Fn(&Value, CancellationToken) -> Pin<Box<dyn Future<Output = Result<Answer>> + 'h>> + 'h;

/// [`serve`] for events and answers of any type: the runtime is compiled once, here, and is once in a program of all functions.
async fn serve_json(handle: &Handler<'_>) -> std::result::Result<(), lambda_runtime::Error> {
    let meter = &Meter::from_environment();
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let measurement = meter.start();
        let deadline = Deadline::new(event.context.deadline());
        tracing::debug!(request = event.context.request_id, cold = measurement.is_cold(), "invocation started");
        if installed::answer(&event.payload).await.map_err(diagnostic)? {
            // CloudFormation was told that the program starts.
            return Ok(Value::Null);
        }
        // Here and not in `main`, so that the state machine sees the name of the error.
        let outcome = match check_instructions() {
            Ok(()) => handle(&event.payload, deadline.stop()).await,
            Err(error) => Err(error),
        };
        // Not a tracing event: CloudWatch reads metrics only from a line that is nothing but the JSON object.
        println!("{}", line(&event.payload, &outcome, measurement.end(1)));
        outcome.map(|answer| answer.value).map_err(diagnostic)
    }))
    .await
}

/// Writes tracing events to the log. Call it first in `main`.
pub fn init_log() {
    tracing::init_default_subscriber();
}

/// An extractor, with the file that the output keeps for it if it needs one, on all processors of the environment. Lambda
/// provides one per 1,769 MiB of memory.
pub fn workers(range: FeatureRange, recipe: &Recipe, file: Option<Bytes>) -> Result<WorkerPool> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let extractor = Extractor::of_recipe(recipe, file, range)?;
    tracing::info!(extractor = %extractor.info().id, threads, "model loaded");
    WorkerPool::new(Arc::new(extractor), threads)
}

/// Fails with `Input.Invalid` on missing and unknown fields, which the error names.
fn decode<T: DeserializeOwned>(event: &Value) -> Result<T> {
    T::deserialize(event).map_err(|e| Error::new(ErrorKind::InputInvalid, "the event cannot be parsed").source(e))
}

/// An error of the library as a Lambda error. The message contains the advice of the kind.
fn diagnostic(error: Error) -> Diagnostic {
    Diagnostic {
        error_type: error.kind().name().to_owned(),
        error_message: format!("{error}. {}", error.kind().advice()),
    }
}
