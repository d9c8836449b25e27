//! A store in memory, for tests and for planning without a disk.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::{Object, Store, outside, slice};
use crate::{Error, ErrorKind, Result, ids::ETag};

const PAGE: usize = 1_000;

/// A [`Store`] in a sorted map. The etag and the modification time are a counter of writes.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    writes: i64,
    objects: BTreeMap<String, (Bytes, i64)>,
}

impl State {
    fn write(&mut self, key: &str, body: Bytes) {
        self.writes += 1;
        self.objects.insert(key.to_owned(), (body, self.writes));
    }
}

/// A copy with the same objects and etags.
impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        MemoryStore { state: Mutex::new(self.state().clone()) }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one call on the map, so the map is consistent after a panic of another thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, key: &str) -> Result<Bytes> {
        let state = self.state();
        let found = state.objects.get(key).map(|(body, _)| body.clone());
        found.ok_or_else(|| Error::new(ErrorKind::StoreNotFound, "there is no such object").context("key", key))
    }
}

fn etag(write: i64) -> ETag {
    ETag::from(format!("{write:x}"))
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        stream::unfold(Some(after.map(str::to_owned)), move |cursor| async move {
            let after = cursor?;
            let state = self.state();
            let start = match &after {
                Some(key) if key.as_str() >= prefix => Bound::Excluded(key.as_str()),
                _ => Bound::Included(prefix),
            };
            let page: Vec<Object> = state
                .objects
                .range::<str, _>((start, Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(prefix))
                .take(PAGE)
                .map(|(key, (body, write))| Object {
                    key: key.clone(),
                    etag: etag(*write),
                    size: body.len() as u64,
                    modified: *write,
                    packed: None,
                })
                .collect();
            let last = page.last().map(|object| object.key.clone())?;
            let next = (page.len() == PAGE).then_some(Some(last));
            Some((Ok(page), next))
        })
        .boxed()
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        self.read(key)
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        let state = self.state();
        let found = state.objects.get(&object.key).filter(|(_, write)| etag(*write) == object.etag);
        found.map(|(body, _)| body.clone()).ok_or_else(|| {
            Error::new(ErrorKind::StoreNotFound, "the object has been replaced since it was listed")
                .context("key", &object.key)
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let body = self.read(key)?;
        slice(&body, range).ok_or_else(|| outside(key))
    }

    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        let pieces: Vec<Bytes> = body.try_collect().await?;
        self.state().write(key, pieces.concat().into());
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        let mut state = self.state();
        if state.objects.contains_key(key) {
            return Ok(false);
        }
        state.write(key, body);
        Ok(true)
    }

    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        let mut state = self.state();
        let is_listed = state.objects.get(&listed.key).is_some_and(|(_, write)| etag(*write) == listed.etag);
        if is_listed {
            state.write(&listed.key, body);
        }
        Ok(is_listed)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.state().objects.remove(key);
        Ok(())
    }
}
