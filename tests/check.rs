//! `pomona check`: every damaged file is found, and what can be made again has its bytes again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::common::*;
use async_trait::async_trait;
use bytes::Bytes;
use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        self, Checksum, GroupRecord, Manifest, ShardRecord, VersionState, contents, keys,
        lease::{Judge, Liveness},
        registry::{self, FileKind},
        settings::{Mode, Refit, Settings},
        tables, to_json, to_record,
    },
    ids::Version,
    model::WorkerPool,
    pipeline,
    stages::{CancellationToken, Silent, Stores},
    store::{FolderStore, MemoryStore, Store, list_all},
    versions::check::{self, Checked, Depth, Fault, RepairInput, Tools},
};

/// An output with two versions, and its input.
struct Output {
    images: Arc<MemoryStore>,
    store: Arc<dyn Store>,
    /// All files.
    files: BTreeMap<String, Bytes>,
}

impl Output {
    /// The second version adds one image, replaces one and removes one. One image is a reject.
    async fn new(store: Arc<dyn Store>, settings: &Settings) -> Self {
        Output::with(store, settings, Mode::default()).await
    }

    async fn with(store: Arc<dyn Store>, settings: &Settings, second: Mode) -> Self {
        let (images, workers) = (images(0..120).await, engine("tiny", 2));
        images.put("apple/bad.png", Bytes::from_static(b"no image")).await.unwrap();
        let stores = Stores { input: images.clone(), output: store.clone() };
        run(&stores, &workers, settings, "first").await.unwrap();
        images.put("kiwi/new.png", png(500)).await.unwrap();
        images.put(&key(60), png(501)).await.unwrap();
        images.delete(&key(110)).await.unwrap();
        let mut second = run_as(&stores, &workers, settings, second, "second").await.unwrap();
        pipeline::report(&stores, &mut second, &Silent).await.unwrap();
        let mut output = Output { images, store, files: BTreeMap::new() };
        output.files = output.read().await;
        output
    }

    async fn read(&self) -> BTreeMap<String, Bytes> {
        let mut files = BTreeMap::new();
        for object in list_all(self.store.as_ref(), "").await.unwrap() {
            files.insert(object.key.clone(), self.store.get(&object.key).await.unwrap());
        }
        files
    }

    async fn check(&self, depth: Depth) -> Checked {
        check::check(self.store.as_ref(), depth, Judge::default(), &Silent).await.unwrap()
    }

    async fn repair(&self, depth: Depth) -> Checked {
        let input = RepairInput { run: run_id("repair"), mode: Mode::default(), depth };
        let stop = CancellationToken::new();
        check::repair(self.store.as_ref(), input, self, Judge::default(), &Silent, &stop).await.unwrap()
    }

    /// Puts all files back, and removes others.
    async fn restore(&self) {
        for (key, body) in self.read().await {
            match self.files.get(&key) {
                None => self.store.delete(&key).await.unwrap(),
                Some(original) if *original != body => self.store.put(&key, original.clone()).await.unwrap(),
                Some(_) => {}
            }
        }
        for (key, body) in &self.files {
            self.store.put_if_absent(key, body.clone()).await.unwrap();
        }
    }

    /// A key of each kind that the output has: the first and the last one.
    fn of_each_kind(&self) -> Vec<(&'static FileKind, &String)> {
        let mut found = BTreeSet::new();
        for kind in registry::KINDS {
            let mut keys = self.files.keys().filter(|key| kind.parse(key).is_some());
            let (first, last) = (keys.next(), keys.next_back());
            found.extend(first.into_iter().chain(last));
        }
        found.into_iter().map(|key| (registry::kind_of(key).unwrap(), key)).collect()
    }
}

#[async_trait]
impl Tools for Output {
    async fn open(&self, _: &Manifest) -> Result<(Stores, WorkerPool)> {
        Ok((Stores { input: self.images.clone(), output: self.store.clone() }, engine("tiny", 2)))
    }
}

struct NoInput;

#[async_trait]
impl Tools for NoInput {
    async fn open(&self, _: &Manifest) -> Result<(Stores, WorkerPool)> {
        Err(Error::new(ErrorKind::InputNotFound, "the disk is not mounted"))
    }
}

fn settings() -> Settings {
    Settings { csv: true, group_size: Some(48), max_reject_percent: 5.0, ..small_shards() }
}

