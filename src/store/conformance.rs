//! The conformance suite of [`Store`]: one function per guarantee.
//!
//! [`check`] runs all of them on a backend. Each function needs an empty store of its own and returns the first
//! [`Violation`] it finds. Objects that the functions write are not deleted.
//!
//! ```
//! use std::sync::Arc;
//! use pomona::store::{MemoryStore, Store, conformance};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), conformance::Violation> {
//! conformance::check(async || Ok(Arc::new(MemoryStore::new()) as Arc<dyn Store>)).await
//! # }
//! ```

use std::{collections::BTreeSet, fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{Object, Store, get_opt, list_all};
use crate::{Error, ErrorKind};

/// Concurrent requests that write the objects of a listing.
const CONCURRENCY: usize = 16;
/// Objects of the folder `many/`: more than two pages.
const MANY: usize = 2_345;
/// Most objects of a page.
const PAGE: usize = 1_000;
/// Pieces of a stream, and their size in bytes.
const PIECES: usize = 100;
const PIECE_BYTES: usize = 100_000;
/// Concurrent conditional puts on one key, and the number of keys.
const RACERS: usize = 8;
const RACES: usize = 20;
/// Longest value in a message, characters.
const SHOWN: usize = 300;

/// The outcome of a check.
pub type Outcome<T = ()> = std::result::Result<T, Violation>;

/// A guarantee that a store does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    guarantee: &'static str,
    found: String,
}

impl Violation {
    /// The name of the function of this module that failed, or `open` if no store could be opened.
    pub fn guarantee(&self) -> &'static str {
        self.guarantee
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.guarantee, self.found)
    }
}

impl std::error::Error for Violation {}

/// Runs the whole suite. `empty` opens a new, empty store each time.
///
/// Stops at the first violation. Use a runtime with several threads, so that the conditional puts race.
pub async fn check(mut empty: impl AsyncFnMut() -> crate::Result<Arc<dyn Store>>) -> Outcome {
    let mut open = async || Guarantee("open").ok("opening an empty store", empty().await);
    objects_are_read_as_written(&*open().await?).await?;
    ranges_are_exact(&*open().await?).await?;
    open_files_keep_their_content(&*open().await?).await?;
    missing_keys_are_not_found(&*open().await?).await?;
    listings_are_ordered_and_complete(&*open().await?).await?;
    listings_continue_after_a_key(&*open().await?).await?;
    etags_change_with_the_content(&*open().await?).await?;
    listed_content_is_read_or_not_found(&*open().await?).await?;
    parts_are_of_the_listed_content(&*open().await?).await?;
    streams_are_written_completely_or_not_at_all(&*open().await?).await?;
    keys_keep_special_characters(&*open().await?).await?;
    deletes_are_final_and_repeatable(&*open().await?).await?;
    links_are_objects_of_their_own(&*open().await?).await?;
    held_objects_are_held_until_they_are_deleted(&*open().await?).await?;
    one_of_concurrent_conditional_puts_succeeds(open().await?).await?;
    one_of_concurrent_replacements_succeeds(open().await?).await
}

/// A put object is read with its content, also after it is replaced, and is listed with its size. It may be empty.
pub async fn objects_are_read_as_written(store: &dyn Store) -> Outcome {
    let it = Guarantee("objects_are_read_as_written");
    for (key, body) in [("a/b.txt", "one"), ("a/b.txt", "three"), ("empty", "")] {
        it.put(store, key, body).await?;
        it.reads(store, key, body).await?;
    }
    let listed: Vec<(String, u64)> = it.list(store, "").await?.into_iter().map(|o| (o.key, o.size)).collect();
    it.equal("keys and sizes of the listing", &listed, &[("a/b.txt".to_owned(), 5), ("empty".to_owned(), 0)])
}

