//! The router that reads: what is served, predictions, searches.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{StatusCode, Uri},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    about::about,
    current::Current,
    failure::{Failure, json, with_type},
    openapi,
    opened::{Features, Wanted},
    photo,
    uploads::{self, Uploads},
};
use crate::{Error, ErrorKind, search::Metric};

/// Images that a search answers with, if the request does not say how many.
const COUNT: usize = 10;

/// What a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Most bytes of a photo in the body of a request.
    pub photo_bytes: usize,
    /// Most bytes of an uploaded photo. 0 without [`Uploads`].
    pub upload_bytes: usize,
    /// Most images of an answer.
    pub neighbours: usize,
    /// Photos that are received and decoded at the same time. Others wait.
    #[serde(skip)]
    pub photos: usize,
}

impl Default for Limits {
    /// Photos of 20 MB in bodies, and 200 images.
    fn default() -> Self {
        Limits { photo_bytes: 20 << 20, upload_bytes: 0, neighbours: 200, photos: 4 }
    }
}

/// What the handlers share.
#[derive(Debug)]
struct Api {
    current: Arc<Current>,
    limits: Limits,
    uploads: Option<Arc<dyn Uploads>>,
    photos: Semaphore,
    /// In the form of OpenAPI.
    description: Bytes,
}

/// The paths `/`, `/openapi.json`, `/predict`, `/search` and, if photos can be uploaded, `/uploads`. They do not write to the
/// output.
pub fn api(current: Arc<Current>, limits: Limits, uploads: Option<Arc<dyn Uploads>>) -> Router {
    let description = openapi::api(uploads.is_some());
    router(Api::new(current, limits, uploads, description))
}

/// The same with another description, for a router that has more paths.
pub(super) fn described(current: Arc<Current>, limits: Limits, description: Bytes) -> Router {
    router(Api::new(current, limits, None, description))
}

fn router(api: Api) -> Router {
    let with_uploads =
        if api.uploads.is_some() { Router::new().route("/uploads", post(upload)) } else { Router::new() };
    with_uploads
        .route("/", get(describe))
        .route("/openapi.json", get(description_of))
        .route("/predict", post(predict))
        .route("/search", post(search).get(search_like))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .with_state(Arc::new(api))
}

/// The answer for paths that do not exist.
pub(super) async fn not_found(uri: Uri) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is nothing at this path").context("path", uri.path())
}

/// The answer for methods that a path does not have.
pub(super) async fn wrong_method(request: Request) -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not have this method")
        .context("method", request.method())
        .context("path", request.uri().path())
}

/// The query parameters of a request.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|e| {
        let error = Error::new(ErrorKind::InputInvalid, "the query parameters are wrong").source(e);
        Failure::from(error)
    })
}

async fn describe(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let opened = api.current.opened().await?;
    Ok(json(&about(&opened, api.limits)))
}

async fn description_of(State(api): State<Arc<Api>>) -> Response {
    with_type("application/json", Body::from(api.description.clone()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Predict {
    /// Similar images. Without them, a prediction needs no search index.
    #[serde(default)]
    n: usize,
    upload: Option<String>,
}

async fn predict(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Failure> {
    let Predict { n, upload } = query(request.uri())?;
    api.check_count(n)?;
    let features = api.features(request, upload.as_deref()).await?;
    let answer = api.current.ask(|opened| {
        let features = features.clone();
        async move { opened.predict(features, n).await }
    });
    let answer = answer.await?;
    api.forget(upload).await;
    Ok(json(&answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    n: Option<usize>,
    label: Option<String>,
    #[serde(default)]
    metric: Metric,
    upload: Option<String>,
}

async fn search(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Failure> {
    let Search { n, label, metric, upload } = query(request.uri())?;
    let wanted = api.wanted(n, label, metric)?;
    let features = api.features(request, upload.as_deref()).await?;
    let answer = api.current.ask(|opened| {
        let (features, wanted) = (features.clone(), wanted.clone());
        async move { opened.search(features, &wanted).await }
    });
    let answer = answer.await?;
    api.forget(upload).await;
    Ok(json(&answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchLike {
    like: String,
    n: Option<usize>,
    label: Option<String>,
    #[serde(default)]
    metric: Metric,
}

async fn search_like(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Failure> {
    let SearchLike { like, n, label, metric } = query(&uri)?;
    let wanted = api.wanted(n, label, metric)?;
    let answer = api.current.ask(|opened| {
        let (like, wanted) = (like.clone(), wanted.clone());
        async move { opened.search_like(&like, &wanted).await }
    });
    Ok(json(&answer.await?))
}

async fn upload(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Failure> {
    uploads::offer(api.uploads()?, query(&uri)?, api.limits.upload_bytes).await
}

impl Api {
    fn new(current: Arc<Current>, limits: Limits, uploads: Option<Arc<dyn Uploads>>, description: Bytes) -> Self {
        let photos = Semaphore::new(limits.photos.max(1));
        Api { current, limits, uploads, photos, description }
    }

    fn uploads(&self) -> Result<&dyn Uploads, Failure> {
        let without = || Failure::new(StatusCode::BAD_REQUEST, "photos cannot be uploaded here; send one in the body");
        self.uploads.as_deref().ok_or_else(without)
    }

    fn check_count(&self, count: usize) -> Result<(), Failure> {
        if count <= self.limits.neighbours {
            return Ok(());
        }
        Err(Failure::new(StatusCode::BAD_REQUEST, "the request asks for too many images")
            .context("n", count)
            .context("most", self.limits.neighbours))
    }

    fn wanted(&self, n: Option<usize>, label: Option<String>, metric: Metric) -> Result<Wanted, Failure> {
        let count = n.unwrap_or(COUNT.min(self.limits.neighbours));
        self.check_count(count)?;
        Ok(Wanted { count, metric, label })
    }

    /// The features of the photo that a request brings or names.
    async fn features(&self, request: Request, upload: Option<&str>) -> Result<Features, Failure> {
        // The semaphore is never closed.
        let _permit = self.photos.acquire().await.ok();
        let photo: Bytes = match upload {
            Some(upload) => uploads::get(self.uploads()?, upload, self.limits.upload_bytes).await?,
            None => photo::read(request, self.limits.photo_bytes).await?,
        };
        let opened = self.current.opened().await?;
        Ok(opened.features(photo).await??)
    }

    /// Deletes an upload that has an answer. One that stays is deleted by the rules of its place.
    async fn forget(&self, upload: Option<String>) {
        if let (Some(upload), Some(uploads)) = (upload, &self.uploads) {
            let _ = uploads.delete(&upload).await;
        }
    }
}
