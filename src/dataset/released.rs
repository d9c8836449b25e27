//! Format 1, that of release 0.1.0: its manifests and the records of its shards.
//!
//! They are read and converted. Nothing is written in format 1.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{RejectedObject, ShardEntry, VersionState, from_json, keys, record::damaged};
use crate::Result;

/// Number of the format of release 0.1.0.
pub(crate) const RELEASED: u32 = 1;

/// The shards and tables of a version of format 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Released {
    /// All shards, in key order.
    pub shards: Vec<ShardEntry>,
    /// Keys of the parts of the table of scores.
    pub parts: Vec<String>,
}

/// What differs between the two formats.
#[derive(Deserialize)]
struct Differing {
    shards: Vec<ShardEntry>,
    moments: String,
    outputs: Tables,
}

#[derive(Deserialize)]
struct Tables {
    parts: Vec<String>,
    csv: Option<String>,
    rejects: String,
}

/// `shards/<id>/shard.json` of format 1.
#[derive(Deserialize)]
pub(crate) struct ReleasedShard {
    pub(crate) rejects: Vec<RejectedObject>,
}

/// Decodes the state of a version of format 1. Fails with `Dataset.Corrupt`.
pub(super) fn version_state(text: &[u8], key: &str) -> Result<VersionState> {
    let mut state: Value = from_json(text, key)?;
    if state["state"] != "published" {
        return from_json(text, key);
    }
    if state["format"] != RELEASED {
        return Err(damaged("this record does not end with its checksum", key));
    }
    let Differing { shards, moments, outputs } = from_json(text, key)?;
    let id = keys::parse_totals(&moments).ok_or_else(|| damaged("this manifest names no file of sums", key))?;
    state["moments"] = json!({"id": id, "key": moments});
    state["groups"] = json!([]);
    state["outputs"] = json!({
        "features": null,
        "scores": [],
        "csv": outputs.csv.map(|key| json!({"key": key})),
        "rejects": {"key": outputs.rejects},
    });
    let state = serde_json::from_value(state).map_err(|e| damaged("this record cannot be decoded", key).source(e))?;
    let VersionState::Published(mut manifest) = state else {
        return Err(damaged("this record cannot be decoded", key));
    };
    manifest.released = Some(Box::new(Released { shards, parts: outputs.parts }));
    Ok(VersionState::Published(manifest))
}
