//! Hostile trees: links, loops, odd names, pipes, files that change, folders without permission.
#![cfg(unix)]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::common::{engine, key, png, program::*, small_shards};
use pomona::{
    ErrorKind,
    stages::Stores,
    store::{FolderStore, MemoryStore, Store, list_all},
};
use proptest::prelude::*;
use serde_json::{Value, json as value};

/// Waits for the end of a process; kills it after `seconds` and returns None.
fn within(command: &mut Command, seconds: u64) -> Option<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(seconds) {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(child.wait_with_output().unwrap())
}

#[test]
fn names_that_are_not_utf_8_are_read_and_erased() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("in"), dir.path().join("out"));
    write_images(&photos, 20);
    let names: [&[u8]; 4] = [b"x\xe9.png", b"x\xe8.png", b"x%E9.png", b"50%.png"];
    for (name, seed) in names.iter().zip(500..) {
        fs::write(photos.join("label 0").join(OsStr::from_bytes(name)), png(seed)).unwrap();
    }
    let made = json(&mut run(&photos, &output, &[]));
    assert_eq!((&made["images"], &made["rejects"]), (&24.into(), &0.into()));
    let paths = show_paths(&output);
    assert!(paths.windows(2).all(|pair| pair[0] < pair[1]), "{paths:?}");
    for key in ["label 0/x%E9.png", "label 0/x%E8.png", "label 0/x%25E9.png", "label 0/50%.png"] {
        assert!(paths.iter().any(|path| path == key), "{key} is not in {paths:?}");
    }
    fs::remove_file(photos.join("label 0").join(OsStr::from_bytes(b"x\xe9.png"))).unwrap();
    assert_eq!(json(&mut erase(&output, &["label 0/x%E9.png"]))["removed_versions"], value!([1]));
    assert_eq!(show_paths(&output).len(), 23);
}

