//! Archives as input: tar, zip and Parquet files whose members are objects.
//!
//! [`Unpacked`] is a store over the store of an input. Its listing has the members of archives in place of the archives,
//! so that a plan sees ordinary objects, and its other methods read them. `docs/inputs.md` says what members are called,
//! where their labels come from, what their etags are, and what is not opened.
//!
//! - [`names`] (`store::members`): the keys of members, which never equal that of another object.
//! - [`tar`], [`zip`], [`table`] (Parquet): the members of an archive, found by ranged reads within limits.
//! - [`container`]: lists of members, kept in the output, so that an archive is read once for each of its contents.
//! - [`listing`]: members merged into the listing of the store, in key order.
//! - [`reads`], [`unpack`]: contents of members. Those that lie near each other are read by one request.
//!
//! An archive is the work of strangers. It never fails a run: what is wrong with it is a row in the rejects table, for the
//! archive or for a member.
//!
//! ```
//! # use std::sync::Arc;
//! # use pomona::{archive::Unpacked, store::{self, MemoryStore, Store}};
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
//! let mut tar = tar::Builder::new(Vec::new());
//! let mut header = tar::Header::new_gnu();
//! header.set_size(6);
//! tar.append_data(&mut header, "apple/1.jpg", &b"pixels"[..])?;
//! input.put("fruit.tar", tar.into_inner()?.into()).await?;
//!
//! let unpacked = Unpacked::new(input, output);
//! let listed = store::list_all(&unpacked, "").await?;
//! assert_eq!(listed[0].key, "fruit.tar!apple/1.jpg");
//! assert_eq!(unpacked.get_listed(&listed[0]).await?, "pixels");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod container;
mod index;
mod listing;
mod pages;
mod reads;
mod scan;
mod table;
mod tar;
mod unpack;
mod unpacked;
mod zip;

use crate::store::members as names;
pub(crate) use container::archive_of;
pub(crate) use reads::Reads;
pub use unpacked::Unpacked;

/// The keys of all members of an archive of the input, if `key` is the key of one: greater than the first, less than the
/// second.
pub(crate) fn bounds(key: &str) -> Option<(String, String)> {
    names::kind_of(key).map(|_| names::bounds(key))
}

/// The key in a listing with members of an object that is itself in the store.
pub(crate) fn listed_key(key: &str) -> String {
    names::of_object(key)
}
