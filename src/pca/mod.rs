//! Principal component analysis from exact sums.
//!
//! [`moments`] sums features and their products in integers, exactly. [`fit()`] computes a [`Basis`] from the sums.
//! [`eigen`] solves the symmetric eigenproblem with the same bits on every processor.
//!
//! The covariance matrix (divisor n - 1) is computed in integers and converted to `f64` last. For standardised columns
//! it is the correlation matrix. Constant columns are left out. The sign of a component is chosen so that its loading of
//! largest absolute value is positive (the first one on a tie).
//!
//! ```
//! use ndarray::array;
//! use pomona::pca::{self, ComponentSelection, Scaling, moments::{ShardMoments, TotalMoments}};
//!
//! // Three rows of two columns, multiples of 1 / 1024.
//! let rows = array![[0.0f32, 1.0], [1.0, 2.0], [2.0, 4.0]];
//! let mut total = TotalMoments::zero(2);
//! total.add(&ShardMoments::from_features(rows.view(), 1024.0)?)?;
//! let basis = pca::fit(&total, 1024.0, Scaling::Standardized, Some(ComponentSelection::Components(1)))?;
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

/// Number of components by default. Smaller data sets have fewer.
pub const DEFAULT_COMPONENTS: usize = 50;

/// What is done to the columns before the eigenproblem. Both variants subtract the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// Nothing else: components of the covariance matrix.
    Centered,
    /// Division by the sample standard deviation: components of the correlation matrix.
    Standardized,
}

/// How many components to keep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentSelection {
    /// This number, at least 1.
    Components(usize),
    /// The fewest that explain this share of the variance, in (0, 1].
    Variance(f64),
}

impl ComponentSelection {
    /// Fails with `Input.Invalid` for 0 components, and for a share of the variance outside of (0, 1].
    pub fn check(self) -> Result<()> {
        match self {
            ComponentSelection::Components(0) => {
                Err(Error::new(ErrorKind::InputInvalid, "the number of components must be at least 1"))
            }
            ComponentSelection::Variance(share) if !(share > 0.0 && share <= 1.0) => {
                Err(Error::new(ErrorKind::InputInvalid, "the share of the variance must be above 0 and at most 1")
                    .context("variance", share))
            }
            _ => Ok(()),
        }
    }
}
