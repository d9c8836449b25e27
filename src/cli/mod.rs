//! The program: reads the command line, calls the library, prints progress and results.
//!
//! `src/main.rs` and the Python package call [`main`]. The macros `println!` and `eprintln!` panic when their reader has gone;
//! `out` has what to use instead.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod browse;
mod check;
mod completions;
mod demo;
mod deploy;
mod descriptors;
mod diff;
mod erase;
mod estimate;
mod evaluate;
mod format;
mod list;
mod local_model;
mod log;
mod model;
mod open;
mod out;
mod pictures;
mod predict;
mod progress;
mod run;
mod search;
mod serve;
mod show;
mod start;
mod status;
mod style;
mod summary;
mod vacuum;
mod watch;

use std::{ffi::OsString, io::Write};

use clap::Parser;
use serde::Serialize;

use crate::{Error, ErrorKind, Result, escape_invisible, model::check_instructions};
use args::{Args, AwsArgs, AwsCommand, Command, ModelArgs, ModelCommand};
use out::{complain, out};
use style::Style;

/// Exit code if something failed.
const FAILURE: u8 = 1;
/// Exit code if an argument or a setting is wrong.
const WRONG_USAGE: u8 = 2;
/// Exit code after Ctrl-C, as in shells: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs a command line, which begins with the name of the program. Returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let outcome = match Args::try_parse_from(&arguments) {
        Ok(args) => dispatch(args),
        Err(answer) if answer.use_stderr() => {
            wrong_usage(&answer, &arguments);
            return WRONG_USAGE;
        }
        // The answer to `--help` or `--version`.
        Err(answer) => out::written(answer.print().and_then(|()| std::io::stdout().flush())),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            report(&error);
            match error.kind() {
                ErrorKind::InputInvalid => WRONG_USAGE,
                ErrorKind::RunInterrupted => INTERRUPTED,
                _ => FAILURE,
            }
        }
    }
}

/// Prints what is wrong with the arguments. The text quotes them, so invisible characters are escaped.
fn wrong_usage(answer: &clap::Error, arguments: &[OsString]) {
    if arguments.iter().any(|argument| escape_invisible(&argument.to_string_lossy()) != argument.to_string_lossy()) {
        let text = answer.render().to_string();
        text.trim_end().lines().for_each(|line| complain(&escape_invisible(line)));
    } else {
        // There is no place left to report that standard error cannot be written.
        let _ = answer.print();
    }
}

/// Prints an error: its stable name, what is wrong, where, and what to do.
fn report(error: &Error) {
    let name = Style::of_errors().error(&format!("error[{}]:", error.kind()));
    complain(&format!("{name} {error}"));
    complain(&format!("  help: {}", error.kind().advice()));
}

/// Prints a result for other programs.
fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "the result could not be written as JSON").source(e))?;
    out(&(text + "\n"))
}

fn dispatch(args: Args) -> Result<()> {
    out::set_detail(args.quiet, args.verbose);
    check_instructions()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| {
            Error::new(ErrorKind::StoreFailed, "the threads of the program could not be started").source(e)
        })?;
    let outcome = runtime.block_on(async {
        match args.command {
            Command::Run(args) => run::run(args).await,
            Command::Demo(args) => demo::demo(args).await,
            Command::Show(args) => show::show(args).await,
            Command::Watch(args) => watch::watch(args).await,
            Command::Log(args) => log::log(args).await,
            Command::Diff(args) => diff::diff(args).await,
            Command::Evaluate(args) => evaluate::evaluate(args).await,
            Command::Predict(args) => predict::predict(args).await,
            Command::List(args) => list::list(args).await,
            Command::Search(args) => search::search(args).await,
            Command::Model(ModelArgs { command: ModelCommand::Check(args) }) => model::check(*args).await,
            Command::Model(ModelArgs { command: ModelCommand::Push(args) }) => model::push(*args).await,
            Command::Descriptors(args) => descriptors::descriptors(args).await,
            Command::Serve(args) => serve::serve(args).await,
            Command::Check(args) => check::check(args).await,
            Command::Vacuum(args) => vacuum::vacuum(args).await,
            Command::Erase(args) => erase::erase(args).await,
            Command::Completions(args) => completions::completions(&args),
            Command::Man(args) => completions::man(&args),
            Command::Aws(AwsArgs { command: AwsCommand::Deploy(args) }) => deploy::deploy(args).await,
            Command::Aws(AwsArgs { command: AwsCommand::Estimate(args) }) | Command::Estimate(args) => {
                estimate::estimate(&args).await
            }
            Command::Aws(AwsArgs { command: AwsCommand::Start(args) }) => start::start(*args).await,
            Command::Start(args) => start::start(args).await,
            Command::Aws(AwsArgs { command: AwsCommand::Status(args) }) | Command::Status(args) => {
                status::status(args).await
            }
        }
    });
    // A file operation that hangs, on a network file system for example, must not keep the process.
    runtime.shutdown_background();
    outcome
}
