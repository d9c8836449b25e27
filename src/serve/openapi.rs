//! The OpenAPI descriptions.

use bytes::Bytes;
use serde_json::Value;

/// The description of the paths of [`api`](super::api()).
const API: &str = include_str!("openapi.json");
/// What `pomona serve` has in addition.
const LOCAL: &str = include_str!("openapi_local.json");
/// Stands for the release of the program.
const RELEASE: &str = "0.0.0";

/// The description of what reads.
pub(super) fn api() -> Bytes {
    API.replacen(RELEASE, env!("CARGO_PKG_VERSION"), 1).into()
}

/// The description of all paths of `pomona serve`.
pub(super) fn local() -> Bytes {
    let (mut all, more) = (parsed(API), parsed(LOCAL));
    for part in ["/paths", "/components/schemas"] {
        let added = more.pointer(part).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(known) = all.pointer_mut(part).and_then(Value::as_object_mut) {
            known.extend(added);
        }
    }
    all.to_string().replacen(RELEASE, env!("CARGO_PKG_VERSION"), 1).into()
}

/// Both files are a part of the program, and a test reads them.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
