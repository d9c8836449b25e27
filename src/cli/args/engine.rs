//! What computes the features: an extractor, or a model.

use std::path::{Path, PathBuf};

use super::values;
use crate::{
    Result,
    dataset::WordsInput,
    model::{Decoding, ExtractorKind, FeatureRange, ModelOptions, Pooling, Preprocessing, Resize, Runtime, model_file},
    orb::Weights,
};

/// What makes the features.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model options")]
pub(crate) struct EngineOptions {
    /// Images processed in parallel [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What computes the features: the built-in network, the pixels at 32 x 32, the colours, or visual words [default: that of the
    /// last version, or mobilenetv2]
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "model")]
    pub extractor: Option<ExtractorArg>,
    #[command(flatten)]
    pub words: WordsOptions,
    /// ONNX model to use instead of the built-in MobileNetV2, or the folder with it: one float32 image input (1x3xHxW or
    /// 1xHxWx3), one output of up to 4096 numbers. What lies beside it (preprocessor_config.json of Hugging Face, config.json of
    /// timm) says how images are prepared
    #[arg(long, value_name = "FILE.onnx|FOLDER|s3://...")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub of_model: ModelOptionsArgs,
    /// What runs the model
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineArg,
    /// How JPEGs are decoded
    #[arg(long, value_enum, default_value = "full", value_name = "HOW")]
    pub decode: DecodeArg,
    /// Exclusive upper bound of the features' absolute values, a power of two; features are rounded to multiples of
    /// N / 2^23
    #[arg(long, value_name = "N", default_value = "8", value_parser = values::feature_range)]
    pub feature_range: FeatureRange,
}

/// What is known of a model besides its file.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model options")]
pub(crate) struct ModelOptionsArgs {
    /// How images are prepared for the model: keras-mobilenet, imagenet, clip, siglip or half [default: as the files beside the
    /// model say, or keras-mobilenet]
    #[arg(long, value_name = "NAME", requires = "model")]
    pub preprocess: Option<String>,
    /// Size of images before the crop: that of the shorter side, height and width, or none to keep it
    #[arg(long, value_name = "SIDE|HxW|none", requires = "model", value_parser = values::resize)]
    pub resize: Option<Resize>,
    /// Height and width of the part in the middle that the model sees; resized to its input if that is another size
    #[arg(long, value_name = "SIDE|HxW", requires = "model", value_parser = values::sides)]
    pub crop: Option<[usize; 2]>,
    /// Mean of each channel, which is subtracted: of samples from 0 to 1 [default: 0, if there is a standard deviation]
    #[arg(long, value_name = "R,G,B", requires = "model", allow_hyphen_values = true, value_parser = values::channels)]
    pub mean: Option<[f64; 3]>,
    /// Standard deviation of each channel, by which the difference is divided [default: 1, if there is a mean]
    #[arg(long, value_name = "R,G,B", requires = "model", value_parser = values::channels)]
    pub std: Option<[f64; 3]>,
    /// The output of the model that is used, if it has several
    #[arg(long, value_name = "NAME", requires = "model")]
    pub model_output: Option<String>,
    /// What is made of an output with several vectors: their mean, or the first one (the class token of a vision transformer)
    #[arg(long, value_enum, default_value = "mean", value_name = "HOW", requires = "model")]
    pub pooling: PoolingArg,
    /// Divide the features of each image by their Euclidean length
    #[arg(long, requires = "model")]
    pub l2: bool,
}

impl ModelOptionsArgs {
    /// What is known of the model at a path besides its file. Fails with `Model.Invalid` if a preprocessing is not usable.
    pub(crate) fn options(&self, path: &Path) -> Result<ModelOptions> {
        let mut preprocessing = self.preprocess.as_deref().map(Preprocessing::of_name).transpose()?;
        if (self.resize, self.crop, self.mean, self.std) != (None, None, None, None) {
            let base = match preprocessing {
                Some(named) => named,
                None => Preprocessing::beside(&model_file(path)?)?.unwrap_or_default(),
            };
            preprocessing = Some(self.changed(base).checked()?);
        }
        let (output, pooling) = (self.model_output.clone(), self.pooling.pooling());
        Ok(ModelOptions { preprocessing, output, pooling, l2: self.l2 })
    }

