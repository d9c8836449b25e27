//! Pictures of the images of a version, read from the input of the run, decoded and encoded again: what a browser gets is a
//! JPEG of this program, whatever the file has.

use std::{
    io::Cursor,
    sync::{Arc, PoisonError},
};

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use image::{ImageEncoder, codecs::jpeg::JpegEncoder};
use serde::Deserialize;

use super::{
    api::query,
    failure::{Failure, with_type},
    local::Local,
};
use crate::{
    Error, ErrorKind, Result,
    image::{Limits, MAX_FILE_BYTES, Reason, Reject, decode_scaled, resize},
    stages::Stores,
    store::Store,
};

/// Longest side of a picture, pixels.
const SIDE: usize = 192;
const SIDES: std::ops::RangeInclusive<usize> = 16..=1_600;
const QUALITY: u8 = 85;

/// The input of the last version that was asked for, by its location.
#[derive(Debug, Default)]
pub(super) struct Inputs(std::sync::Mutex<Option<(String, Arc<dyn Store>)>>);

impl Inputs {
    /// Opens the input of a version. Fails with `Input.NotFound` if it has gone.
    async fn of(&self, location: &str, output: &Arc<dyn Store>) -> Result<Arc<dyn Store>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, input)) = known.filter(|(known, _)| known == location) {
            return Ok(input);
        }
        let input = Stores::recorded(location, output).await?.input;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((location.to_owned(), Arc::clone(&input)));
        Ok(input)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    path: String,
    side: Option<usize>,
}

/// The picture of an image of the version. Any other path is unknown: nothing is read then.
pub(super) async fn picture(State(local): State<Arc<Local>>, uri: Uri) -> std::result::Result<Response, Failure> {
    let Wanted { path, side } = query(&uri)?;
    let side = side.unwrap_or(SIDE);
    if !SIDES.contains(&side) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "a side has from 16 to 1600 pixels").context("side", side));
    }
    let view = local.view().await?;
    if view.table.row(&path).is_none() {
        let error = Error::new(ErrorKind::InputUnknownKey, "the version has no features of this image");
        return Err(error.context("key", path).into());
    }
    // The semaphore is never closed.
    let _permit = local.pictures.acquire().await.ok();
    let input = local.inputs.of(&view.opened.version().input, local.current.output()).await?;
    let file = input.get(&path).await.map_err(gone)?;
    if file.len() as u64 > MAX_FILE_BYTES {
        return Err(Reject::new(Reason::TooLarge, "the file has become too large").into());
    }
    let made = tokio::task::spawn_blocking(move || shrink(&file, side)).await;
    let picture = made.map_err(|e| Error::new(ErrorKind::InternalBug, "a decoder has panicked").source(e))?;
    Ok(with_type("image/jpeg", picture?))
}

/// An image that was deleted from the input has no picture.
fn gone(error: Error) -> Failure {
    if error.is(ErrorKind::StoreNotFound) {
        return Failure::new(StatusCode::NOT_FOUND, "the image is not in the input any more");
    }
    error.into()
}

/// A JPEG of an image, at most `side` pixels wide and high. Small images keep their size.
fn shrink(file: &[u8], side: usize) -> std::result::Result<Vec<u8>, Reject> {
    let image = decode_scaled(file, Limits::default(), side, side)?;
    let largest = image.width.max(image.height).max(side);
    let fit = |length: usize| (length * side / largest).max(1);
    let (width, height) = (fit(image.width), fit(image.height));
    let small = resize(image, width, height);
    let mut picture = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut picture, QUALITY)
        .write_image(&small.data, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .map_err(|e| Reject::new(Reason::Corrupt, e))?;
    Ok(picture.into_inner())
}
