//! Everything that is on disk: manifests and records, keys, tables, the shard plan, settings, and the protocols by which
//! runs share an output.
//!
//! A version is a number whose state one conditional put decides: `versions/00000007.json` is either the manifest of
//! the run that published it or a note that the number was given up. [`commit`](mod@commit) has the protocol, [`lease`]
//! keeps runs and vacuums apart, [`inbox`] holds what uploads have reported.
//!
//! ```
//! # use pomona::{dataset, store::MemoryStore};
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let output = MemoryStore::new();
//! dataset::open_output(&output).await?;
//! // Marked as an output of Pomona, without a version yet.
//! assert!(dataset::current(&output).await?.is_none());
//! # Ok::<(), pomona::Error>(())
//! # }).unwrap();
//! ```

pub(crate) mod blocking;
pub mod commit;
pub mod inbox;
pub mod keys;
pub mod lease;
pub mod manifest;
pub mod partition;
pub mod settings;
pub mod shard;
pub mod tables;
pub mod timing;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

pub use commit::{claim, commit, current, expect_output, open_output, published, state, version, versions};
pub use manifest::{
    BasisSummary, LabelCount, Manifest, Outputs, RejectedObject, RunFigures, ShardEntry, ShardRecord, VersionState,
    add_labels,
};

use crate::{Error, ErrorKind, Result, store::Store};

/// Format of the layout; a build refuses an output of another one.
pub const FORMAT: u32 = 1;
/// The object that says "this is an output of Pomona".
pub const MARKER: &str = "pomona.json";

/// Encodes a record.
pub fn to_json<T: Serialize>(value: &T) -> Result<Bytes> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a record could not be written as JSON").source(e);
    serde_json::to_vec_pretty(value)
        .map(|mut text| {
            text.push(b'\n');
            text.into()
        })
        .map_err(bug)
}

/// Decodes a record; fails with `Dataset.Corrupt`.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8], key: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(ErrorKind::DatasetCorrupt, "this record cannot be read").context("key", key).source(e))
}

/// Reads a record that must be there.
pub async fn read_json<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<T> {
    from_json(&store.get(key).await?, key)
}

/// Encodes records as JSON lines.
pub fn to_json_lines<T: Serialize>(lines: &[T]) -> Result<Bytes> {
    let mut text = Vec::new();
    for line in lines {
        push_json_line(&mut text, line)?;
    }
    Ok(text.into())
}

/// Appends one JSON line.
pub fn push_json_line<T: Serialize>(text: &mut Vec<u8>, line: &T) -> Result<()> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a line could not be written as JSON").source(e);
    serde_json::to_writer(&mut *text, line).map_err(bug)?;
    text.push(b'\n');
    Ok(())
}

/// Decodes JSON lines; fails with `Dataset.Corrupt`.
pub fn from_json_lines<T: DeserializeOwned>(text: &[u8], key: &str) -> Result<Vec<T>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| from_json(line, key)).collect()
}
