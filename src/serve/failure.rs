//! Errors as answers: a status, and JSON with the stable name, the message and the advice.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{Error, ErrorKind, image::Reject};

/// Seconds after which a client may try again.
const RETRY_AFTER: &str = "1";

/// Why a request has no result.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: Error,
    /// Why a photo cannot be used, as in the table of rejects.
    reason: Option<&'static str>,
}

impl Failure {
    /// An error of the request, with a status.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Failure { status, error: Error::new(ErrorKind::InputInvalid, message), reason: None }
    }

    /// Names a part of the request.
    pub(super) fn context(self, key: &'static str, value: impl std::fmt::Display) -> Self {
        Failure { error: self.error.context(key, value), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { status: status(error.kind()), error, reason: None }
    }
}

impl From<Reject> for Failure {
    fn from(Reject { reason, detail }: Reject) -> Self {
        let error = Error::new(ErrorKind::InputInvalid, "the photo cannot be read as an image")
            .context("reason", reason)
            .context("detail", detail);
        Failure { status: StatusCode::UNPROCESSABLE_ENTITY, error, reason: Some(reason.name()) }
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InputInvalid => StatusCode::BAD_REQUEST,
        ErrorKind::InputUnknownKey => StatusCode::NOT_FOUND,
        // The data set is as it is: asking again does not help until a run changes it.
        ErrorKind::ClassifierMissing => StatusCode::CONFLICT,
        ErrorKind::OutputNoVersion => StatusCode::SERVICE_UNAVAILABLE,
        _ if kind.retryable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The content of an answer to a failed request.
#[derive(Serialize)]
struct Content<'a> {
    error: &'static str,
    message: String,
    advice: &'static str,
    retry: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let kind = self.error.kind();
        let content = Content {
            error: kind.name(),
            message: self.error.to_string(),
            advice: kind.advice(),
            retry: kind.retryable(),
            reason: self.reason,
        };
        let mut response = json(&content);
        *response.status_mut() = self.status;
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// An answer as JSON, which no cache keeps: an erased image must not stay in one.
pub(super) fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => with_type("application/json", body),
        Err(e) => Failure::from(Error::new(ErrorKind::InternalBug, "an answer cannot be written as JSON").source(e))
            .into_response(),
    }
}

/// An answer of this type, which no cache keeps.
pub(super) fn with_type(content_type: &'static str, body: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut response = body.into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
