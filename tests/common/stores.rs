//! Stores in memory that fail, refuse access, delay calls or count.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    TryStreamExt,
    stream::{self, BoxStream, StreamExt},
};
use pomona::{
    Error, ErrorKind, Result, dataset,
    store::{MemoryStore, Object, Store},
};

/// Hooks before and after each call of a store.
#[async_trait]
pub(crate) trait Gate: fmt::Debug + Send + Sync {
    /// An error fails the call before it has an effect.
    async fn before(&self, _key: &str) -> Result<()> {
        Ok(())
    }
    /// Is called for each request of a listing: S3 answers the first whatever it finds, and each page is another one.
    fn page(&self) {}
    /// Is called for each object that is written.
    fn written(&self) {}
    /// Is called for each object that is read from a listing.
    fn listed(&self) {}
    /// Is called for each object, or part of one, that is read.
    fn read(&self) {}
    /// An error fails the call after its effect.
    async fn after(&self, _key: &str) -> Result<()> {
        Ok(())
    }
}

/// A store in memory with hooks.
#[derive(Debug)]
pub(crate) struct Gated<G> {
    pub inner: Arc<MemoryStore>,
    pub gate: G,
}

#[async_trait]
impl<G: Gate> Store for Gated<G> {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        stream::once(async move {
            self.gate.before(prefix).await?;
            self.gate.page();
            Ok::<_, Error>(self.inner.list(prefix, after))
        })
        .flat_map(move |pages| match pages {
            Ok(pages) => {
                let pages = pages.inspect_ok(|page| page.iter().for_each(|_| self.gate.listed())).enumerate();
                let pages = pages.inspect(|(number, _)| {
                    if *number > 0 {
                        self.gate.page();
                    }
                });
                pages.map(|(_, page)| page).boxed()
            }
            Err(e) => stream::iter([Err(e)]).boxed(),
        })
        .boxed()
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.gate.before(key).await?;
        self.gate.read();
        self.inner.get(key).await
    }
    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.gate.before(&object.key).await?;
        self.gate.read();
        self.inner.get_listed(object).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.gate.before(key).await?;
        self.gate.read();
        self.inner.get_range(key, range).await
    }
    async fn get_part(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        self.gate.before(&object.key).await?;
        self.gate.read();
        self.inner.get_part(object, range).await
    }
    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        self.gate.before(key).await?;
        self.gate.written();
        self.inner.put_stream(key, body).await?;
        self.gate.after(key).await
    }
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        self.gate.before(key).await?;
        self.gate.written();
        let written = self.inner.put_if_absent(key, body).await?;
        self.gate.after(key).await.map(|()| written)
    }
    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        self.gate.before(&listed.key).await?;
        self.gate.written();
        let written = self.inner.replace(listed, body).await?;
        self.gate.after(&listed.key).await.map(|()| written)
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.gate.before(key).await?;
        self.inner.delete(key).await?;
        self.gate.after(key).await
    }
}

/// Forwards some calls and fails all later ones, as if the process had crashed.
pub(crate) type Failing = Gated<FailsAfter>;

#[derive(Debug)]
pub(crate) struct FailsAfter {
    left: AtomicI64,
    pub calls: AtomicU64,
    /// The next read of the marker does not find it, as if another run wrote it afterwards.
    pub marker_is_late: AtomicBool,
}

impl Failing {
    pub(crate) fn after(inner: Arc<MemoryStore>, calls: i64) -> Self {
        let gate = FailsAfter {
            left: AtomicI64::new(calls),
            calls: AtomicU64::new(0),
            marker_is_late: AtomicBool::new(false),
        };
        Gated { inner, gate }
    }
}

#[async_trait]
impl Gate for FailsAfter {
    async fn before(&self, key: &str) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(Error::new(ErrorKind::StoreUnavailable, "made to fail"));
        }
        if key == dataset::MARKER && self.marker_is_late.swap(false, Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::StoreNotFound, "not yet"));
        }
        Ok(())
    }
}

/// A store in which reading one object fails.
pub(crate) type Refusing = Gated<Refuses>;

#[derive(Debug)]
pub(crate) struct Refuses {
    pub key: String,
    pub kind: ErrorKind,
}

#[async_trait]
impl Gate for Refuses {
    async fn before(&self, key: &str) -> Result<()> {
        if key == self.key { Err(Error::new(self.kind, "made to fail")) } else { Ok(()) }
    }
}

/// Counts the objects that are read from listings.
pub(crate) type Counting = Gated<Counts>;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub listed: AtomicU64,
    pub read: AtomicU64,
}

#[async_trait]
impl Gate for Counts {
    fn listed(&self) {
        self.listed.fetch_add(1, Ordering::Relaxed);
    }
    fn read(&self) {
        self.read.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps the keys of all calls.
pub(crate) type Noting = Gated<Notes>;

#[derive(Debug, Default)]
pub(crate) struct Notes {
    keys: Mutex<Vec<String>>,
}

impl Notes {
    /// The number of calls for a key.
    pub(crate) fn calls(&self, key: &str) -> usize {
        self.keys.lock().unwrap().iter().filter(|called| *called == key).count()
    }
}

#[async_trait]
impl Gate for Notes {
    async fn before(&self, key: &str) -> Result<()> {
        self.keys.lock().unwrap().push(key.to_owned());
        Ok(())
    }
}
