//! The model, from its file to the features of an image, and their rounding.
//!
//! Features are integer multiples of a *quantum*. With the default range of 8 the quantum is 2^-20, and MobileNetV2's
//! features (0 to 6) have 23 bits, which an `f32` holds exactly. The exact sums of [`crate::pca::moments`] depend on it.

use std::path::Path;

use bytes::Bytes;
use pomona_kernels::{Network, Samples, Unsupported};
use prost::Message;

use super::{
    Decoding, EMBEDDED_NAME, ExtractorInfo, ExtractorKind, FEATURE_BITS, FeatureRange, ModelOptions, Preprocessing,
    builtin_info, graph,
    identity::{EMBEDDED_SHA256, Identity, KERNELS, sha256, words_info},
    interface::{model_file, read_model},
    invalid, limits, onnx, trial, wire,
};
use crate::{
    Result,
    image::{self, Limits, Pixels, Reason, Reject},
    orb::{Keypoint, Vocabulary},
};

/// Keras MobileNetV2 1.00/224 without its head: see `models/README.md`.
static EMBEDDED: &[u8] = include_bytes!("../../models/mobilenetv2_1.00_224.onnx");
/// Side of its input, pixels.
const EMBEDDED_SIDE: usize = 224;
/// Longest output vector of a model.
pub const MAX_COLUMNS: usize = 4_096;
/// Longest side of a model's input, pixels.
pub(super) const MAX_SIDE: usize = 2_048;

/// The software that runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// The kernels of `pomona-kernels` if they support the whole model, tract otherwise.
    #[default]
    Auto,
    /// tract for every model. The last bits of its output depend on the processor.
    Tract,
}

/// A loaded model.
#[derive(Debug)]
enum Program {
    Kernels(Box<Network>),
    #[cfg(feature = "tract")]
    Tract(Box<super::tract::TractModel>),
    /// No network.
    Plain(ExtractorKind),
    /// Counts of visual words, and the file of these.
    Words(Box<Vocabulary>, Bytes),
}

impl Program {
    /// Part of the extractor's id, because the last bits of the two differ.
    fn name(&self) -> &'static str {
        match self {
            Program::Kernels(_) => KERNELS,
            #[cfg(feature = "tract")]
            Program::Tract(_) => "tract",
            Program::Plain(kind) => kind.program(),
            Program::Words(..) => ExtractorKind::Orb.program(),
        }
    }

    fn kind(&self) -> ExtractorKind {
        match self {
            Program::Kernels(_) => ExtractorKind::Network,
            #[cfg(feature = "tract")]
            Program::Tract(_) => ExtractorKind::Network,
            Program::Plain(kind) => *kind,
            Program::Words(..) => ExtractorKind::Orb,
        }
    }

    /// Whether images are not resized.
    fn takes_any_size(&self) -> bool {
        match self {
            Program::Plain(kind) => kind.size().is_none(),
            Program::Words(..) => true,
            _ => false,
        }
    }
}

/// A model that is ready to run. Threads can share it; each call uses buffers of its own.
#[derive(Debug)]
pub struct Extractor {
    info: ExtractorInfo,
    program: Program,
    preprocessing: Preprocessing,
    /// Why the kernels do not support the model, if it runs on tract for that reason.
    unsupported: Option<Unsupported>,
    height: usize,
    width: usize,
}

impl Extractor {
    /// The embedded model, MobileNetV2 1.00/224, on the kernels. Fails with `Model.Invalid`, which would be a bug.
    pub fn embedded(range: FeatureRange) -> Result<Self> {
        let onnx = Bytes::from_static(EMBEDDED);
        let extractor = Self::read(onnx, EMBEDDED_SHA256, EMBEDDED_NAME, range, Runtime::Auto, ModelOptions::default());
        pomona_kernels::pages::release(EMBEDDED);
        extractor
    }

    /// The embedded model on tract, to compare it with the kernels. Fails with `Model.Invalid` without the feature `tract`.
    pub fn embedded_on_tract(range: FeatureRange) -> Result<Self> {
        let onnx = Bytes::from_static(EMBEDDED);
        Self::read(onnx, EMBEDDED_SHA256, EMBEDDED_NAME, range, Runtime::Tract, ModelOptions::default())
    }

