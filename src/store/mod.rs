//! Object stores: a folder, an S3 bucket, or memory.
//!
//! [`Store`] has the operations that Pomona needs. Every backend guarantees that
//!
//! - keys are UTF-8 paths with `/` between parts, relative to the store's root;
//! - a listing is in byte order of the keys, across all pages;
//! - readers see a put or a link completely or not at all, also after a crash;
//! - of any number of concurrent [`Store::put_if_absent`] calls on one key, exactly one succeeds; the same holds for
//!   [`Store::replace`] of one listed object.
//!
//! [`conformance`] is the test suite for these guarantees. Run it on a backend of your own.
//!
//! ```
//! # use pomona::store::{self, MemoryStore, Store};
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = MemoryStore::new();
//! store.put("photos/1.jpg", "pixels".into()).await?;
//! assert_eq!(store.get("photos/1.jpg").await?, "pixels");
//! assert_eq!(store::list_all(&store, "photos/").await?.len(), 1);
//! # Ok::<(), pomona::Error>(())
//! # }).unwrap();
//! ```

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, ids::ETag};

pub mod conformance;
#[cfg(feature = "aws")]
pub(crate) mod failures;
mod folder;
mod location;
pub(crate) mod members;
mod memory;
mod open_file;
mod packed;
#[cfg(feature = "aws")]
mod requests;
#[cfg(feature = "aws")]
mod s3;

pub use folder::FolderStore;
pub(crate) use folder::escaped_name;
pub use location::{above, bucket_and_prefix, check_apart, is_relative, open, open_input, place_of, read_file};
pub use members::is_ignored;
pub use memory::MemoryStore;
pub use open_file::{OpenFile, copy};
pub use packed::{Form, Packed};
#[cfg(feature = "aws")]
pub use requests::{RequestCounts, requests_sent};
#[cfg(feature = "aws")]
pub use s3::{S3Store, client as s3_client, client_of as s3_client_of, environment as aws_environment};

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Relative to the store's root.
    pub key: String,
    /// Changes with the content.
    pub etag: ETag,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last modification, microseconds since 1970-01-01 UTC.
    pub modified: i64,
    /// The place of its content, if the object is a member of an archive; see [`crate::archive`]. Listings of the stores of
    /// this module have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Box<Packed>>,
}

/// What a store knows about the middle of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Middle {
    /// Nothing. A listing behind some key shows whether keys follow there.
    Unknown,
    /// A text in the range; about as many keys may be behind it as before it.
    Key(String),
    /// The range is not worth dividing.
    Whole,
}

