//! Lambda: starts runs for uploads, at most one at a time. See `pomona::aws::uploads`.

use std::{collections::BTreeSet, env, sync::Arc};

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsEvent};
use lambda_runtime::tracing;
use pomona::{
    Error, ErrorKind, Result,
    aws::{
        executions::StateMachine,
        uploads::{self, Outcome},
    },
    dataset::inbox,
    store,
};
use pomona_host::{Figures, Measured, event::Message};
use serde::Serialize;

/// The messages that have failed. SQS delivers them again, and after ten attempts moves them to the dead-letter queue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    batch_item_failures: Vec<BatchItemFailure>,
    /// Changed keys of the input; only for the log, like `outcome`.
    keys: usize,
    outcome: Outcome,
}

impl Measured for Answer {
    fn figures(&self) -> Figures {
        Figures::default()
    }
}

/// The state machine, and the locations of the runs that it starts.
struct Trigger {
    machine: StateMachine,
    input: String,
    output: String,
}

impl Trigger {
    async fn from_environment() -> Result<Self> {
        let variable = |name: &'static str| {
            env::var(name).map_err(|e| {
                Error::new(ErrorKind::InputInvalid, "an environment variable is not set")
                    .context("name", name)
                    .source(e)
            })
        };
        let settings = variable("SETTINGS")?;
        let settings = serde_json::from_str(&settings).map_err(|e| {
            Error::new(ErrorKind::InputInvalid, "the environment variable SETTINGS is not a JSON object")
                .context("settings", &settings)
                .source(e)
        })?;
        let (input, output) = (variable("INPUT")?, variable("OUTPUT")?);
        let machine = StateMachine::new(variable("STATE_MACHINE_ARN")?, &input, &output, settings).await;
        Ok(Trigger { machine, input, output })
    }

    async fn handle(&self, batch: SqsEvent) -> Result<Answer> {
        let (mut keys, mut batch_item_failures) = (BTreeSet::new(), Vec::new());
        for message in batch.records {
            match Message::parse(message.body.as_deref().unwrap_or_default(), &self.input) {
                Ok(Message::Changed(key)) => {
                    keys.insert(key);
                }
                Ok(Message::Elsewhere | Message::Look) => {}
                Err(error) => {
                    let id = message.message_id.unwrap_or_default();
                    tracing::error!(%error, id, "a message cannot be parsed");
                    let mut failure = BatchItemFailure::default();
                    failure.item_identifier = id;
                    batch_item_failures.push(failure);
                }
            }
        }
        let output = store::open(&self.output).await?;
        inbox::add(output.as_ref(), &keys).await?;
        let outcome = uploads::take_ticket(output.as_ref(), &self.machine).await?;
        match &outcome {
            Outcome::Started { run } => tracing::info!(run, keys = keys.len(), "run started"),
            Outcome::Waits { behind } => tracing::info!(run = behind, keys = keys.len(), "a run is in progress"),
            Outcome::Failed { run } => {
                tracing::warn!(run, "the last run failed; the next new upload starts another run");
            }
            Outcome::Nothing => tracing::info!("the inbox is empty"),
        }
        Ok(Answer { batch_item_failures, keys: keys.len(), outcome })
    }
}

/// Serves the function `trigger`. Fails with `Input.Invalid` if its environment is not that of the template.
pub async fn serve() -> std::result::Result<(), lambda_runtime::Error> {
    pomona_host::init_log();
    let trigger = Arc::new(Trigger::from_environment().await?);
    pomona_host::serve(move |batch, _| {
        let trigger = trigger.clone();
        async move { trigger.handle(batch).await }
    })
    .await
}
