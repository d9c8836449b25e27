//! Where bytes are kept: a folder, a bucket, or memory.
//!
//! [`Store`] is the little that Pomona needs of an object store. What every backend has to keep:
//!
//! - keys are UTF-8 paths with `/` between parts, relative to the store's root;
//! - a listing is in byte order of the keys, whatever the number of pages;
//! - a put is seen whole or not at all, also after a crash;
//! - of any number of concurrent [`Store::put_if_absent`] on one key exactly one succeeds.
//!
//! `tests/store.rs` holds the suite that proves this for each backend.

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Result, ids::ETag};

mod folder;
mod location;
mod memory;
#[cfg(feature = "aws")]
mod s3;

pub use folder::FolderStore;
pub use location::{bucket_and_prefix, check_apart, open, open_input};
pub use memory::MemoryStore;
#[cfg(feature = "aws")]
pub use s3::{S3Store, client as s3_client, environment as aws_environment};

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub key: String,
    pub etag: ETag,
    /// Bytes.
    pub size: u64,
    /// Microseconds since 1970-01-01 UTC.
    pub modified: i64,
}

#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// The location as a user would write it.
    fn location(&self) -> String;

    /// Objects whose key starts with `prefix`, greater than `after`, in pages, in byte order of the keys.
    ///
    /// A prefix that nothing starts with gives no objects, and so does a folder that does not exist.
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>>;

    /// Fails with `Store.NotFound` when there is no such key.
    async fn get(&self, key: &str) -> Result<Bytes>;

    /// The content that was listed. Fails with `Store.NotFound` when it has been replaced or deleted since.
    async fn get_listed(&self, object: &Object) -> Result<Bytes>;

    /// The bytes of `range`, which must lie inside the object.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Writes the pieces of `body`, in order, as one object, replacing what was there. Nothing is written
    /// when a piece is an error.
    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()>;

    /// Writes one object, replacing what was there.
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.put_stream(key, stream::once(async { Ok(body) }).boxed()).await
    }

    /// Writes the object unless the key exists; says whether it did.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool>;

    /// Removes the object; it is no error when there is none.
    async fn delete(&self, key: &str) -> Result<()>;
}

/// Gathers a whole listing. For prefixes that are known to hold few objects.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Object>> {
    store.list(prefix, None).try_concat().await
}

/// The object, or none when there is no such key.
pub async fn get_opt(store: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    match store.get(key).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.is(ErrorKind::StoreNotFound) => Ok(None),
        Err(e) => Err(e),
    }
}
