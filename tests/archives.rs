//! Archives as input: the same rows as those of loose images, few requests, and any history like a fresh run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};

use crate::common::{
    stores::{Counting, Counts, Gated},
    *,
};
use crate::packs::{File, Method};
use bytes::Bytes;
use fastrand::Rng;
use pomona::{
    archive::Unpacked,
    dataset::{
        self, Manifest, contents, inbox, keys,
        lease::Judge,
        settings::{ListingScope, Mode, Settings},
        tables::{self, FeatureRows},
    },
    model::WorkerPool,
    stages::{CancellationToken, Silent, Stores},
    store::{FolderStore, MemoryStore, Store, list_all},
    versions::{
        check::{Depth, check},
        erase::{EraseInput, erase},
        vacuum::{self, Action, Policy},
    },
};

const TIME: u64 = 1_700_000_000;

fn files(range: std::ops::Range<u64>) -> Vec<File> {
    let mut files: Vec<File> = range.map(|i| (key(i), png(i), TIME + 2 * i)).collect();
    files.sort();
    files
}

fn unpacked(input: &Arc<MemoryStore>, output: &Arc<MemoryStore>) -> Stores {
    Stores::new(input.clone(), output.clone())
}

async fn one_archive(key: &str, archive: Bytes) -> Arc<MemoryStore> {
    let input = Arc::new(MemoryStore::new());
    input.put(key, archive).await.unwrap();
    input
}

/// The rows of a version, and its basis.
async fn rows(output: &dyn Store, manifest: &Manifest) -> (FeatureRows, Bytes) {
    let mut all = FeatureRows::default();
    let mut features = Vec::new();
    for shard in contents::shards(output, manifest).await.unwrap() {
        let Some(table) = shard.features() else { continue };
        let rows = tables::read_features(table.read(output).await.unwrap(), &manifest.extractor, &table.key).unwrap();
        all.paths.extend(rows.paths);
        all.labels.extend(rows.labels);
        all.splits.extend(rows.splits);
        all.modified.extend(rows.modified);
        all.lengths.extend(rows.lengths);
        all.etags.extend(rows.etags);
        all.contents.extend(rows.contents);
        features.extend(rows.features);
    }
    let columns = manifest.extractor.columns;
    all.features = ndarray::Array2::from_shape_vec((all.paths.len(), columns), features).unwrap();
    (all, manifest.basis.file.read(output).await.unwrap())
}

async fn rejects(output: &dyn Store) -> BTreeMap<String, (String, String)> {
    let manifest = dataset::current(output).await.unwrap().unwrap();
    let found = contents::rejects(output, &manifest).await.unwrap();
    found.into_iter().map(|row| (row.path, (row.reject.reason.to_string(), row.reject.detail))).collect()
}

