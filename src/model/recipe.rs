//! Extractors of data sets: what has to be loaded for them.

use std::path::Path;

use bytes::Bytes;

use super::{Decoding, Extractor, ExtractorInfo, ExtractorKind, FeatureRange, Runtime, invalid};
use crate::Result;

/// What has to be loaded to compute features, besides the range of those of the built-in network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// What computes the features.
    pub kind: ExtractorKind,
    /// How JPEGs are decoded.
    pub decoding: Decoding,
    /// SHA-256 of the file of the visual words, if there is one.
    pub words: Option<String>,
    /// The whole identity of a network that is a model of the user's.
    pub model: Option<Box<ExtractorInfo>>,
}

impl Extractor {
    /// The extractor of a recipe, given the file that it names, if it names one. `range` is that of the built-in network.
    ///
    /// Fails with `Model.Invalid`, also if the file is missing, or if this release computes other features with it.
    pub fn of_recipe(recipe: &Recipe, file: Option<Bytes>, range: FeatureRange) -> Result<Self> {
        let Some(info) = &recipe.model else {
            return Ok(Self::builtin(recipe.kind, file.as_deref(), range)?.with_decoding(recipe.decoding));
        };
        let runtime = if info.tract { Runtime::Tract } else { Runtime::Auto };
        let onnx = file.ok_or_else(|| invalid("its file is missing").context("model", &info.model))?;
        let extractor = Self::from_onnx_with(onnx, &info.model, info.feature_range, runtime, info.options())?;
        let extractor = extractor.with_decoding(recipe.decoding);
        if extractor.info().id != info.id {
            let message =
                "this release computes other features with it; run with `--upgrade` (`\"upgrade\": true`) first";
            return Err(invalid(message).context("model", &info.model));
        }
        Ok(extractor)
    }

    /// The extractor of a data set: with a model of the user's, if there is one, and otherwise with the file that the data set
    /// keeps for it. Without that file, and of another release, it is another extractor.
    ///
    /// Fails with `Model.Invalid`.
    pub fn like(info: &ExtractorInfo, model: Option<&Path>, kept: Option<Bytes>, runtime: Runtime) -> Result<Self> {
        if let Some(path) = model {
            let runtime = if info.tract { Runtime::Tract } else { runtime };
            return Ok(Self::open(path, info.feature_range, runtime, info.options())?.with_decoding(info.decoding));
        }
        if info.kind.is_network() && kept.is_none() {
            let embedded = match runtime {
                Runtime::Auto => Self::embedded(info.feature_range),
                Runtime::Tract => Self::embedded_on_tract(info.feature_range),
            };
            return Ok(embedded?.with_decoding(info.decoding));
        }
        Self::of_recipe(&info.recipe(), kept, info.feature_range)
    }
}
