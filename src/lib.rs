//! Image features and PCA at any scale, without a cluster.
//!
//! A folder of images goes in; MobileNetV2 features, a PCA and Parquet tables come out. The five stages of a run
//! ([`stages`]) are plain async functions over a small [`store`] trait; [`pipeline`] calls them in one process.
//!
//! Dependencies point one way: [`erase`] -> `pipeline` -> [`stages`] -> [`report`] -> [`receipt`] -> [`estimate`] ->
//! [`prices`]; `stages` -> [`diff`], [`inbox`], [`vacuum`] -> [`dataset`],
//! [`tables`], [`pca`], [`moments`], [`shard`], [`extractor`] -> [`preprocess`] -> [`kernels`], [`store`],
//! [`error`](crate::Error). `docs/architecture.md` tells what each owns and what must hold.

mod compute;
pub mod dataset;
#[cfg(feature = "cli")]
pub mod demo;
pub mod diff;
pub mod effort;
mod eigen;
pub mod engine;
pub mod erase;
mod error;
pub mod estimate;
pub mod extractor;
pub mod inbox;
pub mod kernels;
pub mod metrics;
pub mod moments;
pub mod partition;
pub mod pca;
pub mod pipeline;
pub mod preprocess;
pub mod prices;
pub mod receipt;
pub mod report;
pub mod request;
pub mod settings;
pub mod shard;
pub mod stages;
pub mod store;
pub mod tables;
pub mod text;
pub mod vacuum;

pub use error::{Error, ErrorKind, Result};
