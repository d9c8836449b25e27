//! Inventories: the keys of an input from files, instead of from listings.
//!
//! [`Inventoried`] is a store over the store of an input. Its listing comes from the files of an inventory; its other
//! methods are those of the input. An inventory is
//!
//! - a `manifest.json` of S3 Inventory with files in CSV or Parquet;
//! - Parquet or CSV files with columns for key, etag, size and time, such as an export of the tables of S3 Metadata.
//!
//! Files have their rows in any order, so they are sorted first, in temporary files. `docs/inputs.md` says how versions, delete
//! markers and journals are read. An inventory is a picture of some time: an object that has been replaced or deleted since
//! becomes a reject (`unreadable`) when it is read, as an object that is replaced after its listing.

mod file;
mod rows;
mod sort;
mod source;

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use file::RangeFile;
use futures::stream::{self, BoxStream, StreamExt};
use rows::Form;
use sort::{Sorted, Sorter};
use source::{Format, SourceFile};
use tokio::{runtime::Handle, sync::OnceCell};

use crate::{
    Error, ErrorKind, Result,
    store::{Object, Store, bucket_and_prefix},
};

/// Objects of a page.
const PAGE: usize = 1_000;

/// A [`Store`] over another one, the input of a run, that lists the objects of an inventory.
#[derive(Debug)]
pub struct Inventoried {
    store: Arc<dyn Store>,
    location: String,
    /// The rows, as soon as they are needed.
    sorted: OnceCell<Arc<Sorted>>,
}

impl Inventoried {
    /// The objects of `store` that the inventory at `location` names: a folder, a file, or such in a bucket.
    ///
    /// The inventory is read by the first listing. That fails with `Input.NotFound` if there is none, and with `Input.Invalid`
    /// if it is that of another bucket, has a format or columns that are not read, or is damaged.
    pub fn new(store: Arc<dyn Store>, location: &str) -> Self {
        Inventoried { store, location: location.to_owned(), sorted: OnceCell::new() }
    }

    async fn sorted(&self) -> Result<Arc<Sorted>> {
        self.sorted.get_or_try_init(|| self.read()).await.cloned()
    }

    async fn read(&self) -> Result<Arc<Sorted>> {
        let (bucket, prefix) = match bucket_and_prefix(&self.store.location()) {
            Ok((bucket, prefix)) => (Some(bucket), prefix),
            Err(_) => (None, String::new()),
        };
        let (files, form) = source::files(&self.location, Form { schema: None, bucket, prefix }).await?;
        let runtime = Handle::current();
        let sorting = move || {
            let mut sorter = Sorter::default();
            for SourceFile { store, object, format } in files {
                let name = format!("{}/{}", store.location().trim_end_matches('/'), object.key);
                let file = RangeFile::new(store, object, runtime.clone());
                match format {
                    Format::Csv => rows::csv(&file, &name, &form, &mut sorter)?,
                    Format::Parquet => rows::parquet(&file, &name, &form, &mut sorter)?,
                }
            }
            sorter.finish().map(Arc::new)
        };
        blocking(sorting).await
    }

    /// The objects of a block of rows that are in the listing; `None` behind the last.
    async fn block(&self, number: usize, prefix: &str, after: Option<&str>) -> Result<Option<Vec<Object>>> {
        let sorted = self.sorted().await?;
        let Some(block) = blocking(move || sorted.block(number)).await? else { return Ok(None) };
        let ended = block.first().is_some_and(|object| object.key.as_str() > prefix && !object.key.starts_with(prefix));
        if ended {
            return Ok(None);
        }
        let wanted =
            |object: &Object| object.key.starts_with(prefix) && after.is_none_or(|after| object.key.as_str() > after);
        Ok(Some(block.into_iter().filter(wanted).collect()))
    }
}

/// Runs work that waits for files, on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "reading an inventory panicked").source(e)))
}

#[async_trait]
impl Store for Inventoried {
    fn location(&self) -> String {
        self.store.location()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let pages = stream::try_unfold(None, move |next| async move {
            let number = match next {
                Some(number) => number,
                None => self.sorted().await?.block_of(prefix.max(after.unwrap_or_default())),
            };
            let block = self.block(number, prefix, after).await?;
            Ok::<_, Error>(block.map(|block| {
                let pages: Vec<Result<Vec<Object>>> = block.chunks(PAGE).map(|page| Ok(page.to_vec())).collect();
                (stream::iter(pages), Some(number + 1))
            }))
        });
        pages
            .flat_map(|pages| match pages {
                Ok(pages) => pages.boxed(),
                Err(e) => stream::iter([Err(e)]).boxed(),
            })
            .boxed()
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.store.get(key).await
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.store.get_listed(object).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.store.get_range(key, range).await
    }

    async fn get_part(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        self.store.get_part(object, range).await
    }

    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        self.store.put_stream(key, body).await
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        self.store.put_if_absent(key, body).await
    }

    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        self.store.replace(listed, body).await
    }

    async fn link(&self, from: &str, to: &str) -> Result<()> {
        self.store.link(from, to).await
    }

    fn links(&self) -> bool {
        self.store.links()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }

    fn place(&self) -> String {
        self.store.place()
    }

    async fn identity(&self) -> Option<String> {
        self.store.identity().await
    }

    async fn put_held(&self, key: &str, body: Bytes) -> Result<bool> {
        self.store.put_held(key, body).await
    }

    async fn is_held(&self, key: &str) -> Result<Option<bool>> {
        self.store.is_held(key).await
    }
}
