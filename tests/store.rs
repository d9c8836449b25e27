//! The promises of `Store`, kept by every backend. One suite; each backend only says how to make an empty store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pomona::{
    Error, ErrorKind,
    store::{FolderStore, MemoryStore, Store, get_opt, list_all},
};

/// Runs the whole suite; `empty` gives a new empty store each time.
async fn suite<S: Store + 'static>(empty: impl Fn() -> S) {
    what_is_put_can_be_read(&empty()).await;
    ranges_are_exact(&empty()).await;
    missing_keys_are_not_found(&empty()).await;
    listings_are_in_byte_order_and_complete(&empty()).await;
    a_listing_goes_on_after_a_key(&empty()).await;
    etags_tell_contents_apart(&empty()).await;
    what_was_listed_is_what_is_read(&empty()).await;
    streams_are_written_whole_or_not_at_all(&empty()).await;
    legal_characters_survive(&empty()).await;
    deleting_is_final_and_repeatable(&empty()).await;
    of_racing_conditional_puts_one_wins(Arc::new(empty())).await;
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    list_all(store, prefix).await.unwrap().into_iter().map(|o| o.key).collect()
}

async fn what_is_put_can_be_read(store: &dyn Store) {
    store.put("a/b.txt", body("one")).await.unwrap();
    assert_eq!(store.get("a/b.txt").await.unwrap(), "one");
    store.put("a/b.txt", body("three")).await.unwrap();
    assert_eq!(store.get("a/b.txt").await.unwrap(), "three");
    store.put("empty", body("")).await.unwrap();
    assert_eq!(store.get("empty").await.unwrap(), "");
    let listed = list_all(store, "").await.unwrap();
    assert_eq!(listed.iter().map(|o| (o.key.as_str(), o.size)).collect::<Vec<_>>(), [("a/b.txt", 5), ("empty", 0)]);
}

async fn ranges_are_exact(store: &dyn Store) {
    store.put("digits", body("0123456789")).await.unwrap();
    for (range, expected) in [(0..10, "0123456789"), (3..6, "345"), (9..10, "9")] {
        assert_eq!(store.get_range("digits", range).await.unwrap(), expected);
    }
    assert!(store.get_range("digits", 5..11).await.is_err());
}

async fn missing_keys_are_not_found(store: &dyn Store) {
    assert_eq!(store.get("nothing/here").await.unwrap_err().kind(), ErrorKind::StoreNotFound);
    assert_eq!(store.get_range("nothing", 0..1).await.unwrap_err().kind(), ErrorKind::StoreNotFound);
    assert_eq!(get_opt(store, "nothing").await.unwrap(), None);
    assert!(keys(store, "").await.is_empty());
    assert!(keys(store, "nothing/").await.is_empty());
}

async fn listings_are_in_byte_order_and_complete(store: &dyn Store) {
    // "a-b" < "a/b" < "a0": a folder sorts by its name with the slash behind it.
    let mut all: Vec<String> =
        ["a-b", "a.b", "a/b", "a/c/d", "a0", "aé", "b", "Z"].iter().map(|s| (*s).to_owned()).collect();
    all.extend((0..2_345).map(|i| format!("many/{i}.jpg")));
    stream::iter(&all).map(|key| store.put(key, body("x"))).buffer_unordered(16).try_collect::<Vec<_>>().await.unwrap();
    all.sort();
    assert_eq!(keys(store, "").await, all);
    assert_eq!(keys(store, "a/").await, ["a/b", "a/c/d"]);
    assert_eq!(keys(store, "a").await.len(), 6);
    assert_eq!(keys(store, "many/23").await.len(), 1 + 10 + 45);
    let pages: Vec<_> = store.list("", None).try_collect().await.unwrap();
    assert!(pages.len() >= 3 && pages.iter().all(|page| !page.is_empty() && page.len() <= 1_000));
}

async fn a_listing_goes_on_after_a_key(store: &dyn Store) {
    for key in ["a/1", "a/2", "a0", "b/c/1", "b/c/2", "d"] {
        store.put(key, body("x")).await.unwrap();
    }
    for (prefix, after, expected) in [
        ("", "a/1", vec!["a/2", "a0", "b/c/1", "b/c/2", "d"]),
        ("", "a/9", vec!["a0", "b/c/1", "b/c/2", "d"]),
        ("", "b/c", vec!["b/c/1", "b/c/2", "d"]),
        ("b/", "a", vec!["b/c/1", "b/c/2"]),
        ("b/", "b/c/1", vec!["b/c/2"]),
        ("", "d", vec![]),
    ] {
        let listed: Vec<String> =
            store.list(prefix, Some(after)).try_concat().await.unwrap().into_iter().map(|o| o.key).collect();
        assert_eq!(listed, expected, "{prefix:?} after {after:?}");
    }
}

async fn etags_tell_contents_apart(store: &dyn Store) {
    let etag = async || list_all(store, "k").await.unwrap()[0].etag.clone();
    store.put("k", body("one")).await.unwrap();
    let first = etag().await;
    assert_eq!(etag().await, first);
    store.put("k", body("three")).await.unwrap();
    assert_ne!(etag().await, first);
}

