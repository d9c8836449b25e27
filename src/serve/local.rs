//! The router of `pomona serve`: the API, and what the page needs. Only this one writes, and only `labels.csv`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    middleware,
    response::Response,
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};

use super::{
    api::{Limits, described, not_found, query, wrong_method},
    current::Current,
    failure::{Failure, json, with_type},
    guard::{self, Guard},
    lists, openapi, page, picture, points, review,
    table::Shown,
    view::{View, Views},
};
use crate::{Error, ErrorKind};

/// Images of an answer, if the request does not say how many, and most of them.
pub(super) const SHOWN: usize = 60;
const MOST: usize = 1_000;

/// What the handlers of the page share.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) views: Views,
    pub(super) current: Arc<Current>,
    /// Held while `labels.csv` is read and written.
    pub(super) review: Mutex<()>,
    /// Pictures that are decoded at the same time.
    pub(super) pictures: Semaphore,
    pub(super) inputs: picture::Inputs,
}

/// The API below `/api`, the page at `/`, and what the page reads and writes, for a server at `127.0.0.1:port`.
///
/// Requests for another host, and those that pages of other origins send, are refused.
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub fn local(current: Arc<Current>, limits: Limits, port: u16) -> Router {
    let local = Arc::new(Local {
        views: Views::new(Arc::clone(&current)),
        current: Arc::clone(&current),
        review: Mutex::default(),
        pictures: Semaphore::new(limits.photos.max(1)),
        inputs: picture::Inputs::default(),
    });
    // Read before the page asks. An error is reported when it does.
    let first = Arc::clone(&local);
    tokio::spawn(async move { first.views.now().await.map(drop) });
    let reads = Router::new()
        .route("/points", get(points::points))
        .route("/images", get(images))
        .route("/details", get(details))
        .route("/image", get(picture::picture))
        .route("/duplicates", get(lists::duplicates))
        .route("/suspects", get(lists::suspects))
        .route("/outliers", get(lists::outliers))
        .route("/rejects", get(lists::rejects))
        .route("/duplicates.csv", get(lists::duplicates_csv))
        .route("/suspects.csv", get(lists::suspects_csv))
        .route("/outliers.csv", get(lists::outliers_csv))
        .route("/rejects.csv", get(lists::rejects_csv));
    let writes = Router::new()
        .route("/review", get(review::rows).post(review::set).delete(review::unset))
        .route("/labels.csv", get(review::file));
    let more = reads.merge(writes).with_state(local);
    Router::new()
        .nest("/api", described(current, limits, openapi::local()).merge(more))
        .route("/", get(page::html))
        .route("/style.css", get(page::style))
        .route("/script.js", get(page::script))
        .route("/map.js", get(page::map))
        .route("/icon.svg", get(page::icon))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Guard::new(port), guard::check))
}

impl Local {
    pub(super) async fn view(&self) -> Result<Arc<View>, Failure> {
        Ok(self.views.now().await?)
    }
}

/// A part of a list.
#[derive(Debug, Serialize)]
pub(super) struct Rows<T> {
    pub(super) version: u64,
    /// Number of all rows.
    pub(super) total: usize,
    pub(super) rows: Vec<T>,
    /// Why the list is not complete.
    pub(super) note: Option<String>,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    #[serde(default)]
    pub(super) offset: usize,
    pub(super) limit: Option<usize>,
}

impl Part {
    /// The part of some rows.
    pub(super) fn of<T>(self, rows: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        rows.skip(self.offset).take(self.limit.unwrap_or(SHOWN).min(MOST))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// A part of the path, in upper or lower case.
    text: Option<String>,
    label: Option<String>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

/// The images whose path contains a text and that have a label.
async fn images(State(local): State<Arc<Local>>, uri: Uri) -> Result<Response, Failure> {
    let Wanted { text, label, offset, limit } = query(&uri)?;
    let view = local.view().await?;
    let found = tokio::task::spawn_blocking(move || {
        let table = &view.table;
        let text = text.unwrap_or_default().to_lowercase();
        let label = label.filter(|label| !label.is_empty()).map(|label| table.labels.known(&label));
        let wanted = |row: &usize| {
            let image = &table.images[*row];
            let of_label = label.is_none_or(|label| label.is_some() && image.label == label);
            of_label && (text.is_empty() || image.path.to_lowercase().contains(&text))
        };
        let rows: Vec<usize> = (0..table.images.len()).filter(wanted).collect();
        let shown = Part { offset, limit }.of(rows.iter());
        let shown: Vec<Shown<'_>> = shown.filter_map(|row| table.shown(*row)).collect();
        json(&Rows { version: view.version(), total: rows.len(), rows: shown, note: None })
    });
    found.await.map_err(|e| Error::new(ErrorKind::InternalBug, "a search has panicked").source(e).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    path: Option<String>,
    /// Number of a row of a version.
    row: Option<usize>,
    version: Option<u64>,
}

#[derive(Serialize)]
struct Details<'a> {
    version: u64,
    image: Shown<'a>,
    /// The reviewed label, if there is one.
    reviewed: Option<String>,
}

/// One image: by its path, or by the number of its point on the map of a version.
async fn details(State(local): State<Arc<Local>>, uri: Uri) -> Result<Response, Failure> {
    let Which { path, row, version } = query(&uri)?;
    let view = local.view().await?;
    if version.is_some_and(|version| version != view.version()) {
        let message = "a newer version has been published; load the page again";
        return Err(Failure::new(StatusCode::CONFLICT, message).context("version", view.version()));
    }
    let row = path.as_deref().and_then(|path| view.table.row(path)).or(row.filter(|_| path.is_none()));
    let Some(image) = row.and_then(|row| view.table.shown(row)) else {
        return Err(Error::new(ErrorKind::InputUnknownKey, "the version has no such image").into());
    };
    let reviewed = review::label_of(&local, image.path).await?;
    Ok(json(&Details { version: view.version(), image, reviewed }))
}

/// A file that a browser saves.
pub(super) fn download(name: &'static str, csv: Vec<u8>) -> Response {
    let mut response = with_type("text/csv; charset=utf-8", csv);
    let value = format!("attachment; filename=\"{name}\"");
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(axum::http::header::CONTENT_DISPOSITION, value);
    }
    response
}
