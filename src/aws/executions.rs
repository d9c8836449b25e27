//! The client of Step Functions, and the mapping of its errors to [`ErrorKind`]s.

use async_trait::async_trait;
use aws_sdk_sfn::types::ExecutionStatus;
use aws_sdk_sfn::{
    Client,
    config::Region,
    error::{ProvideErrorMetadata, SdkError},
};
use serde_json::{Map, Value};

use super::uploads::{Executions, Status};
use crate::{
    Error, ErrorKind, Result,
    dataset::lease,
    store::{self, failures},
};

/// `template.yaml` names the state machine of a stack `<stack>-pipeline`.
const PIPELINE: &str = "-pipeline";

/// An execution or a state machine that a user has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The ARN of an execution.
    Execution(String),
    /// The ARN of a state machine.
    Machine(String),
}

/// A client of Step Functions.
#[derive(Clone, Debug)]
pub struct StepFunctions {
    /// The client of the SDK, for requests without a method here. [`failed`] converts their errors.
    pub client: Client,
}

impl StepFunctions {
    /// Connects to the region of `target` if it is an ARN, otherwise to the region of the environment.
    pub async fn connect(target: &str) -> Self {
        let environment = store::aws_environment().await;
        let region = region_of(target).map(|region| Region::new(region.to_owned()));
        let config = aws_sdk_sfn::config::Builder::from(&environment);
        let config = if region.is_some() { config.region(region) } else { config };
        StepFunctions { client: Client::from_conf(config.build()) }
    }

    /// Resolves an ARN or the name of a stack.
    ///
    /// Fails with `Execution.NotFound` if there is no such stack in the region; the error lists the stacks that exist.
    pub async fn find(&self, target: &str) -> Result<Target> {
        if target.starts_with("arn:") {
            return match target.split(':').nth(5) {
                Some("execution") => Ok(Target::Execution(target.to_owned())),
                Some("stateMachine") => Ok(Target::Machine(target.to_owned())),
                _ => Err(Error::new(
                    ErrorKind::ExecutionNotFound,
                    "this is not the ARN of an execution or a state machine",
                )
                .context("arn", target)),
            };
        }
        let mut stacks = Vec::new();
        let mut pages = self.client.list_state_machines().into_paginator().items().send();
        while let Some(machine) = pages.next().await {
            let machine = machine.map_err(|e| failed("states:ListStateMachines", target, e))?;
            if let Some(stack) = machine.name().strip_suffix(PIPELINE) {
                if stack == target {
                    return Ok(Target::Machine(machine.state_machine_arn().to_owned()));
                }
                stacks.push(stack.to_owned());
            }
        }
        let error = Error::new(ErrorKind::ExecutionNotFound, "this region has no stack of Pomona with this name")
            .context("stack", target);
        Err(if stacks.is_empty() { error } else { error.context("stacks", stacks.join(", ")) })
    }

    /// The ARN of the newest execution of a state machine. Fails with `Execution.NotFound` if there is none.
    pub async fn newest(&self, machine: &str) -> Result<String> {
        let listed = self.client.list_executions().state_machine_arn(machine).max_results(1).send().await;
        let listed = listed.map_err(|e| failed("states:ListExecutions", machine, e))?;
        listed.executions().first().map(|execution| execution.execution_arn().to_owned()).ok_or_else(|| {
            Error::new(ErrorKind::ExecutionNotFound, "this state machine has no executions")
                .context("state machine", machine)
        })
    }
}

/// Finds out whether executions are in progress, for [`lease`]. Without permission to
/// `states:DescribeExecution`, the answer is that nobody knows.
#[derive(Clone, Copy, Debug)]
pub struct RunningExecutions;

#[async_trait]
impl lease::Executions for RunningExecutions {
    async fn is_running(&self, arn: &str) -> Option<bool> {
        let client = StepFunctions::connect(arn).await.client;
        match client.describe_execution().execution_arn(arn).send().await {
            Ok(execution) => {
                Some(matches!(execution.status(), ExecutionStatus::Running | ExecutionStatus::PendingRedrive))
            }
            Err(e) if e.code() == Some("ExecutionDoesNotExist") => Some(false),
            Err(_) => None,
        }
    }
}

