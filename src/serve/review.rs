//! Labels that people accept or correct: the only thing that is written.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    api::query,
    failure::{Failure, json},
    local::{Local, download},
    photo::body_of,
    view::View,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        keys,
        labelling::Given,
        review::{self, check_label},
    },
};

/// Largest request, bytes.
const MAX_BODY: usize = 16 << 10;

/// An image and its label.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    path: String,
    label: String,
}

#[derive(Serialize)]
struct Reviewed {
    /// The run that uses the file.
    command: String,
    rows: Vec<Row>,
}

type Answer = std::result::Result<Response, Failure>;
type Rows = BTreeMap<String, Given>;

/// The rows that the file of labels of the version does not have in the same way.
fn reviewed(rows: &Rows, view: &View) -> Vec<Row> {
    let new = rows.iter().filter(|(path, given)| view.given.get(*path) != Some(given));
    new.filter_map(|(path, given)| Some(Row { path: path.clone(), label: given.label.clone()? })).collect()
}

/// The reviewed label of an image, if there is one.
pub(super) async fn label_of(local: &Local, path: &str) -> std::result::Result<Option<String>, Failure> {
    let rows = review::read(local.current.output().as_ref()).await?;
    Ok(rows.get(path).and_then(|given| given.label.clone()))
}

fn answer(local: &Local, rows: &Rows, view: &View) -> Response {
    let output = local.current.output().place();
    let file = format!("{}/{}", output.trim_end_matches('/'), keys::REVIEW);
    let [input, output, file] = [&view.opened.version().input, &output, &file].map(|place| quoted(place));
    json(&Reviewed { command: format!("pomona run {input} {output} --labels {file}"), rows: reviewed(rows, view) })
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':');
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

pub(super) async fn rows(State(local): State<Arc<Local>>) -> Answer {
    let view = local.view().await?;
    let rows = review::read(local.current.output().as_ref()).await?;
    Ok(answer(&local, &rows, &view))
}

/// The whole file.
pub(super) async fn file(State(local): State<Arc<Local>>) -> Answer {
    let rows = review::read(local.current.output().as_ref()).await?;
    Ok(download("labels.csv", review::encode(&rows)?))
}

/// Sets the label of an image of the version.
pub(super) async fn set(State(local): State<Arc<Local>>, request: Request) -> Answer {
    let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = body_of(request.into_body(), MAX_BODY, 8 * MAX_BODY).await?;
    if !is_json {
        let message = "the body must be JSON, with the header content-type: application/json";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let Row { path, label } = serde_json::from_slice(&body).map_err(|e| {
        Error::new(ErrorKind::InputInvalid, "the body must be {\"path\": ..., \"label\": ...}").source(e)
    })?;
    check_label(&label)?;
    change(&local, &path, Some(label)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    path: String,
}

/// Forgets what was said about an image.
pub(super) async fn unset(State(local): State<Arc<Local>>, uri: Uri) -> Answer {
    let Which { path } = query(&uri)?;
    change(&local, &path, None).await
}

/// Writes the file with another row for an image. The rows of the version's own file of labels stay in it, because
/// `run --labels` replaces that file.
async fn change(local: &Local, path: &str, label: Option<String>) -> Answer {
    let _alone = local.review.lock().await;
    // An image that was erased a moment ago must not come back.
    local.current.look(std::time::Duration::ZERO).await?;
    let view = local.view().await?;
    if !view.has(path) {
        let error = Error::new(ErrorKind::InputUnknownKey, "the version has no such image");
        return Err(error.context("key", path).into());
    }
    let output = local.current.output().as_ref();
    let mut rows = view.given.clone();
    rows.extend(review::read(output).await?);
    let before = view.given.get(path);
    match label {
        Some(label) => {
            let split = before.and_then(|given| given.split.clone());
            rows.insert(path.to_owned(), Given { label: Some(label), split });
        }
        None => {
            rows.remove(path);
            rows.extend(before.map(|given| (path.to_owned(), given.clone())));
        }
    }
    write(output, &rows, &view).await?;
    Ok(answer(local, &rows, &view))
}

/// Writes the file; deletes it if all rows are those of the version.
async fn write(output: &dyn crate::store::Store, rows: &Rows, view: &View) -> Result<()> {
    if *rows == view.given { review::write(output, &Rows::new()).await } else { review::write(output, rows).await }
}