/// Settings under which any number of rejects is no error.
fn lenient() -> Settings {
    Settings { max_reject_percent: 100.0, ..small_shards() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_packed_images_are_those_of_loose_ones() {
    let (files, engine) = (files(0..120), engine("tiny", 2));
    let folder = tempfile::tempdir().unwrap();
    for (name, content, time) in &files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(UNIX_EPOCH + Duration::from_secs(*time))
            .unwrap();
    }
    let loose = Stores::new(Arc::new(FolderStore::new(folder.path())), Arc::new(MemoryStore::new()));
    let manifest = run(&loose, &engine, &small_shards(), "loose").await.unwrap().manifest;
    let (loose, basis) = rows(loose.output.as_ref(), &manifest).await;
    assert_eq!(loose.paths.len(), 120);

    for (name, archive) in [
        ("fruit.tar", crate::packs::tar(&files)),
        ("stored.zip", crate::packs::zip(&files, Method::Stored)),
        ("deflated.zip", crate::packs::zip(&files, Method::Deflated)),
        ("table.parquet", crate::packs::parquet(&files, 50)),
    ] {
        let packed_folder = tempfile::tempdir().unwrap();
        fs::write(packed_folder.path().join(name), &archive).unwrap();
        let inputs: [Arc<dyn Store>; 2] =
            [one_archive(name, archive).await, Arc::new(FolderStore::new(packed_folder.path()))];
        for input in inputs {
            let stores = Stores::new(input, Arc::new(MemoryStore::new()));
            let manifest = run(&stores, &engine, &small_shards(), "packed").await.unwrap().manifest;
            assert_eq!((manifest.images, manifest.rejects), (120, 0), "{name}");
            let (packed, packed_basis) = rows(stores.output.as_ref(), &manifest).await;
            let is_table = name.ends_with(".parquet");
            let path = |(i, path): (usize, &String)| match is_table {
                true => format!("{name}!{i:09}-{}", path.rsplit('/').next().unwrap()),
                false => format!("{name}!{path}"),
            };
            assert_eq!(packed.paths, loose.paths.iter().enumerate().map(path).collect::<Vec<_>>());
            let modified = if is_table { vec![0; 120] } else { loose.modified.clone() };
            let (paths, etags) = (packed.paths.clone(), packed.etags.clone());
            assert_eq!(packed, FeatureRows { paths, etags, modified, ..loose.clone() }, "{name}");
            // Exact sums: the cut of the shards, which follows the paths, changes no bit.
            assert_eq!(packed_basis, basis, "{name}");
            let checked = check(stores.output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
            assert!(checked.is_sound(), "{:?}", checked.problems);
        }
    }
}

/// The newest state of an input whose archives and loose images change.
struct World {
    input: Arc<MemoryStore>,
    archives: BTreeMap<&'static str, Vec<File>>,
    random: Rng,
    next: u64,
}

const ARCHIVES: [&str; 5] = ["a.tar", "b/x.zip", "b/x.zip .parquet", "c.parquet", "kiwi/last.tar"];

impl World {
    fn new(seed: u64) -> Self {
        let (input, random) = (Arc::new(MemoryStore::new()), Rng::with_seed(seed));
        World { input, archives: BTreeMap::new(), random, next: 0 }
    }

    fn image(&mut self) -> File {
        self.next += 1;
        let name = self.random.u64(..40);
        (format!("{}!x/{name:02}.png", ["a", "ä b", "c.tar"][name as usize % 3]), png(self.next), TIME + self.next)
    }

    /// Changes one to three objects of the input, and returns their keys.
    async fn change(&mut self) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for _ in 0..self.random.usize(1..=3) {
            if self.random.u8(..4) == 0 {
                let key = format!(
                    "{}{:02}.png",
                    ["loose/", "a.tar!", "b/x.zip ", ""][self.random.usize(..4)],
                    self.random.u8(..12)
                );
                match self.random.bool() {
                    true => self.input.put(&key, png(1_000 + self.next)).await.unwrap(),
                    false => self.input.delete(&key).await.unwrap(),
                }
                self.next += 1;
                changed.insert(key);
                continue;
            }
            let name = ARCHIVES[self.random.usize(..ARCHIVES.len())];
            let mut files = self.archives.remove(name).unwrap_or_default();
            for _ in 0..self.random.usize(1..=9) {
                let image = self.image();
                match self.random.u8(..3) {
                    0 if !files.is_empty() => drop(files.remove(self.random.usize(..files.len()))),
                    _ => {
                        files.retain(|(name, ..)| *name != image.0);
                        files.push(image);
                    }
                }
            }
            self.write(name, &files).await;
            self.archives.insert(name, files);
            changed.insert(name.to_owned());
        }
        changed
    }

    async fn write(&mut self, name: &str, files: &[File]) {
        if self.random.u8(..12) == 0 {
            return self.input.delete(name).await.unwrap();
        }
        let archive = match name.rsplit('.').next() {
            Some("tar") => crate::packs::tar(files),
            Some("zip") => crate::packs::zip(files, if self.random.bool() { Method::Stored } else { Method::Deflated }),
            _ => crate::packs::parquet(files, 5),
        };
        // Some are cut: a truncated upload.
        let cut = self.random.u8(..8) == 0;
        let end = if cut { self.random.usize(..archive.len()) } else { archive.len() };
        self.input.put(name, archive.slice(..end)).await.unwrap();
    }
}

async fn fresh_unpacked(input: &Arc<MemoryStore>, engine: &WorkerPool) -> BTreeMap<String, Bytes> {
    let output = Arc::new(MemoryStore::new());
    run(&unpacked(input, &output), engine, &lenient(), "fresh").await.unwrap();
    data_set(output.as_ref()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_of_archives_ends_like_a_fresh_run() {
    let engine = engine("tiny", 2);
    let mut partial = 0;
    for seed in 0..6 {
        let (mut world, output) = (World::new(seed), Arc::new(MemoryStore::new()));
        for name in ["loose/90.png", "loose/91.png", "loose/92.png"] {
            world.input.put(name, png(world.next + 500)).await.unwrap();
            world.next += 1;
        }
        let stores = unpacked(&world.input, &output);
        for round in 0..10 {
            let changed = world.change().await;
            let only_changed = world.random.bool();
            inbox::add(output.as_ref(), &changed).await.unwrap();
            let listing = if only_changed { ListingScope::Changed } else { ListingScope::All };
            let mode = Mode { listing, accept_deletions: true, ..Mode::default() };
            run_as(&stores, &engine, &lenient(), mode, &format!("r{round}")).await.unwrap();
            partial += usize::from(only_changed);
            let expected = fresh_unpacked(&world.input, &engine).await;
            let found = data_set(output.as_ref()).await;
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>(),
                "seed {seed}, round {round}"
            );
            assert!(found == expected, "seed {seed}, round {round}");
            if round % 4 == 3 {
                let policy = Policy { keep_versions: 1, older_than_days: 0 };
                vacuum::vacuum(output.as_ref(), policy, Action::Delete, Judge::default(), &|_| {}).await.unwrap();
            }
        }
    }
    assert!(partial > 10, "{partial}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_added_is_the_only_one_that_is_inferred() {
    let engine = engine("tiny", 2);
    let write = |name: &str, files: &[File]| match name {
        "fruit.tar" => crate::packs::tar(files),
        "fruit.zip" => crate::packs::zip(files, Method::Deflated),
        _ => crate::packs::parquet(files, 50),
    };
    for name in ["fruit.tar", "fruit.zip", "fruit.parquet"] {
        let mut packed = files(0..100);
        let input = one_archive(name, write(name, &packed)).await;
        let output = Arc::new(MemoryStore::new());
        let stores = unpacked(&input, &output);
        run(&stores, &engine, &small_shards(), "a").await.unwrap();
        packed.push(("zebra/1.png".to_owned(), png(7_000), TIME));
        input.put(name, write(name, &packed)).await.unwrap();
        let figures = run(&stores, &engine, &small_shards(), "b").await.unwrap().figures;
        assert_eq!((figures.inferred, figures.added, figures.changed, figures.removed), (1, 1, 0, 0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_packed_images_is_one_request() {
    const IMAGES: u64 = 4_000;
    let mut random = Rng::with_seed(3);
    // About 5 KB each; what the model sees does not matter here.
    let image = |random: &mut Rng| {
        let noise = image::RgbImage::from_fn(40, 40, |_, _| image::Rgb([random.u8(..), random.u8(..), random.u8(..)]));
        let mut file = std::io::Cursor::new(Vec::new());
        noise.write_to(&mut file, image::ImageFormat::Png).unwrap();
        Bytes::from(file.into_inner())
    };
    let files: Vec<File> = (0..IMAGES).map(|i| (format!("{i:06}.png"), image(&mut random), TIME)).collect();
    let settings = Settings { shard_size: Some(256), ..Settings::default() };
    let engine = engine("tiny", 2);
    let properties =
        parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    for (extension, write) in [
        ("tar", &crate::packs::tar as &dyn Fn(&[File]) -> Bytes),
        ("zip", &|files| crate::packs::zip(files, Method::Stored)),
        ("parquet", &|files| crate::packs::parquet_with(files, properties.clone())),
    ] {
        let inner = Arc::new(MemoryStore::new());
        for (part, files) in files.chunks(1_000).enumerate() {
            inner.put(&format!("{part:05}.{extension}"), write(files)).await.unwrap();
        }
        let input = Arc::new(Counting { inner, gate: Counts::default() });
        let stores = Stores::new(input.clone(), Arc::new(MemoryStore::new()));
        let made = run(&stores, &engine, &settings, "a").await.unwrap().manifest;
        assert_eq!(made.images, IMAGES);
        let (read, shards) = (input.gate.read.load(Ordering::Relaxed), made.shards());
        println!("{extension}: {read} requests for {IMAGES} images in {shards} shards of 4 archives");
        // A shard that lies in two archives has two requests, and an index has a few.
        assert!(read <= shards + 3 + 4 * 4, "{extension}: {read} for {shards} shards");
        assert!(read * 1_000_000 / IMAGES <= 10_000, "{extension}: {read}");

        // A run without changes reads no archive again, also after a vacuum.
        let policy = Policy { keep_versions: 1, older_than_days: 0 };
        vacuum::vacuum(stores.output.as_ref(), policy, Action::Delete, Judge::default(), &|_| {}).await.unwrap();
        assert!(run(&stores, &engine, &settings, "b").await.unwrap().up_to_date);
        assert_eq!(input.gate.read.load(Ordering::Relaxed), read, "{extension}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_replaced_after_its_listing_is_read_by_the_next_run() {
    #[derive(Debug)]
    struct Replaces(Arc<MemoryStore>, std::sync::atomic::AtomicU64, Bytes);
    #[async_trait::async_trait]
    impl crate::common::stores::Gate for Replaces {
        async fn before(&self, key: &str) -> pomona::Result<()> {
            // The first read of the index and the first of the members are one request each.
            if key == "fruit.tar" && self.1.fetch_add(1, Ordering::Relaxed) == 1 {
                self.0.put("fruit.tar", self.2.clone()).await?;
            }
            Ok(())
        }
    }
    let engine = engine("tiny", 2);
    let inner = one_archive("fruit.tar", crate::packs::tar(&files(0..40))).await;
    inner.put("loose/1.png", png(1)).await.unwrap();
    inner.put("loose/2.png", png(2)).await.unwrap();
    let gate = Replaces(inner.clone(), Default::default(), crate::packs::tar(&files(40..60)));
    let output = Arc::new(MemoryStore::new());
    let stores = Stores::new(Arc::new(Gated { inner: inner.clone(), gate }), output.clone());
    let made = run(&stores, &engine, &Settings { shard_size: Some(100), ..lenient() }, "a").await;
    // Most images of a shard are gone, in a way that no retry mends: rejects, as for loose files.
    let made = made.unwrap().manifest;
    assert_eq!((made.images, made.rejects), (2, 40));
    assert!(rejects(output.as_ref()).await.values().all(|(reason, _)| reason == "unreadable"));
    let settings = Settings { shard_size: Some(100), ..lenient() };
    let next = run(&stores, &engine, &settings, "b").await.unwrap().manifest;
    assert_eq!((next.images, next.rejects), (22, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_member_is_nowhere_in_the_output() {
    let engine = engine("tiny", 2);
    let input = Arc::new(MemoryStore::new());
    let (all, erased) = (files(0..60), key(31));
    let without: Vec<File> = all.iter().filter(|(name, ..)| *name != erased).cloned().collect();
    input.put("fruit.tar", crate::packs::tar(&all)).await.unwrap();
    input.put("gone.zip", crate::packs::zip(&files(100..140), Method::Deflated)).await.unwrap();
    input.put("other.zip", crate::packs::zip(&files(200..240), Method::Deflated)).await.unwrap();
    let output = Arc::new(MemoryStore::new());
    let stores = unpacked(&input, &output);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let wanted = [format!("fruit.tar!{erased}"), format!("gone.zip!{}", key(107))];
    let order =
        |action| EraseInput { run: run_id("erase"), keys: wanted.clone().into(), mode: Mode::default(), action };
    let stop = CancellationToken::default();
    let error = erase(&stores, &engine, order(Action::Delete), Judge::default(), &Silent, &stop).await.unwrap_err();
    assert!(error.to_string().contains("still in the input"), "{error}");

    input.put("fruit.tar", crate::packs::tar(&without)).await.unwrap();
    input.delete("gone.zip").await.unwrap();
    let would = erase(&stores, &engine, order(Action::DryRun), Judge::default(), &Silent, &stop).await.unwrap();
    let done = erase(&stores, &engine, order(Action::Delete), Judge::default(), &Silent, &stop).await.unwrap();
    let lists = |keys: &[String]| keys.iter().filter(|key| key.starts_with(keys::CONTAINERS)).count();
    assert_eq!((lists(&would.deleted), lists(&done.deleted)), (2, 2));
    // The list of the archive that has not changed stays, and so does the new one.
    assert_eq!(list_all(output.as_ref(), keys::CONTAINERS).await.unwrap().len(), 2);
    for object in list_all(output.as_ref(), "").await.unwrap() {
        let body = output.get(&object.key).await.unwrap();
        for path in &wanted {
            assert!(!body.windows(path.len()).any(|window| window == path.as_bytes()), "{}", object.key);
        }
    }
    assert_eq!(data_set(output.as_ref()).await, {
        let output = Arc::new(MemoryStore::new());
        run(&unpacked(&input, &output), &engine, &small_shards(), "fresh").await.unwrap();
        data_set(output.as_ref()).await
    });
}

#[tokio::test]
async fn a_listing_from_anywhere_is_a_part_of_the_whole() {
    let mut random = Rng::with_seed(9);
    for _ in 0..30 {
        let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let pieces = ["a", ".tar", ".tar!", "!", "!!", " ", "b/", ".zip", "\"", "c.png"];
        for _ in 0..40 {
            let key: String = (0..random.usize(1..6)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let members: Vec<File> = (0..random.u64(..6))
                .map(|i| (format!("{}{i}.png", ["x/", "!", "b.tar!", ""][random.usize(..4)]), png(i), TIME))
                .collect();
            let body = match key.rsplit('.').next() {
                Some("tar") => crate::packs::tar(&members),
                Some("zip") => crate::packs::zip(&members, Method::Stored),
                _ => png(1),
            };
            input.put(&key, body).await.unwrap();
        }
        let store = Unpacked::new(input, output);
        let all = list_all(&store, "").await.unwrap();
        let keys: Vec<String> = all.iter().map(|object| object.key.clone()).collect();
        for _ in 0..60 {
            let start = |random: &mut Rng| {
                let key = &keys[random.usize(..keys.len())];
                let ends: Vec<usize> = (0..=key.len()).filter(|end| key.is_char_boundary(*end)).collect();
                let mut start = key[..ends[random.usize(..ends.len())]].to_owned();
                start.push_str(["", "", "!", "\"", " "][random.usize(..5)]);
                start
            };
            let prefix = if random.bool() { start(&mut random) } else { String::new() };
            let after = random.bool().then(|| start(&mut random));
            let mut found = Vec::new();
            let mut pages = pomona::store::ascending(&store, &prefix, after.as_deref());
            while let Some(page) = futures::TryStreamExt::try_next(&mut pages).await.unwrap() {
                found.extend(page);
            }
            let wanted = |key: &str| key.starts_with(&prefix) && after.as_deref().is_none_or(|after| key > after);
            let expected: Vec<_> = all.iter().filter(|object| wanted(&object.key)).cloned().collect();
            assert_eq!(found, expected, "{prefix:?} {after:?} of {keys:?}");
        }
        for object in &all {
            assert_eq!(
                store.get(&object.key).await.unwrap(),
                store.get_listed(object).await.unwrap(),
                "{}",
                object.key
            );
        }
    }
}
