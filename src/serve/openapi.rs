//! The OpenAPI description of the API.

use axum::body::Body;

/// The description of the paths of [`api`](super::api()).
const API: &str = include_str!("openapi.json");
/// Stands for the release of the program.
const RELEASE: &str = "0.0.0";

/// The description of what reads.
pub(super) fn api() -> Body {
    API.replacen(RELEASE, env!("CARGO_PKG_VERSION"), 1).into()
}