/// [`Store::get_range`] returns exactly the requested bytes. It fails with `Store.Failed` if the object ends before the
/// range does.
pub async fn ranges_are_exact(store: &dyn Store) -> Outcome {
    let it = Guarantee("ranges_are_exact");
    it.put(store, "digits", "0123456789").await?;
    for (range, expected) in [(0..10, "0123456789"), (3..6, "345"), (9..10, "9")] {
        let call = format!("get_range of bytes {range:?} of 0123456789");
        it.equal(&call, &it.ok(&call, store.get_range("digits", range).await)?, expected)?;
    }
    it.fails("get_range of bytes 5..11 of 10", store.get_range("digits", 5..11).await, ErrorKind::StoreFailed)
}

/// What [`Store::open`] opens has the content that the object had then, also after it is replaced. A store may open nothing.
pub async fn open_files_keep_their_content(store: &dyn Store) -> Outcome {
    let it = Guarantee("open_files_keep_their_content");
    it.put(store, "digits", "0123456789").await?;
    let Some(file) = it.ok("open", store.open("digits").await)? else { return Ok(()) };
    it.put(store, "digits", "abc").await?;
    it.equal("bytes 3..6 of 0123456789", &it.ok("reading", file.read(3..6))?, "345")?;
    it.fails("reading bytes 5..11 of 10", file.read(5..11), ErrorKind::StoreFailed)?;
    it.fails("opening a missing key", store.open("nothing").await, ErrorKind::StoreNotFound)
}

/// Reading a missing key fails with `Store.NotFound`. Listing a missing folder gives an empty listing.
pub async fn missing_keys_are_not_found(store: &dyn Store) -> Outcome {
    let it = Guarantee("missing_keys_are_not_found");
    it.fails("get of a missing key", store.get("nothing/here").await, ErrorKind::StoreNotFound)?;
    let range: Range<u64> = 0..1;
    it.fails("get_range of a missing key", store.get_range("nothing", range).await, ErrorKind::StoreNotFound)?;
    let found = it.ok("get_opt of a missing key", get_opt(store, "nothing").await)?;
    it.equal("get_opt of a missing key", &found, &None)?;
    it.has_keys(store, "", &[]).await?;
    it.has_keys(store, "nothing/", &[]).await
}

/// A listing has every key that starts with the prefix, in byte order, in pages of 1 to 1,000 objects. A prefix need not
/// end with `/`.
pub async fn listings_are_ordered_and_complete(store: &dyn Store) -> Outcome {
    let it = Guarantee("listings_are_ordered_and_complete");
    // "a-b" < "a/b" < "a0": a folder sorts as its name followed by a slash.
    let few = ["a-b", "a.b", "a/b", "a/c/d", "a0", "aé", "b", "Z"];
    let mut all: Vec<String> = few.iter().map(|key| (*key).to_owned()).collect();
    all.extend((0..MANY).map(|i| format!("many/{i}.jpg")));
    let puts = stream::iter(&all).map(|key| it.put(store, key, "x")).buffer_unordered(CONCURRENCY);
    puts.try_collect::<Vec<()>>().await?;
    all.sort();
    it.equal("all keys", &it.keys(store, "").await?, &all)?;
    it.has_keys(store, "a/", &["a/b", "a/c/d"]).await?;
    it.has_keys(store, "a", &["a-b", "a.b", "a/b", "a/c/d", "a0", "aé"]).await?;
    let expected: Vec<_> = all.iter().filter(|key| key.starts_with("many/23")).cloned().collect();
    it.equal("keys with the prefix many/23", &it.keys(store, "many/23").await?, &expected)?;
    let pages: Vec<_> = it.ok("list", store.list("", None).try_collect().await)?;
    let sizes: Vec<usize> = pages.iter().map(|page: &Vec<Object>| page.len()).collect();
    it.equal("number of objects in all pages", &sizes.iter().sum::<usize>(), &all.len())?;
    it.holds(sizes.iter().all(|size| (1..=PAGE).contains(size)), || format!("pages of {sizes:?} objects"))
}

