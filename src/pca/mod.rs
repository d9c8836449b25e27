//! Principal component analysis from exact sums.
//!
//! [`moments`] adds features up in integers, exactly; [`fit`] turns the sums into a [`Basis`]; [`eigen`] solves the
//! symmetric eigenproblem with the same bits on every processor.
//!
//! The covariance matrix (divisor n - 1) is formed in integers and turned into `f64` at the end; standardised, it
//! is the correlation matrix. Columns that are constant take no part. The sign of a component makes its loading of
//! largest absolute value positive (the first of them on a tie).
//!
//! ```
//! use ndarray::array;
//! use pomona::pca::{self, ComponentSelection, moments::{ShardMoments, TotalMoments}};
//!
//! // Three rows of two columns, multiples of 1 / 1024.
//! let rows = array![[0.0f32, 1.0], [1.0, 2.0], [2.0, 4.0]];
//! let mut total = TotalMoments::zero(2);
//! total.add(&ShardMoments::from_features(rows.view(), 1024.0)?)?;
//! let basis = pca::fit(&total, 1024.0, true, Some(ComponentSelection::Components(1)))?;
//! assert_eq!(basis.project(rows.view()).dim(), (3, 1));
//! assert!(basis.explained_variance_ratio[0] > 0.98);
//! # Ok::<(), pomona::Error>(())
//! ```

mod basis;
pub mod eigen;
mod fit;
pub mod moments;

use serde::{Deserialize, Serialize};

pub use basis::Basis;
pub use fit::fit;

use crate::{Error, ErrorKind, Result};

/// Components by default, or as many as there can be.
pub const DEFAULT_COMPONENTS: usize = 50;

/// How many components to keep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentSelection {
    /// This many.
    Components(usize),
    /// The fewest that explain this share of the variance, in (0, 1].
    Variance(f64),
}

impl ComponentSelection {
    /// Fails with `Input.Invalid` on what no data set can give.
    pub fn check(self) -> Result<()> {
        match self {
            ComponentSelection::Components(0) => {
                Err(Error::new(ErrorKind::InputInvalid, "at least one component must be kept"))
            }
            ComponentSelection::Variance(share) if !(share > 0.0 && share <= 1.0) => {
                Err(Error::new(ErrorKind::InputInvalid, "a share of variance lies above 0 and at most at 1")
                    .context("variance", share))
            }
            _ => Ok(()),
        }
    }
}
