//! Distances of rows, from exact integers.

use serde::{Deserialize, Serialize};

/// How distances are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// 1 - the cosine of the angle between two rows: from 0 to 2, and 1 for a row of zeros.
    #[default]
    Cosine,
    /// The Euclidean distance.
    Euclidean,
}

impl Metric {
    /// The distance of two rows, from their squared distance and their squared norms in quanta. Norms do not matter for
    /// Euclidean distances. The same integers give the same bits.
    pub fn distance(self, squared: u64, norm: u64, other: u64, per_unit: f64) -> f64 {
        match self {
            Metric::Euclidean => (squared as f64).sqrt() / per_unit,
            Metric::Cosine if norm == 0 || other == 0 => 1.0,
            Metric::Cosine => {
                let product = (i128::from(norm) + i128::from(other) - i128::from(squared)) / 2;
                let cosine = product as f64 / ((norm as f64).sqrt() * (other as f64).sqrt());
                // Equal rows would otherwise be 1e-16 apart.
                if squared == 0 { 0.0 } else { (1.0 - cosine).clamp(0.0, 2.0) }
            }
        }
    }
}
