//! The files of the page. They are in the program: the page needs no network.

use axum::response::Response;

use super::failure::with_type;

pub(super) async fn html() -> Response {
    with_type("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(super) async fn style() -> Response {
    with_type("text/css; charset=utf-8", include_str!("page/style.css"))
}

pub(super) async fn script() -> Response {
    with_type("text/javascript; charset=utf-8", include_str!("page/script.js"))
}

pub(super) async fn map() -> Response {
    with_type("text/javascript; charset=utf-8", include_str!("page/map.js"))
}

pub(super) async fn icon() -> Response {
    with_type("image/svg+xml", include_str!("page/icon.svg"))
}
