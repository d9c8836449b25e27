//! `pomona aws status`

use std::{
    collections::{BTreeMap, HashMap},
    io::IsTerminal,
    time::{Duration, Instant},
};

use crate::{
    Error, ErrorKind, Result,
    aws::executions::{self, StepFunctions, Target},
};
use aws_sdk_sfn::{
    operation::describe_map_run::DescribeMapRunOutput,
    types::{ExecutionStatus, MapRunListItem},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::{
    args::{Format, StatusArgs},
    format,
    out::{note, out},
    print_json,
};

/// Between two questions about an execution.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two calls of DescribeMapRun, of which Step Functions answers one per second and account.
const BETWEEN_MAP_RUNS: Duration = Duration::from_millis(1_100);
/// Failed items of a map whose error is read.
const FAILURES: usize = 20;
/// Newest events that are searched for the current stage.
const EVENTS: i32 = 60;
/// Width of a progress bar, characters.
const BAR: usize = 24;
/// Longest cause that is printed whole, characters.
const CAUSE: usize = 1_000;
/// States that are stages; the others (choices, waits) take no time.
const STAGES: [&str; 8] = ["Vocabulary", "Plan", "List", "Featurize", "Merge", "Reduce", "Project", "Publish"];

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
    /// Items per second since the start; none after a redrive, because the map was idle before it.
    rate: Option<f64>,
    seconds_left: Option<f64>,
}

/// An execution, as it is printed.
#[derive(Clone, Debug, Serialize)]
struct Status {
    execution: String,
    console: String,
    status: String,
    /// The current stage, or the last one.
    stage: Option<String>,
    /// Since the first start.
    seconds: f64,
    /// Redrives after failures.
    redrives: u64,
    input: Value,
    output: Value,
    error: Option<String>,
    cause: Option<String>,
    maps: Vec<MapRun>,
    /// Failed items by error name; at most [`FAILURES`] per map are counted.
    failures: BTreeMap<String, u64>,
}

pub(crate) async fn status(args: StatusArgs) -> Result<()> {
    let functions = StepFunctions::connect(&args.target).await;
    let execution = match functions.find(&args.target).await? {
        Target::Execution(arn) => arn,
        Target::Machine(machine) => functions.newest(&machine).await?,
    };
    if args.follow {
        return follow(&functions, &execution, args.format.format()).await;
    }
    show(&read(&functions, &execution, &mut MapRuns::default()).await?, args.format.format())
}