/// A listing after a key starts with the next greater key. The key need not exist or start with the prefix.
pub async fn listings_continue_after_a_key(store: &dyn Store) -> Outcome {
    let it = Guarantee("listings_continue_after_a_key");
    for key in ["a/1", "a/2", "a0", "b/c/1", "b/c/2", "d"] {
        it.put(store, key, "x").await?;
    }
    for (prefix, after, expected) in [
        ("", "a/1", vec!["a/2", "a0", "b/c/1", "b/c/2", "d"]),
        ("", "a/9", vec!["a0", "b/c/1", "b/c/2", "d"]),
        ("", "b/c", vec!["b/c/1", "b/c/2", "d"]),
        ("b/", "a", vec!["b/c/1", "b/c/2"]),
        ("b/", "b/c/1", vec!["b/c/2"]),
        ("", "d", vec![]),
    ] {
        let call = format!("list of {prefix:?} after {after:?}");
        let listed = it.ok(&call, store.list(prefix, Some(after)).try_concat().await)?;
        let keys: Vec<String> = listed.into_iter().map(|object| object.key).collect();
        it.equal(&call, &keys, &expected)?;
    }
    Ok(())
}

/// The etag of an object stays the same until the object is replaced, and changes then.
pub async fn etags_change_with_the_content(store: &dyn Store) -> Outcome {
    let it = Guarantee("etags_change_with_the_content");
    it.put(store, "k", "one").await?;
    let first = it.only(store).await?.etag;
    it.equal("etag of an unchanged object", &it.only(store).await?.etag, &first)?;
    it.put(store, "k", "three").await?;
    let second = it.only(store).await?.etag;
    it.holds(second != first, || format!("the etag {first} stayed the same when the content was replaced"))
}

/// [`Store::get_listed`] reads the content that was listed. It fails with `Store.NotFound` if the object was replaced or
/// deleted since.
pub async fn listed_content_is_read_or_not_found(store: &dyn Store) -> Outcome {
    let it = Guarantee("listed_content_is_read_or_not_found");
    it.put(store, "k", "one").await?;
    let listed = it.only(store).await?;
    it.equal("get_listed", &it.ok("get_listed", store.get_listed(&listed).await)?, "one")?;
    it.put(store, "k", "three").await?;
    it.fails("get_listed of a replaced object", store.get_listed(&listed).await, ErrorKind::StoreNotFound)?;
    it.ok("delete", store.delete("k").await)?;
    it.fails("get_listed of a deleted object", store.get_listed(&listed).await, ErrorKind::StoreNotFound)
}

/// [`Store::get_part`] returns exactly the requested bytes of the listed content, and fails with `Store.Failed` if it ends
/// before the range does. It fails with `Store.NotFound` if the object has been replaced or deleted.
pub async fn parts_are_of_the_listed_content(store: &dyn Store) -> Outcome {
    let it = Guarantee("parts_are_of_the_listed_content");
    it.put(store, "digits", "0123456789").await?;
    let listed = it.only(store).await?;
    for (range, expected) in [(0..10, "0123456789"), (3..6, "345"), (4..4, "")] {
        let call = format!("get_part of bytes {range:?} of 0123456789");
        it.equal(&call, &it.ok(&call, store.get_part(&listed, range).await)?, expected)?;
    }
    it.fails("get_part of bytes 5..11 of 10", store.get_part(&listed, 5..11).await, ErrorKind::StoreFailed)?;
    it.put(store, "digits", "abcdefghijkl").await?;
    it.fails("get_part of a replaced object", store.get_part(&listed, 3..6).await, ErrorKind::StoreNotFound)?;
    it.ok("delete", store.delete("digits").await)?;
    it.fails("get_part of a deleted object", store.get_part(&listed, 3..6).await, ErrorKind::StoreNotFound)
}