    /// An extractor that needs no model of the user's; for visual words, the file of [`Vocabulary::to_bytes`]. Features that are
    /// no network's have their own range.
    ///
    /// Fails with `Model.Invalid` if the words are missing or damaged.
    pub fn builtin(kind: ExtractorKind, words: Option<&[u8]>, range: FeatureRange) -> Result<Self> {
        let info = match (kind, words) {
            (ExtractorKind::Network, _) => return Self::embedded(range),
            (ExtractorKind::Orb, Some(words)) => return Self::of_words(words),
            _ => builtin_info(kind, words, range, Decoding::Full)?,
        };
        Ok(Self::without_network(info, Program::Plain(kind), kind.size()))
    }

    fn of_words(file: &[u8]) -> Result<Self> {
        let vocabulary = Vocabulary::from_bytes(file)?;
        let info = words_info(&vocabulary, file, Decoding::Full)?;
        let program = Program::Words(Box::new(vocabulary), Bytes::copy_from_slice(file));
        Ok(Self::without_network(info, program, None))
    }

    fn without_network(info: ExtractorInfo, program: Program, side: Option<usize>) -> Self {
        let side = side.unwrap_or(EMBEDDED_SIDE);
        let preprocessing = Preprocessing::default();
        Extractor { info, program, preprocessing, unsupported: None, height: side, width: side }
    }

    /// Loads an ONNX model with one float32 image input, `[1, 3, height, width]` or `[1, height, width, 3]`, and one
    /// output vector of at most [`MAX_COLUMNS`] numbers. `name` is for records and messages.
    ///
    /// The file is not trusted: its sizes are checked before anything large is allocated, and it must load and process one
    /// image within 128 seconds, in a thread of its own.
    ///
    /// Fails with `Model.Invalid` and the reason.
    pub fn from_onnx(onnx: Bytes, name: &str, range: FeatureRange, runtime: Runtime) -> Result<Self> {
        Self::from_onnx_with(onnx, name, range, runtime, ModelOptions::default())
    }

    /// [`from_onnx`](Extractor::from_onnx) with another preprocessing or output. The input may then have a height and width that
    /// are not fixed, and the output the shape `[1, tokens, columns]` or `[1, columns, height, width]`.
    pub fn from_onnx_with(
        onnx: Bytes,
        name: &str,
        range: FeatureRange,
        runtime: Runtime,
        options: ModelOptions,
    ) -> Result<Self> {
        let own_name = name.to_owned();
        let load = move || {
            let hash = sha256(&onnx);
            let extractor = Self::read(onnx, &hash, &own_name, range, runtime, options)?;
            extractor.try_on_grey()?;
            Ok(extractor)
        };
        trial::within(trial::DEADLINE, load).map_err(|e| e.context("model", name))
    }

