//! Commands for AWS: `aws deploy`, `aws estimate`, `aws start` and `aws status`.

use std::path::PathBuf;

use crate::{
    cost::{
        estimate::{BYTES_PER_IMAGE, Deployment, MS_PER_IMAGE, MS_PER_IMAGE_ON_ARM64, Workload},
        receipt::USUAL_REGION,
    },
    dataset::shard::DEFAULT_SHARD_SIZE_ON_AWS,
};

use super::{
    FormatOptions,
    engine::{DecodeArg, ExtractorArg, WordsOptions},
    run::ResultOptions,
    values,
};

/// Runs on AWS: the deployment of the stack, what runs cost, their start and progress
#[derive(Debug, clap::Args)]
pub(crate) struct AwsArgs {
    #[command(subcommand)]
    pub command: AwsCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AwsCommand {
    Deploy(DeployArgs),
    Estimate(EstimateArgs),
    Start(Box<StartArgs>),
    Status(StatusArgs),
}

/// Deploy the stack: state machine, functions and buckets
///
/// Uploads the package that lies beside this program to a bucket of the account (pomona-deploy-ACCOUNT-REGION), prints what
/// CloudFormation will change, asks, and follows the deployment to its end. Needs neither Rust nor SAM. A stack that exists is
/// updated; parameters that are not given keep their values. Buckets with images and results are never deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona aws deploy --guided                       asks for each parameter
  pomona aws deploy --region eu-west-3 --dry-run   prints the changes only
  pomona aws deploy --stack fruit --parameter MaxConcurrency=100 \\
      --parameter ImageBucketName=our-photos --yes")]
pub(crate) struct DeployArgs {
    /// Name of the stack
    #[arg(long, value_name = "STACK", default_value = "pomona", value_parser = values::stack)]
    pub stack: String,
    /// Region [default: that of the environment: AWS_REGION, or the profile's]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Ask for the value of each parameter
    #[arg(long)]
    pub guided: bool,
    /// A parameter of the stack; can be given several times (docs/deploy.md lists all)
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = values::parameter)]
    pub parameters: Vec<(String, String)>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before the stack is changed
    #[arg(short, long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Folder with the package [default: the folder aws beside the program]
    #[arg(long, value_name = "FOLDER")]
    pub package: Option<PathBuf>,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Estimate time and cost of a run on AWS
///
/// Computed from measured times per image, the parameters of the stack, quotas of the account and a dated table of
/// prices; the same work on an EMR cluster is printed beside it. Needs no network and no credentials.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona aws estimate --images 22688
  pomona aws estimate --images 1G --concurrency 1000
  pomona aws estimate --images 1M --ms-per-image 30 --bytes-per-image 120000
                                                  photos of 500 x 400 pixels")]
