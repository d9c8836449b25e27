//! Shared by the test files: a small model, small images, runs, and the bytes of a data set.
#![allow(dead_code)]

pub(crate) mod bucket;
pub(crate) mod clock;
pub(crate) mod inputs;
pub(crate) mod moving;
pub(crate) mod program;
pub(crate) mod stores;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::Cursor,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use pomona::{
    ErrorKind, Result,
    dataset::{
        self, Manifest, keys,
        lease::Judge,
        registry,
        settings::{Mode, Settings},
    },
    ids::RunId,
    model::FeatureRange,
    model::{Extractor, Runtime, WorkerPool},
    pipeline::{self, Summary, Watcher},
    stages::{CancellationToken, Monitor, PlanInput, Silent, Stores},
    store::{MemoryStore, Store, list_all},
    versions::{
        erase::{EraseInput, Erased, erase},
        vacuum::Action,
    },
};

pub(crate) fn model_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"))
}

pub(crate) fn engine(name: &str, threads: usize) -> WorkerPool {
    let onnx = std::fs::read(model_path(name)).unwrap();
    let extractor = Extractor::from_onnx(onnx.into(), name, FeatureRange::default(), Runtime::Auto).unwrap();
    WorkerPool::new(Arc::new(extractor), threads).unwrap()
}

/// A PNG of 16 x 12 pixels; different seeds give different pixels.
pub(crate) fn png(seed: u64) -> Bytes {
    let image = image::RgbImage::from_fn(16, 12, |x, y| {
        let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(x * 5 + y * 11);
        image::Rgb([mixed as u8, (mixed >> 17) as u8, (mixed >> 40) as u8])
    });
    let mut file = Vec::new();
    image.write_to(&mut Cursor::new(&mut file), image::ImageFormat::Png).unwrap();
    file.into()
}

pub(crate) fn key(i: u64) -> String {
    format!("{}/{i:05}.png", ["apple", "Äpfel rot", "it's \"a\"=pear", "kiwi"][i as usize / 50 % 4])
}

pub(crate) async fn images(range: std::ops::Range<u64>) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    for i in range {
        store.put(&key(i), png(i)).await.unwrap();
    }
    store
}

pub(crate) fn small_shards() -> Settings {
    Settings { shard_size: Some(16), group_size: Some(64), ..Settings::default() }
}

pub(crate) fn run_id(name: &str) -> RunId {
    name.to_owned().try_into().unwrap()
}

pub(crate) async fn run(stores: &Stores, engine: &WorkerPool, settings: &Settings, name: &str) -> Result<Summary> {
    run_as(stores, engine, settings, Mode::default(), name).await
}

pub(crate) async fn run_as(
    stores: &Stores,
    engine: &WorkerPool,
    settings: &Settings,
    mode: Mode,
    name: &str,
) -> Result<Summary> {
    pipeline::run(stores, engine, &order(settings, mode, name), &Silent, &CancellationToken::default()).await
}

pub(crate) fn order(settings: &Settings, mode: Mode, name: &str) -> PlanInput {
    PlanInput { settings: settings.clone(), mode, ..PlanInput::new(run_id(name)) }
}

pub(crate) fn stores(input: &Arc<MemoryStore>, output: &Arc<MemoryStore>) -> Stores {
    Stores { input: input.clone(), output: output.clone() }
}

/// Stops the run after this many images.
struct StopAfter {
    left: AtomicI64,
    stop: CancellationToken,
}

impl Monitor for StopAfter {
    fn image_done(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.cancel();
        }
    }
}
impl Watcher for StopAfter {}

/// A run that is stopped after this many images, and how many it has done.
pub(crate) async fn run_until(
    images: i64,
    stores: &Stores,
    engine: &WorkerPool,
    settings: &Settings,
    name: &str,
) -> u64 {
    let stop = CancellationToken::new();
    let watcher = StopAfter { left: AtomicI64::new(images), stop: stop.clone() };
    let order = order(settings, Mode::default(), name);
    let error = pipeline::run(stores, engine, &order, &watcher, &stop).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RunInterrupted);
    u64::try_from(images - watcher.left.load(Ordering::Relaxed)).unwrap()
}

/// Erases an image, which is not in the input any more.
pub(crate) async fn erase_image(stores: &Stores, engine: &WorkerPool, path: &str) -> Erased {
    let keys = BTreeSet::from([path.to_owned()]);
    let order = EraseInput { run: run_id("erase"), keys, mode: Mode::default(), action: Action::Delete };
    erase(stores, engine, order, Judge::default(), &Silent, &CancellationToken::default()).await.unwrap()
}

/// The data set of a run on an empty output.
pub(crate) async fn fresh(
    input: &Arc<MemoryStore>,
    engine: &WorkerPool,
    settings: &Settings,
) -> BTreeMap<String, Bytes> {
    let output = Arc::new(MemoryStore::new());
    let stores = Stores { input: input.clone(), output: output.clone() };
    run(&stores, engine, settings, "fresh").await.unwrap();
    data_set(output.as_ref()).await
}

/// The files of the current version, with `v=*` instead of its number in the keys.
pub(crate) async fn data_set(output: &dyn Store) -> BTreeMap<String, Bytes> {
    let manifest = dataset::current(output).await.unwrap().expect("a published version");
    data_set_of(output, &manifest).await
}

pub(crate) async fn data_set_of(output: &dyn Store, manifest: &Manifest) -> BTreeMap<String, Bytes> {
    let mut files = BTreeMap::new();
    for file in dataset::contents::files(output, manifest).await.unwrap() {
        let mut body = file.read(output).await.unwrap();
        assert!(registry::kind_of(&file.key).is_some(), "{} is a file of no kind", file.key);
        if file.key.starts_with(keys::EXTRACTORS) {
            // It says how long the first run took.
            continue;
        }
        if file.key.starts_with(keys::SCORES) {
            let list = String::from_utf8(body.to_vec()).unwrap();
            let number = format!("\"version\": {}", manifest.version.0);
            assert!(list.contains(&number));
            let list = list.replace(&number, "").replace(&format!("v={}", manifest.version), "v=*");
            // Without its seal.
            body = list[..list.rfind("\"sha256\"").unwrap()].to_owned().into();
        }
        files.insert(file.key.replace(&format!("v={}", manifest.version), "v=*"), body);
    }
    files
}

/// Keys of the records of all finished shards.
pub(crate) async fn finished_shards(output: &dyn Store) -> HashSet<String> {
    let objects = list_all(output, "shards/").await.unwrap();
    objects.into_iter().map(|o| o.key).filter(|key| key.ends_with("/shard.json")).collect()
}
