//! The largest distance of near-duplicates, as an exact integer and as a bound for sketches.

use crate::model::FeatureRange;
use pomona_kernels::nearest;

/// The squared distance of two rows of features in quanta. Exact; see [`nearest::squared_quanta`].
pub fn squared_quanta(a: &[f32], b: &[f32], range: FeatureRange) -> u64 {
    nearest::squared_quanta(a, b, range.per_unit())
}

/// The largest distance of near-duplicates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    range: FeatureRange,
    distance: f64,
    squared: u64,
}

impl Limit {
    /// A limit in units of the features. Negative numbers and NaN count as 0.
    pub fn new(distance: f64, range: FeatureRange) -> Self {
        let quanta = distance.max(0.0) * range.per_unit();
        // The cast rounds down and saturates.
        Limit { range, distance: distance.max(0.0), squared: (quanta * quanta) as u64 }
    }

    /// The limit in units of the features.
    pub fn distance(self) -> f64 {
        self.distance
    }

    /// Whether a squared distance in quanta is within the limit.
    pub fn includes(self, squared: u64) -> bool {
        squared <= self.squared
    }

    /// A squared distance in quanta as a distance in units of the features.
    pub fn distance_of(self, squared: u64) -> f64 {
        // The square root and the division by a power of two are rounded once each.
        (squared as f64).sqrt() / self.range.per_unit()
    }

    /// The range of the features.
    pub fn range(self) -> FeatureRange {
        self.range
    }

    /// A bound of the squared distance of two sketches of `width` numbers, as computed in `f32`, whose rows are within the
    /// limit. `stretch` bounds the norm of the projection, and `error` the distance of a sketch from the exact projection.
    /// `docs/duplicates.md` derives it.
    pub(super) fn of_sketches(self, stretch: f64, error: f64, width: usize) -> f32 {
        // Whole quanta: the limit in quanta is rounded down, so the root of its square is a bound for pairs within it.
        let distance = self.distance * stretch + 2.0 * error;
        let rounding = 1.0 + (width + 8) as f64 * f64::from(f32::EPSILON);
        ((distance * distance * rounding) as f32).next_up().max(f32::MIN_POSITIVE)
    }
}
