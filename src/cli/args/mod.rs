//! The command line: commands, arguments, options and their help texts.
//!
//! `tests/snapshots/` holds every help text at 80 columns.
// Help texts show regular expressions with named groups as they are typed.
#![allow(rustdoc::invalid_html_tags)]

mod aws;
mod classify;
mod descriptors;
mod engine;
mod model;
mod run;
mod search;
mod serve;
mod values;
mod versions;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use aws::{ArchitectureArg, AwsArgs, AwsCommand, DeployArgs, EstimateArgs, StartArgs, StatusArgs};
pub(crate) use classify::{
    AnswerFormat, DuplicatesArgs, EvaluateArgs, ListArgs, ListCommand, ListOptions, OutliersArgs, PredictArgs,
    RejectsArgs, SuspectsArgs,
};
pub(crate) use descriptors::DescriptorsArgs;
pub(crate) use engine::{EngineArg, EngineOptions};
pub(crate) use model::{LoadOptions, ModelArgs, ModelCheckArgs, ModelCommand, ModelPushArgs};
pub(crate) use run::{DemoArgs, InputOptions, RunArgs, RunOptions, WatchArgs};
pub(crate) use search::{PicturesArg, SearchArgs, SpaceArg};
pub(crate) use serve::ServeArgs;
pub(crate) use versions::{CheckArgs, DiffArgs, EraseArgs, LogArgs, ShowArgs, VacuumArgs};

/// Image features and PCA at any scale, without a cluster
///
/// Pomona reads images from a folder or an S3 bucket, computes MobileNetV2 features and a principal component analysis
/// (PCA), and writes Parquet tables. Runs are incremental: only new and changed images go through the model.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  pomona demo                              render pictures and run on them
  pomona run photos/ results/              run on your own images
  pomona run s3://bucket/images/ results/  run on a bucket
  pomona show results/                     print the newest version

Credentials, region and AWS_ENDPOINT_URL for S3 are set as in other AWS tools.
Exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C (the same
command then continues the run)."
)]
pub(crate) struct Args {
    /// Print results and errors only: no progress and no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Also print what each stage does, and how long it takes
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Watch(WatchArgs),
    Demo(DemoArgs),
    Show(ShowArgs),
    Log(LogArgs),
    Diff(DiffArgs),
    Evaluate(EvaluateArgs),
    Predict(PredictArgs),
    List(ListArgs),
    Search(SearchArgs),
    Serve(ServeArgs),
    Descriptors(DescriptorsArgs),
    Model(ModelArgs),
    Check(CheckArgs),
    Vacuum(VacuumArgs),
    Erase(EraseArgs),
    Aws(AwsArgs),
    Completions(CompletionsArgs),
    #[command(hide = true)]
    Man(ManArgs),
    // The names of release 0.1.0.
    #[command(hide = true)]
    Estimate(EstimateArgs),
    #[command(hide = true)]
    Start(StartArgs),
    #[command(hide = true)]
    Status(StatusArgs),
}

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona completions bash > ~/.local/share/bash-completion/completions/pomona
  pomona completions zsh > ~/.zfunc/_pomona
  pomona completions fish > ~/.config/fish/completions/pomona.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Write man pages to a folder
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Folder for the pages; it is made if it does not exist
    pub folder: PathBuf,
}

/// `--json`, the same for all commands that print results.
#[derive(Debug, clap::Args)]
pub(crate) struct FormatOptions {
    /// Print the result as JSON to standard output
    #[arg(long, help_heading = None)]
    json: bool,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl FormatOptions {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        super::Args::command().debug_assert();
    }
}
