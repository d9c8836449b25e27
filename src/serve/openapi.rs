//! The OpenAPI descriptions.

use bytes::Bytes;
use serde_json::Value;

/// The description of the paths of [`api`](super::api()).
const API: &str = include_str!("openapi.json");
/// What `pomona serve` has in addition.
const LOCAL: &str = include_str!("openapi_local.json");
/// What a function has in addition that lets clients upload photos.
const UPLOADS: &str = include_str!("openapi_uploads.json");
/// Stands for the release of the program.
const RELEASE: &str = "0.0.0";

/// The description of [`api`](super::api()), with or without uploads.
pub(super) fn api(with_uploads: bool) -> Bytes {
    described(with_uploads.then_some(UPLOADS))
}

/// The description of all paths of `pomona serve`.
pub(super) fn local() -> Bytes {
    described(Some(LOCAL))
}

/// The description with the paths and schemas of another file. `x-photo-parameter` of that file stands for the photo in the
/// body.
fn described(more: Option<&str>) -> Bytes {
    let (mut all, more) = (parsed(API), parsed(more.unwrap_or("{}")));
    for part in ["/paths", "/components/schemas"] {
        let added = more.pointer(part).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(known) = all.pointer_mut(part).and_then(Value::as_object_mut) {
            known.extend(added);
        }
    }
    if let Some(parameter) = more.pointer("/x-photo-parameter") {
        for path in ["predict", "search"] {
            let Some(post) = all.pointer_mut(&format!("/paths/~1{path}/post")) else { continue };
            if let Some(parameters) = post["parameters"].as_array_mut() {
                parameters.push(parameter.clone());
            }
            post["requestBody"]["required"] = false.into();
        }
    }
    all.to_string().replacen(RELEASE, env!("CARGO_PKG_VERSION"), 1).into()
}

/// All files are a part of the program, and tests read them.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
