//! ORB: corners, their orientation and binary descriptors of them, and visual words.
//!
//! Rublee, Rabaud, Konolige and Bradski, "ORB: an efficient alternative to SIFT or SURF" (ICCV 2011), as OpenCV's `ORB` with its
//! default parameters. All decisions are made in integers, and the trigonometry is that of `libm`: the same pixels give the same
//! bits on every processor.
//!
//! ```
//! use pomona::{image::Pixels, orb::Orb};
//!
//! // A bright square has corners; where the fields of a chessboard meet, a circle has no nine equal neighbours.
//! let inside = |at: usize| (40..60).contains(&(at % 100)) && (40..60).contains(&(at / 100));
//! let sample = |at: usize| if inside(at) { [240; 3] } else { [20; 3] };
//! let pixels = Pixels { width: 100, height: 100, data: (0..100 * 100).flat_map(sample).collect() };
//! let keypoints = Orb::default().detect(&pixels);
//! assert!(keypoints.iter().any(|keypoint| (keypoint.x - 40.0).abs() < 2.0 && (keypoint.y - 40.0).abs() < 2.0));
//! ```

mod describe;
mod fast;
mod grey;
mod pattern;
mod vocabulary;

use describe::{angle, describe, harris};
use grey::Grey;
pub use vocabulary::{MAX_VOCABULARY_BYTES, MAX_WORDS, Vocabulary, Weights, majority};

use crate::image::Pixels;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Bits that say which of two places near a corner is brighter; bit `i` is bit `i % 8` of byte `i / 8`.
pub type Descriptor = [u8; 32];

/// What is searched in an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orb {
    /// Most keypoints of an image.
    pub keypoints: usize,
    /// How much smaller each level of the pyramid is than the one before it.
    pub scale: f64,
    /// Levels of the pyramid.
    pub levels: u8,
    /// Pixels of a level between its border and any keypoint, at least 4.
    pub border: usize,
    /// How much brighter or darker than a corner nine pixels of the circle around it are.
    pub threshold: u8,
}

impl Default for Orb {
    /// OpenCV's parameters.
    fn default() -> Self {
        Orb { keypoints: 500, scale: 1.2, levels: 8, border: 31, threshold: 20 }
    }
}

/// A corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keypoint {
    /// Pixels of the image from its left border.
    pub x: f32,
    /// Pixels of the image from its top border.
    pub y: f32,
    /// Level of the pyramid in which it was found; 0 is the image itself.
    pub octave: u8,
    /// Direction from the corner to the centroid of the brightness around it, degrees clockwise from the right, 0 to 360.
    pub angle: f32,
    /// How much of a corner it is: Harris' measure.
    pub response: f32,
    /// Its descriptor.
    pub descriptor: Descriptor,
}

/// A corner in its level.
#[derive(Clone, Copy, Debug)]
struct Corner {
    x: usize,
    y: usize,
    /// Of the test for corners.
    score: u8,
}

impl Orb {
    /// Possible numbers of [`keypoints`](Orb::keypoints).
    pub const KEYPOINTS: RangeInclusive<usize> = 1..=10_000;
    /// Possible values of [`scale`](Orb::scale).
    pub const SCALES: RangeInclusive<f64> = 1.01..=4.0;
    /// Possible numbers of [`levels`](Orb::levels).
    pub const LEVELS: RangeInclusive<u8> = 1..=32;
    /// Possible values of [`border`](Orb::border).
    pub const BORDERS: RangeInclusive<usize> = 4..=1_000;

    /// Why these parameters cannot be used.
    fn check(&self) -> Result<(), String> {
        let is_good = Orb::KEYPOINTS.contains(&self.keypoints)
            && Orb::SCALES.contains(&self.scale)
            && Orb::LEVELS.contains(&self.levels)
            && Orb::BORDERS.contains(&self.border)
            && self.threshold >= 1;
        is_good
            .then_some(())
            .ok_or_else(|| format!("these parameters of ORB are out of range: {}", serde_json::json!(self)))
    }

    /// The keypoints of an image, level by level, the strongest of each level first.
    pub fn detect(&self, pixels: &Pixels) -> Vec<Keypoint> {
        let mut found = Vec::new();
        let mut level = Grey::of(pixels);
        let shares = self.shares();
        let mut scale = 1.0;
        for (octave, share) in (0..self.levels).zip(shares) {
            if octave > 0 {
                scale *= self.scale;
                let size = |length: usize| (length as f64 / scale).round_ties_even() as usize;
                level = level.resized(size(pixels.width), size(pixels.height));
            }
            if level.width <= 2 * self.border || level.height <= 2 * self.border {
                break;
            }
            found.extend(self.of_level(&level, octave, scale, share));
        }
        found
    }

    /// The number of keypoints of each level: in proportion to the length of its side.
    fn shares(&self) -> Vec<usize> {
        let factor = 1.0 / self.scale;
        let powers: Vec<f64> =
            std::iter::successors(Some(1.0), |power| Some(power * factor)).take(self.levels.into()).collect();
        let whole: f64 = powers.iter().sum();
        let mut left = self.keypoints;
        let last = powers.len().saturating_sub(1);
        let share = |(octave, power): (usize, &f64)| {
            let wanted = (self.keypoints as f64 * power / whole).round_ties_even() as usize;
            let share = if octave == last { left } else { wanted.min(left) };
            left -= share;
            share
        };
        powers.iter().enumerate().map(share).collect()
    }

    fn of_level(&self, level: &Grey, octave: u8, scale: f64, share: usize) -> Vec<Keypoint> {
        let mut corners = fast::corners(level, self.threshold, self.border);
        // Twice as many as are wanted, and those as good as the last of them, are ranked by Harris' measure.
        corners.sort_by_key(|corner| (std::cmp::Reverse(corner.score), corner.y, corner.x));
        if let Some(last) = corners.get((2 * share).saturating_sub(1)).map(|corner| corner.score) {
            corners.truncate(corners.partition_point(|corner| corner.score >= last));
        }
        let mut ranked: Vec<(i64, Corner)> =
            corners.into_iter().map(|corner| (harris(level, corner), corner)).collect();
        ranked.sort_by_key(|(measure, corner)| (std::cmp::Reverse(*measure), corner.y, corner.x));
        ranked.truncate(share);
        if ranked.is_empty() {
            return Vec::new();
        }
        let smooth = level.smoothed();
        let keypoint = |(measure, corner): (i64, Corner)| {
            let angle = angle(level, corner);
            Keypoint {
                x: (corner.x as f64 * scale) as f32,
                y: (corner.y as f64 * scale) as f32,
                octave,
                angle: angle as f32,
                response: describe::response(measure),
                descriptor: describe(&smooth, corner, angle),
            }
        };
        ranked.into_iter().map(keypoint).collect()
    }
}

/// The number of bits in which two descriptors differ.
pub fn hamming(a: &Descriptor, b: &Descriptor) -> u32 {
    let words = |descriptor: &Descriptor| {
        let (words, _) = descriptor.as_chunks::<8>();
        [0, 1, 2, 3].map(|at| u64::from_le_bytes(words[at]))
    };
    words(a).iter().zip(words(b)).map(|(a, b)| (a ^ b).count_ones()).sum()
}

#[cfg(test)]
mod tests;
