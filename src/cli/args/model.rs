//! `pomona model`

use std::path::PathBuf;

use super::{
    FormatOptions,
    engine::{EngineArg, ModelOptionsArgs},
    values,
};
use crate::model::FeatureRange;

/// Look at a model before using it, or keep it in an output
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    pub command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ModelCommand {
    Check(Box<ModelCheckArgs>),
    Push(Box<ModelPushArgs>),
}

/// How a model is loaded.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadOptions {
    #[command(flatten)]
    pub of_model: ModelOptionsArgs,
    /// What runs the model
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineArg,
    /// Exclusive upper bound of the features' absolute values, a power of two; images beyond it are rejects
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::feature_range)]
    pub feature_range: FeatureRange,
}

/// Find out what an ONNX model takes and gives, what runs it, and how long that takes
///
/// Prints inputs, outputs and operators; how images are prepared; whether Pomona's kernels or tract run it, and why; the range of
/// its features, their constant columns and the time on sample images; and how far the features are from those of ONNX Runtime,
/// if Python has it (pip install onnxruntime).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona model check resnet18.onnx --preprocess imagenet
  pomona model check clip/ photos/
  pomona model check vit/ --model-output last_hidden_state --pooling cls --json")]
pub(crate) struct ModelCheckArgs {
    /// The ONNX file, or the folder with it
    #[arg(value_name = "FILE.onnx|FOLDER|s3://...")]
    pub model: PathBuf,
    /// Folder or s3://BUCKET/PREFIX/ with sample images [default: pictures of the demo]
    pub images: Option<String>,
    #[command(flatten)]
    pub load: LoadOptions,
    /// The Python that may have ONNX Runtime
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub python: PathBuf,
    #[command(flatten)]
    pub format: FormatOptions,
}

/// Keep an ONNX model in an output, for runs on AWS and for predictions
///
/// Loads and measures the model as `pomona model check` does, and copies it to models/SHA256/ of the output, with what says how
/// images are prepared, the time per image and the memory. An execution uses it with the input {"extractor": {"model": "SHA256"}},
/// and later runs, predictions and searches use it without an option. A vacuum does not delete it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pomona model push resnet18/ s3://my-results/fruits/ --preprocess imagenet
  pomona aws start fruit s3://my-images/ s3://my-results/fruits/ --model SHA256")]
pub(crate) struct ModelPushArgs {
    /// The ONNX file, or the folder with it
    #[arg(value_name = "FILE.onnx|FOLDER|s3://...")]
    pub model: PathBuf,
    /// Folder or s3://BUCKET/PREFIX/ of the output that keeps the model
    pub output: String,
    /// Folder or s3://BUCKET/PREFIX/ with sample images [default: pictures of the demo]
    #[arg(long, value_name = "LOCATION")]
    pub images: Option<String>,
    #[command(flatten)]
    pub load: LoadOptions,
    #[command(flatten)]
    pub format: FormatOptions,
}
