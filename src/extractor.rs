//! The model, and what makes features comparable: model file, preprocessing, arithmetic and rounding.
//!
//! An extractor turns pixels into features that are integers in units of a *quantum*. With the default range of 8
//! the quantum is 2^-20, which leaves MobileNetV2's features (0 to 6) 23 bits, all that an `f32` holds. Everything
//! that comes after stands on that: see [`crate::moments`].

use std::{fmt, sync::Arc};

use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tract_onnx::{pb::ModelProto, prelude::*, tract_core::internal::DimLike, tract_hir::infer::Factoid};

use crate::{
    Error, ErrorKind, Result,
    kernels::Network,
    moments::FEATURE_BITS,
    preprocess::{self, Limits, Pixels, Reason, Reject},
    shard::short_hex,
};

/// Keras MobileNetV2 1.00/224 without its head: see `models/README.md`.
static EMBEDDED: &[u8] = include_bytes!("../models/mobilenetv2_1.00_224.onnx");
/// Its SHA-256, which would take a good part of the program's start to compute.
const EMBEDDED_SHA256: &str = "2ea09923f95706ed89903ed20ecec9b46d7c737ad2d2e56e1b859cb012578bfd";
/// Name of the model inside the binary.
pub const EMBEDDED_NAME: &str = "MobileNetV2 1.00 224 ImageNet";
/// Features of the embedded model.
pub const EMBEDDED_COLUMNS: usize = 1280;
/// Changes whenever the same pixels could give other features.
const REVISION: u32 = 1;
/// Longest output vector.
pub const MAX_COLUMNS: usize = 4_096;
/// Longest side of a model's input, pixels.
const MAX_SIDE: usize = 2_048;

/// 128 bits of SHA-256 over model file, preprocessing revision, arithmetic and feature range.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExtractorId(String);

impl ExtractorId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ExtractorId {
    fn from(id: String) -> Self {
        ExtractorId(id)
    }
}

impl fmt::Display for ExtractorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Features lie in (-range, range); the range is a power of two, and the quantum is range / 2^23.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FeatureRange(u32);

impl FeatureRange {
    /// Quanta in 1, a power of two.
    pub fn per_unit(self) -> f64 {
        f64::from(1u32 << FEATURE_BITS) / f64::from(self.0)
    }
}

impl Default for FeatureRange {
    fn default() -> Self {
        FeatureRange(8)
    }
}

impl TryFrom<u32> for FeatureRange {
    type Error = Error;

    fn try_from(range: u32) -> Result<Self> {
        if range.is_power_of_two() && range <= 1 << 20 {
            Ok(FeatureRange(range))
        } else {
            Err(Error::new(ErrorKind::InputInvalid, "the feature range must be a power of two up to 1048576")
                .context("feature range", range))
        }
    }
}

impl From<FeatureRange> for u32 {
    fn from(range: FeatureRange) -> u32 {
        range.0
    }
}

/// What a data set needs to know of its extractor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractorInfo {
    pub id: ExtractorId,
    pub model: String,
    pub model_sha256: String,
    pub columns: usize,
    pub feature_range: FeatureRange,
}

/// What a model is run with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// Pomona's kernels where the whole model is of a kind that they have, tract otherwise.
    #[default]
    Auto,
    /// tract, whatever the model. Its last bits depend on the processor.
    Tract,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Nchw,
    Nhwc,
}

#[derive(Debug)]
enum Program {
    Kernels(Box<Network>),
    Tract { plan: Arc<TypedRunnableModel>, layout: Layout },
}

impl Program {
    /// Part of the extractor's id: the two do not agree in the last bits.
    fn name(&self) -> &'static str {
        match self {
            Program::Kernels(_) => KERNELS,
            Program::Tract { .. } => "tract",
        }
    }
}

/// Changes whenever the kernels could give other bits.
const KERNELS: &str = "kernels 1";

/// A model that is ready to run. Cheap to share; every call works on its own buffers.
#[derive(Debug)]
pub struct Extractor {
    info: ExtractorInfo,
    program: Program,
    height: usize,
    width: usize,
}

impl Extractor {
    /// The model that is compiled into the binary.
    pub fn embedded(range: FeatureRange) -> Result<Self> {
        Self::read(EMBEDDED, EMBEDDED_SHA256, EMBEDDED_NAME, range, Runtime::Auto)
    }

    /// The model that is compiled into the binary, run by tract.
    pub fn embedded_on_tract(range: FeatureRange) -> Result<Self> {
        Self::read(EMBEDDED, EMBEDDED_SHA256, EMBEDDED_NAME, range, Runtime::Tract)
    }

