//! `pomona status`

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use aws_sdk_sfn::types::{ExecutionStatus, MapRunExecutionCounts};
use indicatif::{ProgressBar, ProgressStyle};
use pomona::{
    Error, ErrorKind, Result,
    aws::executions::{self, StepFunctions, Target},
};
use serde::Serialize;
use serde_json::Value;

use crate::{args::StatusArgs, format, print_json};

/// Step Functions answers one DescribeMapRun per second.
const PAUSE: Duration = Duration::from_secs(1);
/// Failed children that are asked why.
const ASKED: usize = 20;
/// Newest events in which the stage under way is looked for.
const EVENTS: i32 = 60;
const BAR: usize = 24;
/// The machine's states as the stages are called; the others (choices, waits) take no time.
const STAGES: [&str; 6] = ["Plan", "Featurize", "Merge", "Reduce", "Project", "Publish"];

/// One Distributed Map.
#[derive(Clone, Debug, Serialize)]
struct MapRun {
    stage: String,
    total: u64,
    succeeded: u64,
    failed: u64,
    running: u64,
    pending: u64,
    seconds: f64,
    /// Items per second since it began; none when it was redriven, as it stood still before that.
    rate: Option<f64>,
    seconds_left: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct Status {
    execution: String,
    console: String,
    status: String,
    /// Under way, or the last one.
    stage: Option<String>,
    /// Since it was started, for the first time.
    seconds: f64,
    /// How often it was redriven after a failure.
    redrives: u64,
    input: Value,
    output: Value,
    error: Option<String>,
    cause: Option<String>,
    maps: Vec<MapRun>,
    /// Failed items by the name of their error, as far as they were asked.
    failures: BTreeMap<String, u64>,
}

pub(crate) async fn status(args: StatusArgs) -> Result<()> {
    let functions = StepFunctions::connect(&args.target).await;
    let execution = match functions.find(&args.target).await? {
        Target::Execution(arn) => arn,
        Target::Machine(machine) => functions.newest(&machine).await?,
    };
    if args.follow {
        return follow(&functions, &execution, args.json).await;
    }
    let status = read(&functions, &execution).await?;
    show(&status, args.json)
}

/// Shows the progress of an execution until it ends. Fails with `Execution.Failed` when it fails.
pub(crate) async fn follow(functions: &StepFunctions, execution: &str, json: bool) -> Result<()> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{prefix:<10} {bar:32} {human_pos}/{human_len}  {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    let mut last = None;
    loop {
        let status = read(functions, execution).await?;
        let stage = status.stage.clone().unwrap_or_default();
        if let Some(map) = status.maps.iter().rev().find(|map| map.stage == stage) {
            bar.set_length(map.total);
            bar.set_position(map.succeeded + map.failed);
            bar.set_message(map.rates());
        } else {
            bar.set_length(0);
            bar.set_message(format::duration(status.seconds));
        }
        bar.set_prefix(stage.clone());
        // Where no bar can be drawn, a line for each stage.
        if !std::io::stderr().is_terminal() && last.as_ref() != Some(&stage) {
            eprintln!("{stage} ({} so far)", format::duration(status.seconds));
        }
        last = Some(stage);
        if status.status != ExecutionStatus::Running.as_str() {
            bar.finish_and_clear();
            show(&status, json)?;
            return match (status.status == ExecutionStatus::Succeeded.as_str(), status.error) {
                (true, _) => Ok(()),
                (false, error) => Err(Error::new(ErrorKind::ExecutionFailed, "the execution did not succeed")
                    .context("status", status.status)
                    .context("error", error.unwrap_or_else(|| "none given".to_owned()))),
            };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(functions: &StepFunctions, execution: &str) -> Result<Status> {
    let client = &functions.client;
    let described = client.describe_execution().execution_arn(execution).send().await;
    let described = described.map_err(|e| executions::failed("states:DescribeExecution", execution, e))?;
    let now = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
    let began = described.start_date().as_secs_f64();
    let ended = described.stop_date().map(|date| date.as_secs_f64());
    let json = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let (maps, failures) = maps(functions, execution, now).await?;
    Ok(Status {
        execution: execution.to_owned(),
        console: executions::console(execution),
        status: described.status().as_str().to_owned(),
        stage: stage(functions, execution).await?,
        seconds: (ended.unwrap_or(now) - began).max(0.0),
        redrives: redrives(described.redrive_count()),
        input: json(described.input()),
        output: json(described.output()),
        error: described.error().map(str::to_owned),
        cause: described.cause().map(str::to_owned),
        maps,
        failures,
    })
}

/// The stage that was entered last.
async fn stage(functions: &StepFunctions, execution: &str) -> Result<Option<String>> {
    let request =
        functions.client.get_execution_history().execution_arn(execution).reverse_order(true).max_results(EVENTS);
    let history = request.send().await.map_err(|e| executions::failed("states:GetExecutionHistory", execution, e))?;
    let entered = history.events().iter().filter_map(|event| event.state_entered_event_details());
    Ok(entered.map(|state| state.name()).find(|name| STAGES.contains(name)).map(str::to_owned))
}

async fn maps(functions: &StepFunctions, execution: &str, now: f64) -> Result<(Vec<MapRun>, BTreeMap<String, u64>)> {
    let client = &functions.client;
    let mut pages = client.list_map_runs().execution_arn(execution).into_paginator().items().send();
    let mut runs = Vec::new();
    while let Some(run) = pages.next().await {
        runs.push(run.map_err(|e| executions::failed("states:ListMapRuns", execution, e))?);
    }
    runs.sort_by(|a, b| a.start_date().as_secs_f64().total_cmp(&b.start_date().as_secs_f64()));
    let (mut maps, mut failures) = (Vec::new(), BTreeMap::new());
    for run in runs {
        let arn = run.map_run_arn();
        let described = client.describe_map_run().map_run_arn(arn).send().await;
        let described = described.map_err(|e| executions::failed("states:DescribeMapRun", arn, e))?;
        let seconds = described.stop_date().map_or(now, |date| date.as_secs_f64()) - run.start_date().as_secs_f64();
        let Some(counts) = described.execution_counts() else { continue };
        let steady = redrives(described.redrive_count()) == 0;
        let map = MapRun::new(stage_of(arn), counts, seconds.max(0.0), steady, described.stop_date().is_some());
        if map.failed > 0 {
            add_failures(functions, arn, &mut failures).await?;
        }
        maps.push(map);
    }
    Ok((maps, failures))
}

/// Step Functions reports none for what was never redriven.
fn redrives(reported: Option<i32>) -> u64 {
    reported.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// `arn:...:mapRun:<machine>/<label>:<id>`
fn stage_of(map_run: &str) -> String {
    let machine = map_run.split(':').nth(6).unwrap_or_default();
    machine.split('/').nth(1).unwrap_or("Map").to_owned()
}

async fn add_failures(functions: &StepFunctions, map_run: &str, failures: &mut BTreeMap<String, u64>) -> Result<()> {
    let request = functions.client.list_executions().map_run_arn(map_run).status_filter(ExecutionStatus::Failed);
    let failed = request.max_results(ASKED as i32).send().await;
    let failed = failed.map_err(|e| executions::failed("states:ListExecutions", map_run, e))?;
    for child in failed.executions().iter().take(ASKED) {
        let arn = child.execution_arn();
        let described = functions.client.describe_execution().execution_arn(arn).send().await;
        let described = described.map_err(|e| executions::failed("states:DescribeExecution", arn, e))?;
        *failures.entry(described.error().unwrap_or("none given").to_owned()).or_default() += 1;
    }
    Ok(())
}

impl MapRun {
    fn new(stage: String, counts: &MapRunExecutionCounts, seconds: f64, steady: bool, ended: bool) -> Self {
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let (succeeded, failed) = (number(counts.succeeded()), number(counts.failed()));
        let (running, pending) = (number(counts.running()), number(counts.pending()));
        let rate = steady.then(|| if seconds > 0.0 { (succeeded + failed) as f64 / seconds } else { 0.0 });
        let left = rate.map(|rate| (running + pending) as f64 / rate).filter(|left| left.is_finite() && !ended);
        MapRun {
            stage,
            total: number(counts.total()),
            succeeded,
            failed,
            running,
            pending,
            seconds,
            rate,
            seconds_left: left,
        }
    }

    fn rates(&self) -> String {
        let rate = self.rate.map(|rate| format!("{rate:.1}/s"));
        let left = self.seconds_left.map(|left| format!("{} left", format::duration(left)));
        let failed = (self.failed > 0).then(|| format!("{} failed", format::count(self.failed)));
        [rate, left, failed].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn show(status: &Status, json: bool) -> Result<()> {
    if json {
        return print_json(status);
    }
    let mut rows = vec![vec!["status".to_owned(), status.status.clone()]];
    let mut add = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    if let Some(stage) = status.stage.as_ref().filter(|_| status.status == ExecutionStatus::Running.as_str()) {
        add("stage", stage.clone());
    }
    add("time", format::duration(status.seconds));
    if status.redrives > 0 {
        add("redriven", format::counted(status.redrives, "time"));
    }
    for name in ["input", "output"] {
        if let Some(place) = status.input.get(name).and_then(Value::as_str) {
            add(name, place.to_owned());
        }
    }
    for name in ["version", "images", "rejects", "report"] {
        if let Some(value) = status.output.get(name) {
            add(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    if let Some(error) = &status.error {
        add("error", error.clone());
    }
    if let Some(cause) = &status.cause {
        add("cause", format::shorten(cause, 1_000));
    }
    for (error, count) in &status.failures {
        add("failed", format!("{} with {error}", format::counted(*count, "item")));
    }
    add("console", status.console.clone());
    println!("{}\n{}", status.execution, format::table(&rows, 2));
    let rows: Vec<_> = status
        .maps
        .iter()
        .map(|map| {
            let done = map.succeeded + map.failed;
            let filled = (done * BAR as u64).checked_div(map.total).unwrap_or(0) as usize;
            vec![
                map.stage.clone(),
                format!("{}{}", "█".repeat(filled), "·".repeat(BAR - filled.min(BAR))),
                format!("{} of {}", format::count(done), format::count(map.total)),
                map.rates(),
            ]
        })
        .collect();
    print!("{}", format::table(&rows, 2));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_runs_stage_stands_in_its_arn() {
        let arn = "arn:aws:states:us-east-1:123456789012:mapRun:pomona-pipeline/Featurize:0a1b";
        assert_eq!(stage_of(arn), "Featurize");
    }
}
