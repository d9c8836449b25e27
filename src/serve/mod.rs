//! A version over HTTP: a JSON API that a Lambda can serve too, and the page of `pomona serve`.
//!
//! [`api()`] is a router that predicts photos and finds similar images. It reads the output and writes nothing to it. Its paths
//! are `/`, `/openapi.json`, `/predict` and `/search`, and `/uploads` where there is a place for [`Uploads`]; [`local()`] nests it below `/api` and adds the page, the lists of findings,
//! pictures and the review of labels. All answers are of one version, the
//! [`Current`] one, which is exchanged when the output has a newer one.
//!
//! ```no_run
//! # async fn example() -> pomona::Result<()> {
//! use std::sync::Arc;
//! use pomona::{model::{Extractor, WorkerPool}, serve::{self, Current, Limits}, store};
//!
//! let output = store::open("s3://bucket/results/").await?;
//! let workers = Box::new(|info: &pomona::model::ExtractorInfo, kept: Option<bytes::Bytes>| {
//!     let extractor = Extractor::of_recipe(&info.recipe(), kept, info.feature_range)?;
//!     WorkerPool::new(Arc::new(extractor), 1)
//! });
//! let current = Current::new(output, None, workers, 1 << 30);
//! let router: axum::Router = serve::api(current, Limits::default(), None);
//! # Ok(())
//! # }
//! ```

mod about;
mod api;
mod current;
mod failure;
mod guard;
mod lists;
mod local;
mod openapi;
mod opened;
mod page;
mod photo;
mod picture;
mod points;
mod review;
mod table;
mod uploads;
mod view;

pub use api::{Limits, api};
pub use current::{Current, MakeWorkers};
pub use local::local;
pub use opened::Opened;
pub use uploads::{Offer, Uploads};
