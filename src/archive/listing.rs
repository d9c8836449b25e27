//! The listing of a store with the members of its archives, in key order.

use std::{borrow::Cow, collections::VecDeque, vec};

use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tokio::sync::Semaphore;

use super::{
    container,
    names::{self, Kind, Parsed},
};
use crate::{
    Result,
    store::{self, Object, Store},
};

/// Objects of a page.
const PAGE: usize = 1_000;
/// Archives that are read at a time.
const CONCURRENCY: usize = 8;
/// Bytes of archives that are read at a time, in units of [`UNIT`]: what their lists take in memory follows their size.
const UNITS: u32 = 1 << 12;
const UNIT: u64 = 1 << 20;
/// Members that are kept in memory from the reading of their archive until the listing comes to them. Other lists are
/// read again.
const KEPT: usize = 100_000;

/// An object of the store, or an archive to open.
enum Item {
    Object(Object),
    Archive { archive: Object, kind: Kind, objects: Option<Vec<Object>> },
}

impl Item {
    /// The least key that it can give.
    fn key(&self) -> String {
        match self {
            Item::Object(object) => object.key.clone(),
            Item::Archive { archive, .. } => names::of_object(&archive.key),
        }
    }
}

/// What is listed.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    store: &'a dyn Store,
    cache: &'a dyn Store,
    prefix: &'a str,
    after: Option<&'a str>,
}

/// A listing in progress.
struct Listing<'a> {
    wanted: Wanted<'a>,
    /// Pages of the store that are not read yet.
    pages: BoxStream<'a, Result<Vec<Object>>>,
    /// What was read of them, with its key.
    items: VecDeque<(String, Item)>,
    /// Archives that may have members before the first object of the store's listing.
    started: bool,
    ended: bool,
    open: Vec<std::iter::Peekable<vec::IntoIter<Object>>>,
}

/// Lists the objects and members whose key starts with `prefix` and is greater than `after`. Lists of members are kept in
/// `cache`.
pub(super) fn list<'a>(
    store: &'a dyn Store,
    cache: &'a dyn Store,
    prefix: &'a str,
    after: Option<&'a str>,
) -> BoxStream<'a, Result<Vec<Object>>> {
    let start = stream::once(async move {
        let listing = Listing {
            wanted: Wanted { store, cache, prefix, after },
            pages: pages(store, names::raw_prefix(prefix), after.map(raw_after)),
            items: VecDeque::new(),
            started: false,
            ended: false,
            open: Vec::new(),
        };
        stream::try_unfold(listing, |mut listing| async move {
            let page = listing.page().await?;
            Ok((!page.is_empty()).then_some((page, listing)))
        })
    });
    start.flatten().boxed()
}

/// The pages of a store.
fn pages<'a>(
    store: &'a dyn Store,
    prefix: Cow<'a, str>,
    after: Option<Cow<'a, str>>,
) -> BoxStream<'a, Result<Vec<Object>>> {
    let (prefix, after) = match (prefix, after) {
        (Cow::Borrowed(prefix), None) => return store::ascending(store, prefix, None),
        (Cow::Borrowed(prefix), Some(Cow::Borrowed(after))) => return store::ascending(store, prefix, Some(after)),
        owned => owned,
    };
    // A listing borrows its arguments, and these are not parts of those of the caller. So each page is listed anew from
    // where the last one ended.
    stream::try_unfold(after.map(Cow::into_owned), move |after| {
        let prefix = prefix.clone();
        async move {
            let page = store::ascending(store, &prefix, after.as_deref()).try_next().await?;
            Ok(page.and_then(|page| {
                let last = page.last()?.key.clone();
                Some((page, Some(last)))
            }))
        }
    })
    .boxed()
}

/// The key of the store after which objects, and archives of members, with keys after `after` come. Archives that it starts
/// with are not among them.
fn raw_after(after: &str) -> Cow<'_, str> {
    match names::parse(after) {
        Parsed::Object(raw) => raw,
        Parsed::Member(archive, _) => archive,
    }
}

