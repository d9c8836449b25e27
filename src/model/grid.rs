//! Range and quantum of features. Features are multiples of the quantum, which is a power of two.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Bits of a feature's absolute value in quanta: it is below 2^23, so that an `f32` holds it exactly.
pub const FEATURE_BITS: u32 = 23;

/// The range of features: their absolute values are smaller. A power of two up to 2^20; 8 by default.
///
/// The quantum is the range divided by 2^23. `try_from` fails with `Input.Invalid` for other numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FeatureRange(u32);

impl FeatureRange {
    /// Number of quanta in 1: 2^23 divided by the range.
    pub fn per_unit(self) -> f64 {
        f64::from(1u32 << FEATURE_BITS) / f64::from(self.0)
    }

    /// That of samples of 8 bits.
    pub(crate) fn of_pixels() -> Self {
        FeatureRange(256)
    }

    /// That of shares, from 0 to 1.
    pub(super) fn of_shares() -> Self {
        FeatureRange(2)
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
