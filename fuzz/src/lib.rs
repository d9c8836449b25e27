//! The fuzz targets of `tests/fuzz/targets.rs`, for cargo-fuzz.

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

pub use targets::{archive, event, image, inventory, model, name, record, request, table};
