//! What makes features comparable: the identity of an extractor, and the options that are a part of it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ExtractorKind, FeatureRange, Preprocessing, Recipe, invalid};
use crate::{
    Result,
    ids::{ExtractorId, short_hex},
    image,
    orb::Vocabulary,
};

/// SHA-256 of the embedded model. Computing it would slow down the start of the program.
pub(super) const EMBEDDED_SHA256: &str = "2ea09923f95706ed89903ed20ecec9b46d7c737ad2d2e56e1b859cb012578bfd";
/// Name of the embedded model in records.
pub const EMBEDDED_NAME: &str = "MobileNetV2 1.00 224 ImageNet";
/// Number of features of the embedded model.
pub const EMBEDDED_COLUMNS: usize = 1280;
/// Revision of the rounding, part of the extractor's id. Increase it if the same output gives other features.
const REVISION: u32 = 1;

/// The identity of an extractor, as manifests record it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractorInfo {
    /// A hash of everything that decides the bits of the features.
    pub id: ExtractorId,
    /// What computes the features.
    #[serde(default, skip_serializing_if = "ExtractorKind::is_network")]
    pub kind: ExtractorKind,
    /// Name of the model: [`EMBEDDED_NAME`], the name of the ONNX file, or a description of what is computed without a model.
    pub model: String,
    /// SHA-256 of the ONNX file, or of the description, in hexadecimal.
    pub model_sha256: String,
    /// Number of features of an image.
    pub columns: usize,
    /// Range of the features; images with features outside of it are rejected.
    pub feature_range: FeatureRange,
    /// How JPEGs are decoded.
    #[serde(default, skip_serializing_if = "Decoding::is_full")]
    pub decoding: Decoding,
    /// How images are made into the input of a model; None for that of Keras' MobileNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<Preprocessing>,
    /// The output of the model that is used; None for its only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What is done with an output that is no vector.
    #[serde(default, skip_serializing_if = "Pooling::is_default")]
    pub pooling: Pooling,
    /// Whether features are divided by their Euclidean length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub l2: bool,
    /// Whether tract runs the model instead of the kernels. Release 0.1.0 did not record it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tract: bool,
}

impl ExtractorInfo {
    /// What is known of its model besides the file. What lies beside the file does not count any more.
    pub fn options(&self) -> ModelOptions {
        let preprocessing = Some(self.preprocessing.clone().unwrap_or_default());
        ModelOptions { preprocessing, output: self.output.clone(), pooling: self.pooling, l2: self.l2 }
    }

    /// What has to be loaded for it.
    pub fn recipe(&self) -> Recipe {
        let words = (self.kind == ExtractorKind::Orb).then(|| self.model_sha256.clone());
        let is_plain = self.preprocessing.is_none() && self.output.is_none() && !self.l2;
        let is_embedded = is_plain && self.model_sha256 == EMBEDDED_SHA256;
        let model = (self.kind.is_network() && !is_embedded).then(|| Box::new(self.clone()));
        Recipe { kind: self.kind, decoding: self.decoding, words, model }
    }

    /// The same extractor with another decoding of JPEGs, which is part of its id, as this release has it.
    #[must_use]
    pub fn with_decoding(&self, decoding: Decoding) -> Self {
        let ExtractorInfo { kind, model, model_sha256, columns, feature_range, .. } = self;
        let (kind, program, columns, options) = (*kind, self.program(), *columns, &self.options());
        Identity { kind, program, model_sha256, name: model, columns, options }.info(*feature_range, decoding)
    }

    /// Name and revision of what computes the features.
    fn program(&self) -> &'static str {
        match self.kind {
            ExtractorKind::Network if self.tract => "tract",
            ExtractorKind::Network => KERNELS,
            kind => kind.program(),
        }
    }

    /// Whether only the revision differs: the same model and settings, and other bits of the features.
    pub fn is_revision_of(&self, other: &ExtractorInfo) -> bool {
        self.id != other.id && *other == ExtractorInfo { id: other.id.clone(), ..self.clone() }
    }
}

/// `extractors/<id>.json`: everything that decides the bits of features, and how long they took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExtractorRecord {
    /// The identity.
    #[serde(flatten)]
    pub info: ExtractorInfo,
    /// The distance between two features that are next to each other.
    pub quantum: f64,
    /// Revision of the rounding.
    pub rounding_revision: u32,
    /// Revision of decoding, resizing and thumbnails: [`image::REVISION`].
    pub image_revision: u32,
    /// Name and revision of the software that runs the model.
    pub arithmetic: String,
    /// Milliseconds per image in the run that wrote the record, all of featurize; None if it inferred none.
    pub milliseconds_per_image: Option<f64>,
}

impl ExtractorRecord {
    /// The record of an extractor of this release.
    pub fn new(info: &ExtractorInfo, milliseconds_per_image: Option<f64>) -> Self {
        ExtractorRecord {
            info: info.clone(),
            quantum: 1.0 / info.feature_range.per_unit(),
            rounding_revision: REVISION,
            image_revision: image::REVISION,
            arithmetic: info.program().to_owned(),
            milliseconds_per_image,
        }
    }
}

/// How JPEGs are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// At their size: [`image::decode`].
    #[default]
    Full,
    /// At a fraction of their size where they are much larger than the model's input: [`image::decode_scaled`].
    Scaled,
}