    /// Loads the model of a file with [`from_onnx_with`](Extractor::from_onnx_with). Its name in records is that of the file. A
    /// folder is that of its `model.onnx`, or of its only ONNX file. Without a preprocessing, it is what lies beside the file.
    ///
    /// Fails with `Model.Invalid` and the reason.
    pub fn open(path: &Path, range: FeatureRange, runtime: Runtime, mut options: ModelOptions) -> Result<Self> {
        let path = &model_file(path)?;
        if options.preprocessing.is_none() {
            options.preprocessing = Preprocessing::beside(path)?;
        }
        let onnx = read_model(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Self::from_onnx_with(onnx, &name, range, runtime, options)
    }

    fn read(
        onnx: Bytes,
        sha256: &str,
        name: &str,
        range: FeatureRange,
        runtime: Runtime,
        options: ModelOptions,
    ) -> Result<Self> {
        let Loaded { program, unsupported, height, width, columns } = load(onnx, runtime, &options)?;
        let identity = Identity {
            kind: program.kind(),
            program: program.name(),
            model_sha256: sha256,
            name,
            columns,
            options: &options,
        };
        let info = identity.info(range, Decoding::Full);
        let preprocessing = options.preprocessing.unwrap_or_default();
        Ok(Extractor { info, program, preprocessing, unsupported, height, width })
    }

    /// The same model with another decoding of JPEGs, which is part of the extractor's id.
    #[must_use]
    pub fn with_decoding(mut self, decoding: Decoding) -> Self {
        self.info = self.info.with_decoding(decoding);
        self
    }

    /// Why the kernels do not support this model. None if it runs on them, or on tract by request.
    pub fn unsupported(&self) -> Option<&Unsupported> {
        self.unsupported.as_ref()
    }

    /// The network of the kernels. None if the model runs on tract.
    pub fn network(&self) -> Option<&Network> {
        match &self.program {
            Program::Kernels(network) => Some(network),
            #[cfg(feature = "tract")]
            Program::Tract(_) => None,
            Program::Plain(_) | Program::Words(..) => None,
        }
    }

    /// The file of its visual words, if it has any.
    pub fn words(&self) -> Option<&Bytes> {
        if let Program::Words(_, file) = &self.program { Some(file) } else { None }
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        if let Program::Words(vocabulary, _) = &self.program { Some(vocabulary) } else { None }
    }

    /// Whether tables of its features have the keypoints of each image, too.
    pub fn keeps_keypoints(&self) -> bool {
        self.vocabulary().is_some_and(Vocabulary::keeps_keypoints)
    }

    /// The identity of this extractor.
    pub fn info(&self) -> &ExtractorInfo {
        &self.info
    }

    /// Number of features of an image.
    pub fn columns(&self) -> usize {
        self.info.columns
    }

    /// The features of an image file, `[columns]`, each a multiple of the quantum. Decodes and resizes it first.
    ///
    /// Fails with the reasons of [`image::decode`] and of [`Extractor::features`].
    pub fn features_of_file(&self, file: &[u8]) -> std::result::Result<Vec<f32>, Reject> {
        self.features_of_any_size(self.decode(file)?)
    }

    /// [`features_of_file`](Extractor::features_of_file), and the [thumbnail](image::thumbnail) of the image.
    pub fn describe_file(&self, file: &[u8]) -> std::result::Result<Described, Reject> {
        let pixels = self.decode(file)?;
        let thumbnail = image::thumbnail(&pixels);
        if let Some(vocabulary) = self.vocabulary().filter(|vocabulary| vocabulary.keeps_keypoints()) {
            let keypoints = vocabulary.detect(&pixels);
            let features = self.rounded(vocabulary.features(&keypoints))?;
            return Ok(Described { features, thumbnail, keypoints });
        }
        Ok(Described { features: self.features_of_any_size(pixels)?, thumbnail, keypoints: Vec::new() })
    }

    fn decode(&self, file: &[u8]) -> std::result::Result<Pixels, Reject> {
        match self.info.decoding {
            Decoding::Full => image::decode(file, Limits::default()),
            Decoding::Scaled => image::decode_scaled(file, Limits::default(), self.width, self.height),
        }
    }

    fn features_of_any_size(&self, pixels: Pixels) -> std::result::Result<Vec<f32>, Reject> {
        self.features(&self.prepared(pixels)?)
    }

    /// The pixels that the model reads of an image. Fails with `TooLarge`.
    pub fn prepared(&self, pixels: Pixels) -> std::result::Result<Pixels, Reject> {
        if self.program.takes_any_size() {
            return Ok(pixels);
        }
        self.preprocessing.pixels(pixels, self.height, self.width)
    }

    /// How images are made into the input of the model.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The features of an image that has the model's size, `[columns]`, each a multiple of the quantum.
    ///
    /// Fails with `NotFinite` or `OutOfRange`, and with `Corrupt` if the size is wrong or the model fails.
    pub fn features(&self, pixels: &Pixels) -> std::result::Result<Vec<f32>, Reject> {
        let raw = self.infer(pixels).map_err(|e| Reject::new(Reason::Corrupt, format!("the model failed: {e:#}")))?;
        self.rounded(raw)
    }

    fn rounded(&self, mut raw: Vec<f32>) -> std::result::Result<Vec<f32>, Reject> {
        if self.info.l2 {
            to_unit_length(&mut raw);
        }
        let per_unit = self.info.feature_range.per_unit();
        let limit = f64::from(1u32 << FEATURE_BITS);
        raw.iter()
            .enumerate()
            .map(|(column, value)| {
                let units = (f64::from(*value) * per_unit).round();
                if !units.is_finite() {
                    Err(Reject::new(Reason::NotFinite, format!("feature {column} is {value}")))
                } else if units.abs() >= limit {
                    let detail = format!(
                        "feature {column} is {value}, beyond the feature range of {}; see --feature-range",
                        u32::from(self.info.feature_range)
                    );
                    Err(Reject::new(Reason::OutOfRange, detail))
                } else {
                    // Adding zero converts -0 to 0, so that equal features have equal bits.
                    Ok((units / per_unit + 0.0) as f32)
                }
            })
            .collect()
    }

    /// The raw output for an image of the model's size, `[columns]`.
    fn infer(&self, pixels: &Pixels) -> std::result::Result<Vec<f32>, String> {
        if !self.program.takes_any_size() && (pixels.height, pixels.width) != (self.height, self.width) {
            return Err("the pixels do not have the model's size".to_owned());
        }
        match &self.program {
            Program::Kernels(network) => Ok(network.run(&pixels.data)),
            #[cfg(feature = "tract")]
            Program::Tract(model) => model.run(pixels).map_err(|e| format!("{e:#}")),
            Program::Plain(kind) => Ok(kind.features(pixels)),
            Program::Words(vocabulary, _) => Ok(vocabulary.features(&vocabulary.detect(pixels))),
        }
    }

    /// Runs the model once on a grey image, so that a model that cannot run fails before the run starts.
    fn try_on_grey(&self) -> Result<()> {
        let grey = Pixels { width: self.width, height: self.height, data: vec![127; self.width * self.height * 3] };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.infer(&grey)));
        let failed = |detail: String| invalid("it fails on a grey image").source(detail);
        match outcome {
            Ok(Ok(features)) if features.len() == self.columns() => Ok(()),
            Ok(Ok(features)) => Err(failed(format!("its output has {} numbers", features.len()))),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => Err(failed("the runtime panicked".to_owned())),
        }
    }
}

