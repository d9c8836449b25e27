//! Asks a router of the JSON API, without a server.
#![allow(dead_code)]

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use bytes::Bytes;
use pomona::{model::ExtractorInfo, serve::MakeWorkers};
use serde_json::Value;
use tower::ServiceExt;

use crate::common::engine;

pub(crate) fn tiny() -> MakeWorkers {
    Box::new(|_: &ExtractorInfo, _: Option<Bytes>| Ok(engine("tiny", 2)))
}

pub(crate) async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

pub(crate) async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    answer(router, Request::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) fn photo(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, kind).body(body.into()).unwrap()
}

pub(crate) async fn send(router: &Router, path: &str, body: Bytes) -> (StatusCode, Value) {
    answer(router, photo(path, "image/png", body)).await
}

pub(crate) fn paths(answer: &Value) -> Vec<String> {
    let images = answer["images"].as_array().unwrap();
    images.iter().map(|hit| hit["path"].as_str().unwrap().to_owned()).collect()
}
