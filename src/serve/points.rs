//! The points of the map, as one binary answer: 14 bytes per image.
//!
//! The length of a JSON header (`u32`, little-endian), the header, zeros up to a multiple of 4; then, for all images in key order,
//! the first scores (`f32`), the second scores (`f32`), the numbers of the labels (`u32`), those of the splits (`u8`) and
//! flags (`u8`). An image without a label has the number behind the last one. Names
//! are in the header.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Serialize;

use super::{
    failure::{Failure, with_type},
    local::Local,
    view::View,
};
use crate::{Error, ErrorKind, Result};

#[derive(Serialize)]
struct Header<'a> {
    /// The name of the data set: the last part of the location of its images.
    name: &'a str,
    version: u64,
    images: usize,
    labels: &'a [String],
    splits: &'a [String],
    /// Share of the variance of the two scores.
    explained: Vec<f64>,
}

pub(super) async fn points(State(local): State<Arc<Local>>) -> std::result::Result<Response, Failure> {
    let view = local.view().await?;
    let body = tokio::task::spawn_blocking(move || encode(&view)).await;
    let body = body.map_err(|e| Error::new(ErrorKind::InternalBug, "the points have no answer").source(e))??;
    Ok(with_type("application/octet-stream", body))
}

fn encode(view: &View) -> Result<Vec<u8>> {
    let table = &view.table;
    let basis = &view.opened.version().basis;
    let input = view.opened.version().input.trim_end_matches('/');
    let header = Header {
        name: input.rsplit('/').next().unwrap_or(input),
        version: view.version(),
        images: table.images.len(),
        labels: table.labels.all(),
        splits: table.splits.all(),
        explained: basis.explained_variance_ratio.iter().take(2).copied().collect(),
    };
    let header = serde_json::to_vec(&header)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "the points have no header").source(e))?;
    let mut body = Vec::with_capacity(header.len() + 8 + 14 * table.images.len());
    body.extend_from_slice(&(header.len() as u32).to_le_bytes());
    body.extend_from_slice(&header);
    body.resize(body.len().next_multiple_of(4), 0);
    for axis in 0..2 {
        body.extend(table.images.iter().flat_map(|image| image.place[axis].to_le_bytes()));
    }
    let none = table.labels.all().len() as u32;
    body.extend(table.images.iter().flat_map(|image| image.label.unwrap_or(none).to_le_bytes()));
    let split = |split: Option<u32>| split.and_then(|split| u8::try_from(split).ok()).unwrap_or(u8::MAX);
    body.extend(table.images.iter().map(|image| split(image.split)));
    body.extend(table.images.iter().map(|image| image.flags));
    Ok(body)
}