#[test]
fn a_file_that_blocks_its_reader_is_a_reject() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("photos"), dir.path().join("out"));
    write_images(&photos, 20);
    symlink("/proc/kmsg", photos.join("label 0/log.png")).unwrap();
    assert!(Command::new("mkfifo").arg(photos.join("label 0/pipe.png")).status().unwrap().success());
    let done = within(run(&photos, &output, &["--max-reject-percent", "50"]).arg("--json"), 20);
    let done: Value = serde_json::from_str(&success(done.expect("the run hangs"))).unwrap();
    assert_eq!((&done["images"], &done["rejects"]), (&20.into(), &2.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_place_of_a_listed_file_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1.png");
    fs::write(&path, png(1)).unwrap();
    let store = FolderStore::new(dir.path());
    let listed = list_all(&store, "").await.unwrap().remove(0);
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    for read in [store.get_listed(&listed), store.get("1.png")] {
        let outcome = tokio::time::timeout(Duration::from_secs(2), read).await;
        // A reader that hangs would keep the test from ending: open the other end.
        let _writer = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(outcome.expect("reading hangs").unwrap_err().to_string().contains("not a regular file"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_grown_is_not_read_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1.png");
    fs::write(&path, png(1)).unwrap();
    let store = FolderStore::new(dir.path());
    let listed = list_all(&store, "").await.unwrap().remove(0);
    fs::File::options().write(true).open(&path).unwrap().set_len(3 << 30).unwrap();
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    };
    let before = peak();
    assert!(store.get_listed(&listed).await.is_err());
    assert!(peak() < before + 500, "{before} MiB before, {} after", peak());
}

#[test]
fn a_link_to_the_output_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("photos"), dir.path().join("out"));
    write_images(&photos, 20);
    let options = ["--max-reject-percent", "50"];
    json(&mut run(&photos, &output, &options));
    symlink(&output, photos.join("label 0/results")).unwrap();
    symlink(output.join("runs"), photos.join("label 0/runs")).unwrap();
    symlink(dir.path(), photos.join("label 0/up")).unwrap();
    let report = walkdir::WalkDir::new(&output).into_iter().map(Result::unwrap);
    let picture = report.map(|entry| entry.path().to_owned()).find(|path| path.extension() == Some(OsStr::new("png")));
    symlink(picture.unwrap(), photos.join("label 0/plot.png")).unwrap();
    for _ in 0..2 {
        let made = json(&mut run(&photos, &output, &options));
        // The three links, the link to a picture, and the two folders below `up`: the input and the output.
        assert_eq!((&made["images"], &made["rejects"]), (&20.into(), &5.into()), "{made}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_with_a_key_twice_or_out_of_order_is_an_error() {
    use futures::stream::{self, BoxStream, StreamExt};
    use pomona::{Result, store::Object};

    #[derive(Debug)]
    struct Shuffled(MemoryStore, Vec<usize>);

    #[async_trait::async_trait]
    impl Store for Shuffled {
        fn location(&self) -> String {
            self.0.location()
        }
        fn list<'a>(&'a self, prefix: &'a str, _: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
            let page = async move {
                let all = list_all(&self.0, prefix).await?;
                Ok(self.1.iter().map(|i| all[*i].clone()).collect())
            };
            stream::once(page).boxed()
        }
        async fn get(&self, key: &str) -> Result<bytes::Bytes> {
            self.0.get(key).await
        }
        async fn get_listed(&self, object: &Object) -> Result<bytes::Bytes> {
            self.0.get_listed(object).await
        }
        async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<bytes::Bytes> {
            self.0.get_range(key, range).await
        }
        async fn put_stream(&self, key: &str, body: BoxStream<'_, Result<bytes::Bytes>>) -> Result<()> {
            self.0.put_stream(key, body).await
        }
        async fn put_if_absent(&self, key: &str, body: bytes::Bytes) -> Result<bool> {
            self.0.put_if_absent(key, body).await
        }
        async fn replace(&self, listed: &Object, body: bytes::Bytes) -> Result<bool> {
            self.0.replace(listed, body).await
        }
        async fn delete(&self, key: &str) -> Result<()> {
            self.0.delete(key).await
        }
    }

    for order in [vec![0, 1, 1, 2], vec![0, 2, 1]] {
        let inner = MemoryStore::new();
        for i in 0..3 {
            inner.put(&key(i), png(i)).await.unwrap();
        }
        let input = Arc::new(Shuffled(inner, order));
        let stores = Stores { input, output: Arc::new(MemoryStore::new()) };
        let error = crate::common::run(&stores, &engine("tiny", 1), &small_shards(), "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreFailed);
        assert!(error.to_string().contains("order"), "{error}");
    }
}

#[test]
fn links_that_lead_nowhere_or_in_circles_are_rejects() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, output) = (dir.path().join("photos"), dir.path().join("out"));
    write_images(&photos, 20);
    symlink("self", photos.join("self")).unwrap();
    symlink(&photos, photos.join("label 0/up")).unwrap();
    symlink("nowhere", photos.join("label 0/gone.png")).unwrap();
    let made = json(&mut run(&photos, &output, &["--max-reject-percent", "50"]));
    assert_eq!((&made["images"], &made["rejects"]), (&20.into(), &3.into()));
}

/// An entry of a tree, in the folder number `folder` of those that exist.
#[derive(Clone, Debug)]
enum Entry {
    Folder(Vec<u8>),
    File(Vec<u8>),
    /// A link to the folder or file number `to`, or to nothing.
    Link(Vec<u8>, usize),
    Pipe(Vec<u8>),
    /// A folder that nobody may read.
    Closed(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd: [&[u8]; 14] = [
        b"a",
        b"a ",
        b"a.b",
        b"a%FF",
        b"a%25FF",
        b"a\xff",
        b"a\xfe",
        b"A",
        b"\xc3\xa9",
        b"e\xcc\x81",
        b"a\nb",
        b"-",
        b"a!b",
        b".h",
    ];
    prop_oneof![3 => (0..odd.len()).prop_map(move |i| odd[i].to_vec()), 1 => "[a-c]{1,2}".prop_map(String::into_bytes)]
}

fn entry() -> impl Strategy<Value = (usize, Entry)> {
    let kind = prop_oneof![
        3 => name().prop_map(Entry::Folder),
        4 => name().prop_map(Entry::File),
        3 => (name(), 0usize..24).prop_map(|(name, to)| Entry::Link(name, to)),
        1 => name().prop_map(Entry::Pipe),
        1 => name().prop_map(Entry::Closed),
    ];
    (0usize..8, kind)
}

/// Makes the entries that can be made: a name may be taken.
fn plant(root: &Path, entries: &[(usize, Entry)]) {
    let (mut folders, mut all) = (vec![root.to_owned()], vec![root.to_owned()]);
    for (folder, entry) in entries {
        let folder = &folders[folder % folders.len()];
        let place = |name: &[u8]| folder.join(OsStr::from_bytes(name));
        let made = match entry {
            Entry::Folder(name) | Entry::Closed(name) => fs::create_dir(place(name)).map(|()| place(name)),
            Entry::File(name) => fs::File::create_new(place(name)).map(|_| place(name)),
            Entry::Link(name, to) => {
                let target = all.get(*to).cloned().unwrap_or_else(|| "nowhere".into());
                symlink(target, place(name)).map(|()| place(name))
            }
            Entry::Pipe(name) => {
                let pipe = Command::new("mkfifo").arg("--").arg(place(name)).stderr(Stdio::null()).status();
                pipe.map(|_| place(name))
            }
        };
        let Ok(path) = made else { continue };
        match entry {
            Entry::Folder(_) => folders.push(path.clone()),
            Entry::Closed(_) => {
                let closed = std::os::unix::fs::PermissionsExt::from_mode(0o000);
                fs::set_permissions(&path, closed).unwrap();
            }
            _ => {}
        }
        all.push(path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A listing ends, is strictly ascending, and is the same when it continues after any of its keys. Each of its objects
    /// is read or refused at once.
    #[test]
    fn the_listing_of_any_tree_is_ascending_and_unique(entries in proptest::collection::vec(entry(), 1..24), from in 0usize..40) {
        let root = tempfile::tempdir().unwrap();
        plant(root.path(), &entries);
        let store = FolderStore::new(root.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let all = list_all(&store, "").await.unwrap();
            assert!(all.windows(2).all(|pair| pair[0].key < pair[1].key), "{all:?}");
            if let Some(after) = all.get(from) {
                use futures::TryStreamExt;
                let rest: Vec<_> = store.list("", Some(&after.key)).try_concat().await.unwrap();
                assert_eq!(rest, all[from + 1..]);
                let below = after.key.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
                let within = list_all(&store, &below).await.unwrap();
                let expected: Vec<_> = all.iter().filter(|object| object.key.starts_with(&below)).cloned().collect();
                assert_eq!(within, expected);
            }
            for object in &all {
                let read = tokio::time::timeout(Duration::from_secs(2), store.get_listed(object)).await;
                let read = read.expect("reading hangs");
                assert_eq!(read.is_ok(), !object.etag.as_str().starts_with('!'), "{object:?}: {read:?}");
            }
        });
    }
}