/// [`Store::put_stream`] writes all pieces, in order. If a piece is an error, it returns an error, and readers see what
/// was there before.
pub async fn streams_are_written_completely_or_not_at_all(store: &dyn Store) -> Outcome {
    let it = Guarantee("streams_are_written_completely_or_not_at_all");
    let pieces = || (0..PIECES).map(|i| Ok(Bytes::from(vec![i as u8; PIECE_BYTES])));
    it.ok("put_stream", store.put_stream("large", stream::iter(pieces()).boxed()).await)?;
    let large = it.ok("get", store.get("large").await)?;
    it.equal("bytes of a stream of 100 pieces", &large.len(), &(PIECES * PIECE_BYTES))?;
    let ordered = large.chunks(PIECE_BYTES).enumerate().all(|(i, chunk)| chunk.iter().all(|b| *b == i as u8));
    it.holds(ordered, || "the pieces of a stream are not in order".to_owned())?;

    let failure = || [Err(Error::new(ErrorKind::StoreUnavailable, "the source failed"))];
    let replacing = pieces().skip(PIECES / 2).chain(failure());
    let outcome = store.put_stream("large", stream::iter(replacing).boxed()).await;
    it.holds(outcome.is_err(), || "put_stream succeeded although its last piece is an error".to_owned())?;
    let outcome = store.put_stream("new", stream::iter(pieces().take(PIECES * 7 / 10).chain(failure())).boxed()).await;
    it.holds(outcome.is_err(), || "put_stream succeeded although its last piece is an error".to_owned())?;
    let now = it.ok("get", store.get("large").await)?;
    it.holds(now == large, || "a failed put_stream changed the object".to_owned())?;
    it.has_keys(store, "", &["large"]).await
}

/// Keys with spaces, signs, quotes, per cent signs and characters outside of ASCII are written, read and listed unchanged.
pub async fn keys_keep_special_characters(store: &dyn Store) -> Outcome {
    let it = Guarantee("keys_keep_special_characters");
    let names = [
        "with space.jpg",
        "plus+.jpg",
        "per%20cent.jpg",
        "quote'\"`.jpg",
        "Äpfel 苹果 🍎.jpg",
        "a=b&c?d#e.jpg",
        ".dot",
        "~!@$^*()[]{}|;,<>",
    ];
    let keys: BTreeSet<String> = names.iter().map(|name| format!("f/{name}")).collect();
    for key in &keys {
        it.put(store, key, "x").await?;
        it.reads(store, key, "x").await?;
    }
    let listed: BTreeSet<String> = it.keys(store, "f/").await?.into_iter().collect();
    it.equal("keys of the listing", &listed, &keys)
}

/// A deleted object is neither read nor listed. Deleting a missing object succeeds.
pub async fn deletes_are_final_and_repeatable(store: &dyn Store) -> Outcome {
    let it = Guarantee("deletes_are_final_and_repeatable");
    it.put(store, "a/b", "x").await?;
    it.ok("delete", store.delete("a/b").await)?;
    it.ok("delete of a missing object", store.delete("a/b").await)?;
    it.equal("a deleted object", &it.ok("get_opt", get_opt(store, "a/b").await)?, &None)?;
    it.has_keys(store, "", &[]).await
}

/// [`Store::link`] makes an object with the content of another one. It replaces an existing object. What happens to one of
/// the two afterwards leaves the other as it is. Linking a missing key fails with `Store.NotFound` and changes nothing.
pub async fn links_are_objects_of_their_own(store: &dyn Store) -> Outcome {
    let it = Guarantee("links_are_objects_of_their_own");
    let link = async |from: &str, to: &str| it.ok(&format!("link of {from:?} to {to:?}"), store.link(from, to).await);
    it.put(store, "a/from ä+%20.txt", "one").await?;
    it.put(store, "b/old", "old content").await?;
    for to in ["b/new", "b/old", "c/d/e", "b/new"] {
        link("a/from ä+%20.txt", to).await?;
        it.reads(store, to, "one").await?;
        it.reads(store, "a/from ä+%20.txt", "one").await?;
    }
    let listed: Vec<(String, u64)> = it.list(store, "").await?.into_iter().map(|o| (o.key, o.size)).collect();
    let keys = ["a/from ä+%20.txt", "b/new", "b/old", "c/d/e"].map(|key| (key.to_owned(), 3));
    it.equal("keys and sizes of the listing", &listed.as_slice(), &keys)?;
    it.put(store, "b/new", "replaced").await?;
    it.reads(store, "a/from ä+%20.txt", "one").await?;
    it.put(store, "a/from ä+%20.txt", "two").await?;
    it.reads(store, "b/old", "one").await?;
    it.ok("delete of a linked object", store.delete("a/from ä+%20.txt").await)?;
    it.reads(store, "b/old", "one").await?;
    it.ok("delete of a link", store.delete("b/old").await)?;
    it.reads(store, "c/d/e", "one").await?;
    it.fails("link of a missing key", store.link("b/old", "c/d/e").await, ErrorKind::StoreNotFound)?;
    it.fails("link of a missing key", store.link("b/old", "f").await, ErrorKind::StoreNotFound)?;
    it.reads(store, "c/d/e", "one").await?;
    it.has_keys(store, "", &["b/new", "c/d/e"]).await
}

