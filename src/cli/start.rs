//! `pomona aws start`

use crate::{
    Error, ErrorKind, Result,
    aws::{
        executions::{self, StepFunctions, Target},
        request::Request,
    },
    dataset::WordsInput,
    ids::RunId,
    model::Decoding,
    store,
};
use aws_sdk_sfn::types::ExecutionStatus;
use serde_json::{Map, Value};

use super::{
    args::{Format, StartArgs},
    out::out,
    print_json, status,
};

pub(crate) async fn start(args: StartArgs) -> Result<()> {
    let input = input(&args)?;
    let name = match args.name {
        Some(name) => RunId::try_from(name)?,
        None => RunId::now(),
    };
    let functions = StepFunctions::connect(&args.target).await;
    let machine = match functions.find(&args.target).await? {
        Target::Machine(machine) => machine,
        Target::Execution(arn) => {
            return Err(Error::new(
                ErrorKind::InputInvalid,
                "this is an execution, but a stack or state machine is needed",
            )
            .context("arn", arn));
        }
    };
    let request = functions.client.start_execution().state_machine_arn(&machine).name(name.to_string()).input(&input);
    let started = request.send().await.map_err(|e| executions::failed("states:StartExecution", &machine, e))?;
    let execution = started.execution_arn();
    if args.follow {
        return status::follow(&functions, execution, args.format.format()).await;
    }
    match args.format.format() {
        Format::Json => {
            print_json(&serde_json::json!({"execution": execution, "status": ExecutionStatus::Running.as_str()}))
        }
        Format::Text => {
            let console = executions::console(execution);
            let follow = format!("pomona aws status {execution} --follow");
            out(&format!("Started {execution}\n\n  follow   {follow}\n  console  {console}\n"))
        }
    }
}

/// The input of the execution, checked in the same way as by the function `plan`.
fn input(args: &StartArgs) -> Result<String> {
    let json = |value: serde_json::Result<Value>| {
        value.map_err(|e| Error::new(ErrorKind::InternalBug, "the input could not be written as JSON").source(e))
    };
    let mut fields = Map::new();
    for part in [json(serde_json::to_value(args.result.mode()))?, json(serde_json::to_value(args.result.settings()))?] {
        if let Value::Object(part) = part {
            fields.extend(part.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    fields.insert("decode".to_owned(), json(serde_json::to_value(Decoding::from(args.decode)))?);
    if let Some(model) = &args.model {
        fields.insert("extractor".to_owned(), serde_json::json!({"model": model}));
    }
    if let Some(extractor) = args.extractor {
        let WordsInput { location, words, weights, keypoints, .. } = args.words.input();
        let mut given = serde_json::json!({
            "name": extractor.kind().name(),
            "vocabulary": location,
            "words": words,
            "weights": weights,
            "keypoints": keypoints,
        });
        if let Some(given) = given.as_object_mut() {
            given.retain(|_, value| !value.is_null());
        }
        fields.insert("extractor".to_owned(), given);
    }
    fields.insert("input".to_owned(), args.images.clone().into());
    if let Some(inventory) = &args.inventory {
        fields.insert("inventory".to_owned(), inventory.clone().into());
    }
    fields.insert("output".to_owned(), args.output.clone().into());
    if let Some(labels) = &args.result.labelling.labels {
        fields.insert("labels".to_owned(), labels.clone().into());
    }
    let value = Value::Object(fields);
    let text = value.to_string();
    let request = Request::parse(value)?;
    store::check_apart(&request.input, &request.output)?;
    Ok(text)
}
