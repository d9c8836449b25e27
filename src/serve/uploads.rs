//! Photos that are too large for the body of a request: a client uploads one, and names it in its request.

use std::fmt;

use async_trait::async_trait;
use axum::{http::StatusCode, response::Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, json};
use crate::{Error, ErrorKind};

/// A place where clients put photos.
#[async_trait]
pub trait Uploads: fmt::Debug + Send + Sync {
    /// Lets a client upload a photo of exactly `bytes` bytes.
    async fn offer(&self, bytes: usize) -> crate::Result<Offer>;

    /// Reads an uploaded photo. Fails with `Store.NotFound` if it is not there.
    async fn get(&self, upload: &str) -> crate::Result<Bytes>;

    /// Deletes a photo that was answered.
    async fn delete(&self, upload: &str) -> crate::Result<()>;
}

/// How to upload one photo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Names the photo in requests: 32 hexadecimal digits.
    pub upload: String,
    /// The request that uploads it.
    pub method: &'static str,
    /// Where to.
    pub url: String,
    /// Bytes of the photo.
    pub bytes: usize,
    /// How long the URL may be used.
    pub seconds: u64,
}

/// The query parameters of a request for an upload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    bytes: usize,
}

/// Offers an upload of at most `most` bytes.
pub(super) async fn offer(uploads: &dyn Uploads, wanted: Wanted, most: usize) -> Result<Response, Failure> {
    let Wanted { bytes } = wanted;
    if bytes == 0 {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "a photo has at least one byte").context("bytes", bytes));
    }
    if bytes > most {
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the photo has too many bytes")
            .context("bytes", bytes)
            .context("most bytes", most));
    }
    Ok(json(&uploads.offer(bytes).await?))
}

/// Reads an uploaded photo of at most `most` bytes.
pub(super) async fn get(uploads: &dyn Uploads, upload: &str, most: usize) -> Result<Bytes, Failure> {
    if upload.len() != 32 || !upload.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "an upload is named by 32 hexadecimal digits"));
    }
    match uploads.get(upload).await {
        Ok(photo) if photo.len() > most => {
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the photo has too many bytes").context("most bytes", most))
        }
        Ok(photo) => Ok(photo),
        Err(error) if error.kind() == ErrorKind::StoreNotFound => {
            let message = "there is no such upload; it was answered before, or was not finished";
            Err(Error::new(ErrorKind::InputUnknownKey, message).context("upload", upload).into())
        }
        Err(error) => Err(error.into()),
    }
}