pub(crate) struct EstimateArgs {
    /// Images that go through the model: 22688, 50k, 1.5M or 1G
    #[arg(long, value_name = "N", value_parser = values::images)]
    pub images: u64,
    /// AWS region of the prices
    #[arg(long, value_name = "REGION", default_value = USUAL_REGION)]
    pub region: String,
    /// Processor architecture of the functions
    #[arg(long, value_enum, default_value = "x86_64", value_name = "ARCH")]
    pub architecture: ArchitectureArg,
    /// Place of a model that an output keeps, whose time per image was measured: s3://BUCKET/OUTPUT/models/SHA256/
    #[arg(long, value_name = "LOCATION", conflicts_with = "ms_per_image")]
    pub model: Option<String>,
    #[arg(
        long,
        value_name = "MS",
        value_parser = values::milliseconds,
        help = format!(
            "Milliseconds per image on one Lambda processor, from file to features [default: {MS_PER_IMAGE}; \
             {MS_PER_IMAGE_ON_ARM64} with arm64]"
        )
    )]
    pub ms_per_image: Option<f64>,
    /// Average size of an image file, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = BYTES_PER_IMAGE)]
    pub bytes_per_image: u64,
    /// Parameter FeaturizeMemory of the stack, in MB; 1769 MB come with one processor
    #[arg(long, value_name = "MB", default_value_t = Deployment::default().memory, value_parser = clap::value_parser!(u32).range(512..=10_240))]
    pub memory: u32,
    /// Parameter MaxConcurrency of the stack
    #[arg(long, value_name = "N", default_value_t = Deployment::default().concurrency, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// Quota of concurrent Lambda functions of the account [default: 10, that of a new account, or --concurrency]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub account_concurrency: Option<u32>,
    /// Parameter ToleratedShardFailurePercent of the stack
    #[arg(long, value_name = "PERCENT", default_value_t = Deployment::default().tolerated_percent, value_parser = values::percent)]
    pub tolerated_percent: f64,
    /// With a CSV of the scores
    #[arg(long)]
    pub csv: bool,
    /// Uploads start the run, with an event for each image
    #[arg(long)]
    pub uploads: bool,
    /// The images are encrypted with a customer managed KMS key, without a bucket key
    #[arg(long)]
    pub image_key: bool,
    /// Target shard size, in images
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_SIZE_ON_AWS, value_parser = clap::value_parser!(u32).range(1..))]
    pub shard_size: u32,
    /// Number of labels; below 2, or with the setting "classifier": false, there is no classifier
    #[arg(long, value_name = "N", default_value_t = Workload::new(1).labels, value_parser = clap::value_parser!(u32).range(0..=1_024))]
    pub labels: u32,
    /// The images are in tar files of about 100 MB
    #[arg(long)]
    pub packed: bool,
    #[command(flatten)]
    pub format: FormatOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArchitectureArg {
    #[value(name = "x86_64")]
    X86_64,
    Arm64,
}

/// Start a run on a deployed stack
///
/// Checks locations and settings, starts an execution of the stack's state machine and prints its ARN.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples, for a stack that is called `fruit`:
  pomona aws start fruit s3://IMAGES/photos/ s3://RESULTS/pomona/first/ --follow
  pomona aws start fruit s3://IMAGES/photos/ s3://RESULTS/pomona/first/ --csv")]
pub(crate) struct StartArgs {
    /// Name of the stack, or ARN of its state machine
    pub target: String,
    /// s3:// location of the images, below the stack's parameter ImagePrefix
    pub images: String,
    /// s3:// location of the results, below the stack's parameter ResultPrefix
    pub output: String,
    /// Name of the execution and of the run [default: from the current time]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Show the progress until the execution ends; exit code 1 if it fails
    #[arg(long)]
    pub follow: bool,
    /// Take the keys from the inventory at an s3:// location instead of listing the images (docs/inputs.md)
    #[arg(long, value_name = "LOCATION")]
    pub inventory: Option<String>,
    /// How JPEGs are decoded
    #[arg(long, value_enum, default_value = "full", value_name = "HOW")]
    pub decode: DecodeArg,
    /// What computes the features [default: that of the last version, or mobilenetv2]
    #[arg(long, value_enum, value_name = "NAME")]
    pub extractor: Option<ExtractorArg>,
    /// SHA-256 of a model that the output keeps: see `pomona model push`
    #[arg(long, value_name = "SHA256", conflicts_with = "extractor")]
    pub model: Option<String>,
    #[command(flatten)]
    pub words: WordsOptions,
    #[command(flatten)]
    pub result: ResultOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Show the progress of a run on a deployed stack
///
/// Prints the stage, finished shards, rate, time left, failures by error, and a link to the AWS console.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples, for a stack that is called `fruit`:
  pomona aws status fruit
  pomona aws status fruit --follow")]
pub(crate) struct StatusArgs {
    /// Name of a stack (its newest execution), or ARN of an execution or a state machine
    pub target: String,
    /// Show the progress until the execution ends; exit code 1 if it fails
    #[arg(long)]
    pub follow: bool,
    #[command(flatten)]
    pub format: FormatOptions,
}
