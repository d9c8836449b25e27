//! An input that changes while it is listed, in small pages.

use std::{ops::Range, sync::Mutex};

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

use super::clock::Clock;

/// A store in memory with pages of `page` objects. Each takes some time, in which keys of `volatile` come and go.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) inner: MemoryStore,
    pub(crate) page: usize,
    pub(crate) listers: usize,
    pub(crate) volatile: Vec<String>,
    pub(crate) clock: Clock,
    pub(crate) random: Mutex<fastrand::Rng>,
}

impl Moving {
    /// The time of a page, and changes before it.
    async fn pass(&self) {
        let (millis, changes) = {
            let random = &mut *self.random.lock().unwrap();
            let changes = if self.volatile.is_empty() { 0 } else { random.usize(..4) };
            let changes: Vec<_> = (0..changes).map(|_| (random.usize(..self.volatile.len()), random.bool())).collect();
            (random.u64(1..200), changes)
        };
        self.clock.sleep(millis).await;
        for (key, put) in changes {
            let key = &self.volatile[key];
            if put {
                self.inner.put(key, Bytes::new()).await.unwrap();
            } else {
                self.inner.delete(key).await.unwrap();
            }
        }
    }
}

#[async_trait]
impl Store for Moving {
    fn location(&self) -> String {
        "moving".to_owned()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        stream::try_unfold(Some(after.map(str::to_owned)), move |after| async move {
            let Some(after) = after else { return Ok(None) };
            self.pass().await;
            let mut page = self.inner.list(prefix, after.as_deref()).try_next().await?.unwrap_or_default();
            page.truncate(self.page);
            let last = page.last().map(|last| last.key.clone());
            let next = (page.len() == self.page).then_some(last);
            Ok((!page.is_empty()).then_some((page, next)))
        })
        .boxed()
    }
    fn listers(&self) -> usize {
        self.listers
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.inner.get(key).await
    }
    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.inner.get_listed(object).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(key, range).await
    }
    async fn put_stream(&self, _: &str, _: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        unreachable!("the input is never written")
    }
    async fn put_if_absent(&self, _: &str, _: Bytes) -> Result<bool> {
        unreachable!("the input is never written")
    }
    async fn delete(&self, _: &str) -> Result<()> {
        unreachable!("the input is never written")
    }
}