    /// Reads an ONNX model with one float32 image input, `[1, 3, height, width]` or `[1, height, width, 3]`, and one
    /// output vector of at most [`MAX_COLUMNS`] numbers. Fails with `Model.Invalid`, saying what does not fit.
    pub fn from_onnx(onnx: &[u8], name: &str, range: FeatureRange, runtime: Runtime) -> Result<Self> {
        Self::read(onnx, &sha256(onnx), name, range, runtime)
    }

    fn read(onnx: &[u8], sha256: &str, name: &str, range: FeatureRange, runtime: Runtime) -> Result<Self> {
        // tract asserts on some malformed graphs; a bad file must be an error here all the same.
        let loaded = std::panic::catch_unwind(|| load(onnx, runtime));
        let Loaded { program, height, width, columns } = loaded
            .unwrap_or_else(|_| Err(invalid("it contradicts itself, and the ONNX reader gave up")))
            .map_err(|e| e.context("model", name))?;
        let info = info(sha256, name, columns, range, program.name());
        let extractor = Extractor { info, program, height, width };
        if let Program::Tract { .. } = extractor.program {
            extractor.check(name)?;
        }
        Ok(extractor)
    }

    /// Whether the kernels run this model.
    pub fn network(&self) -> Option<&Network> {
        match &self.program {
            Program::Kernels(network) => Some(network),
            Program::Tract { .. } => None,
        }
    }

    pub fn info(&self) -> &ExtractorInfo {
        &self.info
    }

    pub fn columns(&self) -> usize {
        self.info.columns
    }

    /// From the bytes of an image file to its features, `[columns]`, each a multiple of the quantum.
    pub fn features_of_file(&self, file: &[u8]) -> std::result::Result<Vec<f32>, Reject> {
        let pixels = preprocess::decode(file, Limits::default())?;
        self.features(&preprocess::resize(pixels, self.width, self.height))
    }

    /// The features of an image that already has the model's size.
    pub fn features(&self, pixels: &Pixels) -> std::result::Result<Vec<f32>, Reject> {
        let raw = self.infer(pixels).map_err(|e| Reject::new(Reason::Corrupt, format!("the model failed: {e:#}")))?;
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
                        self.info.feature_range.0
                    );
                    Err(Reject::new(Reason::OutOfRange, detail))
                } else {
                    // Adding zero turns -0 into 0, so that equal features have equal bits.
                    Ok((units / per_unit + 0.0) as f32)
                }
            })
            .collect()
    }

    fn infer(&self, pixels: &Pixels) -> TractResult<Vec<f32>> {
        let (h, w) = (self.height, self.width);
        anyhow_ensure(pixels.width == w && pixels.height == h)?;
        let (plan, layout) = match &self.program {
            Program::Kernels(network) => return Ok(network.run(&pixels.data)),
            Program::Tract { plan, layout } => (plan, layout),
        };
        let scale = |sample: u8| f32::from(sample) / 127.5 - 1.0;
        let tensor: Tensor = match layout {
            Layout::Nhwc => {
                let data: Vec<f32> = pixels.data.iter().map(|s| scale(*s)).collect();
                tract_ndarray::Array4::from_shape_vec((1, h, w, 3), data)?.into()
            }
            Layout::Nchw => {
                let mut data = vec![0f32; 3 * h * w];
                for (channel, plane) in data.chunks_exact_mut(h * w).enumerate() {
                    for (to, pixel) in plane.iter_mut().zip(pixels.data.chunks_exact(3)) {
                        *to = scale(pixel[channel]);
                    }
                }
                tract_ndarray::Array4::from_shape_vec((1, 3, h, w), data)?.into()
            }
        };
        let outputs = plan.run(tvec!(tensor.into()))?;
        let view = outputs[0].to_plain_array_view::<f32>()?;
        Ok(view.iter().copied().collect())
    }

    /// Runs the model once on a grey image, so that a model that cannot run is refused before the work starts.
    fn check(&self, name: &str) -> Result<()> {
        let grey = Pixels { width: self.width, height: self.height, data: vec![127; self.width * self.height * 3] };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.infer(&grey)));
        let failed = |detail: String| invalid("it fails on a grey image").context("model", name).source(detail);
        match outcome {
            Ok(Ok(features)) if features.len() == self.columns() => Ok(()),
            Ok(Ok(features)) => Err(failed(format!("{} numbers came out", features.len()))),
            Ok(Err(e)) => Err(failed(format!("{e:#}"))),
            Err(_) => Err(failed("the runtime gave up".to_owned())),
        }
    }
}