async fn what_was_listed_is_what_is_read(store: &dyn Store) {
    store.put("k", body("one")).await.unwrap();
    let listed = list_all(store, "").await.unwrap().remove(0);
    assert_eq!(store.get_listed(&listed).await.unwrap(), "one");
    store.put("k", body("three")).await.unwrap();
    assert_eq!(store.get_listed(&listed).await.unwrap_err().kind(), ErrorKind::StoreNotFound);
    store.delete("k").await.unwrap();
    assert_eq!(store.get_listed(&listed).await.unwrap_err().kind(), ErrorKind::StoreNotFound);
}

async fn streams_are_written_whole_or_not_at_all(store: &dyn Store) {
    let pieces = || (0..100).map(|i| Ok(Bytes::from(vec![i as u8; 100_000])));
    store.put_stream("large", stream::iter(pieces()).boxed()).await.unwrap();
    let large = store.get("large").await.unwrap();
    assert_eq!(large.len(), 10_000_000);
    assert!(large.chunks(100_000).enumerate().all(|(i, chunk)| chunk.iter().all(|b| *b == i as u8)));

    let broken = pieces().chain([Err(Error::new(ErrorKind::StoreUnavailable, "the source failed"))]);
    assert!(store.put_stream("large", stream::iter(broken.skip(50)).boxed()).await.is_err());
    let broken = pieces().take(70).chain([Err(Error::new(ErrorKind::StoreUnavailable, "the source failed"))]);
    assert!(store.put_stream("new", stream::iter(broken).boxed()).await.is_err());
    assert_eq!(store.get("large").await.unwrap(), large);
    assert_eq!(keys(store, "").await, ["large"]);
}

async fn legal_characters_survive(store: &dyn Store) {
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
    for name in names {
        let key = format!("f/{name}");
        store.put(&key, body("x")).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), "x", "{key}");
    }
    let listed: BTreeSet<String> = keys(store, "f/").await.into_iter().collect();
    assert_eq!(listed, names.iter().map(|name| format!("f/{name}")).collect());
}

async fn deleting_is_final_and_repeatable(store: &dyn Store) {
    store.put("a/b", body("x")).await.unwrap();
    store.delete("a/b").await.unwrap();
    store.delete("a/b").await.unwrap();
    assert_eq!(get_opt(store, "a/b").await.unwrap(), None);
    assert!(keys(store, "").await.is_empty());
}

async fn of_racing_conditional_puts_one_wins<S: Store + 'static>(store: Arc<S>) {
    for round in 0..20 {
        let key = format!("versions/{round:08}.json");
        let racers = (0..8).map(|i| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { (i, store.put_if_absent(&key, Bytes::from(format!("run {i}"))).await.unwrap()) })
        });
        let outcomes = futures::future::try_join_all(racers).await.unwrap();
        let winners: Vec<_> = outcomes.iter().filter(|(_, won)| *won).map(|(i, _)| *i).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(store.get(&key).await.unwrap(), format!("run {}", winners[0]));
    }
    assert_eq!(list_all(store.as_ref(), "").await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_promises() {
    suite(MemoryStore::new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_the_promises() {
    let root = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    suite(|| {
        next.set(next.get() + 1);
        FolderStore::new(root.path().join(format!("{}", next.get())))
    })
    .await;
}

#[tokio::test]
async fn a_folder_leaves_no_temporary_files_and_sweeps_those_of_the_dead() {
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
async fn a_folder_follows_links_and_survives_loops() {
    let root = tempfile::tempdir().unwrap();
    let store = FolderStore::new(root.path());
    store.put("real/a", body("x")).await.unwrap();
    std::os::unix::fs::symlink(root.path().join("real/a"), root.path().join("file")).unwrap();
    std::os::unix::fs::symlink(root.path().join("real"), root.path().join("z-folder")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.path().join("dangling")).unwrap();
    assert_eq!(keys(&store, "").await, ["file", "real/a", "z-folder/a"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("real/up")).unwrap();
    let error = list_all(&store, "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFailed);
    assert!(error.to_string().contains("symbolic link"), "{error}");
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

/// Runs where `POMONA_TEST_BUCKET` names a bucket of a local S3: `tests/aws/test_store.py` starts one.
#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_promises() {
    let Ok(bucket) = std::env::var("POMONA_TEST_BUCKET") else {
        eprintln!("no bucket to test on: see tests/aws/test_store.py");
        return;
    };
    let client = pomona::store::s3_client().await;
    let next = std::cell::Cell::new(0);
    suite(|| {
        next.set(next.get() + 1);
        pomona::store::S3Store::new(client.clone(), &bucket, &format!("store {}/ä", next.get()))
    })
    .await;
    // Larger than a part: uploaded in several.
    let store = pomona::store::S3Store::new(client, &bucket, "parts");
    let body = Bytes::from((0..40 << 20).map(|i: u32| (i ^ (i >> 11)) as u8).collect::<Vec<u8>>());
    let pieces: Vec<_> = body.chunks(3 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    store.put_stream("large", stream::iter(pieces).boxed()).await.unwrap();
    assert_eq!(store.get("large").await.unwrap(), body);
    assert_eq!(store.get_range("large", 20_000_000..20_000_100).await.unwrap(), body.slice(20_000_000..20_000_100));
    eprintln!("s3 suite ran");
}