/// Shows the progress of an execution until it ends. Fails with `Execution.Failed` when it fails.
pub(crate) async fn follow(functions: &StepFunctions, execution: &str, format: Format) -> Result<()> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{prefix:<10} {bar:32} {human_pos}/{human_len}  {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    let (mut last, mut map_runs) = (None, MapRuns::default());
    loop {
        let status = read(functions, execution, &mut map_runs).await?;
        let stage = status.stage.clone().unwrap_or_else(|| "starting".to_owned());
        if let Some(map) = status.maps.iter().rev().find(|map| map.stage == stage) {
            bar.set_length(map.total);
            bar.set_position(map.succeeded + map.failed);
            bar.set_message(map.rates());
        } else {
            bar.set_length(0);
            bar.set_message(format::duration(status.seconds));
        }
        bar.set_prefix(format::escape_invisible(&stage).into_owned());
        // Without a terminal there is no bar, but a line for each stage.
        if !std::io::stderr().is_terminal() && last.as_ref() != Some(&stage) {
            let stage = format::escape_invisible(&stage);
            note(&format!("{stage}, {} after the start", format::duration(status.seconds)));
        }
        last = Some(stage);
        if status.status != ExecutionStatus::Running.as_str() {
            bar.finish_and_clear();
            show(&status, format)?;
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

async fn read(functions: &StepFunctions, execution: &str, map_runs: &mut MapRuns) -> Result<Status> {
    let client = &functions.client;
    let described = client.describe_execution().execution_arn(execution).send().await;
    let described = described.map_err(|e| executions::failed("states:DescribeExecution", execution, e))?;
    let now = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
    let began = described.start_date().as_secs_f64();
    let ended = described.stop_date().map(|date| date.as_secs_f64());
    let json = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let (maps, failures) = map_runs.read(functions, execution, now).await?;
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

/// The last stage that the execution has entered.
async fn stage(functions: &StepFunctions, execution: &str) -> Result<Option<String>> {
    let request =
        functions.client.get_execution_history().execution_arn(execution).reverse_order(true).max_results(EVENTS);
    let history = request.send().await.map_err(|e| executions::failed("states:GetExecutionHistory", execution, e))?;
    let entered = history.events().iter().filter_map(|event| event.state_entered_event_details());
    Ok(entered.map(|state| state.name()).find(|name| STAGES.contains(name)).map(str::to_owned))
}

/// What is known about the maps of an execution.
#[derive(Default)]
struct MapRuns {
    /// Maps that have ended, by ARN. They are not asked for again.
    ended: HashMap<String, (MapRun, BTreeMap<String, u64>)>,
    asked: Option<Instant>,
}

impl MapRuns {
    async fn read(
        &mut self,
        functions: &StepFunctions,
        execution: &str,
        now: f64,
    ) -> Result<(Vec<MapRun>, BTreeMap<String, u64>)> {
        let client = &functions.client;
        let mut pages = client.list_map_runs().execution_arn(execution).into_paginator().items().send();
        let mut runs = Vec::new();
        while let Some(run) = pages.next().await {
            runs.push(run.map_err(|e| executions::failed("states:ListMapRuns", execution, e))?);
        }
        runs.sort_by(|a, b| a.start_date().as_secs_f64().total_cmp(&b.start_date().as_secs_f64()));
        let (mut maps, mut failures) = (Vec::new(), BTreeMap::new());
        for run in runs {
            let Some((map, failed)) = self.one(functions, &run, now).await? else { continue };
            for (error, count) in failed {
                *failures.entry(error).or_default() += count;
            }
            maps.push(map);
        }
        Ok((maps, failures))
    }

    /// A map and its failures by error. None if Step Functions does not report counts.
    async fn one(
        &mut self,
        functions: &StepFunctions,
        run: &MapRunListItem,
        now: f64,
    ) -> Result<Option<(MapRun, BTreeMap<String, u64>)>> {
        let arn = run.map_run_arn();
        if let Some(known) = self.ended.get(arn) {
            return Ok(Some(known.clone()));
        }
        if let Some(asked) = self.asked {
            tokio::time::sleep_until((asked + BETWEEN_MAP_RUNS).into()).await;
        }
        self.asked = Some(Instant::now());
        let described = functions.client.describe_map_run().map_run_arn(arn).send().await;
        let described = described.map_err(|e| executions::failed("states:DescribeMapRun", arn, e))?;
        let Some(map) = MapRun::new(run, &described, now) else { return Ok(None) };
        let mut failures = BTreeMap::new();
        if map.failed > 0 {
            add_failures(functions, arn, &mut failures).await?;
        }
        if described.stop_date().is_some() {
            self.ended.insert(arn.to_owned(), (map.clone(), failures.clone()));
        }
        Ok(Some((map, failures)))
    }
}

/// Step Functions reports no number if there was no redrive.
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
    let failed = request.max_results(FAILURES as i32).send().await;
    let failed = failed.map_err(|e| executions::failed("states:ListExecutions", map_run, e))?;
    for child in failed.executions().iter().take(FAILURES) {
        let arn = child.execution_arn();
        let described = functions.client.describe_execution().execution_arn(arn).send().await;
        let described = described.map_err(|e| executions::failed("states:DescribeExecution", arn, e))?;
        *failures.entry(described.error().unwrap_or("none given").to_owned()).or_default() += 1;
    }
    Ok(())
}

impl MapRun {
    /// None if Step Functions does not report counts.
    fn new(run: &MapRunListItem, described: &DescribeMapRunOutput, now: f64) -> Option<Self> {
        let counts = described.execution_counts()?;
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let (succeeded, failed) = (number(counts.succeeded()), number(counts.failed()));
        let (running, pending) = (number(counts.running()), number(counts.pending()));
        let ended = described.stop_date().map(|date| date.as_secs_f64());
        let seconds = (ended.unwrap_or(now) - run.start_date().as_secs_f64()).max(0.0);
        let rate = (redrives(described.redrive_count()) == 0)
            .then(|| if seconds > 0.0 { (succeeded + failed) as f64 / seconds } else { 0.0 });
        let left = rate.map(|rate| (running + pending) as f64 / rate);
        Some(MapRun {
            stage: stage_of(run.map_run_arn()),
            total: number(counts.total()),
            succeeded,
            failed,
            running,
            pending,
            seconds,
            rate,
            seconds_left: left.filter(|left| left.is_finite() && ended.is_none()),
        })
    }

    /// Stage, bar, items and rate.
    fn row(&self) -> Vec<String> {
        let done = self.succeeded + self.failed;
        let filled = (done * BAR as u64).checked_div(self.total).unwrap_or(0) as usize;
        vec![
            self.stage.clone(),
            format!("{}{}", "█".repeat(filled), "·".repeat(BAR - filled.min(BAR))),
            format!("{} of {}", format::count(done), format::count(self.total)),
            self.rates(),
        ]
    }

    fn rates(&self) -> String {
        let rate = self.rate.map(|rate| format!("{rate:.1}/s"));
        let left = self.seconds_left.map(|left| format!("{} left", format::duration(left)));
        let failed = (self.failed > 0).then(|| format!("{} failed", format::count(self.failed)));
        [rate, left, failed].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn show(status: &Status, format: Format) -> Result<()> {
    match format {
        Format::Json => print_json(status),
        Format::Text => out(&status.text()),
    }
}

impl Status {
    fn text(&self) -> String {
        let rows = format::table(&self.rows(), 2);
        let maps = format::table(&self.maps.iter().map(MapRun::row).collect::<Vec<_>>(), 2);
        format!("{}\n{rows}\n{maps}", format::escape_invisible(&self.execution))
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![format::row(["status", &self.status])];
        let mut add = |name: &str, value: &str| rows.push(format::row([name, value]));
        if let Some(stage) = self.stage.as_ref().filter(|_| self.status == ExecutionStatus::Running.as_str()) {
            add("stage", stage);
        }
        add("time", &format::duration(self.seconds));
        if self.redrives > 0 {
            add("redriven", &format::counted(self.redrives, "time"));
        }
        for name in ["input", "output"] {
            if let Some(place) = self.input.get(name).and_then(Value::as_str) {
                add(name, place);
            }
        }
        for name in ["version", "images", "rejects", "report"] {
            if let Some(value) = self.output.get(name) {
                add(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
        if let Some(error) = &self.error {
            add("error", error);
        }
        if let Some(cause) = &self.cause {
            add("cause", &format::shorten(cause, CAUSE));
        }
        for (error, count) in &self.failures {
            add("failed", &format!("{} with {error}", format::counted(*count, "item")));
        }
        let unread = self.maps.iter().map(|map| map.failed).sum::<u64>().saturating_sub(self.failures.values().sum());
        if unread > 0 {
            add("failed", &format!("{} more, errors not read", format::counted(unread, "item")));
        }
        add("console", &self.console);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arn_of_a_map_run_names_the_stage() {
        let arn = "arn:aws:states:us-east-1:123456789012:mapRun:pomona-pipeline/Featurize:0a1b";
        assert_eq!(stage_of(arn), "Featurize");
    }
}