impl Listing<'_> {
    async fn page(&mut self) -> Result<Vec<Object>> {
        let mut page = Vec::new();
        while page.len() < PAGE {
            let Some(object) = self.next().await? else { break };
            let Wanted { prefix, after, .. } = self.wanted;
            if object.key.starts_with(prefix) && after.is_none_or(|after| object.key.as_str() > after) {
                page.push(object);
            }
        }
        Ok(page)
    }

    async fn next(&mut self) -> Result<Option<Object>> {
        loop {
            while self.items.is_empty() && !self.ended {
                self.fill().await?;
            }
            let first = self.items.front().map(|(key, _)| key);
            let mut open = self.open.iter_mut().enumerate().filter_map(|(i, members)| Some((i, &members.peek()?.key)));
            let least = open.by_ref().min_by(|(_, a), (_, b)| a.cmp(b));
            match (first, least) {
                (None, None) => return Ok(None),
                (first, Some((i, key))) if first.is_none_or(|first| key < first) => {
                    let object = self.open.get_mut(i).and_then(Iterator::next);
                    self.open.retain_mut(|members| members.peek().is_some());
                    return Ok(object);
                }
                _ => match self.items.pop_front() {
                    Some((_, Item::Object(object))) => return Ok(Some(object)),
                    Some((_, Item::Archive { archive, kind, objects })) => {
                        let objects = match objects {
                            Some(objects) => objects,
                            None => container::objects(self.wanted.store, self.wanted.cache, &archive, kind).await?,
                        };
                        self.open.push(objects.into_iter().peekable());
                    }
                    None => return Ok(None),
                },
            }
        }
    }

    /// Reads the next page of the store, and the lists of its archives.
    async fn fill(&mut self) -> Result<()> {
        let objects = if self.started {
            match self.pages.try_next().await? {
                Some(page) => page,
                None => {
                    self.ended = true;
                    return Ok(());
                }
            }
        } else {
            self.started = true;
            self.wanted.enclosing().await?
        };
        let mut items: Vec<Item> = objects.into_iter().map(item).collect();
        self.wanted.read_lists(&mut items).await?;
        self.items.extend(items.into_iter().map(|item| (item.key(), item)));
        Ok(())
    }
}

fn item(mut object: Object) -> Item {
    if object.packed.is_none()
        && !names::is_problem(&object.etag)
        && let Some(kind) = names::kind_of(&object.key)
    {
        return Item::Archive { archive: object, kind, objects: None };
    }
    object.key = names::of_object(&object.key);
    Item::Object(object)
}

impl Wanted<'_> {
    /// Archives before the start of the listing, some of whose members may come after it.
    async fn enclosing(&self) -> Result<Vec<Object>> {
        let Some(after) = self.after else { return Ok(Vec::new()) };
        let raw = raw_after(after);
        let mut found = Vec::new();
        for key in names::enclosing(&raw) {
            let page = store::ascending(self.store, key, None).try_next().await?;
            let archive = page.and_then(|page| page.into_iter().next()).filter(|object| object.key == key);
            found.extend(archive.filter(|archive| matches!(item(archive.clone()), Item::Archive { .. })));
        }
        Ok(found)
    }

    /// Whether an archive can have members of this listing.
    fn is_wanted(&self, archive: &str) -> bool {
        let (low, high) = names::bounds(archive);
        let inside = low.starts_with(self.prefix) || self.prefix.starts_with(&low);
        // The object that stands for an archive with a problem.
        let itself = names::of_object(archive).starts_with(self.prefix);
        (inside || itself) && self.after.is_none_or(|after| after < high.as_str())
    }

    /// Reads the lists of archives, several at a time. So that they do not all stay in memory, most are only made.
    async fn read_lists(&self, items: &mut Vec<Item>) -> Result<()> {
        items.retain(|item| match item {
            Item::Object(_) => true,
            Item::Archive { archive, .. } => self.is_wanted(&archive.key),
        });
        let (memory, kept) = (&Semaphore::new(UNITS as usize), &Semaphore::new(KEPT));
        let reads = items.iter_mut().filter_map(|item| match item {
            Item::Archive { archive, kind, objects } => Some(async move {
                let units = u32::try_from(archive.size / UNIT).unwrap_or(UNITS).clamp(1, UNITS);
                // The semaphores are never closed.
                let _permit = memory.acquire_many(units).await.ok();
                let read = container::objects(self.store, self.cache, archive, *kind).await?;
                let count = u32::try_from(read.len()).unwrap_or(u32::MAX);
                if let Ok(permit) = kept.try_acquire_many(count) {
                    permit.forget();
                    *objects = Some(read);
                }
                Ok(())
            }),
            Item::Object(_) => None,
        });
        let reads: Vec<_> = reads.collect();
        stream::iter(reads).buffer_unordered(CONCURRENCY).try_collect().await
    }
}
