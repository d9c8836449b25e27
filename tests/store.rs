//! The guarantees of `Store`: the conformance suite on each backend and on stores with a fault, and what only folders do.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    TryStreamExt,
    stream::{self, BoxStream, StreamExt},
};
use pomona::{
    Error, ErrorKind, Result,
    store::{FolderStore, MemoryStore, Object, Store, conformance, list_all},
};

/// Runs the suite; `empty` makes a new empty store from a number.
async fn check<S: Store + 'static>(empty: impl Fn(usize) -> S) -> conformance::Outcome {
    let opened = AtomicUsize::new(0);
    conformance::check(async || Ok(Arc::new(empty(opened.fetch_add(1, Ordering::Relaxed))) as Arc<dyn Store>)).await
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    list_all(store, prefix).await.unwrap().into_iter().map(|o| o.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_gives_the_guarantees() {
    assert_eq!(check(|_| MemoryStore::new()).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_gives_the_guarantees() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(check(|number| FolderStore::new(root.path().join(number.to_string()))).await, Ok(()));
}

/// Runs if `POMONA_TEST_BUCKET` names a bucket of a local S3: `tests/aws/test_store.py` starts one.
#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn s3_gives_the_guarantees() {
    let Ok(bucket) = std::env::var("POMONA_TEST_BUCKET") else {
        eprintln!("no bucket to test on: see tests/aws/test_store.py");
        return;
    };
    let client = pomona::store::s3_client().await;
    let empty = |number| pomona::store::S3Store::new(client.clone(), &bucket, &format!("store {number}/ä"));
    assert_eq!(check(empty).await, Ok(()));
    // Larger than a part: uploaded in several.
    let store = pomona::store::S3Store::new(client, &bucket, "parts");
    let body = Bytes::from((0..40 << 20).map(|i: u32| (i ^ (i >> 11)) as u8).collect::<Vec<u8>>());
    let pieces: Vec<_> = body.chunks(3 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    store.put_stream("large", stream::iter(pieces).boxed()).await.unwrap();
    assert_eq!(store.get("large").await.unwrap(), body);
    assert_eq!(store.get_range("large", 20_000_000..20_000_100).await.unwrap(), body.slice(20_000_000..20_000_100));
    // S3 refuses to copy an object to itself with one request, so its parts are copied.
    store.link("large", "large").await.unwrap();
    assert_eq!(store.get("large").await.unwrap(), body);
    store.put("empty", Bytes::new()).await.unwrap();
    store.link("empty", "empty").await.unwrap();
    eprintln!("s3 suite ran");
}

/// A mistake that a backend can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A put keeps an object that exists.
    PutKeeps,
    /// A range includes its end, as in HTTP.
    RangeIncludesEnd,
    /// A missing object is empty.
    MissingIsEmpty,
    /// Pages are in reverse order.
    ListingReversed,
    /// Keys are ordered part by part, as in a walk that sorts folders by their bare names.
    ListingByParts,
    /// All objects are in one page.
    ListingInOnePage,
    /// A listing after a key starts with that key.
    ListingIncludesAfter,
    /// All objects have the same etag.
    EtagsAreConstant,
    /// The etag of a listed object is ignored.
    ListedEtagIgnored,
    /// A stream writes what it has received before an error.
    StreamWritesPart,
    /// A plus sign becomes a space.
    KeysAreDecoded,
    /// Deleting a missing object fails.
    DeleteOfMissingFails,
    /// A conditional put always writes.
    ConditionalPutWrites,
    /// Of concurrent conditional puts, none succeeds.
    ConditionalPutFails,
    ReplaceWrites,
    ReplaceFails,
    /// Holding an object replaces it.
    HeldIsReplaced,
    /// Every object is held.
    EverythingIsHeld,
}

/// A store with a fault.
#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    fault: Fault,
}

impl Faulty {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn key(&self, key: &str) -> String {
        if self.has(Fault::KeysAreDecoded) { key.replace('+', " ") } else { key.to_owned() }
    }