impl Decoding {
    pub(crate) fn is_full(&self) -> bool {
        *self == Decoding::Full
    }
}

/// How one vector is made of an output with several: of `[1, tokens, columns]` or `[1, columns, height, width]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first token: the one for the class, in vision transformers.
    Cls,
}

impl Pooling {
    fn is_default(&self) -> bool {
        *self == Pooling::default()
    }
}

/// What is known of an ONNX model besides its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelOptions {
    /// How images are made into its input. None for what lies beside the file, or else that of Keras' MobileNet.
    pub preprocessing: Option<Preprocessing>,
    /// The output that is used. None for its only one.
    pub output: Option<String>,
    /// What is done with an output that is no vector.
    pub pooling: Pooling,
    /// Whether features are divided by their Euclidean length. Those that are all 0 stay so.
    pub l2: bool,
}

/// Name and revision of the kernels, part of the extractor's id. Increase the number if the kernels give other bits.
pub(super) const KERNELS: &str = "kernels 1";

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a program and its model contribute to an extractor.
pub(super) struct Identity<'a> {
    pub(super) kind: ExtractorKind,
    pub(super) program: &'a str,
    pub(super) model_sha256: &'a str,
    pub(super) name: &'a str,
    pub(super) columns: usize,
    pub(super) options: &'a ModelOptions,
}

impl Identity<'_> {
    pub(super) fn info(self, range: FeatureRange, decoding: Decoding) -> ExtractorInfo {
        let Identity { kind, program, model_sha256, name, columns, options } = self;
        let mut sha = Sha256::new();
        sha.update(format!(
            "pomona extractor {REVISION}\n{}\n{model_sha256}\n{}\n{program}\n",
            image::REVISION,
            u32::from(range)
        ));
        if decoding == Decoding::Scaled {
            sha.update("scaled\n");
        }
        let preprocessing = options.preprocessing.clone().filter(|given| *given != Preprocessing::default());
        // The ids of models without these options are those of earlier releases.
        if let Some(given) = &preprocessing {
            sha.update(format!("preprocessing {}\n", serde_json::json!(given)));
        }
        if let Some(output) = &options.output {
            sha.update(format!("output {output}\n"));
        }
        if options.pooling == Pooling::Cls {
            sha.update("cls\n");
        }
        if options.l2 {
            sha.update("l2\n");
        }
        ExtractorInfo {
            id: short_hex(&sha.finalize()).into(),
            kind,
            model: name.to_owned(),
            model_sha256: model_sha256.to_owned(),
            columns,
            feature_range: range,
            decoding,
            preprocessing,
            output: options.output.clone(),
            pooling: options.pooling,
            l2: options.l2,
            tract: kind.is_network() && program != KERNELS,
        }
    }
}

/// The [`Extractor::info`](super::Extractor::info) of the embedded model, without loading the model.
pub fn embedded_info(range: FeatureRange, decoding: Decoding) -> ExtractorInfo {
    let identity = Identity {
        kind: ExtractorKind::Network,
        program: KERNELS,
        model_sha256: EMBEDDED_SHA256,
        name: EMBEDDED_NAME,
        columns: EMBEDDED_COLUMNS,
        options: &ModelOptions::default(),
    };
    identity.info(range, decoding)
}

/// The [`Extractor::info`](super::Extractor::info) of [`Extractor::builtin`](super::Extractor::builtin), without loading a model.
/// Fails as that does.
pub fn builtin_info(
    kind: ExtractorKind,
    words: Option<&[u8]>,
    range: FeatureRange,
    decoding: Decoding,
) -> Result<ExtractorInfo> {
    match (kind, words) {
        (ExtractorKind::Network, _) => Ok(embedded_info(range, decoding)),
        (ExtractorKind::Orb, Some(file)) => words_info(&Vocabulary::from_bytes(file)?, file, decoding),
        (ExtractorKind::Orb, None) => Err(invalid("visual words need a vocabulary")),
        (ExtractorKind::Raw | ExtractorKind::Histogram, _) => Ok(plain_info(kind, range, decoding)),
    }
}

/// That of an extractor that needs no file.
pub(super) fn plain_info(kind: ExtractorKind, range: FeatureRange, decoding: Decoding) -> ExtractorInfo {
    let name = kind.description().unwrap_or_default();
    let (hash, columns, options) = (sha256(name.as_bytes()), kind.columns(), &ModelOptions::default());
    let identity = Identity { kind, program: kind.program(), model_sha256: &hash, name, columns, options };
    identity.info(kind.range(range), decoding)
}

/// That of visual words, which are in `file`.
pub(super) fn words_info(vocabulary: &Vocabulary, file: &[u8], decoding: Decoding) -> Result<ExtractorInfo> {
    let kind = ExtractorKind::Orb;
    let (columns, hash) = (vocabulary.len(), sha256(file));
    let keypoints = if vocabulary.keeps_keypoints() { ", with keypoints" } else { "" };
    let (name, options) = (format!("ORB, {columns} visual words{keypoints}"), &ModelOptions::default());
    let identity = Identity { kind, program: kind.program(), model_sha256: &hash, name: &name, columns, options };
    Ok(identity.info(FeatureRange::try_from((vocabulary.largest() + 1).next_power_of_two())?, decoding))
}
