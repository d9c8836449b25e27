//! Notes of damaged shards and groups.
//!
//! A state machine carries no keys of damaged files: a stage writes a note to `runs/<run>/damaged/`, and the plan of the
//! run's next attempt makes the shard or group again. A run in one process needs no notes.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use serde::Serialize;

use crate::{
    Error, ErrorKind, Result,
    dataset::{self, keys, lease},
    ids::RunId,
    store::{self, Store},
};

#[derive(Serialize)]
struct Note<'a> {
    /// Key of the damaged file.
    file: &'a str,
}

/// The record of the shard or group that a damaged file belongs to. None for other errors and files.
pub(crate) fn damaged_record(error: &Error) -> Option<String> {
    keys::record_of(damaged_file(error)?)
}

fn damaged_file(error: &Error) -> Option<&str> {
    error.context_value("key").filter(|_| error.is(ErrorKind::DatasetCorrupt))
}

/// Writes a note if `work` finds that a file of a shard or a group is damaged.
pub(super) async fn noted<T>(output: &dyn Store, run: &RunId, work: impl Future<Output = Result<T>>) -> Result<T> {
    let outcome = work.await;
    if let Some(file) = outcome.as_ref().err().and_then(damaged_file)
        && let Some(key) = keys::damaged(run, file)
    {
        // The first error is the one to report.
        let _ = output.put(&key, dataset::to_record(&Note { file })?).await;
    }
    outcome
}

/// Ends earlier attempts of a run: removes their marks. Returns the records of the shards and groups that they found damaged.
pub(super) async fn end_earlier(output: &dyn Store, earlier: &[RunId]) -> Result<BTreeSet<String>> {
    let mut records = BTreeSet::new();
    for run in earlier {
        let folder = keys::damage_folder(run);
        let mut pages = store::ascending(output, &folder, None);
        while let Some(page) = pages.try_next().await? {
            records.extend(page.iter().filter_map(|object| keys::parse_damaged(&object.key)));
        }
        lease::leave(output, run).await?;
    }
    Ok(records)
}
