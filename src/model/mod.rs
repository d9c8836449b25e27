//! From pixels to features: the model, what identifies it, and the threads that run it.
//!
//! An [`Extractor`] is a model together with everything that decides its bits: preprocessing, arithmetic and rounding. Its
//! [`ExtractorInfo`] is what a data set records of it. Models whose every layer the kernels know run on `pomona-kernels`;
//! any other ONNX model runs on tract (feature `tract`). A [`WorkerPool`] runs an extractor on several threads.
//!
//! ```
//! use pomona::{image::Pixels, model::{Extractor, FeatureRange}};
//!
//! let extractor = Extractor::embedded(FeatureRange::default())?;
//! let grey = Pixels { width: 224, height: 224, data: vec![127; 224 * 224 * 3] };
//! let features = extractor.features(&grey).expect("a grey image has features");
//! assert_eq!(features.len(), 1280);
//! # Ok::<(), pomona::Error>(())
//! ```

mod extractor;
mod graph;
mod grid;
mod onnx;
#[cfg(feature = "tract")]
mod tract;
mod workers;

pub use extractor::{EMBEDDED_COLUMNS, EMBEDDED_NAME, Extractor, ExtractorInfo, MAX_COLUMNS, Runtime, embedded_info};
pub use grid::{FEATURE_BITS, FeatureRange};
pub use workers::WorkerPool;

use crate::{Error, ErrorKind};

/// `Model.Invalid`, with what is wrong.
fn invalid(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ModelInvalid, format!("this model cannot be used: {message}"))
}
