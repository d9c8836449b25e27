//! What the Lambdas share: events in, stable error types and one JSON log line per invocation out.
//!
//! The `main` of a function names its stage; everything else is here. An error of the library becomes a Lambda error whose
//! `errorType` is the kind's name, which the state machine's Retry and Catch lists match.

mod metrics;

use std::sync::atomic::{AtomicBool, Ordering};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn, tracing};
pub use metrics::{Figures, Measured};
use metrics::{Invocation, line};
use pomona::{Error, ErrorKind, Result, dataset::timing::Timer, stages::Stores, store};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Where a run reads and writes, as every event after the plan carries it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Location of the images.
    pub input: String,
    /// Location of the results.
    pub output: String,
}

impl Place {
    /// Opens both locations.
    pub async fn open(&self) -> Result<Stores> {
        store::check_apart(&self.input, &self.output)?;
        Ok(Stores { input: store::open_input(&self.input).await?, output: store::open(&self.output).await? })
    }
}

/// Serves invocations with `handle` until the environment ends. What is made before this call belongs to the init
/// phase, which happens once per environment.
pub async fn serve<In, Out, Fut>(handle: impl Fn(In) -> Fut) -> std::result::Result<(), lambda_runtime::Error>
where
    In: DeserializeOwned,
    Out: Measured,
    Fut: Future<Output = Result<Out>>,
{
    // Standard output is the log.
    tracing::init_default_subscriber();
    let handle = &handle;
    // The first invocation of an environment is a cold start.
    let first = &AtomicBool::new(true);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let timer = Timer::start();
        let cold = first.swap(false, Ordering::Relaxed);
        tracing::debug!(request = event.context.request_id, cold, "invoked");
        let outcome = match decode(&event.payload) {
            Ok(input) => handle(input).await,
            Err(error) => Err(error),
        };
        let (milliseconds, function) = (timer.read().milliseconds, function_name());
        // Not through the subscriber: CloudWatch reads metrics only from a line that is nothing but the JSON object.
        println!("{}", line(&event.payload, &outcome, Invocation { function: &function, milliseconds, cold }));
        outcome.map_err(diagnostic)
    }))
    .await
}

/// Unknown and missing fields are errors that name them.
fn decode<T: DeserializeOwned>(event: &Value) -> Result<T> {
    T::deserialize(event).map_err(|e| Error::new(ErrorKind::InputInvalid, "this event is not understood").source(e))
}

/// The library's error as Lambda reports it: the message says what happened, where, and what to do.
pub fn diagnostic(error: Error) -> Diagnostic {
    Diagnostic {
        error_type: error.kind().name().to_owned(),
        error_message: format!("{error}. {}", error.kind().advice()),
    }
}

/// The stack's name and the function's, without the letters that CloudFormation adds.
fn function_name() -> String {
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "local".to_owned());
    name.rsplit_once('-').map_or(name.clone(), |(name, _)| name.to_owned())
}

/// Logs a failure that does not change the result.
pub fn warn(what: &str, error: &Error) {
    tracing::warn!(error_type = error.kind().name(), cause = %error, "{what}");
}
