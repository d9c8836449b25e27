//! `pomona check`

use std::sync::Arc;

use crate::{
    Result,
    dataset::{Manifest, lease::Liveness},
    ids::RunId,
    model::WorkerPool,
    stages::{CancellationToken, Stores},
    store::{self, Store},
    versions::check::{self, Checked, Depth, Fault, Problem, RepairInput, Tools},
};
use async_trait::async_trait;

use super::{
    args::{CheckArgs, Format},
    erase::recorded_input,
    format,
    out::out,
    print_json,
    progress::Bars,
    run,
};

/// Longest key and detail that are printed whole, characters.
const TEXT: usize = 200;
/// Unknown files that are printed.
const UNKNOWN: usize = 10;

pub(crate) async fn check(args: CheckArgs) -> Result<()> {
    let output = store::open(&args.output).await?;
    let depth = if args.fast { Depth::Files } else { Depth::Numbers };
    let (bars, judge) = (Bars::new(), args.locks.judge());
    let outcome = if args.repair {
        let stop = CancellationToken::new();
        run::listen(stop.clone());
        let input = RepairInput { run: RunId::now(), mode: args.input_options.mode(), depth };
        let tools = Given { args: &args, output: output.clone() };
        check::repair(output.as_ref(), input, &tools, judge, &bars, &stop).await
    } else {
        check::check(output.as_ref(), depth, judge, &bars).await
    };
    bars.clear();
    let checked = outcome?;
    match args.format.format() {
        Format::Json => print_json(&checked)?,
        Format::Text => out(&text(&checked, &args))?,
    }
    checked.expect_sound()
}

/// The input and the model of the arguments.
struct Given<'a> {
    args: &'a CheckArgs,
    output: Arc<dyn Store>,
}

#[async_trait]
impl Tools for Given<'_> {
    async fn open(&self, current: &Manifest) -> Result<(Stores, WorkerPool)> {
        let input = match &self.args.input {
            Some(input) => input.clone(),
            None => recorded_input(current.input.clone())?,
        };
        let input = store::open_input(&input, &self.args.output).await?;
        let stores = Stores::new(input, self.output.clone());
        let workers = run::workers(&self.args.engine, &stores).await?;
        Ok((stores, workers))
    }
}

fn text(checked: &Checked, args: &CheckArgs) -> String {
    let mut text = String::new();
    for problem in &checked.problems {
        text.push_str(&lines(problem));
    }
    if !checked.problems.is_empty() {
        text.push('\n');
    }
    text.push_str(&summary(checked));
    text.push_str(&notes(checked));
    text.push_str(&advice(checked, args));
    text
}

/// A damaged file: its key, then what is wrong with it.
fn lines(problem: &Problem) -> String {
    let fault = match (problem.repaired, problem.problem) {
        (true, _) => "repaired",
        (false, Fault::Missing) => "missing",
        (false, Fault::Damaged) => "damaged",
        (false, Fault::Wrong) => "wrong",
    };
    let mut text = format!("{fault:<8}  {}\n", format::shorten(&problem.file, TEXT));
    let mut line = |what: &str| {
        for part in wrapped(what) {
            text.push_str(&format!("{:10}{part}\n", ""));
        }
    };
    format::escape_invisible(&problem.detail).split("; ").for_each(&mut line);
    if !problem.versions.is_empty() {
        let name = if problem.versions.len() == 1 { "version" } else { "versions" };
        line(&format!("{name} {}", format::versions(&problem.versions)));
    }
    if problem.matters() {
        line(&format!("made again from: {}", problem.made_again_from));
    } else if !problem.repaired {
        line("no result depends on it");
    }
    text
}

/// A text in lines that fit a terminal of 80 columns beside the first column.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 70;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn summary(checked: &Checked) -> String {
    let read = format!(
        "{} ({}), {}, {}",
        format::counted(checked.files, "file"),
        format::bytes(checked.bytes),
        format::counted(checked.versions.len() as u64, "version"),
        format::counted(checked.images, "image"),
    );
    let repaired = checked.problems.iter().filter(|problem| problem.repaired).count() as u64;
    let damaged = checked.problems.iter().filter(|problem| problem.matters()).count() as u64;
    let verdict = match (damaged, repaired) {
        (0, 0) => "no damage".to_owned(),
        (0, _) => format!("{} repaired", format::counted(repaired, "file")),
        (_, 0) => format!("{} damaged", format::counted(damaged, "file")),
        _ => format!("{} damaged, {} repaired", format::counted(damaged, "file"), format::count(repaired)),
    };
    format!("Checked {read}: {verdict}\n")
}

/// What is no damage.
fn notes(checked: &Checked) -> String {
    let mut text = String::new();
    let orphans = checked.orphans;
    if orphans.files > 0 {
        let files = format::counted(orphans.files, "file");
        text.push_str(&format!("No version needs {files} ({}); a vacuum deletes them\n", format::bytes(orphans.bytes)));
    }
    for mark in &checked.marks {
        let what = match mark.holder {
            Liveness::Alive => "in progress",
            Liveness::Dead => "left by a process that has ended",
            Liveness::Unknown => "in progress, or left by a process that has ended",
        };
        text.push_str(&format!("Mark: {} ({what})\n", format::shorten(&mark.file, TEXT)));
    }
    for file in checked.unknown.iter().take(UNKNOWN) {
        text.push_str(&format!("Unknown file: {}\n", format::shorten(file, TEXT)));
    }
    if checked.unknown.len() > UNKNOWN {
        let more = format::count((checked.unknown.len() - UNKNOWN) as u64);
        text.push_str(&format!("… and {more} more unknown files; --json prints all\n"));
    }
    text
}

fn advice(checked: &Checked, args: &CheckArgs) -> String {
    if checked.is_sound() {
        return String::new();
    }
    if args.repair {
        return "Restore what is still damaged from a backup, or delete its versions: see\n\
                \"Damaged files\" in docs/operations.md.\n"
            .to_owned();
    }
    format!("Make the files again with\n  pomona check {} --repair\n", format::shell(&args.output))
}
