//! Feature extraction: the model, its identity, and the threads that run it.
//!
//! An [`Extractor`] is a model and everything else that decides the bits of its features: preprocessing, arithmetic and
//! rounding. A data set records its [`ExtractorInfo`]. If the kernels support all layers of a model, it runs on
//! `pomona-kernels`. Any other ONNX model runs on tract (feature `tract`). A [`WorkerPool`] runs an extractor on several
//! threads.
//!
//! An ONNX file may come from a stranger. Before it runs, `wire` counts what it holds, `limits` checks the numbers that can be
//! sizes, `shapes` and the builder of the kernels compute the size of every tensor, and `trial` ends the loading after a
//! time. `docs/threat-model.md` lists the limits.
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

mod attributes;
mod configs;
mod extractor;
mod graph;
mod grid;
mod identity;
mod interface;
mod limits;
mod onnx;
mod plain;
mod preprocess;
mod recipe;
#[cfg(feature = "tract")]
mod shapes;
#[cfg(feature = "tract")]
mod tract;
mod trial;
mod wire;
mod workers;

pub use configs::{CONFIGS, MAX_CONFIG_BYTES};
pub use extractor::{Described, Extractor, MAX_COLUMNS, Runtime};
pub use grid::{FEATURE_BITS, FeatureRange};
pub use identity::{
    Decoding, EMBEDDED_COLUMNS, EMBEDDED_NAME, ExtractorInfo, ExtractorRecord, ModelOptions, Pooling, builtin_info,
    embedded_info,
};
pub use interface::{Interface, MODEL_NAMES, Tensor, model_file, read_model};
pub use limits::MAX_MODEL_BYTES;
pub use plain::ExtractorKind;
pub use preprocess::{Preprocessing, Resize};
pub use recipe::Recipe;
pub use workers::WorkerPool;

use pomona_kernels::Instructions;

use crate::{Error, ErrorKind, Result};

/// Checks the environment variable `POMONA_INSTRUCTIONS`, which selects the instruction set of the kernels.
///
/// Fails with `Input.Invalid` if it is not the name of an instruction set, or if this processor does not have it. Programs
/// call this once, at their start: later, a wrong name is ignored.
pub fn check_instructions() -> Result<()> {
    let chosen = Instructions::from_environment();
    let invalid = |e| Error::new(ErrorKind::InputInvalid, "an environment variable is invalid").source(e);
    chosen.map(drop).map_err(invalid)
}

/// A `Model.Invalid` error. The message completes "this model cannot be used: ...".
fn invalid(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ModelInvalid, format!("this model cannot be used: {message}"))
}
