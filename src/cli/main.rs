//! The command line: arguments in, progress and summaries out. All work is the library's.

mod args;
mod demo;
mod format;
mod progress;
mod run;
mod show;

use std::process::ExitCode;

use clap::Parser;
use pomona::{Error, ErrorKind, Result};

use args::{Args, Command};

/// Stopped by Ctrl-C, as shells count it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    match dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error[{}]: {error}", error.kind());
            eprintln!("  help: {}", error.kind().advice());
            match error.kind() {
                ErrorKind::InputInvalid => ExitCode::from(2),
                ErrorKind::RunInterrupted => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::StoreFailed, "the program could not start its threads").source(e))?;
    runtime.block_on(async {
        match args.command {
            Command::Run(args) => run::run(args).await,
            Command::Demo(args) => demo::demo(args).await,
            Command::Show(args) => show::show(args).await,
        }
    })
}
