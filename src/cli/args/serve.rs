//! `pomona serve`

use std::path::PathBuf;

use super::EngineArg;

/// Look at a data set in a browser
///
/// Serves one page on this computer: a map of all images, what is on a photo that you drop, a search, duplicates, suspects,
/// outliers and rejects, and the review of labels. The page needs no network, and nothing but this computer can reach it.
///
/// Reviewed labels are written to labels.csv in the output, and nothing else is; `pomona run --labels OUTPUT/labels.csv` uses them.
/// The JSON API of the page is below /api, and described by /api/openapi.json (docs/serve.md).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona serve results/
  pomona serve s3://bucket/results/ --port 8080
  curl -s http://127.0.0.1:8080/api/predict \\
    -H 'content-type: image/jpeg' --data-binary @photo.jpg")]
pub(crate) struct ServeArgs {
    /// Folder or s3://bucket/prefix/ with the results of `pomona run`
    pub output: String,
    /// Port of 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Version to serve [default: the newest, also after the next run]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// ONNX model, if the data set was made with one that it does not keep
    #[arg(long, value_name = "FILE.onnx|FOLDER|s3://...")]
    pub model: Option<PathBuf>,
    /// What runs the model
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineArg,
}