/// [`Store::put_held`] writes unless the key exists. A store that can tell whether an object is held says so from then on
/// until the object is deleted, and only of such objects.
pub async fn held_objects_are_held_until_they_are_deleted(store: &dyn Store) -> Outcome {
    let it = Guarantee("held_objects_are_held_until_they_are_deleted");
    it.put(store, "free", "x").await?;
    let held = it.ok("is_held", store.is_held("free").await)?;
    it.equal("is_held of an object that nobody holds", &(held == Some(true)), &false)?;
    for _ in 0..2 {
        let written = it.ok("put_held", store.put_held("lock", Bytes::from_static(b"first")).await)?;
        it.equal("put_held of a new key", &written, &true)?;
        let written = it.ok("put_held", store.put_held("lock", Bytes::from_static(b"second")).await)?;
        it.equal("put_held of an existing key", &written, &false)?;
        it.reads(store, "lock", "first").await?;
        let held = it.ok("is_held", store.is_held("lock").await)?;
        it.equal("is_held of a held object", &(held == Some(false)), &false)?;
        it.ok("delete", store.delete("lock").await)?;
    }
    Ok(())
}

/// Of concurrent [`Store::put_if_absent`] calls on one key, exactly one returns true, and its content is read. Later calls
/// return false and change nothing.
pub async fn one_of_concurrent_conditional_puts_succeeds(store: Arc<dyn Store>) -> Outcome {
    let it = Guarantee("one_of_concurrent_conditional_puts_succeeds");
    for race in 0..RACES {
        let key = format!("versions/{race:08}.json");
        let racers = (0..RACERS).map(|i| {
            let (store, key) = (store.clone(), key.clone());
            async move { store.put_if_absent(&key, Bytes::from(format!("run {i}"))).await }
        });
        let winner = it.only_winner("put_if_absent", racers.collect()).await?;
        let late = it.ok("put_if_absent", store.put_if_absent(&key, Bytes::from_static(b"late")).await)?;
        it.equal("put_if_absent of an existing key", &late, &false)?;
        it.reads(&*store, &key, &format!("run {winner}")).await?;
    }
    it.equal("number of keys", &it.keys(&*store, "").await?.len(), &RACES)
}

/// Of concurrent [`Store::replace`] calls on one listed object, exactly one returns true. Later calls write nothing.
pub async fn one_of_concurrent_replacements_succeeds(store: Arc<dyn Store>) -> Outcome {
    let it = Guarantee("one_of_concurrent_replacements_succeeds");
    for race in 0..RACES {
        let key = format!("pages/{race:08}.html");
        it.put(&*store, &key, "first").await?;
        let listed = it.only(&*store).await?;
        let racers = (0..RACERS).map(|i| {
            let (store, listed) = (store.clone(), listed.clone());
            async move { store.replace(&listed, Bytes::from(format!("page {i}"))).await }
        });
        let winner = it.only_winner("replace", racers.collect()).await?;
        let late = it.ok("replace", store.replace(&listed, Bytes::from_static(b"late")).await)?;
        it.equal("replace of what was replaced before", &late, &false)?;
        it.reads(&*store, &key, &format!("page {winner}")).await?;
        it.ok("delete", store.delete(&key).await)?;
        let late = it.ok("replace", store.replace(&listed, Bytes::from_static(b"late")).await)?;
        it.equal("replace of a deleted object", &late, &false)?;
    }
    it.has_keys(&*store, "", &[]).await
}