    /// All pages of a listing.
    async fn pages(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Vec<Object>>> {
        let mut objects: Vec<Object> = self.inner.list(prefix, after).try_concat().await?;
        if let Some(after) = after.filter(|_| self.has(Fault::ListingIncludesAfter)) {
            let all = list_all(&self.inner, prefix).await?;
            objects.splice(..0, all.into_iter().filter(|object| object.key == after));
        }
        if self.has(Fault::EtagsAreConstant) {
            objects.iter_mut().for_each(|object| object.etag = "1".into());
        }
        if self.has(Fault::ListingByParts) {
            objects.sort_by(|a, b| a.key.split('/').cmp(b.key.split('/')));
        }
        if self.has(Fault::ListingReversed) {
            objects.reverse();
        }
        let page = if self.has(Fault::ListingInOnePage) { usize::MAX } else { 1_000 };
        Ok(objects.chunks(page).map(<[Object]>::to_vec).collect())
    }
}

#[async_trait]
impl Store for Faulty {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let pages = stream::once(self.pages(prefix, after));
        pages.map_ok(|pages| stream::iter(pages.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        match self.inner.get(&self.key(key)).await {
            Err(e) if self.has(Fault::MissingIsEmpty) && e.is(ErrorKind::StoreNotFound) => Ok(Bytes::new()),
            outcome => outcome,
        }
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        if self.has(Fault::ListedEtagIgnored) {
            self.get(&object.key).await
        } else {
            self.inner.get_listed(object).await
        }
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let more = u64::from(self.has(Fault::RangeIncludesEnd) && range != (0..10));
        self.inner.get_range(key, range.start..range.end + more).await
    }

    async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        let key = self.key(key);
        if self.has(Fault::PutKeeps) && self.inner.get(&key).await.is_ok() {
            return Ok(());
        }
        if !self.has(Fault::StreamWritesPart) {
            return self.inner.put_stream(&key, body).await;
        }
        let pieces: Vec<Result<Bytes>> = body.collect().await;
        let received = pieces.iter().map_while(|piece| piece.as_ref().ok().cloned()).map(Ok).collect::<Vec<_>>();
        self.inner.put_stream(&key, stream::iter(received).boxed()).await?;
        pieces.into_iter().try_for_each(|piece| piece.map(drop))
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        match self.fault {
            Fault::ConditionalPutWrites => self.inner.put(key, body).await.map(|()| true),
            Fault::ConditionalPutFails => self.inner.put_if_absent(key, body).await.map(|_| false),
            _ => self.inner.put_if_absent(key, body).await,
        }
    }

    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        match self.fault {
            Fault::ReplaceWrites => self.inner.put(&listed.key, body).await.map(|()| true),
            Fault::ReplaceFails => self.inner.replace(listed, body).await.map(|_| false),
            _ => self.inner.replace(listed, body).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        if self.has(Fault::DeleteOfMissingFails) {
            self.inner.get(key).await?;
        }
        self.inner.delete(key).await
    }
    async fn put_held(&self, key: &str, body: Bytes) -> Result<bool> {
        if self.has(Fault::HeldIsReplaced) {
            return self.inner.put(key, body).await.map(|()| true);
        }
        self.inner.put_if_absent(key, body).await
    }
    async fn is_held(&self, _key: &str) -> Result<Option<bool>> {
        Ok(self.has(Fault::EverythingIsHeld).then_some(true))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_violates_its_guarantee() {
    for (fault, guarantee) in [
        (Fault::PutKeeps, "objects_are_read_as_written"),
        (Fault::RangeIncludesEnd, "ranges_are_exact"),
        (Fault::MissingIsEmpty, "missing_keys_are_not_found"),
        (Fault::ListingReversed, "objects_are_read_as_written"),
        (Fault::ListingByParts, "listings_are_ordered_and_complete"),
        (Fault::ListingInOnePage, "listings_are_ordered_and_complete"),
        (Fault::ListingIncludesAfter, "listings_continue_after_a_key"),
        (Fault::EtagsAreConstant, "etags_change_with_the_content"),
        (Fault::ListedEtagIgnored, "listed_content_is_read_or_not_found"),
        (Fault::StreamWritesPart, "streams_are_written_completely_or_not_at_all"),
        (Fault::KeysAreDecoded, "keys_keep_special_characters"),
        (Fault::DeleteOfMissingFails, "deletes_are_final_and_repeatable"),
        (Fault::ConditionalPutWrites, "one_of_concurrent_conditional_puts_succeeds"),
        (Fault::ConditionalPutFails, "one_of_concurrent_conditional_puts_succeeds"),
        (Fault::ReplaceWrites, "one_of_concurrent_replacements_succeeds"),
        (Fault::ReplaceFails, "one_of_concurrent_replacements_succeeds"),
        (Fault::HeldIsReplaced, "held_objects_are_held_until_they_are_deleted"),
        (Fault::EverythingIsHeld, "held_objects_are_held_until_they_are_deleted"),
    ] {
        let violation = check(|_| Faulty { inner: MemoryStore::new(), fault }).await.unwrap_err();
        assert_eq!(violation.guarantee(), guarantee, "{fault:?}: {violation}");
    }
    let refused = conformance::check(async || Err(Error::new(ErrorKind::StoreDenied, "refused"))).await.unwrap_err();
    assert_eq!(refused.to_string(), "open: opening an empty store failed with Store.Denied: refused");
}

#[tokio::test]
async fn a_folder_removes_its_temporary_files_and_those_of_dead_processes() {
    let root = tempfile::tempdir().unwrap();
    let dead = root.path().join(".tmp/dead");
    std::fs::create_dir_all(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::write(dead.join("half a file"), "half").unwrap();
    {
        let alive = FolderStore::new(root.path());
        alive.put("a", body("x")).await.unwrap();
        assert!(!dead.exists(), "the leftovers of a killed process are removed");
        let second = FolderStore::new(root.path());
        second.put("b", body("x")).await.unwrap();
        alive.put("c", body("x")).await.unwrap();
        assert_eq!(keys(&alive, "").await, ["a", "b", "c"]);
    }
    let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.contains(&".tmp".into()), "{left:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_follows_links_and_lists_those_that_lead_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let store = FolderStore::new(root.path());
    store.put("real/a", body("x")).await.unwrap();
    std::os::unix::fs::symlink(root.path().join("real/a"), root.path().join("file")).unwrap();
    std::os::unix::fs::symlink(root.path().join("real"), root.path().join("z-folder")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.path().join("dangling")).unwrap();
    std::os::unix::fs::symlink(root.path(), root.path().join("real/up")).unwrap();
    let listed = list_all(&store, "").await.unwrap();
    let keys: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["dangling", "file", "real/a", "real/up", "z-folder/a", "z-folder/up"]);
    for object in &listed {
        let outcome = store.get_listed(object).await;
        let bad = object.key == "dangling" || object.key.ends_with("/up");
        assert_eq!(
            outcome.as_ref().err().map(pomona::Error::kind),
            bad.then_some(ErrorKind::StoreFailed),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn keys_cannot_leave_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let store = FolderStore::new(root.path().join("inside"));
    for key in ["../outside", "a/../../outside", "", "a//b", "a/", "/etc/passwd"] {
        assert!(store.put(key, body("x")).await.is_err(), "{key:?}");
        assert!(store.get(key).await.is_err(), "{key:?}");
    }
    assert!(!root.path().join("outside").exists());
}
