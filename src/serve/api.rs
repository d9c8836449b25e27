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
};
use crate::{Error, ErrorKind, search::Metric};

/// Images that a search answers with, if the request does not say how many.
const COUNT: usize = 10;

/// What a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Most bytes of a photo.
    pub photo_bytes: usize,
    /// Most images of an answer.
    pub neighbours: usize,
    /// Photos that are received and decoded at the same time. Others wait.
    #[serde(skip)]
    pub photos: usize,
}

impl Default for Limits {
    /// Photos of 20 MB, and 200 images.
    fn default() -> Self {
        Limits { photo_bytes: 20 << 20, neighbours: 200, photos: 4 }
    }
}

/// What the handlers share.
#[derive(Debug)]
struct Api {
    current: Arc<Current>,
    limits: Limits,
    photos: Semaphore,
    /// In the form of OpenAPI.
    description: Bytes,
}

/// The paths `/`, `/openapi.json`, `/predict` and `/search`. They write nothing.
pub fn api(current: Arc<Current>, limits: Limits) -> Router {
    router(current, limits, openapi::api())
}

/// The same with another description, for a router that has more paths.
pub(super) fn router(current: Arc<Current>, limits: Limits, description: Bytes) -> Router {
    let photos = Semaphore::new(limits.photos.max(1));
    Router::new()
        .route("/", get(describe))
        .route("/openapi.json", get(description_of))
        .route("/predict", post(predict))
        .route("/search", post(search).get(search_like))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .with_state(Arc::new(Api { current, limits, photos, description }))
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
}

async fn predict(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Failure> {
    let Predict { n } = query(request.uri())?;
    api.check_count(n)?;
    let features = api.features(request).await?;
    let answer = api.current.ask(|opened| {
        let features = features.clone();
        async move { opened.predict(features, n).await }
    });
    Ok(json(&answer.await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    n: Option<usize>,
    label: Option<String>,
    #[serde(default)]
    metric: Metric,
}

impl Search {
    fn wanted(self, api: &Api) -> Result<Wanted, Failure> {
        let count = self.n.unwrap_or(COUNT.min(api.limits.neighbours));
        api.check_count(count)?;
        Ok(Wanted { count, metric: self.metric, label: self.label })
    }
}

async fn search(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Failure> {
    let wanted = query::<Search>(request.uri())?.wanted(&api)?;
    let features = api.features(request).await?;
    let answer = api.current.ask(|opened| {
        let (features, wanted) = (features.clone(), wanted.clone());
        async move { opened.search(features, &wanted).await }
    });
    Ok(json(&answer.await?))
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
    let wanted = Search { n, label, metric }.wanted(&api)?;
    let answer = api.current.ask(|opened| {
        let (like, wanted) = (like.clone(), wanted.clone());
        async move { opened.search_like(&like, &wanted).await }
    });
    Ok(json(&answer.await?))
}

impl Api {
    fn check_count(&self, count: usize) -> Result<(), Failure> {
        if count <= self.limits.neighbours {
            return Ok(());
        }
        Err(Failure::new(StatusCode::BAD_REQUEST, "the request asks for too many images")
            .context("n", count)
            .context("most", self.limits.neighbours))
    }

    /// The features of the photo that a request brings.
    async fn features(&self, request: Request) -> Result<Features, Failure> {
        // The semaphore is never closed.
        let _permit = self.photos.acquire().await.ok();
        let photo: Bytes = photo::read(request, self.limits.photo_bytes).await?;
        let opened = self.current.opened().await?;
        Ok(opened.features(photo).await??)
    }
}
