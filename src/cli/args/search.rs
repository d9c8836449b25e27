//! `pomona search`

use std::path::PathBuf;

use super::{EngineArg, FormatOptions};
use crate::search::Metric;

/// Find the images that are most like a photo
///
/// Prints the nearest images of the data set: distance, path and label. All images are compared: the search index only
/// leaves out those that cannot be among the nearest (docs/search.md).
///
/// Distances are by default 1 - cosine of the features: 0 for the same direction, a few hundredths for views of one thing, up to 1
/// for features of the built-in model. With --metric euclidean they are those of `pomona list duplicates`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona search results/ photo.jpg
  pomona search results/ --like apple/17.jpg -n 20
  pomona search results/ photo.jpg --label pear --json
  curl -s https://example.com/apple.jpg | pomona search results/ -")]
pub(crate) struct SearchArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// An image file; - reads one from standard input
    #[arg(value_name = "PHOTO", required_unless_present = "like", conflicts_with = "like")]
    pub photo: Option<String>,
    /// Search for images like this one of the data set, which is not printed itself
    #[arg(long, value_name = "PATH")]
    pub like: Option<String>,
    /// Images to print
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 10)]
    pub count: usize,
    /// Only images with this label
    #[arg(long, value_name = "LABEL")]
    pub label: Option<String>,
    /// How distances are measured
    #[arg(long, value_enum, default_value = "cosine", value_name = "METRIC")]
    pub metric: MetricArg,
    /// What is compared: all features, or the scores of the principal components
    #[arg(long = "in", value_enum, default_value = "features", value_name = "SPACE")]
    pub space: SpaceArg,
    /// Version to search [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// ONNX model, if the data set was made with one that it does not keep
    #[arg(long, value_name = "FILE.onnx|FOLDER|s3://...", conflicts_with = "like")]
    pub model: Option<PathBuf>,
    /// What runs the model
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineArg,
    /// Small pictures above the list: auto shows them in terminals that are known to (iTerm2, WezTerm, kitty, Ghostty, foot)
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    pub pictures: PicturesArg,
    #[command(flatten)]
    pub format: FormatOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PicturesArg {
    Auto,
    Iterm2,
    Kitty,
    Sixel,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MetricArg {
    Cosine,
    Euclidean,
}

impl MetricArg {
    pub(crate) fn metric(self) -> Metric {
        match self {
            MetricArg::Cosine => Metric::Cosine,
            MetricArg::Euclidean => Metric::Euclidean,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SpaceArg {
    Features,
    Scores,
}