fn by_label() -> Settings {
    Settings { partition_by_label: Some(true), materialize_features: true, csv: false, ..settings() }
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn damage(body: &Bytes, how: &str) -> Option<Bytes> {
    match how {
        "flip" => {
            let mut body = body.to_vec();
            let at = body.len() / 2;
            *body.get_mut(at)? ^= 4;
            Some(body.into())
        }
        "truncate" => (!body.is_empty()).then(|| body.slice(..body.len() - 1)),
        _ => None,
    }
}

fn is_remade(kind: &FileKind) -> bool {
    let of_runs = kind.folder() == Some(keys::RUNS);
    !of_runs || [registry::RUN_MANIFEST, registry::RUN_REJECTS].contains(kind)
}

#[tokio::test]
async fn a_sound_output_passes() {
    for settings in [settings(), by_label(), Settings { compression: Some(tables::Compression::Zstd), ..settings() }] {
        let output = Output::new(memory(), &settings).await;
        for depth in [Depth::Files, Depth::Numbers] {
            let checked = output.check(depth).await;
            assert_eq!(checked.problems, []);
            assert_eq!((checked.versions.len(), checked.images), (2, 120));
            assert_eq!(checked.files, output.files.len() as u64);
            assert_eq!((checked.unknown.len(), checked.orphans.files, checked.marks.len()), (0, 0, 0));
        }
    }
    let kept = Mode { refit: Refit::Never, ..Mode::default() };
    let output = Output::with(memory(), &settings(), kept).await;
    assert_eq!(output.check(Depth::Numbers).await.problems, []);
}

/// Damages files one at a time; checks and repairs.
async fn every_damage(output: &Output) {
    assert!(output.of_each_kind().len() > 20);
    let gone = of_old_images(output).await;
    let damages = output.of_each_kind().into_iter().flat_map(|at| ["flip", "truncate", "delete"].map(|how| (at, how)));
    // Nothing says that a run has a receipt.
    let damages = damages.filter(|((kind, _), how)| **kind != registry::RUN_RECEIPT || *how != "delete");
    for ((kind, key), how) in damages {
        let original = &output.files[key];
        match damage(original, how) {
            Some(bad) => output.store.put(key, bad).await.unwrap(),
            None if how == "delete" => output.store.delete(key).await.unwrap(),
            None => continue,
        }
        let checked = output.check(Depth::Files).await;
        let found = checked.problems.iter().find(|problem| problem.file == *key);
        let found = found.unwrap_or_else(|| panic!("{how} of {key} is not found: {:?}", checked.problems));
        let expected = if how == "delete" { Fault::Missing } else { Fault::Damaged };
        assert_eq!(found.problem, expected, "{how} of {key}: {found:?}");
        assert_eq!(found.made_again_from, kind.remake.text());
        assert_eq!(checked.expect_sound().is_err(), found.needed, "{how} of {key}");

        let repaired = output.repair(Depth::Files).await;
        let found = repaired.problems.iter().find(|problem| problem.file == *key);
        let found = found.unwrap_or_else(|| panic!("{how} of {key} is forgotten"));
        if is_remade(kind) && !gone.contains(key) {
            assert!(found.repaired && repaired.is_sound(), "{how} of {key}: {:?}", repaired.problems);
            let after = output.read().await;
            for (key, body) in &output.files {
                assert_eq!(after.get(key), Some(body), "{key} after a repair of {how}");
            }
        } else {
            let said = found.detail.contains("; not made again: ");
            assert!(!found.repaired && said, "{how} of {key}: {found:?}");
        }
        output.restore().await;
    }
}

/// Features of images that are gone: those of shards that the newest version does not have, without a copy.
async fn of_old_images(output: &Output) -> BTreeSet<String> {
    if output.files.keys().any(|key| registry::FEATURES_PART.parse(key).is_some()) {
        return BTreeSet::new();
    }
    let newest = dataset::current(output.store.as_ref()).await.unwrap().unwrap();
    let shards = contents::shards(output.store.as_ref(), &newest).await.unwrap();
    let newest: BTreeSet<String> = shards.into_iter().map(|shard| keys::features(&shard.id)).collect();
    let all = output.files.keys().filter(|key| registry::FEATURES.parse(key).is_some());
    all.filter(|key| !newest.contains(*key)).cloned().collect()
}

#[tokio::test]
async fn every_damage_of_a_bucket_is_found_and_repaired() {
    every_damage(&Output::new(memory(), &settings()).await).await;
}

#[tokio::test]
async fn every_damage_of_copied_features_and_of_parts_by_label_is_found_and_repaired() {
    every_damage(&Output::new(memory(), &by_label()).await).await;
}

#[tokio::test]
async fn every_damage_of_a_folder_is_found_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    every_damage(&Output::new(Arc::new(FolderStore::new(folder.path())), &settings()).await).await;
}