fn anyhow_ensure(ok: bool) -> TractResult<()> {
    if ok { Ok(()) } else { Err(TractError::msg("the pixels do not have the model's size")) }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn info(model_sha256: &str, name: &str, columns: usize, range: FeatureRange, program: &str) -> ExtractorInfo {
    let mut sha = Sha256::new();
    sha.update(format!(
        "pomona extractor {REVISION}\n{}\n{model_sha256}\n{}\n{program}\n",
        preprocess::REVISION,
        range.0
    ));
    let id = ExtractorId(short_hex(&sha.finalize()));
    ExtractorInfo { id, model: name.to_owned(), model_sha256: model_sha256.to_owned(), columns, feature_range: range }
}

/// What the embedded model's [`Extractor::info`] says, without loading the model.
pub fn embedded_info(range: FeatureRange) -> ExtractorInfo {
    info(EMBEDDED_SHA256, EMBEDDED_NAME, EMBEDDED_COLUMNS, range, KERNELS)
}

fn invalid(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::ModelInvalid, format!("this model cannot be used: {message}"))
}

struct Loaded {
    program: Program,
    height: usize,
    width: usize,
    columns: usize,
}

fn refuse(what: &str) -> impl FnOnce(TractError) -> Error {
    move |e| invalid(what).source(format!("{e:#}"))
}

fn load(onnx: &[u8], runtime: Runtime) -> Result<Loaded> {
    let unreadable = |e| invalid("it is no ONNX file that can be read").source(e);
    let model = ModelProto::decode(onnx).map_err(unreadable)?;
    if runtime == Runtime::Auto
        && let Some(network) = Network::of(&model)
        && (1..=MAX_COLUMNS).contains(&network.columns())
        && [network.size().0, network.size().1].iter().all(|side| (1..=MAX_SIDE).contains(side))
    {
        let ((height, width), columns) = (network.size(), network.columns());
        return Ok(Loaded { program: Program::Kernels(Box::new(network)), height, width, columns });
    }
    load_with_tract(&model)
}

fn load_with_tract(model: &ModelProto) -> Result<Loaded> {
    let model =
        tract_onnx::onnx().model_for_proto_model(model).map_err(refuse("it is no ONNX file that can be read"))?;
    let inputs = model.input_outlets().map_err(refuse("it has no inputs"))?.len();
    if inputs != 1 {
        return Err(invalid(format!("it has {inputs} inputs, not one image")));
    }
    let outputs = model.output_outlets().map_err(refuse("it has no outputs"))?.len();
    if outputs != 1 {
        return Err(invalid(format!("it has {outputs} outputs, not one vector of features")));
    }
    let fact = model.input_fact(0).map_err(refuse("its input has no description"))?;
    if fact.datum_type.concretize().is_some_and(|t| t != f32::datum_type()) {
        return Err(invalid(format!("its input is {:?}, not float32", fact.datum_type)));
    }
    let dims: Vec<Option<usize>> = fact.shape.dims().map(|d| d.concretize().and_then(|d| d.to_usize().ok())).collect();
    let (layout, height, width) = match dims.as_slice() {
        [_, Some(3), Some(h), Some(w)] => (Layout::Nchw, *h, *w),
        [_, Some(h), Some(w), Some(3)] => (Layout::Nhwc, *h, *w),
        _ => {
            let shape: Vec<String> = dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
            return Err(invalid(format!(
                "its input has the shape [{}], not [1, 3, H, W] or [1, H, W, 3] with fixed H and W",
                shape.join(", ")
            )));
        }
    };
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        return Err(invalid(format!(
            "its input is {width} x {height} pixels; at most {MAX_SIDE} a side are supported"
        )));
    }
    let shape = match layout {
        Layout::Nchw => [1, 3, height, width],
        Layout::Nhwc => [1, height, width, 3],
    };
    let model = model
        .with_input_fact(0, f32::fact(shape).into())
        .and_then(|m| m.into_optimized())
        .map_err(refuse("it uses something that the runtime does not know"))?;
    let fact = model.output_fact(0).map_err(refuse("its output has no description"))?;
    if fact.datum_type != f32::datum_type() {
        return Err(invalid(format!("its output is {:?}, not float32", fact.datum_type)));
    }
    let shape: Vec<usize> = fact
        .shape
        .as_concrete()
        .map(<[usize]>::to_vec)
        .ok_or_else(|| invalid("the length of its output is not fixed"))?;
    let columns: usize = shape.iter().product();
    // One axis may be longer than 1: [D], [1, D], [1, D, 1, 1], [1, 1, 1, D].
    if shape.iter().filter(|d| **d != 1).count() > 1 || columns == 0 {
        return Err(invalid(format!(
            "its output has the shape {shape:?}, not one vector; export it with a global pool"
        )));
    }
    if columns > MAX_COLUMNS {
        return Err(invalid(format!("its output has {columns} numbers; at most {MAX_COLUMNS} are supported")));
    }
    let plan = model.into_runnable().map_err(refuse("it cannot be prepared to run"))?;
    Ok(Loaded { program: Program::Tract { plan, layout }, height, width, columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_one_that_its_hash_names() {
        assert_eq!(sha256(EMBEDDED), EMBEDDED_SHA256);
    }
}
