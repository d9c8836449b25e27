//! Commands about labels and images: `predict`, `evaluate` and `list`.

use std::path::PathBuf;

use super::{EngineArg, Format, FormatOptions};

/// Say what is on photos
///
/// Prints for each photo the most probable label of the data set, its probability, the runner-up, and the most similar
/// images. A photo that is farther from all classes than 99.9 % of the training images is called unlike anything seen; a
/// file that cannot be read gets the reason. docs/classifier.md explains the classifier.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona predict results/ photo.jpg
  pomona predict results/ new-photos/ --csv > answers.csv
  curl -s https://example.com/apple.jpg | pomona predict results/ -")]
pub(crate) struct PredictArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Files, folders or s3://bucket/prefix/; - reads one photo from standard input
    #[arg(required = true, value_name = "PHOTO")]
    pub photos: Vec<String>,
    /// Version whose classifier answers [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Similar images to print per photo [default: 3, or 0 for more than 16 photos, because all images are compared]
    #[arg(long, value_name = "N")]
    pub neighbours: Option<usize>,
    /// Print path, label, probability, runner-up, its probability and problem as CSV
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// ONNX model, if the data set was made with one that it does not keep
    #[arg(long, value_name = "FILE.onnx|FOLDER|s3://...")]
    pub model: Option<PathBuf>,
    /// What runs the model
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineArg,
    /// Photos processed in parallel [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFormat {
    Text,
    Json,
    Csv,
}

impl AnswerFormat {
    fn of(csv: bool, format: &FormatOptions) -> Self {
        match format.format() {
            _ if csv => AnswerFormat::Csv,
            Format::Json => AnswerFormat::Json,
            Format::Text => AnswerFormat::Text,
        }
    }
}

impl PredictArgs {
    pub(crate) fn answer_format(&self) -> AnswerFormat {
        AnswerFormat::of(self.csv, &self.format)
    }
}

/// Say how good the classifier is
///
/// Prints the accuracy with its 95 % confidence interval, precision, recall and F1 of each class, the largest confusions,
/// and the calibration. Without --split, of the test split; if there is none, of the training images, each of which is
/// predicted by a model that has not seen it. --json has the whole confusion matrix.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona evaluate results/
  pomona evaluate results/ --split train --json")]
pub(crate) struct EvaluateArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Split to evaluate, such as test, val, holdout or train
    #[arg(long, value_name = "SPLIT")]
    pub split: Option<String>,
    /// Version to evaluate [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Classes and confusions to print, the hardest first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub rows: usize,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// List images of a data set
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(subcommand)]
    pub what: ListCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ListCommand {
    Duplicates(DuplicatesArgs),
    Suspects(SuspectsArgs),
    Outliers(OutliersArgs),
    Rejects(RejectsArgs),
}

/// What to list.
#[derive(Debug, clap::Args)]
pub(crate) struct ListOptions {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Version [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Rows or groups to print as text
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub rows: usize,
    /// Print all rows as CSV
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    #[command(flatten)]
    pub format: FormatOptions,
}

impl ListOptions {
    pub(crate) fn answer_format(&self) -> AnswerFormat {
        AnswerFormat::of(self.csv, &self.format)
    }
}

/// List images that are there twice
///
/// All images were compared: a group has images with the same bytes, and near-duplicates such as copies that were saved
/// again or resized. Groups are connected: each image is near another one of its group. Prints for each image its distance
/// from the first of the group. docs/duplicates.md says which distance counts as near. --json and --csv print all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona list duplicates results/ --across-labels
  pomona list duplicates results/ --json > duplicates.json")]
pub(crate) struct DuplicatesArgs {
    /// Only groups whose images have different labels
    #[arg(long)]
    pub across_labels: bool,
    /// Only groups whose images have different splits, such as train and test
    #[arg(long)]
    pub across_splits: bool,
    #[command(flatten)]
    pub list: ListOptions,
}

/// List images that are unlike the others
///
/// The Mahalanobis distance of an outlier from the mean of all images exceeds the median of the distances by five scaled
/// median absolute deviations. Prints the most distant first. --json and --csv print all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona list outliers results/
  pomona list outliers results/ --csv > outliers.csv")]
pub(crate) struct OutliersArgs {
    #[command(flatten)]
    pub list: ListOptions,
}

/// List images without features, and why
///
/// Prints path, reason and detail in the order of the paths. --json and --csv print all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona list rejects results/
  pomona list rejects results/ --csv > rejects.csv")]
pub(crate) struct RejectsArgs {
    #[command(flatten)]
    pub list: ListOptions,
}

/// List the labels that are most likely wrong
///
/// Each image is predicted by a model that has not seen it. If that model gives the label of the image less than 5 %, the
/// image is a suspect. Prints the most suspect first, with the most similar images of both classes. --json prints all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona list suspects results/
  pomona list suspects results/ --json > suspects.json")]
pub(crate) struct SuspectsArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Version [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Suspects to print as text, and to search similar images for
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub rows: usize,
    #[command(flatten)]
    pub format: FormatOptions,
}