/// All files that others are made from, at once: each round of a repair lets the next one begin.
#[tokio::test]
async fn many_damages_at_once_are_repaired_in_order() {
    let output = Output::new(memory(), &settings()).await;
    let newest = dataset::current(output.store.as_ref()).await.unwrap().unwrap();
    let mut lost = vec![
        keys::version(Version(1)),
        keys::version(Version(2)),
        newest.basis.file.key.clone(),
        newest.moments.file.key.clone(),
        keys::csv(Version(2)),
        keys::rejects(Version(2)),
        keys::part_list(Version(2), 0),
        keys::part(Version(2), None, 0),
        dataset::MARKER.to_owned(),
    ];
    for group in &newest.groups {
        lost.extend([keys::group(&group.id), keys::sums(&group.id)]);
    }
    let shards = contents::shards(output.store.as_ref(), &newest).await.unwrap();
    lost.push(keys::features(&shards[0].id));
    lost.push(keys::shard(&shards[1].id));
    for key in &lost {
        output.store.delete(key).await.unwrap();
    }
    let repaired = output.repair(Depth::Numbers).await;
    assert!(repaired.is_sound(), "{:#?}", repaired.problems);
    let after = output.read().await;
    assert!(output.files.iter().all(|(key, body)| after.get(key) == Some(body)));
}

#[tokio::test]
async fn without_the_images_the_reason_is_named_and_nothing_is_written() {
    let output = Output::new(memory(), &settings()).await;
    let newest = dataset::current(output.store.as_ref()).await.unwrap().unwrap();
    let shards = contents::shards(output.store.as_ref(), &newest).await.unwrap();
    let key = keys::features(&shards[0].id);
    output.store.put(&key, Bytes::from_static(b"x")).await.unwrap();
    let before = output.read().await;
    let input = RepairInput { run: run_id("repair"), mode: Mode::default(), depth: Depth::Files };
    let (judge, stop) = (Judge::default(), CancellationToken::new());
    let checked = check::repair(output.store.as_ref(), input, &NoInput, judge, &Silent, &stop).await.unwrap();
    let problem = checked.problems.iter().find(|problem| problem.file == key).unwrap();
    assert!(!problem.repaired && problem.detail.contains("Input.NotFound"), "{problem:?}");
    assert_eq!(output.read().await, before);

    // The image is another one now. The run publishes a version without the damaged shard; the old versions keep theirs.
    output.images.put(&shards[0].first, png(900)).await.unwrap();
    let checked = output.repair(Depth::Files).await;
    let problem = checked.problems.iter().find(|problem| problem.file == key).unwrap();
    assert!(!problem.repaired && problem.detail.contains("not made again"), "{problem:?}");
    assert_eq!(dataset::current(output.store.as_ref()).await.unwrap().unwrap().version, Version(3));
}

/// A feature is changed, and all checksums are those of the changed files.
#[tokio::test]
async fn a_consistent_lie_is_found_by_the_numbers() {
    let output = Output::new(memory(), &settings()).await;
    let store = output.store.as_ref();
    let newest = dataset::current(store).await.unwrap().unwrap();
    let shared: BTreeSet<_> =
        dataset::version(store, Some(1)).await.unwrap().groups.into_iter().map(|g| g.id).collect();
    let at = newest.groups.iter().position(|group| !shared.contains(&group.id)).unwrap();
    let mut group: GroupRecord = contents::group(store, &newest.groups[at]).await.unwrap();
    let old = dataset::version(store, Some(1)).await.unwrap();
    let old: BTreeSet<_> = contents::shards(store, &old).await.unwrap().into_iter().map(|shard| shard.id).collect();
    let shard = group.shards.iter_mut().find(|shard| shard.rows > 0 && !old.contains(&shard.id)).unwrap();

    let key = keys::features(&shard.id);
    let mut rows = tables::read_features(store.get(&key).await.unwrap(), &newest.extractor, &key).unwrap();
    rows.features[[0, 0]] = if rows.features[[0, 0]] == 1.0 { 2.0 } else { 1.0 };
    let table = tables::write_features(rows, newest.extractor.id.as_str(), newest.settings.compression()).unwrap();
    shard.features = Some(Checksum::of(&table));
    store.put(&key, table).await.unwrap();
    let record_key = keys::shard(&shard.id);
    let mut record: ShardRecord = dataset::read_record(store, &record_key).await.unwrap();
    record.features.clone_from(&shard.features);
    let record = to_record(&record).unwrap();
    shard.record = Some(Checksum::of(&record));
    store.put(&record_key, record).await.unwrap();
    let file = to_record(&group).unwrap();
    store.put(&keys::group(&group.id), file.clone()).await.unwrap();
    let mut manifest = newest.clone();
    manifest.groups[at].record = Checksum::of(&file);
    let file = to_record(&VersionState::Published(Box::new(manifest))).unwrap();
    store.put(&keys::version(newest.version), file.clone()).await.unwrap();
    store.put(&keys::kept_manifest(&newest.run), file).await.unwrap();

    assert_eq!(output.check(Depth::Files).await.problems, []);
    let checked = output.check(Depth::Numbers).await;
    let wrong: Vec<&str> = checked.problems.iter().map(|problem| problem.file.as_str()).collect();
    assert!(checked.problems.iter().all(|problem| problem.problem == Fault::Wrong));
    assert!(wrong.contains(&keys::sums(&group.id).as_str()), "{wrong:?}");
    assert!(wrong.iter().any(|key| key.starts_with("pca/v=00000002/")), "{wrong:?}");
    assert!(wrong.contains(&keys::csv(Version(2)).as_str()), "{wrong:?}");
    // Nobody knows which of the files is right, so none is written.
    let before = output.read().await;
    let repaired = output.repair(Depth::Numbers).await;
    assert!(repaired.problems.iter().all(|problem| !problem.repaired));
    assert_eq!(output.read().await, before);
}

