//! Extractors without a network: raw pixels and colour histograms. They are what a network is compared with.
//!
//! Their features are integers or shares of pixels, computed without rounding errors: the same pixels give the same bits on every
//! processor.

use serde::{Deserialize, Serialize};

use super::FeatureRange;
use crate::{Error, ErrorKind, Result, image::Pixels};

/// Side of the picture whose pixels are raw features.
pub(super) const RAW_SIDE: usize = 32;
/// Parts into which a histogram divides the range of each channel.
const PARTS: usize = 8;

/// What computes the features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtractorKind {
    /// A neural network: the built-in MobileNetV2, or an ONNX model.
    #[default]
    Network,
    /// The pixels of the image at 32 x 32, RGB: `[3072]`, row-major from the top left, each from 0 to 255.
    Raw,
    /// The share of pixels in each of 8 x 8 x 8 equal parts of the RGB cube: `[512]`, red first, blue last; each from 0 to 1.
    Histogram,
    /// Counts of visual words, `[words]`: [`crate::orb`]. The words are a file of their own.
    Orb,
}

impl ExtractorKind {
    /// Whether it is the default, a network.
    pub fn is_network(&self) -> bool {
        *self == ExtractorKind::Network
    }

    /// All kinds.
    const ALL: [ExtractorKind; 4] =
        [ExtractorKind::Network, ExtractorKind::Raw, ExtractorKind::Histogram, ExtractorKind::Orb];

    /// Its name on the command line and in the input of an execution. A network without a file is the built-in one.
    pub fn name(self) -> &'static str {
        match self {
            ExtractorKind::Network => "mobilenetv2",
            ExtractorKind::Raw => "raw",
            ExtractorKind::Histogram => "histogram",
            ExtractorKind::Orb => "orb",
        }
    }

    /// The kind of this [`name`](ExtractorKind::name). Fails with `Input.Invalid`, which lists the names.
    pub fn of_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::new(ErrorKind::InputInvalid, "there is no such extractor")
                .context("extractor", name)
                .context("possible", Self::ALL.map(ExtractorKind::name).join(", "))
        })
    }

    /// Its name in records, and the text that its hash is of. None for networks and visual words, which are files.
    pub(super) fn description(self) -> Option<&'static str> {
        match self {
            ExtractorKind::Network | ExtractorKind::Orb => None,
            ExtractorKind::Raw => Some("raw pixels 32 x 32 RGB"),
            ExtractorKind::Histogram => Some("colour histogram 8 x 8 x 8 RGB"),
        }
    }

    /// Name and revision, part of the extractor's id. Increase the number if the same pixels give other features.
    pub(super) fn program(self) -> &'static str {
        match self {
            ExtractorKind::Network => "",
            ExtractorKind::Raw => "raw 1",
            ExtractorKind::Histogram => "histogram 1",
            ExtractorKind::Orb => "orb 1",
        }
    }

    pub(super) fn columns(self) -> usize {
        match self {
            ExtractorKind::Network | ExtractorKind::Orb => 0,
            ExtractorKind::Raw => RAW_SIDE * RAW_SIDE * 3,
            ExtractorKind::Histogram => PARTS.pow(3),
        }
    }

    /// The smallest power of two above its largest feature; `otherwise` for networks and visual words, which decide it.
    pub(super) fn range(self, otherwise: FeatureRange) -> FeatureRange {
        match self {
            ExtractorKind::Network | ExtractorKind::Orb => otherwise,
            ExtractorKind::Raw => FeatureRange::of_pixels(),
            ExtractorKind::Histogram => FeatureRange::of_shares(),
        }
    }

    /// The size to which images are resized. None if all their pixels count.
    pub(super) fn size(self) -> Option<usize> {
        (self == ExtractorKind::Raw).then_some(RAW_SIDE)
    }

    /// The features of an image of the right size. The caller rounds them to the quantum.
    pub(super) fn features(self, pixels: &Pixels) -> Vec<f32> {
        match self {
            ExtractorKind::Network | ExtractorKind::Orb => Vec::new(),
            ExtractorKind::Raw => pixels.data.iter().map(|sample| f32::from(*sample)).collect(),
            ExtractorKind::Histogram => histogram(&pixels.data),
        }
    }
}

fn histogram(samples: &[u8]) -> Vec<f32> {
    let mut counts = vec![0u64; PARTS.pow(3)];
    let part = |sample: u8| usize::from(sample) * PARTS / 256;
    for pixel in samples.chunks_exact(3) {
        counts[(part(pixel[0]) * PARTS + part(pixel[1])) * PARTS + part(pixel[2])] += 1;
    }
    let all = (samples.len() / 3).max(1) as f64;
    counts.into_iter().map(|count| (count as f64 / all) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_the_shares_of_the_colours() {
        let pixels =
            Pixels { width: 4, height: 1, data: [[0, 0, 0], [255, 255, 255], [255, 0, 31], [255, 0, 32]].concat() };
        let shares = ExtractorKind::Histogram.features(&pixels);
        assert_eq!(shares.len(), ExtractorKind::Histogram.columns());
        let found: Vec<(usize, f32)> = shares.into_iter().enumerate().filter(|(_, share)| *share > 0.0).collect();
        assert_eq!(found, [(0, 0.25), (448, 0.25), (449, 0.25), (511, 0.25)]);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for (name, kind) in [("mobilenetv2", ExtractorKind::Network), ("raw", ExtractorKind::Raw)] {
            assert_eq!(ExtractorKind::of_name(name).unwrap(), kind);
        }
        assert!(ExtractorKind::of_name("resnet").unwrap_err().to_string().contains("mobilenetv2, raw, histogram"));
    }
}
