//! A store with the members of archives as objects.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{TryStreamExt, stream::BoxStream};
use tokio::sync::Mutex;

use super::{
    container, listing,
    names::{self, Parsed},
    reads,
};
use crate::{
    Error, ErrorKind, Result,
    store::{Middle, Object, Store},
};

/// A [`Store`] over another one, the input of a run. Listings have the members of its archives in place of the archives.
///
/// Members are read, and never written. A listing keeps the lists of members in a second store, the output of the run.
pub struct Unpacked {
    store: Arc<dyn Store>,
    output: Arc<dyn Store>,
    /// The archive whose member was asked for last, and its members.
    last: Mutex<Option<(Object, Arc<Vec<Object>>)>>,
}

impl fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unpacked").field(&self.store).finish()
    }
}

impl Unpacked {
    /// The objects of `store` and the members of its archives. Lists of members are kept in `output`.
    pub fn new(store: Arc<dyn Store>, output: Arc<dyn Store>) -> Self {
        Unpacked { store, output, last: Mutex::default() }
    }

    /// The key in the store below. Fails with `Store.Failed` for members.
    fn raw(key: &str) -> Result<String> {
        match names::parse(key) {
            Parsed::Object(raw) => Ok(raw.into_owned()),
            Parsed::Member(..) => {
                Err(Error::new(ErrorKind::StoreFailed, "a member of an archive is only read").context("key", key))
            }
        }
    }

    fn raw_object(object: &Object) -> Result<Object> {
        Ok(Object { key: Self::raw(&object.key)?, ..object.clone() })
    }

    /// The member with this key, as it is listed now.
    async fn member(&self, key: &str, archive: &str) -> Result<Object> {
        let missing =
            || Error::new(ErrorKind::StoreNotFound, "there is no such member of an archive").context("key", key);
        let listed = self.store.list(archive, None).try_next().await?.and_then(|page| page.into_iter().next());
        let archive = listed.filter(|object| object.key == archive).ok_or_else(missing)?;
        let members = self.members(&archive).await?;
        let found = members.binary_search_by(|member| member.key.as_str().cmp(key));
        found.ok().and_then(|found| members.get(found)).cloned().ok_or_else(missing)
    }

    /// The members of an archive. Those of the last one stay in memory: a report asks for many pictures.
    async fn members(&self, archive: &Object) -> Result<Arc<Vec<Object>>> {
        let mut last = self.last.lock().await;
        if let Some((_, members)) = last.as_ref().filter(|(known, _)| known == archive) {
            return Ok(members.clone());
        }
        let Some(kind) = names::kind_of(&archive.key) else { return Ok(Arc::default()) };
        let read = container::objects(self.store.as_ref(), self.output.as_ref(), archive, kind).await?;
        let members = Arc::new(read);
        *last = Some((archive.clone(), members.clone()));
        Ok(members)
    }
}

#[async_trait]
impl Store for Unpacked {
    fn location(&self) -> String {
        self.store.location()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        listing::list(self.store.as_ref(), self.output.as_ref(), prefix, after)
    }

    fn listers(&self) -> usize {
        self.store.listers()
    }

    async fn middle(&self, after: &str, until: Option<&str>) -> Result<Middle> {
        let raw = |key| match names::parse(key) {
            Parsed::Object(raw) => raw,
            Parsed::Member(archive, _) => archive,
        };
        Ok(match self.store.middle(&raw(after), until.map(raw).as_deref()).await? {
            Middle::Key(raw) => {
                let key = names::of_object(&raw);
                let inside = key.as_str() > after && until.is_none_or(|until| key.as_str() < until);
                if inside { Middle::Key(key) } else { Middle::Unknown }
            }
            other => other,
        })
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        match names::parse(key) {
            Parsed::Object(raw) => self.store.get(&raw).await,
            Parsed::Member(archive, _) => self.get_listed(&self.member(key, &archive).await?).await,
        }
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        if object.packed.is_none() {
            return self.store.get_listed(&Self::raw_object(object)?).await;
        }
        reads::one(self, object).await?.map_err(|reject| {
            Error::new(ErrorKind::StoreFailed, reject.detail)
                .context("key", &object.key)
                .context("reason", reject.reason)
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        match names::parse(key) {
            Parsed::Object(raw) => self.store.get_range(&raw, range).await,
            Parsed::Member(archive, _) => self.get_part(&self.member(key, &archive).await?, range).await,
        }
    }

    async fn get_part(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        if object.packed.is_none() {
            return self.store.get_part(&Self::raw_object(object)?, range).await;
        }
        let body = self.get_listed(object).await?;
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = part.filter(|(start, end)| start <= end && *end <= body.len());
        part.map(|(start, end)| body.slice(start..end)).ok_or_else(|| {
            Error::new(ErrorKind::StoreFailed, "the range lies outside the object").context("key", &object.key)
        })
    }

    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        self.store.put_stream(&Self::raw(key)?, body).await
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        self.store.put_if_absent(&Self::raw(key)?, body).await
    }

    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        self.store.replace(&Self::raw_object(listed)?, body).await
    }

    async fn link(&self, from: &str, to: &str) -> Result<()> {
        self.store.link(&Self::raw(from)?, &Self::raw(to)?).await
    }

    fn links(&self) -> bool {
        self.store.links()
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(&Self::raw(key)?).await
    }

    fn place(&self) -> String {
        self.store.place()
    }

    async fn identity(&self) -> Option<String> {
        self.store.identity().await
    }

    async fn put_held(&self, key: &str, body: Bytes) -> Result<bool> {
        self.store.put_held(&Self::raw(key)?, body).await
    }

    async fn is_held(&self, key: &str) -> Result<Option<bool>> {
        self.store.is_held(&Self::raw(key)?).await
    }
}
