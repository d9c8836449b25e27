//! What the Lambdas share: events in, stable error types and one JSON log line per invocation out.
//!
//! A function's `main` names its stage; everything else here is plumbing. An error of the library becomes a Lambda
//! error whose `errorType` is the kind's name, which is what the state machine's Retry and Catch lists match on.

use std::time::Instant;

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn, tracing};
use pomona::{Error, ErrorKind, Result, stages::Site, store};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

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
    tracing::init_default_subscriber();
    let handle = &handle;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let started = Instant::now();
        let outcome = match decode(&event.payload) {
            Ok(input) => handle(input).await,
            Err(error) => Err(error),
        };
        log(&event.payload, &outcome, started);
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

/// One line: the run, what was asked, what came out and how long it took. Standard output is the log.
fn log<T: Serialize>(event: &Value, outcome: &Result<T>, started: Instant) {
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let find = |name: &str| event.get(name).or_else(|| event.get("work").and_then(|work| work.get(name)));
    let mut line = serde_json::json!({
        "run": find("run"),
        "shard": find("shard"),
        "part": find("part"),
        "milliseconds": milliseconds,
    });
    match outcome {
        Ok(result) => {
            line["level"] = "INFO".into();
            line["result"] = serde_json::to_value(result).unwrap_or_default();
        }
        Err(error) => {
            line["level"] = "ERROR".into();
            line["errorType"] = error.kind().name().into();
            line["message"] = error.to_string().into();
        }
    }
    println!("{line}");
}
