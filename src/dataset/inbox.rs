//! Notices of uploads and deletions that wait for a run.
//!
//! A notice says "look again" and nothing more: it may be duplicated, late, out of order or lost, and the result is the
//! same. A run reads the inbox before it lists the images, and removes what it has read when it is done.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::{from_json, keys, open_output, to_json};
use crate::{
    Result,
    ids::short_hex,
    store::{self, Store},
};

const CONCURRENCY: usize = 16;

/// What waits in an output's inbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Keys of the notices.
    pub notices: Vec<String>,
    /// Keys of the input, relative to it, that the notices name.
    pub keys: BTreeSet<String>,
}

/// Adds keys that have changed. The same keys make the same notice, however often they are reported.
pub async fn add(output: &dyn Store, keys: &BTreeSet<String>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    // A notice may be the first thing that an output sees.
    open_output(output).await?;
    let body = to_json(keys)?;
    output.put(&keys::notice(&short_hex(&Sha256::digest(&body))), body).await
}

pub(crate) async fn notices(output: &dyn Store) -> Result<Vec<String>> {
    Ok(store::list_all(output, keys::INBOX).await?.into_iter().map(|object| object.key).collect())
}

/// Everything that waits now.
pub async fn read(output: &dyn Store) -> Result<Inbox> {
    let notices = notices(output).await?;
    let reads = notices.iter().map(|name| store::get_opt(output, name)).collect::<Vec<_>>();
    let bodies: Vec<_> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
    let mut keys = BTreeSet::new();
    for (key, body) in notices.iter().zip(bodies) {
        // A notice that another run has just removed belongs to that run.
        let Some(body) = body else { continue };
        keys.extend(from_json::<BTreeSet<String>>(&body, key)?);
    }
    Ok(Inbox { notices, keys })
}

/// Removes notices that a run has read before it listed the images.
pub async fn clear(output: &dyn Store, notices: &[String]) -> Result<()> {
    let deletes = notices.iter().map(|name| output.delete(name)).collect::<Vec<_>>();
    stream::iter(deletes).buffer_unordered(CONCURRENCY).try_collect().await
}
