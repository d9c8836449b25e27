//! Lambda: what is on a photo, and which images are like it, over a Function URL.
//!
//! The init phase loads the model and opens the current version of `OUTPUT`; the first search copies the search index. A newer
//! version replaces an open one between two requests. Without a version, requests get 503 until there is one.

mod photos;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use bytes::Bytes;
use lambda_runtime::{Error, tracing};
use photos::Photos;
use pomona::{
    Result,
    model::{ExtractorInfo, WorkerPool, check_instructions},
    serve::{self, Current, Limits, Uploads},
    store,
};
use pomona_host::Meter;

/// Most bytes of a photo in a body. A Function URL takes 6 MB, and a photo is sent to the function in base64.
const PHOTO_BYTES: usize = 4_400_000;
/// Most bytes of an uploaded photo.
const UPLOAD_BYTES: usize = 20 << 20;
/// Storage of an environment that the template does not set, MB.
const STORAGE_MB: u64 = 512;

fn load(info: &ExtractorInfo, kept: Option<Bytes>) -> Result<WorkerPool> {
    check_instructions()?;
    pomona_host::workers(info.feature_range, &info.recipe(), kept)
}

fn variable(name: &'static str) -> std::result::Result<String, Error> {
    std::env::var(name).map_err(|_| format!("the environment variable {name} is not set").into())
}

async fn measured(State(meter): State<Arc<Meter>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let measurement = meter.start();
    let response = next.run(request).await;
    measurement.answered(&method, &path, response.status().as_u16());
    response
}

/// Serves the function `query`: the API of the output at `OUTPUT`, with uploads to the location `PHOTOS`.
pub async fn serve() -> std::result::Result<(), Error> {
    pomona_host::init_log();
    let meter = Arc::new(Meter::from_environment());
    let (output, photos) = (store::open(&variable("OUTPUT")?).await?, Photos::open(&variable("PHOTOS")?).await?);
    let storage = std::env::var("POMONA_STORAGE_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(STORAGE_MB);
    // The index of a new version is copied while that of the old one is still there.
    let current = Current::new(output, None, Box::new(load), (storage << 20) * 9 / 20);
    match current.opened().await {
        Ok(opened) => tracing::info!(version = %opened.version().version, "version opened"),
        // The requests say so, too, and look again.
        Err(error) => tracing::warn!(error_type = error.kind().name(), %error, "no version could be opened"),
    }
    let limits = Limits { photo_bytes: PHOTO_BYTES, upload_bytes: UPLOAD_BYTES, ..Limits::default() };
    let router = serve::api(current, limits, Some(Arc::new(photos) as Arc<dyn Uploads>));
    lambda_http::run(router.layer(middleware::from_fn_with_state(meter, measured))).await
}
