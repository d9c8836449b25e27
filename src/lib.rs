//! Image features, principal components and Parquet tables of any number of images, without a cluster.
//!
//! A folder or a bucket of images goes in; MobileNetV2 features, a PCA and Parquet tables come out. The same stages run in
//! one process (the `pomona` program) and as AWS Lambdas under Step Functions, and write the same bytes. A data set is an
//! exact, pure function of the images and the settings: any history of runs, uploads, deletions and crashes leads to
//! the tables of a fresh run.
//!
//! # A PCA over your own vectors
//!
//! Features are exact multiples of a quantum, so that their sums are exact; rounding to 2^-20 is enough for values below 8.
//!
//! ```
//! use ndarray::Array2;
//! use pomona::{model::FeatureRange, pca::{self, Scaling, moments::{ShardMoments, TotalMoments}}};
//!
//! let per_unit = FeatureRange::default().per_unit();
//! let vectors = Array2::from_shape_fn((40, 8), |(i, j)| ((i * (j + 2)) % 7) as f32 / 7.0);
//! let rounded = vectors.mapv(|x| ((f64::from(x) * per_unit).round() / per_unit) as f32);
//! let mut sums = TotalMoments::zero(8);
//! for part in rounded.axis_chunks_iter(ndarray::Axis(0), 16) {
//!     sums.add(&ShardMoments::from_features(part, per_unit)?)?; // in any order, with any cut: the same bits
//! }
//! let basis = pca::fit(&sums, per_unit, Scaling::Standardized, Some(pca::ComponentSelection::Components(3)))?;
//! assert_eq!(basis.project(rounded.view()).dim(), (40, 3));
//! # Ok::<(), pomona::Error>(())
//! ```
//!
//! # A PCA over a folder of images
//!
//! ```
//! use std::sync::Arc;
//! use pomona::{
//!     dataset, model::{Extractor, FeatureRange, WorkerPool}, pipeline, stages::{PlanInput, Silent, Stores}, store,
//! };
//!
//! # fn paint(folder: &std::path::Path) -> std::io::Result<()> {
//! #     for i in 0..4u8 {
//! #         let file = folder.join(format!("{i}.png"));
//! #         image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([x as u8 * 30, y as u8 * 30, i * 60])).save(file).unwrap();
//! #     }
//! #     Ok(())
//! # }
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (photos, results) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # paint(photos.path())?;
//! # let (photos, results) = (photos.path().to_str().unwrap(), results.path().to_str().unwrap());
//! let stores = Stores::new(store::open_input(photos, results).await?, store::open(results).await?);
//! let workers = WorkerPool::new(Arc::new(Extractor::embedded(FeatureRange::default())?), 2)?;
//! let input = PlanInput::new("first".to_owned().try_into()?);
//! let summary = pipeline::run(&stores, &workers, &input, &Silent, &Default::default()).await?;
//! let parts = dataset::contents::parts(stores.output.as_ref(), &summary.manifest).await?;
//! println!("{} images, the first scores in {}", summary.manifest.images, parts[0].scores[0].key);
//! # assert_eq!(summary.manifest.images, 4);
//! # Ok(())
//! # }
//! ```
//!
//! # The rooms
//!
//! Each module may use those above it and none below; `tests/architecture.rs` holds that.
//!
//! | room | owns |
//! | --- | --- |
//! | [`Error`], [`ids`] | errors with stable names; the names of runs, versions, shards, extractors |
//! | [`store`] | bytes by key: a folder, a bucket, memory; what every store promises |
//! | `pomona-kernels` | all SIMD code, a crate of its own |
//! | [`image`] | from bytes to pixels: decoding, resizing, reasons for rejects |
//! | [`model`] | from pixels to features: extractors, and the threads that run them |
//! | [`pca`] | exact sums, eigenproblem, basis |
//! | [`classify`] | sums per class, linear discriminant analysis, cross-validation, prediction |
//! | [`search`] | images that are there twice: exact distances, projections, groups |
//! | [`dataset`] | everything on disk: manifests, keys, tables, shard plan, settings, commit protocol |
//! | [`archive`] | tar, zip and Parquet files whose members are objects of the input |
//! | [`inventory`] | the keys of an input from files instead of listings |
//! | [`cost`] | prices, estimate, simulation, receipt |
//! | [`aws`] | an execution's input, the runs that uploads start, Step Functions |
//! | [`stages`] | plan, featurize, merge, reduce, project, publish |
#![cfg_attr(feature = "report", doc = "| [`report`] | the page of a run, and the stage that makes it |")]
//! | [`pipeline`] | all stages in one process |
//! | [`versions`] | reading, comparing, checking, vacuuming and erasing versions; predictions of photos |
#![cfg_attr(
    feature = "serve",
    doc = "| [`serve`] | a version over HTTP: the JSON API, and the page of `pomona serve` |"
)]
//!
//! # Features
//!
//! `cli` (default) builds the program; `tract` (default) runs models that the kernels cannot run; `aws` brings S3 and
//! Step Functions; `report` the page of a run; `serve` the JSON API as a router. Without any of them, the crate reads folders, makes features with the
//! embedded model and fits a PCA.

pub mod archive;
pub mod aws;
pub mod classify;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cost;
pub mod dataset;
#[cfg(feature = "cli")]
pub mod demo;
mod error;
pub mod ids;
pub mod image;
pub mod inventory;
pub mod model;
pub mod orb;
pub mod pca;
pub mod pipeline;
#[cfg(feature = "report")]
pub mod report;
pub mod search;
#[cfg(feature = "serve")]
pub mod serve;
pub mod stages;
pub mod store;
pub mod versions;

/// For public functions. Their futures are boxed, so that this crate has their code; otherwise each program, function and test
/// that awaits one would compile all of its stages again.
use async_recursion::async_recursion as compiled_once;
pub use error::{Error, ErrorKind, Result, escape_invisible};
