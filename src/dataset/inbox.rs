//! The inbox: keys that upload events reported, for the next run.
//!
//! A notice is a set of keys that may have changed. Duplicate, late and reordered notices do not change the result of a
//! run, and a full listing also finds changes without a notice. A run reads the inbox before it lists the images, and
//! deletes the notices that it has read when it has finished.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::{from_json, keys, open_output, to_json};
use crate::{
    Result,
    ids::short_hex,
    store::{self, Store},
};

/// Concurrent requests.
const CONCURRENCY: usize = 16;

/// The content of an output's inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    /// Keys of the notices, relative to the output.
    pub notices: Vec<String>,
    /// Keys of images that the notices name, relative to the input.
    pub keys: BTreeSet<String>,
    /// False if a notice is damaged. Any image can then have changed.
    pub is_complete: bool,
}

/// Writes a notice with keys of the input that may have changed, and marks an empty output. Equal sets of keys give the
/// same notice. Writes nothing for an empty set.
///
/// Fails as [`open_output`] does.
pub async fn add(output: &dyn Store, keys: &BTreeSet<String>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    // A notice may be the first object of an output.
    open_output(output).await?;
    let body = to_json(keys)?;
    output.put(&name_of(&body), body).await
}

/// Keys of all notices.
pub(crate) async fn notices(output: &dyn Store) -> Result<Vec<String>> {
    Ok(store::list_all(output, keys::INBOX).await?.into_iter().map(|object| object.key).collect())
}

/// Reads all notices.
pub async fn read(output: &dyn Store) -> Result<Inbox> {
    let notices = notices(output).await?;
    let reads = notices.iter().map(|name| store::get_opt(output, name)).collect::<Vec<_>>();
    let bodies: Vec<_> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
    let (mut keys, mut is_complete) = (BTreeSet::new(), true);
    for (key, body) in notices.iter().zip(bodies) {
        // Another run has processed and deleted this notice.
        let Some(body) = body else { continue };
        match from_json::<BTreeSet<String>>(&body, key) {
            Ok(named) if *key == name_of(&body) => keys.extend(named),
            _ => is_complete = false,
        }
    }
    Ok(Inbox { notices, keys, is_complete })
}

/// Key of a notice: a hash of its content.
pub(crate) fn name_of(body: &[u8]) -> String {
    keys::notice(&short_hex(&Sha256::digest(body)))
}

/// Deletes notices, which a run has read before it listed the images.
pub async fn clear(output: &dyn Store, notices: &[String]) -> Result<()> {
    let deletes = notices.iter().map(|name| output.delete(name)).collect::<Vec<_>>();
    stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect().await
}
