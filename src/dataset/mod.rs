//! The format of an output: manifests, records, keys, tables, the shard plan, settings, and the protocols of runs that
//! share an output.
//!
//! A version is a number, and one conditional put decides its state: `versions/00000007.json` is either the manifest of
//! the run that published it, or a record that the number is abandoned. The module [`commit`](mod@commit) has the
//! protocol, [`lease`] keeps runs and vacuums from running at the same time, [`inbox`] stores the keys that uploads
//! reported. `docs/file-formats.md` describes the files.
//!
//! ```
//! # use pomona::{dataset, store::MemoryStore};
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let output = MemoryStore::new();
//! dataset::open_output(&output).await?;
//! // An output of Pomona without a version.
//! assert!(dataset::current(&output).await?.is_none());
//! # Ok::<(), pomona::Error>(())
//! # }).unwrap();
//! ```

pub(crate) mod blocking;
pub mod classification;
pub mod commit;
pub mod contents;
pub(crate) mod delta;
mod extractors;
mod figures;
pub mod findings;
mod holder;
pub mod inbox;
mod index;
pub mod keys;
pub mod labelling;
pub mod lease;
pub mod manifest;
pub mod newest;
pub mod partition;
pub mod record;
pub mod registry;
mod released;
pub mod review;
pub mod settings;
pub mod shard;
pub mod tables;
pub mod timing;
pub mod training;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

pub use classification::{Classification, ClassifierSummary, PredictedPart, SplitCount};
pub(crate) use commit::upgrade_output;
pub use commit::{claim, commit, current, expect_output, open_output, published, state, version, versions};
pub use contents::GroupRef;
pub use extractors::{
    ExtractorInput, ModelRecord, WORDS, WordsInput, extractor_file, keep_model, keep_words, model_record,
};
pub use figures::RunFigures;
pub use findings::{Duplicates, Outliers, Searched};
pub use index::SearchIndex;
pub(crate) use index::{index_files, segments_of};
pub(crate) use manifest::add_labels;
pub use manifest::{
    BasisSummary, FeaturesFolder, GroupEntry, GroupRecord, LabelCount, Manifest, Moments, Outputs, Part, PartList,
    RejectedObject, ShardEntry, ShardRecord, VersionState,
};
pub use record::{Checksum, FileRef, Sealed, get_checked, read_record, sha256, to_record};
pub(crate) use record::{from_record, from_record_of_any_format, from_sealed_lines, to_sealed_lines};
pub use released::Released;

use crate::{Error, ErrorKind, Result, store::Store};

/// Number of the output format. Format 1, of release 0.1.0, is read too. Opening an output of another format fails with
/// `Output.UnknownFormat`.
pub const FORMAT: u32 = 2;
/// Key of the object that marks an output of Pomona and names its format.
pub const MARKER: &str = "pomona.json";

/// Encodes a record as indented JSON with a newline at its end. Fails with `Internal.Bug`.
pub fn to_json<T: Serialize>(value: &T) -> Result<Bytes> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a record cannot be encoded as JSON").source(e);
    serde_json::to_vec_pretty(value)
        .map(|mut text| {
            text.push(b'\n');
            text.into()
        })
        .map_err(bug)
}

/// Decodes a record. Fails with `Dataset.Corrupt`, which names the key.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8], key: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(ErrorKind::DatasetCorrupt, "this record cannot be decoded").context("key", key).source(e)
    })
}

/// Reads a file that proves itself or is of format 1. Fails with `Dataset.Corrupt`, which names the key, if it does not
/// exist: running again does not bring it back, unlike an image that was replaced after it was listed.
pub async fn get_file(store: &dyn Store, key: &str) -> Result<Bytes> {
    get_checked(store, key, None).await
}

/// Appends a record as a JSON line.
pub(crate) fn push_json_line<T: Serialize>(text: &mut Vec<u8>, line: &T) -> Result<()> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a record cannot be encoded as a JSON line").source(e);
    serde_json::to_writer(&mut *text, line).map_err(bug)?;
    text.push(b'\n');
    Ok(())
}

/// Decodes JSON lines. Fails with `Dataset.Corrupt`, which names the key.
pub(crate) fn from_json_lines<T: DeserializeOwned>(text: &[u8], key: &str) -> Result<Vec<T>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| from_json(line, key)).collect()
}
