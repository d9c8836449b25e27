//! Lambda: turns the events of uploads into runs, at most one at a time. See `pomona::inbox`.

use std::{collections::BTreeSet, env};

use async_trait::async_trait;
use aws_sdk_sfn::{Client, error::ProvideErrorMetadata, error::SdkError, types::ExecutionStatus};
use pomona::{
    Error, ErrorKind, Result,
    inbox::{self, Executions, Message, Outcome, Status},
    store::{self, Store},
};
use pomona_host::serve;
use serde::{Deserialize, Serialize};

/// A batch of the queue; of each message the name and the event that it carries are enough.
#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    body: String,
}

/// The messages that are to come again; after some times they end in the dead-letter queue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    batch_item_failures: Vec<Failure>,
    /// For the log.
    keys: usize,
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: String,
}

/// The state machine, and what its executions are started with.
struct Machine {
    client: Client,
    arn: String,
    input: String,
    output: String,
    /// More of the execution's input: settings.
    settings: serde_json::Map<String, serde_json::Value>,
}

impl Machine {
    async fn from_environment() -> Result<Self> {
        let variable = |name: &'static str| {
            env::var(name).map_err(|e| {
                Error::new(ErrorKind::InputInvalid, "a variable is missing").context("name", name).source(e)
            })
        };
        let settings = variable("SETTINGS")?;
        let settings = serde_json::from_str(&settings).map_err(|e| {
            Error::new(ErrorKind::InputInvalid, "the settings of upload runs are no JSON object")
                .context("settings", &settings)
                .source(e)
        })?;
        Ok(Machine {
            client: Client::new(&store::aws_environment().await),
            arn: variable("STATE_MACHINE_ARN")?,
            input: variable("INPUT")?,
            output: variable("OUTPUT")?,
            settings,
        })
    }

    /// The ARN of an execution differs from the state machine's in its kind, and ends with the name.
    fn execution(&self, name: &str) -> String {
        format!("{}:{name}", self.arn.replacen(":stateMachine:", ":execution:", 1))
    }

    async fn handle(&self, batch: Batch) -> Result<Answer> {
        let (mut keys, mut batch_item_failures) = (BTreeSet::new(), Vec::new());
        for Record { message_id, body } in batch.records {
            match Message::parse(&body, &self.input) {
                Ok(Message::Changed(key)) => {
                    keys.insert(key);
                }
                Ok(Message::Elsewhere | Message::Look) => {}
                Err(error) => {
                    println!(
                        "{}",
                        serde_json::json!({"level": "ERROR", "message": error.to_string(), "id": message_id})
                    );
                    batch_item_failures.push(Failure { item_identifier: message_id });
                }
            }
        }
        let output: std::sync::Arc<dyn Store> = store::open(&self.output).await?;
        inbox::note(output.as_ref(), &keys).await?;
        let outcome = inbox::take_turn(output.as_ref(), self).await?;
        Ok(Answer { batch_item_failures, keys: keys.len(), outcome })
    }
}

#[async_trait]
impl Executions for Machine {
    async fn status(&self, name: &str) -> Result<Status> {
        match self.client.describe_execution().execution_arn(self.execution(name)).send().await {
            Ok(execution) => Ok(match execution.status() {
                ExecutionStatus::Running | ExecutionStatus::PendingRedrive => Status::Running,
                ExecutionStatus::Succeeded => Status::Succeeded,
                _ => Status::Failed,
            }),
            Err(e) if e.code() == Some("ExecutionDoesNotExist") => Ok(Status::Unknown),
            Err(e) => Err(failed("an execution could not be looked at", e)),
        }
    }

    async fn start(&self, name: &str) -> Result<()> {
        let mut input = self.settings.clone();
        input.insert("input".to_owned(), self.input.clone().into());
        input.insert("output".to_owned(), self.output.clone().into());
        let input = serde_json::Value::Object(input).to_string();
        match self.client.start_execution().state_machine_arn(&self.arn).name(name).input(input).send().await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some("ExecutionAlreadyExists") => Ok(()),
            Err(e) => Err(failed("an execution could not be started", e)),
        }
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(message: &str, e: SdkError<E>) -> Error
where
    SdkError<E>: ProvideErrorMetadata,
{
    let kind = match e.code() {
        Some("AccessDeniedException") => ErrorKind::StoreDenied,
        Some("ThrottlingException" | "ExecutionLimitExceeded") => ErrorKind::StoreThrottled,
        _ => ErrorKind::StoreUnavailable,
    };
    Error::new(kind, message).source(aws_sdk_sfn::error::DisplayErrorContext(e).to_string())
}

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    let machine = std::sync::Arc::new(Machine::from_environment().await?);
    serve(move |batch| {
        let machine = machine.clone();
        async move { machine.handle(batch).await }
    })
    .await
}