#[tokio::test]
async fn a_lie_about_sums_or_a_basis_is_found_by_the_numbers() {
    let output = Output::new(memory(), &settings()).await;
    let store = output.store.as_ref();
    let newest = dataset::current(store).await.unwrap().unwrap();
    let old = dataset::version(store, Some(1)).await.unwrap();
    let swapped = [(&newest.moments.file.key, &old.moments.file.key), (&newest.basis.file.key, &old.basis.file.key)];
    for (key, other) in swapped {
        let body = store.get(other).await.unwrap();
        let sum = Checksum::of(&body);
        store.put(key, body).await.unwrap();
        let mut manifest = newest.clone();
        for file in [&mut manifest.moments.file, &mut manifest.basis.file] {
            if file.key == *key {
                file.checksum = Some(sum.clone());
            }
        }
        let file = to_record(&VersionState::Published(Box::new(manifest))).unwrap();
        store.put(&keys::version(newest.version), file.clone()).await.unwrap();
        store.put(&keys::kept_manifest(&newest.run), file).await.unwrap();
        assert_eq!(output.check(Depth::Files).await.problems, []);
        let checked = output.check(Depth::Numbers).await;
        let found = checked.problems.iter().find(|problem| problem.file == *key);
        assert_eq!(found.map(|problem| problem.problem), Some(Fault::Wrong), "{key}: {:?}", checked.problems);
        output.restore().await;
    }
}

#[tokio::test]
async fn orphans_marks_and_unknown_files_are_no_damage() {
    let output = Output::new(memory(), &settings()).await;
    let store = output.store.as_ref();
    store.put("notes.txt", Bytes::from_static(b"mine")).await.unwrap();
    store.put("shards/0123/features.parquet", Bytes::from_static(b"left")).await.unwrap();
    let old = serde_json::json!({"at": "2020-01-01T00:00:00Z"});
    let mark = "runs/dead/started.json";
    store.put(mark, to_json(&old).unwrap()).await.unwrap();
    let checked = output.check(Depth::Files).await;
    assert_eq!(checked.problems, []);
    checked.expect_sound().unwrap();
    assert_eq!(checked.unknown, ["notes.txt"]);
    assert_eq!(checked.orphans.files, 2);
    assert_eq!(checked.marks.len(), 1);
    assert_eq!((checked.marks[0].file.as_str(), checked.marks[0].holder), (mark, Liveness::Dead));

    let checked = output.repair(Depth::Files).await;
    assert_eq!((checked.problems.len(), checked.marks.len()), (0, 0));
    let left = output.read().await;
    assert!(left.contains_key("notes.txt") && left.contains_key("shards/0123/features.parquet"));
}

#[tokio::test]
async fn an_output_of_release_0_1_0_passes_and_its_damage_is_found() {
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/release-0.1.0/output");
    let copy = MemoryStore::new();
    let original = FolderStore::new(&fixture);
    for object in list_all(&original, "").await.unwrap() {
        copy.put(&object.key, original.get(&object.key).await.unwrap()).await.unwrap();
    }
    let check = async || check::check(&copy, Depth::Numbers, Judge::default(), &Silent).await.unwrap();
    let checked = check().await;
    assert_eq!(checked.problems, []);
    assert_eq!(checked.versions.len(), 2);
    assert_eq!((checked.unknown.len(), checked.orphans.files), (0, 0), "{:?}", checked.unknown);
    let tables = list_all(&copy, "").await.unwrap().into_iter().map(|object| object.key);
    for key in tables.filter(|key| key.ends_with(".parquet") && !key.starts_with("runs/")) {
        let body = copy.get(&key).await.unwrap();
        copy.put(&key, body.slice(..body.len() / 2)).await.unwrap();
        assert_eq!(check().await.problems.len(), 1, "{key}");
        copy.delete(&key).await.unwrap();
        assert_eq!(check().await.problems[0].problem, Fault::Missing, "{key}");
        copy.put(&key, body).await.unwrap();
    }
}