/// The executions of a state machine that uploads start. All of them have the same input.
#[derive(Debug)]
pub struct StateMachine {
    client: Client,
    arn: String,
    input: Value,
}

impl StateMachine {
    /// `input` and `output` are the locations in the executions' input, `settings` its other fields.
    pub async fn new(arn: String, input: &str, output: &str, mut settings: Map<String, Value>) -> Self {
        settings.insert("input".to_owned(), input.into());
        settings.insert("output".to_owned(), output.into());
        StateMachine { client: StepFunctions::connect(&arn).await.client, arn, input: settings.into() }
    }

    /// The ARN of an execution: that of the state machine with another resource type, and the name.
    fn execution(&self, name: &str) -> String {
        format!("{}:{name}", self.arn.replacen(":stateMachine:", ":execution:", 1))
    }
}

#[async_trait]
impl Executions for StateMachine {
    async fn status(&self, name: &str) -> Result<Status> {
        let arn = self.execution(name);
        match self.client.describe_execution().execution_arn(&arn).send().await {
            Ok(execution) => Ok(match execution.status() {
                ExecutionStatus::Running | ExecutionStatus::PendingRedrive => Status::Running,
                ExecutionStatus::Succeeded => Status::Succeeded,
                _ => Status::Failed,
            }),
            Err(e) if e.code() == Some("ExecutionDoesNotExist") => Ok(Status::Unknown),
            Err(e) => Err(failed("states:DescribeExecution", &arn, e)),
        }
    }

    async fn start(&self, name: &str) -> Result<()> {
        let call = self.client.start_execution().state_machine_arn(&self.arn).name(name);
        match call.input(self.input.to_string()).send().await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some("ExecutionAlreadyExists") => Ok(()),
            Err(e) => Err(failed("states:StartExecution", name, e)),
        }
    }
}

fn region_of(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

/// The address of an execution's page in the AWS console.
pub fn console(execution: &str) -> String {
    let region = region_of(execution).unwrap_or("us-east-1");
    format!("https://{region}.console.aws.amazon.com/states/home?region={region}#/v2/executions/details/{execution}")
}

/// Converts an error of Step Functions.
///
/// `action` is the IAM action, such as `states:StartExecution`; `what` is the ARN or name in the request. Both are in the
/// context of the error, and the code and message of Step Functions are its source.
pub fn failed<E>(action: &'static str, what: &str, error: SdkError<E>) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
    SdkError<E>: ProvideErrorMetadata,
{
    if let Some(failure) = failures::of_credentials(&error) {
        return failure.context("action", action).context("target", what);
    }
    let (kind, message) = match error.code() {
        Some("ExecutionDoesNotExist" | "StateMachineDoesNotExist" | "InvalidArn" | "ResourceNotFound") => {
            (ErrorKind::ExecutionNotFound, "this execution or state machine does not exist")
        }
        Some("AccessDeniedException") => (ErrorKind::ExecutionDenied, "Step Functions refused access"),
        Some("ThrottlingException" | "ExecutionLimitExceeded") => {
            (ErrorKind::StoreThrottled, "Step Functions throttles requests")
        }
        Some("ExecutionAlreadyExists") => (ErrorKind::InputInvalid, "an execution with this name exists already"),
        Some("InvalidName" | "InvalidExecutionInput") => {
            (ErrorKind::InputInvalid, "Step Functions rejects the name or the input")
        }
        _ => (ErrorKind::StoreUnavailable, "Step Functions could not be reached"),
    };
    Error::new(kind, message).context("action", action).context("target", what).source(failures::cause(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_page_is_in_the_region_of_the_execution() {
        let arn = "arn:aws:states:eu-west-3:123456789012:execution:pomona-pipeline:first";
        assert!(console(arn).starts_with("https://eu-west-3.console.aws.amazon.com/states/"), "{}", console(arn));
        assert_eq!(region_of("pomona"), None);
    }
}
