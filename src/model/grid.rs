//! The grid that features lie on: multiples of the quantum, a power of two, inside a range.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Features are integers below 2^23 in units of the quantum.
pub const FEATURE_BITS: u32 = 23;

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