    fn changed(&self, base: Preprocessing) -> Preprocessing {
        let (resize, crop) = (self.resize.unwrap_or(base.resize), self.crop.or(base.crop));
        if self.mean.is_none() && self.std.is_none() {
            return Preprocessing { resize, crop, ..base };
        }
        let (mean, std) = (self.mean.unwrap_or([0.0; 3]), self.std.unwrap_or([1.0; 3]));
        Preprocessing { resize, crop, scale: 1.0 / 255.0, mean, std, ..base }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DecodeArg {
    /// At their size, with the pixels of Pillow, OpenCV and TensorFlow
    Full,
    /// At 1/2, 1/4 or 1/8 of their size, if that is at least twice the model's input: several times faster for photos from
    /// phones, with features that differ a little
    Scaled,
}

impl From<DecodeArg> for Decoding {
    fn from(how: DecodeArg) -> Self {
        match how {
            DecodeArg::Full => Decoding::Full,
            DecodeArg::Scaled => Decoding::Scaled,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PoolingArg {
    Mean,
    Cls,
}

impl PoolingArg {
    fn pooling(self) -> Pooling {
        match self {
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Cls => Pooling::Cls,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExtractorArg {
    /// A network that was trained on photos: 1280 numbers
    Mobilenetv2,
    /// The red, green and blue of each of 32 x 32 pixels: 3072 numbers from 0 to 255
    Raw,
    /// Shares of the pixels in 8 x 8 x 8 parts of the RGB cube: 512 numbers
    Histogram,
    /// How often each of 256 visual words occurs: ORB descriptors of corners, clustered (docs/extractors.md)
    Orb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WeightsArg {
    /// How often each word occurs in the image
    Counts,
    /// Its share of all words of the image
    L1,
    /// The share, times the logarithm of how rare the word is
    TfIdf,
}

impl WeightsArg {
    fn weights(self) -> Weights {
        match self {
            WeightsArg::Counts => Weights::Counts,
            WeightsArg::L1 => Weights::L1,
            WeightsArg::TfIdf => Weights::TfIdf,
        }
    }
}

/// Where the visual words of the extractor `orb` come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model options")]
pub(crate) struct WordsOptions {
    /// Visual words that another output has made, vocabularies/....json in it [default: those of the last version, or new ones,
    /// made of 400 of the images]
    #[arg(long, value_name = "FILE", requires = "extractor")]
    pub vocabulary: Option<String>,
    /// How many new visual words are made, up to 2048 [default: 256]
    #[arg(long, value_name = "N", requires = "extractor", conflicts_with = "vocabulary", value_parser = values::words)]
    pub words: Option<usize>,
    /// What features are made of the counts of new visual words [default: counts]
    #[arg(long, value_enum, value_name = "HOW", requires = "extractor", conflicts_with = "vocabulary")]
    pub word_weights: Option<WeightsArg>,
    /// Keep the keypoints and descriptors of each image in a column of the features [default: as in the last version, or false]
    #[arg(
        long,
        value_name = "true|false",
        requires = "extractor",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub keep_keypoints: Option<bool>,
}

impl WordsOptions {
    pub(crate) fn input(&self) -> WordsInput {
        let weights = self.word_weights.map(WeightsArg::weights);
        WordsInput {
            location: self.vocabulary.clone(),
            words: self.words,
            weights,
            keypoints: self.keep_keypoints,
            kept: None,
        }
    }
}

impl ExtractorArg {
    pub(crate) fn kind(self) -> ExtractorKind {
        match self {
            ExtractorArg::Mobilenetv2 => ExtractorKind::Network,
            ExtractorArg::Raw => ExtractorKind::Raw,
            ExtractorArg::Histogram => ExtractorKind::Histogram,
            ExtractorArg::Orb => ExtractorKind::Orb,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineArg {
    /// Pomona's kernels if they support the whole model, otherwise tract
    Auto,
    /// Always tract
    Tract,
}

impl EngineArg {
    pub(crate) fn runtime(self) -> Runtime {
        match self {
            EngineArg::Auto => Runtime::Auto,
            EngineArg::Tract => Runtime::Tract,
        }
    }
}
