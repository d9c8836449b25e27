//! What the Lambdas share: events in, stable error types and one JSON log line per invocation out.
//!
//! A function's `main` names its stage; everything else here is plumbing. An error of the library becomes a Lambda
//! error whose `errorType` is the kind's name, which is what the state machine's Retry and Catch lists match on.

use std::sync::atomic::{AtomicBool, Ordering};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn, tracing};
use pomona::{Error, ErrorKind, Result, effort::Timer, metrics, stages::Site, store};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Where a run reads and writes, as every event after the plan carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub input: String,
    pub output: String,
}

impl Place {
    /// Opens both ends.
    pub async fn open(&self) -> Result<Site> {
        store::check_apart(&self.input, &self.output)?;
        Ok(Site { input: store::open_input(&self.input).await?, output: store::open(&self.output).await? })
    }
}

/// Serves invocations with `handle` until the environment ends. Whatever is made before this call belongs to the
/// init phase, which happens once per environment.
pub async fn serve<In, Out, Fut>(handle: impl Fn(In) -> Fut) -> std::result::Result<(), lambda_runtime::Error>
where
    In: DeserializeOwned,
    Out: Serialize,
    Fut: Future<Output = Result<Out>>,
{
    // Standard output is the log.
    tracing::init_default_subscriber();
    let handle = &handle;
    // The first invocation of an environment is a cold start.
    let first = &AtomicBool::new(true);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let timer = Timer::start();
        let outcome = match decode(&event.payload) {
            Ok(input) => handle(input).await,
            Err(error) => Err(error),
        };
        let (milliseconds, cold) = (timer.read().milliseconds, first.swap(false, Ordering::Relaxed));
        println!("{}", metrics::line(&event.payload, &outcome, milliseconds, cold, &function_name()));
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

/// Tells of something that went wrong and did not matter for the result.
pub fn warn(what: &str, error: &Error) {
    println!(
        "{}",
        json!({"level": "WARN", "message": what, "errorType": error.kind().name(), "cause": error.to_string()})
    );
}
