//! A bucket that makes its keys as they are asked for, and an output that keeps digests of large files, both with the
//! latency of requests on a virtual clock.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use pomona::{
    Result,
    store::{MemoryStore, Object, Store},
};
use sha2::{Digest, Sha256};

use super::{
    clock::Clock,
    inputs::{Input, Listed},
};

/// How the keys of a bucket are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One flat prefix with numbers.
    Flat,
    /// Hashes.
    Hashed,
    /// Ten objects below each prefix.
    Tiny,
    /// Nearly all objects are deep below one of several prefixes.
    Skewed,
    /// Some labels with many images each, and letters that are not ASCII.
    Labels,
}

impl Shape {
    pub(crate) const ALL: [Shape; 5] = [Shape::Flat, Shape::Hashed, Shape::Tiny, Shape::Skewed, Shape::Labels];

    /// Key number `i` of `n`, in ascending order.
    fn key(self, i: u64, n: u64) -> String {
        match self {
            Shape::Flat => format!("photos/2024/IMG_{i:09}.jpg"),
            Shape::Hashed => {
                let step = u64::MAX / n;
                let jitter = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % step;
                format!("{:016x}-{:08x}.jpg", i * step + jitter, jitter as u32)
            }
            Shape::Tiny => format!("user-{:08}/{}.jpg", i / 10, i % 10),
            Shape::Skewed if i < n / 40 => format!("A/{i:07}.jpg"),
            Shape::Skewed if i < n - n / 40 => {
                format!("archive/of/the/museum/scans {:03}/page {i:09}.png", i % n * 20 / n)
            }
            Shape::Skewed => format!("z{i:010}/thumbnail.png"),
            Shape::Labels => {
                let labels = ["Apfel", "Banane", "Birne", "Quitte", "Äpfel", "Öl", "蜜柑"];
                let label = i * labels.len() as u64 / n;
                format!("{}/{i:09}_100.jpg", labels[label as usize])
            }
        }
    }
}

/// An input whose pages of 1,000 keys take `latency` each.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) shape: Shape,
    pub(crate) objects: u64,
    pub(crate) listers: usize,
    pub(crate) latency: u64,
    pub(crate) clock: Clock,
    pub(crate) requests: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(shape: Shape, objects: u64, listers: usize, clock: &Clock) -> Input<Self> {
        Input(Bucket { shape, objects, listers, latency: 100, clock: clock.clone(), requests: AtomicU64::new(0) })
    }

    /// The number of keys up to `after`.
    fn rank(&self, after: &str) -> u64 {
        let (mut low, mut high) = (0, self.objects);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.shape.key(middle, self.objects).as_str() <= after { low = middle + 1 } else { high = middle }
        }
        low
    }

    pub(crate) fn object(&self, i: u64) -> Object {
        let mixed = u128::from(i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let key = self.shape.key(i, self.objects);
        Object {
            key,
            etag: format!("{mixed:032x}").into(),
            size: 4_000 + i % 999,
            modified: 1_700_000_000_000_000,
            packed: None,
        }
    }
}

impl Listed for Bucket {
    fn location(&self) -> String {
        "s3://a-bucket-with-quite-a-long-name/and/a/prefix".to_owned()
    }
    fn list<'a>(&'a self, _: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let first = after.map_or(0, |after| self.rank(after));
        stream::try_unfold(Some(first), move |first| async move {
            let Some(first) = first else { return Ok(None) };
            self.requests.fetch_add(1, Relaxed);
            self.clock.sleep(self.latency).await;
            let end = self.objects.min(first + 1_000);
            let page: Vec<Object> = (first..end).map(|i| self.object(i)).collect();
            Ok((!page.is_empty()).then_some((page, (end < self.objects).then_some(end))))
        })
        .boxed()
    }
    fn listers(&self) -> usize {
        self.listers
    }
}

/// An output in memory, with digests in place of the lists of objects, which would fill it.
#[derive(Debug)]
pub(crate) struct Digests {
    pub(crate) inner: Arc<MemoryStore>,
    pub(crate) latency: u64,
    pub(crate) clock: Clock,
    /// Number and bytes of the lists of objects.
    pub(crate) lists: Mutex<(u64, u64)>,
}

impl Digests {
    pub(crate) fn new(clock: &Clock) -> Self {
        Digests { inner: Arc::default(), latency: 100, clock: clock.clone(), lists: Mutex::default() }
    }
}

#[async_trait]
impl Store for Digests {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let pages = async move {
            self.clock.sleep(self.latency).await;
            Ok(self.inner.list(prefix, after))
        };
        stream::once(pages).try_flatten().boxed()
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.clock.sleep(self.latency).await;
        self.inner.get(key).await
    }
    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.get(&object.key).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.clock.sleep(self.latency).await;
        self.inner.get_range(key, range).await
    }
    async fn put_stream(&self, key: &str, mut body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        self.clock.sleep(self.latency).await;
        if !key.contains("/objects-") {
            return self.inner.put_stream(key, body).await;
        }
        let (mut sha, mut bytes) = (Sha256::new(), 0);
        while let Some(piece) = body.try_next().await? {
            sha.update(&piece);
            bytes += piece.len() as u64;
        }
        {
            let lists = &mut *self.lists.lock().unwrap();
            *lists = (lists.0 + 1, lists.1 + bytes);
        }
        self.inner.put(key, sha.finalize().to_vec().into()).await
    }
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        self.clock.sleep(self.latency).await;
        self.inner.put_if_absent(key, body).await
    }
    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        self.clock.sleep(self.latency).await;
        self.inner.replace(listed, body).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.clock.sleep(self.latency).await;
        self.inner.delete(key).await
    }
}
