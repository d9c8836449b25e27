//! Inputs with a listing of their own, which are never written.

use std::{
    fmt,
    ops::{Deref, Range},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use pomona::{
    Result,
    store::{MemoryStore, Object, Store},
};

/// What distinguishes one such input from another.
pub(crate) trait Listed: fmt::Debug + Send + Sync {
    fn location(&self) -> String;
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>>;
    fn listers(&self) -> usize;
    /// What its objects hold. Not asked for if nothing is read.
    fn objects(&self) -> &MemoryStore {
        unreachable!("a plan reads no image")
    }
}

/// The store of such an input.
#[derive(Debug)]
pub(crate) struct Input<T>(pub(crate) T);

impl<T> Deref for Input<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[async_trait]
impl<T: Listed> Store for Input<T> {
    fn location(&self) -> String {
        self.0.location()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        self.0.list(prefix, after)
    }
    fn listers(&self) -> usize {
        self.0.listers()
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.objects().get(key).await
    }
    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.objects().get_listed(object).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.objects().get_range(key, range).await
    }
    async fn put_stream(&self, _: &str, _: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        unreachable!("the input is never written")
    }
    async fn put_if_absent(&self, _: &str, _: Bytes) -> Result<bool> {
        unreachable!("the input is never written")
    }
    async fn replace(&self, _: &Object, _: Bytes) -> Result<bool> {
        unreachable!("the input is never written")
    }
    async fn delete(&self, _: &str) -> Result<()> {
        unreachable!("the input is never written")
    }
}
