//! What can be typed.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, Subcommand};
use pomona::{
    cost::{
        estimate::{BYTES_PER_IMAGE, Deployment, MS_PER_IMAGE},
        receipt::USUAL_REGION,
    },
    dataset::{
        settings::{ListingScope, Mode, Refit, Settings},
        shard::DEFAULT_SHARD_SIZE,
    },
    demo::DEFAULT_VIEWS,
    model::FeatureRange,
    pca::ComponentSelection,
};

/// Image features and PCA at any scale, without a cluster
///
/// A folder of images goes in; MobileNetV2 features, a PCA and Parquet tables come out.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Try it:  pomona demo                       render 560 fruit pictures and run on them
         pomona run photos/ results/       run on your own
         pomona show results/              look at what came out

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C (run again to go on)"
)]
pub(crate) struct Args {
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
    Vacuum(VacuumArgs),
    Erase(EraseArgs),
    Estimate(EstimateArgs),
    Start(StartArgs),
    Status(StatusArgs),
}

/// Features, PCA and tables of a folder of images
///
/// Every file below IMAGES counts as an image; files whose name starts with a dot do not. The folder that holds a file
/// is its label. Files that cannot be read as images end in the rejects table, with the reason. Running again on the
/// same OUTPUT infers only what is new or changed; a run that was stopped goes on where it was.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("keep").args(["components", "variance"]), after_help = "\
Examples:
  pomona run fruits/ results/                       50 components (or as many as there can be)
  pomona run fruits/ results/ --variance 0.9        as many as explain 90 % of the variance
  pomona run fruits/ results/ --csv --partition-by-label")]
pub(crate) struct RunArgs {
    /// Folder with images: JPEG, PNG, GIF, BMP, WebP, TIFF
    pub images: String,
    /// Folder for the results; made when it does not exist
    pub output: String,
    #[command(flatten)]
    pub options: RunOptions,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub result: ResultOptions,
    #[command(flatten)]
    pub engine: EngineOptions,
    /// Print the summary as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// What a run makes, and of what.
#[derive(Debug, clap::Args)]
pub(crate) struct ResultOptions {
    /// ComponentSelection K components [default: 50, or as many as there can be]
    #[arg(short = 'k', long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub components: Option<u32>,
    /// ComponentSelection the fewest components that explain this share of the variance, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub variance: Option<f64>,
    /// Only centre the features; do not divide by their standard deviations
    #[arg(long)]
    pub no_standardize: bool,
    /// Write the scores into one folder per label (label=.../), as Spark's partitionBy does
    #[arg(long)]
    pub partition_by_label: bool,
    /// Write the scores as result.csv too
    #[arg(long)]
    pub csv: bool,
    /// Fail when more than this share of the images is rejected; one is always allowed, unless this is 0
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    pub max_reject_percent: f64,
    /// Images per shard that are aimed at: what a stopped run redoes at most, and one Lambda's share
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_SIZE)]
    pub shard_size: u32,
    /// Fit the PCA to the images as they are, or keep the basis of the last version and project only what has changed
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    pub refit: RefitArg,
    /// Go on although the last version was made with another model or other settings
    #[arg(long)]
    pub rebuild: bool,
}