/// The guarantee that is checked, by its name.
#[derive(Clone, Copy)]
struct Guarantee(&'static str);

impl Guarantee {
    fn violated(self, found: String) -> Violation {
        Violation { guarantee: self.0, found }
    }

    /// The number of the only one of these concurrent calls that returns true.
    async fn only_winner<F>(self, call: &str, racers: Vec<F>) -> Outcome<usize>
    where
        F: Future<Output = crate::Result<bool>> + Send + 'static,
    {
        let outcomes = futures::future::join_all(racers.into_iter().map(tokio::spawn)).await;
        let mut winners = Vec::new();
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let outcome = outcome.map_err(|e| self.violated(format!("{call} panicked: {e}")))?;
            winners.extend(self.ok(call, outcome)?.then_some(i));
        }
        match winners.as_slice() {
            [winner] => Ok(*winner),
            _ => Err(self.violated(format!("{call} returned true to {winners:?}, not to exactly one"))),
        }
    }

    fn holds(self, condition: bool, found: impl FnOnce() -> String) -> Outcome {
        if condition { Ok(()) } else { Err(self.violated(found())) }
    }

    fn equal<T, U>(self, what: &str, found: &T, expected: &U) -> Outcome
    where
        T: fmt::Debug + PartialEq<U>,
        U: fmt::Debug + ?Sized,
    {
        self.holds(found == expected, || format!("{what}: {}, expected {}", shown(found), shown(expected)))
    }

    /// The value of a call that must succeed.
    fn ok<T>(self, call: &str, outcome: crate::Result<T>) -> Outcome<T> {
        outcome.map_err(|e| self.violated(format!("{call} failed with {}: {e}", e.kind())))
    }

    fn fails<T: fmt::Debug>(self, call: &str, outcome: crate::Result<T>, kind: ErrorKind) -> Outcome {
        match outcome {
            Ok(value) => Err(self.violated(format!("{call} returned {}, expected {kind}", shown(&value)))),
            Err(e) => self.holds(e.is(kind), || format!("{call} failed with {}, expected {kind}: {e}", e.kind())),
        }
    }

    async fn put(self, store: &dyn Store, key: &str, body: &'static str) -> Outcome {
        self.ok(&format!("put of {key:?}"), store.put(key, Bytes::from_static(body.as_bytes())).await)
    }

    async fn reads(self, store: &dyn Store, key: &str, expected: &str) -> Outcome {
        let call = format!("get of {key:?}");
        self.equal(&call, &self.ok(&call, store.get(key).await)?, expected)
    }

    async fn list(self, store: &dyn Store, prefix: &str) -> Outcome<Vec<Object>> {
        self.ok(&format!("list of {prefix:?}"), list_all(store, prefix).await)
    }

    async fn keys(self, store: &dyn Store, prefix: &str) -> Outcome<Vec<String>> {
        Ok(self.list(store, prefix).await?.into_iter().map(|object| object.key).collect())
    }

    async fn has_keys(self, store: &dyn Store, prefix: &str, expected: &[&str]) -> Outcome {
        self.equal(&format!("keys with the prefix {prefix:?}"), &self.keys(store, prefix).await?.as_slice(), &expected)
    }

    /// The only object of the store.
    async fn only(self, store: &dyn Store) -> Outcome<Object> {
        let listed = self.list(store, "").await?;
        let count = listed.len();
        match <[Object; 1]>::try_from(listed) {
            Ok([object]) => Ok(object),
            Err(_) => Err(self.violated(format!("{count} objects are listed, expected 1"))),
        }
    }
}

/// A value for a message, cut if it is long.
fn shown(value: &(impl fmt::Debug + ?Sized)) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