/// Divides a vector by its Euclidean length; zeros stay. The sum is in double precision and in order: the same bits everywhere.
fn to_unit_length(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// What is known of an image file.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its features, `[columns]`, each a multiple of the quantum.
    pub features: Vec<f32>,
    /// Its thumbnail, `[THUMBNAIL]`: [`image::thumbnail`].
    pub thumbnail: Vec<f32>,
    /// Its keypoints, if the extractor [keeps](Extractor::keeps_keypoints) them.
    pub keypoints: Vec<Keypoint>,
}

pub(super) struct Loaded {
    program: Program,
    unsupported: Option<Unsupported>,
    height: usize,
    width: usize,
    columns: usize,
}

/// Loads a model for the kernels if they support all of it and `runtime` allows it, and for tract otherwise. The limits are
/// checked first.
fn load(onnx: Bytes, runtime: Runtime, options: &ModelOptions) -> Result<Loaded> {
    wire::check(&onnx)?;
    let model = onnx::Model::decode(onnx.clone()).map_err(|e| invalid("it is not a readable ONNX file").source(e))?;
    limits::check(&model)?;
    if runtime == Runtime::Tract {
        return load_with_tract(&onnx, &model, None, options);
    }
    let outputs = model.graph.as_ref().map_or(&[][..], |graph| &graph.output);
    if options.output.as_ref().is_some_and(|chosen| outputs.len() != 1 || outputs[0].name != *chosen) {
        let what = Unsupported::new("one of several outputs is chosen".to_owned());
        return load_with_tract(&onnx, &model, Some(what), options);
    }
    let samples = options.preprocessing.as_ref().map_or_else(Samples::default, Preprocessing::samples);
    let size = options.preprocessing.as_ref().and_then(Preprocessing::size);
    match graph::network(&model, samples, size).and_then(within_limits) {
        Ok(network) => {
            let ((height, width), columns) = (network.size(), network.columns());
            Ok(Loaded { program: Program::Kernels(Box::new(network)), unsupported: None, height, width, columns })
        }
        Err(unsupported) => load_with_tract(&onnx, &model, Some(unsupported), options),
    }
}

fn within_limits(network: Network) -> std::result::Result<Network, Unsupported> {
    let ((height, width), columns) = (network.size(), network.columns());
    if !(1..=MAX_COLUMNS).contains(&columns) || ![height, width].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
        return Err(Unsupported::new(format!("images of {width} x {height} pixels, {columns} output numbers")));
    }
    Ok(network)
}

#[cfg(feature = "tract")]
fn load_with_tract(
    onnx: &[u8],
    model: &onnx::Model,
    unsupported: Option<Unsupported>,
    options: &ModelOptions,
) -> Result<Loaded> {
    let graph = model.graph.as_ref().ok_or_else(|| invalid("the file has no graph"))?;
    let model = super::tract::TractModel::from_onnx(onnx, graph, options)?;
    let (height, width, columns) = (model.height(), model.width(), model.columns());
    Ok(Loaded { program: Program::Tract(Box::new(model)), unsupported, height, width, columns })
}

#[cfg(not(feature = "tract"))]
fn load_with_tract(
    _onnx: &[u8],
    _model: &onnx::Model,
    unsupported: Option<Unsupported>,
    _options: &ModelOptions,
) -> Result<Loaded> {
    let why = unsupported.map_or_else(|| "tract was requested".to_owned(), |unsupported| unsupported.to_string());
    Err(invalid("it needs tract; build Pomona with the feature `tract`").source(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_has_its_hash() {
        assert_eq!(sha256(EMBEDDED), EMBEDDED_SHA256);
    }
}