/// An object store. See the [module](self) for the guarantees of every backend.
///
/// Errors have a kind of the area `Store`: `Store.NotFound`, `Store.NoBucket`, `Store.WrongRegion`, `Store.Denied`,
/// `Store.Throttled`, `Store.Unavailable` or `Store.Failed`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// The location as users write it, such as `photos` or `s3://bucket/prefix/`; for messages.
    fn location(&self) -> String;

    /// Lists the objects whose key starts with `prefix` and is greater than `after`, in byte order of the keys.
    ///
    /// A page has 1 to 1,000 objects. Without such objects, there are no pages; a missing folder is not an error.
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>>;

    /// How many listings of different ranges of keys are useful at the same time.
    fn listers(&self) -> usize {
        1
    }

    /// Where to divide the keys that are greater than `after` and at most `until`, so that two listings share them.
    async fn middle(&self, _after: &str, _until: Option<&str>) -> Result<Middle> {
        Ok(Middle::Unknown)
    }

    /// Reads an object. Fails with `Store.NotFound` if it does not exist.
    async fn get(&self, key: &str) -> Result<Bytes>;

    /// Reads the content that was listed. Fails with `Store.NotFound` if the object has been replaced or deleted since.
    async fn get_listed(&self, object: &Object) -> Result<Bytes>;

    /// Reads the bytes of `range`. Fails with `Store.NotFound` if the object does not exist, and with `Store.Failed` if it
    /// ends before the range does.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Reads a part of the content that was listed. Fails with `Store.NotFound` if the object has been replaced or deleted
    /// since, and with `Store.Failed` if it ends before the range does.
    ///
    /// Reads the whole object unless a store can do better.
    async fn get_part(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        let body = self.get_listed(object).await?;
        slice(&body, range).ok_or_else(|| outside(&object.key))
    }

    /// Opens an object whose parts are read many times, if that is cheaper than [`get_range`](Store::get_range). None if it is
    /// not. Fails with `Store.NotFound` if the object does not exist.
    async fn open(&self, _key: &str) -> Result<Option<OpenFile>> {
        Ok(None)
    }

    /// Writes the concatenated pieces of `body` as one object, which replaces an existing one. Writes nothing if a piece is
    /// an error, and returns that error.
    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()>;

    /// Writes an object, which replaces an existing one.
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.put_stream(key, stream::once(async { Ok(body) }).boxed()).await
    }

    /// Writes an object unless the key exists. Returns whether it was written.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool>;

    /// Writes an object in place of the content that was listed. Returns false, and writes nothing, if the object has been
    /// replaced or deleted since.
    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool>;

    /// Gives the object `from` the second name `to`, which replaces an existing object. Deleting or replacing one of the two
    /// leaves the other. Fails with `Store.NotFound` if `from` does not exist.
    ///
    /// A store that cannot do this writes a copy: see [`links`](Store::links).
    async fn link(&self, from: &str, to: &str) -> Result<()> {
        let body = self.get(from).await?;
        self.put(to, body).await
    }

    /// Whether a second name of [`link`](Store::link) needs no space for a second copy. A store for which this is true may
    /// still copy where it has to.
    fn links(&self) -> bool {
        false
    }

    /// Deletes an object. Succeeds if it does not exist.
    async fn delete(&self, key: &str) -> Result<()>;

    /// The location in a form that means the same place in every process, such as an absolute path.
    fn place(&self) -> String {
        self.location()
    }

    /// Tells this place from another one that had or gets the same [`place`](Store::place), such as a folder that was
    /// deleted and made again. None if the store cannot tell.
    async fn identity(&self) -> Option<String> {
        None
    }

    /// Writes an object unless the key exists, as [`put_if_absent`](Store::put_if_absent), and holds it: until this store
    /// deletes the object, is dropped, or its process dies, [`is_held`](Store::is_held) of any other store with the same
    /// objects is true. A store that cannot hold objects only writes it.
    async fn put_held(&self, key: &str, body: Bytes) -> Result<bool> {
        self.put_if_absent(key, body).await
    }

    /// Whether a living process holds an object; None if the store cannot tell. Fails with `Store.NotFound` if the object
    /// does not exist.
    async fn is_held(&self, _key: &str) -> Result<Option<bool>> {
        Ok(None)
    }
}

/// The bytes of a range; None if it ends outside of the body.
fn slice(body: &Bytes, range: Range<u64>) -> Option<Bytes> {
    let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
    (start <= end && end <= body.len()).then(|| body.slice(start..end))
}

fn outside(key: &str) -> Error {
    Error::new(ErrorKind::StoreFailed, "the range lies outside the object").context("key", key)
}

/// The listing of a store, which fails with `Store.Failed` if the keys are not strictly ascending.
///
/// Plans, searches and reuse depend on the order, and a key that comes twice would give one file the features of another.
pub fn ascending<'a>(
    store: &'a dyn Store,
    prefix: &'a str,
    after: Option<&'a str>,
) -> BoxStream<'a, Result<Vec<Object>>> {
    let pages = store.list(prefix, after);
    stream::try_unfold((pages, after.map(str::to_owned)), move |(mut pages, mut last)| async move {
        let Some(page) = pages.try_next().await? else { return Ok(None) };
        for object in &page {
            if last.as_ref().is_some_and(|last| *last >= object.key) {
                return Err(Error::new(ErrorKind::StoreFailed, "the listing is not in ascending order of its keys")
                    .context("location", store.location())
                    .context("key", &object.key)
                    .context("after", last.unwrap_or_default()));
            }
            last = Some(object.key.clone());
        }
        Ok(Some((page, (pages, last))))
    })
    .boxed()
}

/// Collects a whole listing in memory, for prefixes with few objects.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Object>> {
    ascending(store, prefix, None).try_concat().await
}

/// Reads an object. None if it does not exist.
pub async fn get_opt(store: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    match store.get(key).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.is(ErrorKind::StoreNotFound) => Ok(None),
        Err(e) => Err(e),
    }
}