/// What makes the features.
#[derive(Debug, clap::Args)]
pub(crate) struct EngineOptions {
    /// Images worked on at a time [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Another ONNX model: one float32 image input (1x3xHxW or 1xHxWx3), one output vector up to 4096
    #[arg(long, value_name = "FILE.onnx")]
    pub model: Option<PathBuf>,
    /// What runs the model: Pomona's kernels where they know all of it, or tract always
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineArg,
    /// Power of two that no feature's absolute value reaches; larger ones are stored less finely
    #[arg(long, value_name = "N", default_value = "8", value_parser = feature_range)]
    pub feature_range: FeatureRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineArg {
    Auto,
    Tract,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RefitArg {
    Always,
    Never,
}

impl ResultOptions {
    pub(crate) fn mode(&self) -> Mode {
        let refit = match self.refit {
            RefitArg::Always => Refit::Always,
            RefitArg::Never => Refit::Never,
        };
        Mode { refit, rebuild: self.rebuild, listing: ListingScope::All }
    }

    pub(crate) fn settings(&self) -> Settings {
        let components = self.components.map(|k| ComponentSelection::Components(k as usize));
        Settings {
            pca: components.or(self.variance.map(ComponentSelection::Variance)),
            standardize: !self.no_standardize,
            partition_by_label: self.partition_by_label,
            csv: self.csv,
            max_reject_percent: self.max_reject_percent,
            shard_size: self.shard_size,
        }
    }
}

/// Render a small data set of fruit pictures and run on it
///
/// Writes DIR/images (14 varieties in one folder each, 100 x 100 JPEG, every picture the same each time) and runs the
/// whole pipeline on them into DIR/results. Nothing is downloaded.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("keep").args(["components", "variance"]))]
pub(crate) struct DemoArgs {
    /// Where to put pictures and results
    #[arg(default_value = "pomona-demo")]
    pub dir: PathBuf,
    /// Pictures of each variety, over one full turn
    #[arg(long, value_name = "N", default_value_t = DEFAULT_VIEWS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub views: u32,
    /// Only render the pictures
    #[arg(long)]
    pub images_only: bool,
    #[command(flatten)]
    pub options: RunOptions,
}

/// Run again whenever images are added, changed or deleted
///
/// Runs once, then waits for changes below IMAGES and runs again when none has come for a moment. A run that fails is
/// told of, and the watch goes on. Ctrl-C ends it. For a bucket, let its upload events start runs: docs/deploy.md.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("keep").args(["components", "variance"]))]
pub(crate) struct WatchArgs {
    /// Folder with images
    pub images: PathBuf,
    /// Folder or s3:// location for the results
    pub output: String,
    /// Seconds without a change before a run begins
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub debounce: f64,
    #[command(flatten)]
    pub options: RunOptions,
}

/// Versions, labels, explained variance, first rows and rejects of an output
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Folder or s3:// location that `pomona run` wrote
    pub output: String,
    /// Show this version instead of the newest
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Rows of each table to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub rows: usize,
    /// Print the version's manifest as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// The versions of an output: when, what was new, how long it took
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Folder or s3:// location that `pomona run` wrote
    pub output: String,
    /// Print one JSON object per version on standard output
    #[arg(long)]
    pub json: bool,
}

/// What lies between two versions: images, explained variance, angle between the subspaces
///
/// Scores of two versions can be compared where the angles are small. 0 degrees: the components span the same space;
/// 90 degrees: one has a direction that the other knows nothing of.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Folder or s3:// location that `pomona run` wrote
    pub output: String,
    /// The older version
    pub from: u64,
    /// The newer version
    pub to: u64,
    /// Keys of each kind to print
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub rows: usize,
    /// Print everything as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Delete old versions, and files that no version names
///
/// Never touches a file of a version that is kept or of a run in progress; runs and vacuums exclude each other. On S3 a
/// versioned bucket keeps deleted objects until its lifecycle rule removes them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona vacuum results/ --dry-run                                what would be deleted
  pomona vacuum results/ --keep-versions 5 --older-than 30        keep five, and a month")]
pub(crate) struct VacuumArgs {
    /// Folder or s3:// location that `pomona run` wrote
    pub output: String,
    /// Versions to keep, whatever their age; the newest always is
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep_versions: usize,
    /// Days that older versions, and what interrupted runs have left, are kept
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub older_than: u32,
    /// Only tell what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Name every file
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the counts as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Take images out of an output and out of every version of it (GDPR, article 17)
///
/// Delete the images from the input first. This makes a version without them, removes every version that holds one of
/// them with all that only it names, the records of runs and what was left half done, then reads the tables that are
/// left and tells which. Sums, basis and scores of the new version are those of a data set that never had the images.
#[derive(Debug, clap::Args)]
pub(crate) struct EraseArgs {
    /// Folder or s3:// location that `pomona run` wrote
    pub output: String,
    /// Paths of the images as the tables have them, relative to the input
    #[arg(required = true)]
    pub keys: Vec<String>,
    #[command(flatten)]
    pub engine: EngineOptions,
    /// Print the record as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Seconds and dollars of a run on AWS, before it is made
///
/// From times per image that were measured, the stack's parameters, the account's quotas and a dated table of prices,
/// beside the same work on an EMR cluster. Nothing is sent anywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona estimate --images 22688                          the first run on a small collection
  pomona estimate --images 100000000 --concurrency 1000   what limits a large one
  pomona estimate --images 1000000 --ms-per-image 30 --bytes-per-image 120000    photos of 500 x 400")]
pub(crate) struct EstimateArgs {
    /// Images that go through the model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub images: u64,
    /// Region whose prices are taken
    #[arg(long, value_name = "REGION", default_value = USUAL_REGION)]
    pub region: String,
    /// Processor of the functions
    #[arg(long, value_enum, default_value = "x86_64", value_name = "ARCH")]
    pub architecture: ArchitectureArg,
    /// Milliseconds per image on one processor of a Lambda, from file to features
    #[arg(long, value_name = "MS", default_value_t = MS_PER_IMAGE, value_parser = milliseconds)]
    pub ms_per_image: f64,
    /// Size of an image file
    #[arg(long, value_name = "BYTES", default_value_t = BYTES_PER_IMAGE)]
    pub bytes_per_image: u64,
    /// FeaturizeMemory of the stack, MB; 1769 is one processor
    #[arg(long, value_name = "MB", default_value_t = Deployment::default().memory, value_parser = clap::value_parser!(u32).range(512..=10_240))]
    pub memory: u32,
    /// MaxConcurrency of the stack
    #[arg(long, value_name = "N", default_value_t = Deployment::default().concurrency, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// Functions that the account may run at once
    #[arg(long, value_name = "N", default_value_t = Deployment::default().account_concurrency, value_parser = clap::value_parser!(u32).range(1..))]
    pub account_concurrency: u32,
    /// Images per shard
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_SIZE, value_parser = clap::value_parser!(u32).range(1..))]
    pub shard_size: u32,
    /// Print everything as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArchitectureArg {
    #[value(name = "x86_64")]
    X86_64,
    Arm64,
}

/// Start a run of a deployed stack
///
/// Checks what is asked for, starts an execution of the stack's state machine and prints its ARN.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("keep").args(["components", "variance"]), after_help = "\
Examples:
  pomona start pomona s3://BUCKET/images/ s3://RESULTS/pomona/first/ --follow
  pomona start pomona s3://BUCKET/images/ s3://RESULTS/pomona/first/ --variance 0.9 --csv")]
pub(crate) struct StartArgs {
    /// Name of the stack, or ARN of its state machine
    pub target: String,
    /// s3:// location of the images, below the stack's ImagePrefix
    pub images: String,
    /// s3:// location of the results, below the stack's ResultPrefix
    pub output: String,
    /// Name of the execution and of the run's records [default: made from the time]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Stay, and show how it goes on; ends with exit code 1 when the execution fails
    #[arg(long)]
    pub follow: bool,
    #[command(flatten)]
    pub result: ResultOptions,
    /// Print JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// How a run of a deployed stack goes on
///
/// Stage, shards done, rate and time left, failures by error, and a link to the console.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Name of a stack (its newest execution), or ARN of an execution or a state machine
    pub target: String,
    /// Stay until it ends; exit code 1 when it fails
    #[arg(long)]
    pub follow: bool,
    /// Print JSON on standard output
    #[arg(long)]
    pub json: bool,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    number(text, |v| (0.01..=60_000.0).contains(&v), "a number of milliseconds lies between 0.01 and 60000")
}

fn seconds(text: &str) -> Result<f64, String> {
    number(text, |v| (0.05..=86_400.0).contains(&v), "a number of seconds lies between 0.05 and 86400")
}

fn number(text: &str, legal: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| legal(*value)).ok_or_else(|| what.to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v <= 1.0, "a share lies above 0 and at most at 1, like 0.9")
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..=100.0).contains(&v), "a percentage lies between 0 and 100")
}

fn feature_range(text: &str) -> Result<FeatureRange, String> {
    let range: u32 = text.parse().map_err(|_| "a whole number is needed".to_owned())?;
    FeatureRange::try_from(range).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        super::Args::command().debug_assert();
    }
}
