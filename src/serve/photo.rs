//! Photos that clients send.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::failure::Failure;

/// How long a photo may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A body that is too large is read up to this multiple of the limit, and dropped: a client that still sends does not read the
/// answer.
const DROPPED: usize = 8;

/// Reads the body of a request, which must be an image of at most `most` bytes.
pub(super) async fn read(request: Request, most: usize) -> Result<Bytes, Failure> {
    let (parts, body) = request.into_parts();
    let refused = check_type(&parts.headers).err();
    let kept = if refused.is_some() { 0 } else { most };
    let body = body_of(body, kept, most * DROPPED).await;
    match (refused, body) {
        (Some(refused), _) => Err(refused),
        (None, Ok(photo)) if photo.is_empty() => {
            Err(Failure::new(StatusCode::BAD_REQUEST, "the request has no body; send the bytes of an image file"))
        }
        (None, photo) => photo,
    }
}

/// Reads up to `kept` bytes. Fails if there are more, and reads up to `dropped` of them before.
pub(super) async fn body_of(body: Body, kept: usize, dropped: usize) -> Result<Bytes, Failure> {
    let (mut photo, mut seen) = (BytesMut::new(), 0);
    let mut stream = body.into_data_stream();
    let read = async {
        while let Some(piece) = stream.try_next().await? {
            seen += piece.len();
            if seen <= kept {
                photo.extend_from_slice(&piece);
            } else if seen > dropped {
                break;
            }
        }
        Ok::<(), axum::Error>(())
    };
    let incomplete = |e: axum::Error| {
        Failure::new(StatusCode::BAD_REQUEST, "the body of the request is incomplete").context("cause", e)
    };
    match tokio::time::timeout(TIMEOUT, read).await {
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body of the request took too long")),
        Ok(Err(e)) => Err(incomplete(e)),
        Ok(Ok(())) if seen > kept => {
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large")
                .context("most bytes", kept))
        }
        Ok(Ok(())) => Ok(photo.freeze()),
    }
}

/// Fails unless the body is said to be an image. What it is, its first bytes decide.
fn check_type(headers: &HeaderMap) -> Result<(), Failure> {
    let found = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let kind = found.as_deref().unwrap_or_default().trim_start();
    if kind.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("image/")) {
        return Ok(());
    }
    let message = "the body must be an image file, with a header such as content-type: image/jpeg";
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).context("content-type", kind))
}
