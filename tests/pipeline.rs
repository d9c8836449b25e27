//! The invariants of a data set, on a small model and a store in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod common;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use common::{
    stores::{Failing, Refuses, Refusing},
    *,
};
use pomona::{
    ErrorKind,
    dataset::{
        self, keys,
        settings::{Mode, Settings},
        tables,
    },
    image::Reason,
    model::WorkerPool,
    pca::ComponentSelection,
    pipeline::{self, Watcher},
    stages::{CancellationToken, Monitor, Stores},
    store::{MemoryStore, Store, list_all},
};
use proptest::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_result_does_not_depend_on_the_number_of_threads() {
    let input = images(0..300).await;
    let one = fresh(&input, &engine("tiny", 1), &small_shards()).await;
    let four = fresh(&input, &engine("tiny", 4), &small_shards()).await;
    assert_eq!(one, four);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_basis_does_not_depend_on_the_shard_size() {
    let input = images(0..300).await;
    let engine = engine("tiny", 2);
    let basis = async |shard_size| {
        let files = fresh(&input, &engine, &Settings { shard_size, ..Settings::default() }).await;
        let keep = |key: &str| key.starts_with("basis/") || key.starts_with("moments/");
        files.into_iter().filter(|(key, _)| keep(key)).collect::<Vec<_>>()
    };
    let whole = basis(1_024).await;
    assert_eq!(whole.len(), 2);
    for size in [1, 7, 16, 100] {
        assert_eq!(basis(size).await, whole, "shard size {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_makes_no_new_version() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    assert!(!run(&stores, &engine, &small_shards(), "a").await.unwrap().up_to_date);
    let before = list_all(output.as_ref(), "").await.unwrap();
    assert!(run(&stores, &engine, &small_shards(), "b").await.unwrap().up_to_date);
    assert_eq!(list_all(output.as_ref(), "").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_need_a_rebuild_which_infers_nothing_again() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let settings = Settings {
        pca: Some(ComponentSelection::Components(3)),
        csv: true,
        partition_by_label: true,
        ..small_shards()
    };
    let error = run(&stores, &engine, &settings, "b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetSettingsChanged);
    assert!(
        error.to_string().contains("pca: null -> {\"components\":3}; partition_by_label: false -> true"),
        "{error}"
    );
    let rebuild = Mode { rebuild: true, ..Mode::default() };
    let summary = run_as(&stores, &engine, &settings, rebuild, "c").await.unwrap();
    assert_eq!((summary.manifest.version.0, summary.manifest.parent.unwrap().0), (2, 1));
    assert_eq!((summary.manifest.figures.inferred, summary.manifest.figures.shards_computed), (0, 0));
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
}

/// What can happen to a bucket.
#[derive(Clone, Debug)]
enum Event {
    Upload(u64),
    Overwrite(u64),
    Delete(u64),
    Run,
    /// A run whose store fails at this call.
    BrokenRun(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..200).prop_map(Event::Upload),
        2 => (0u64..200).prop_map(Event::Overwrite),
        2 => (0u64..200).prop_map(Event::Delete),
        2 => Just(Event::Run),
        2 => (0i64..120).prop_map(Event::BrokenRun),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happened before, the data set is that of a fresh run over the bucket as it is.
    #[test]
    fn the_data_set_is_a_pure_function_of_the_bucket(events in prop::collection::vec(event(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (input, output, engine) = (images(0..80).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
            let mut runs = 0;
            for event in events.iter().chain([&Event::Run]) {
                match event {
                    Event::Upload(i) => input.put(&key(*i), png(*i)).await.unwrap(),
                    Event::Overwrite(i) => input.put(&key(*i), png(*i + 1_000)).await.unwrap(),
                    Event::Delete(i) => input.delete(&key(*i)).await.unwrap(),
                    Event::Run => {
                        runs += 1;
                        run(&stores(&input, &output), &engine, &small_shards(), &format!("r{runs}")).await.unwrap();
                    }
                    Event::BrokenRun(calls) => {
                        runs += 1;
                        let broken = Arc::new(Failing::after(output.clone(), *calls));
                        let stores = Stores { input: input.clone(), output: broken };
                        let _ = run(&stores, &engine, &small_shards(), &format!("r{runs}")).await;
                    }
                }
            }
            assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
            assert!(list_all(output.as_ref(), "partials/").await.unwrap().is_empty());
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_and_changed_images_go_through_the_model() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    assert_eq!(run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest.figures.inferred, 200);
    input.put(&key(300), png(300)).await.unwrap();
    input.put(&key(17), png(9_999)).await.unwrap();
    input.delete(&key(120)).await.unwrap();
    let figures = run(&stores, &engine, &small_shards(), "b").await.unwrap().manifest.figures;
    assert_eq!(figures.inferred, 2);
    assert!(figures.shards_reused > 3 && figures.copied > 0, "{figures:?}");
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_at_any_call_is_continued_by_the_next() {
    let (input, engine) = (images(0..60).await, engine("tiny", 2));
    let settings = Settings { csv: true, ..small_shards() };
    let expected = fresh(&input, &engine, &settings).await;
    let counter = Arc::new(Failing::after(Arc::new(MemoryStore::new()), i64::MAX));
    let all = Stores { input: input.clone(), output: counter.clone() };
    run(&all, &engine, &settings, "count").await.unwrap();
    let calls = counter.gate.calls.load(Ordering::Relaxed) as i64;
    assert!(calls > 30);
    for fail_at in 0..calls {
        let output = Arc::new(MemoryStore::new());
        let dying = Stores { input: input.clone(), output: Arc::new(Failing::after(output.clone(), fail_at)) };
        let died = run(&dying, &engine, &settings, "dying").await;
        // What a reader sees: nothing, or all of it.
        match dataset::current(output.as_ref()).await.unwrap() {
            Some(manifest) => {
                assert!(died.is_err());
                assert_eq!(manifest.images, 60);
            }
            None => assert!(died.is_err(), "call {fail_at}"),
        }
        let finished: HashSet<String> = finished_shards(output.as_ref()).await;
        let already: u64 = rows_of(output.as_ref(), &finished).await;
        let summary = run(&stores(&input, &output), &engine, &settings, "next").await.unwrap();
        if !summary.up_to_date {
            assert_eq!(summary.manifest.figures.inferred + already, 60, "call {fail_at}");
        }
        assert_eq!(data_set(output.as_ref()).await, expected, "call {fail_at}");
    }
}

async fn finished_shards(output: &dyn Store) -> HashSet<String> {
    let objects = list_all(output, "shards/").await.unwrap();
    objects.into_iter().map(|o| o.key).filter(|key| key.ends_with("/shard.json")).collect()
}

async fn rows_of(output: &dyn Store, records: &HashSet<String>) -> u64 {
    let mut rows = 0;
    for key in records {
        rows += dataset::read_json::<dataset::ShardRecord>(output, key).await.unwrap().rows;
    }
    rows
}

/// Requests a stop after so many images.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_loses_no_image_that_was_done() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let stop = CancellationToken::new();
    let watcher = StopAfter { left: AtomicI64::new(90), stop: stop.clone() };
    let settings = Settings { shard_size: 64, ..Settings::default() };
    let error =
        pipeline::run(&stores, &engine, &order(&settings, Mode::default(), "a"), &watcher, &stop).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RunInterrupted);
    assert!(dataset::current(output.as_ref()).await.unwrap().is_none());
    let done = 90 - watcher.left.load(Ordering::Relaxed);
    let figures = run(&stores, &engine, &settings, "b").await.unwrap().manifest.figures;
    // A few images that were ready out of their turn may be done again.
    assert!(figures.inferred <= 200 - done as u64 + 2 * 16, "{done} done, {figures:?}");
    assert!(figures.inferred < 150);
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
    assert!(list_all(output.as_ref(), "partials/").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_race_all_end_and_agree() {
    let engine = Arc::new(engine("tiny", 2));
    for round in 0..6u64 {
        let (input, output) = (images(0..100).await, Arc::new(MemoryStore::new()));
        let racers = (0..4).map(|i| {
            let (stores, engine, input) = (stores(&input, &output), engine.clone(), input.clone());
            tokio::spawn(async move {
                input.put(&key(500 + round * 10 + i), png(i)).await.unwrap();
                run(&stores, &engine, &small_shards(), &format!("racer-{i}")).await
            })
        });
        for outcome in futures::future::join_all(racers).await {
            outcome.unwrap().unwrap();
        }
        // Every racer saw its own upload; the last to publish may have listed before the last upload, no other.
        let manifest = dataset::current(output.as_ref()).await.unwrap().unwrap();
        assert!(manifest.images > 100);
        run(&stores(&input, &output), &engine, &small_shards(), "last").await.unwrap();
        assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
        let mut parent = None;
        for version in dataset::versions(output.as_ref()).await.unwrap().decided {
            if let dataset::VersionState::Published(manifest) = dataset::state(output.as_ref(), version).await.unwrap()
            {
                assert_eq!(manifest.parent, parent, "the chain has no forks");
                data_set_of(output.as_ref(), &manifest).await;
                parent = Some(version);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_another_one_overtakes_at_its_first_step_goes_on() {
    let (input, output, engine) = (images(0..20).await, Arc::new(MemoryStore::new()), engine("tiny", 1));
    run(&stores(&input, &output), &engine, &small_shards(), "first").await.unwrap();
    let late = Failing::after(output, i64::MAX);
    late.gate.marker_is_late.store(true, Ordering::Relaxed);
    let stores = Stores { input, output: Arc::new(late) };
    assert!(run(&stores, &engine, &small_shards(), "second").await.unwrap().up_to_date);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loser_leaves_no_parts_behind() {
    let (input, output, engine) = (images(0..40).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let manifest = dataset::current(output.as_ref()).await.unwrap().unwrap();
    let mut other = manifest.clone();
    other.version = dataset::claim(output.as_ref(), &run_id("slow")).await.unwrap();
    other.parent = None;
    other.run = run_id("slow");
    let error = dataset::commit(output.as_ref(), other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetConflict);
    assert_eq!(dataset::current(output.as_ref()).await.unwrap().unwrap(), manifest);
}

async fn rejects(output: &dyn Store) -> Vec<(String, String)> {
    let manifest = dataset::current(output).await.unwrap().unwrap();
    let key = manifest.outputs.rejects;
    let rows = tables::read_rejects(output.get(&key).await.unwrap(), &key).unwrap();
    rows.into_iter().map(|[path, reason, _]| (path, reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_images_become_rejects_with_their_reason() {
    let (input, output) = (images(0..40).await, Arc::new(MemoryStore::new()));
    let good = png(1);
    let bad: [(&str, Bytes, Reason); 4] = [
        ("bad/empty.png", Bytes::new(), Reason::Empty),
        ("bad/notes.txt", "hello".into(), Reason::NotAnImage),
        ("bad/truncated.png", good.slice(..good.len() / 2), Reason::Truncated),
        ("bad/photo.avif", Bytes::from_static(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"), Reason::UnsupportedFormat),
    ];
    for (key, body, _) in &bad {
        input.put(key, body.clone()).await.unwrap();
    }
    let settings = Settings { max_reject_percent: 20.0, ..small_shards() };
    let summary = run(&stores(&input, &output), &engine("tiny", 2), &settings, "a").await.unwrap();
    assert_eq!((summary.manifest.images, summary.manifest.rejects), (40, 4));
    let mut expected: Vec<_> = bad.iter().map(|(key, _, reason)| ((*key).to_owned(), reason.to_string())).collect();
    expected.sort();
    assert_eq!(rejects(output.as_ref()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_reject_their_image() {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let mut black = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(8, 8).write_to(&mut black, image::ImageFormat::Png).unwrap();
    input.put("black.png", black.into_inner().into()).await.unwrap();
    for i in 0..5 {
        input.put(&key(i), png(i)).await.unwrap();
    }
    run(&stores(&input, &output), &engine("log", 1), &small_shards(), "a").await.unwrap();
    assert_eq!(rejects(output.as_ref()).await, [("black.png".to_owned(), "not_finite".to_owned())]);

    let output = Arc::new(MemoryStore::new());
    let settings = Settings { max_reject_percent: 100.0, ..small_shards() };
    let error = run(&stores(&input, &output), &engine("large", 1), &settings, "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PcaTooFewImages);
    let records = finished_shards(output.as_ref()).await;
    let mut reasons = HashSet::new();
    for key in records {
        let record: dataset::ShardRecord = dataset::read_json(output.as_ref(), &key).await.unwrap();
        reasons.extend(record.rejects.into_iter().map(|r| r.reject.reason));
    }
    assert_eq!(reasons, HashSet::from([Reason::OutOfRange]));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_rejects_fail_the_run_with_the_table_written() {
    let (input, output) = (images(0..50).await, Arc::new(MemoryStore::new()));
    for i in 0..3 {
        input.put(&format!("bad/{i}.jpg"), "no image".into()).await.unwrap();
    }
    let error = run(&stores(&input, &output), &engine("tiny", 2), &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetTooManyRejects);
    let key = keys::run(&run_id("a"), "rejects.parquet");
    assert!(error.to_string().contains(&key), "{error}");
    let rows = tables::read_rejects(output.get(&key).await.unwrap(), &key).unwrap();
    assert_eq!(rows.len(), 3);
    assert!(dataset::current(output.as_ref()).await.unwrap().is_none());
    // With the limit raised, the run uses what the failed one has done.
    let settings = Settings { max_reject_percent: 10.0, ..small_shards() };
    let summary = run(&stores(&input, &output), &engine("tiny", 2), &settings, "b").await.unwrap();
    assert_eq!((summary.manifest.figures.inferred, summary.manifest.rejects), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_could_not_be_read_is_tried_again_by_the_next_run() {
    for (kind, reason) in [(ErrorKind::StoreDenied, "no_permission"), (ErrorKind::StoreNotFound, "unreadable")] {
        let (input, output, engine) = (images(0..40).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
        let refusing = Arc::new(Refusing { inner: input.clone(), gate: Refuses { key: key(7), kind } });
        let refused = Stores { input: refusing, output: output.clone() };
        let summary = run(&refused, &engine, &small_shards(), "a").await.unwrap();
        assert_eq!((summary.manifest.images, summary.manifest.rejects), (39, 1));
        assert_eq!(rejects(output.as_ref()).await, [(key(7), reason.to_owned())]);
        let figures = run(&stores(&input, &output), &engine, &small_shards(), "b").await.unwrap().manifest.figures;
        assert_eq!(figures.inferred, 1);
        assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_images_and_too_many_components_say_what_is_possible() {
    let engine = engine("tiny", 1);
    let outcome = async |n: u64, pca| {
        let (input, output) = (images(0..n).await, Arc::new(MemoryStore::new()));
        run(&stores(&input, &output), &engine, &Settings { pca, ..small_shards() }, "a").await
    };
    assert_eq!(outcome(0, None).await.unwrap_err().kind(), ErrorKind::InputEmpty);
    assert_eq!(outcome(1, None).await.unwrap_err().kind(), ErrorKind::PcaTooFewImages);
    assert_eq!(outcome(2, None).await.unwrap().manifest.basis.components, 1);
    let error = outcome(10, Some(ComponentSelection::Components(10))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PcaTooManyComponents);
    assert!(error.to_string().contains("1 to 9 are possible"), "{error}");
    let basis = outcome(10, Some(ComponentSelection::Variance(1.0))).await.unwrap().manifest.basis;
    assert!((basis.explained_variance_ratio.iter().sum::<f64>() - 1.0).abs() < 1e-9);

    let same = Arc::new(MemoryStore::new());
    for i in 0..4 {
        same.put(&key(i), png(0)).await.unwrap();
    }
    let error = run(&stores(&same, &Arc::new(MemoryStore::new())), &engine, &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PcaNoVariance);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_holds_something_else_is_left_alone() {
    let (input, output) = (images(0..5).await, Arc::new(MemoryStore::new()));
    output.put("thesis.docx", "important".into()).await.unwrap();
    let error = run(&stores(&input, &output), &engine("tiny", 1), &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputOccupied);
    assert_eq!(list_all(output.as_ref(), "").await.unwrap().len(), 1);

    let newer = Arc::new(MemoryStore::new());
    newer.put(dataset::MARKER, r#"{"what": "", "format": 99}"#.into()).await.unwrap();
    let error = run(&stores(&input, &newer), &engine("tiny", 1), &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputUnknownFormat);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_success_mark_is_mended() {
    let (input, output, engine) = (images(0..20).await, Arc::new(MemoryStore::new()), engine("tiny", 1));
    let stores = stores(&input, &output);
    let version = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest.version;
    output.delete(&keys::success(version)).await.unwrap();
    assert!(run(&stores, &engine, &small_shards(), "b").await.unwrap().up_to_date);
    assert!(output.get(&keys::success(version)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_and_folder_markers_are_no_images() {
    let (input, output) = (images(0..20).await, Arc::new(MemoryStore::new()));
    for key in [".DS_Store", "kiwi/._1.png", ".git/config", "apple/"] {
        input.put(key, "x".into()).await.unwrap();
    }
    let manifest = run(&stores(&input, &output), &engine("tiny", 1), &small_shards(), "a").await.unwrap().manifest;
    assert_eq!((manifest.images, manifest.rejects, manifest.ignored), (20, 0, Some(4)));
}

#[tokio::test]
async fn a_model_of_another_shape_is_used_or_refused_with_the_reason() {
    use pomona::{
        model::FeatureRange,
        model::{Extractor, Runtime},
    };
    let load = |onnx: &[u8]| {
        Extractor::from_onnx(Bytes::copy_from_slice(onnx), "test", FeatureRange::default(), Runtime::Auto)
    };
    assert_eq!(engine("nhwc", 1).extractor().columns(), 24);
    for (name, expected) in [
        ("two-inputs", "2 inputs"),
        ("two-outputs", "2 outputs"),
        ("map", "not one vector"),
        ("any-size", "fixed H and W"),
        ("grey", "shape [?, 1, 32, 32]"),
        ("wide", "4097 numbers"),
    ] {
        let error = load(&std::fs::read(model_path(name)).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelInvalid);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    let tiny = std::fs::read(model_path("tiny")).unwrap();
    for damaged in [&b"not a model"[..], &[], &tiny[..tiny.len() / 2]] {
        assert_eq!(load(damaged).unwrap_err().kind(), ErrorKind::ModelInvalid);
    }
}

/// The engine outlives a panic in a decoder; here the extractor is simply asked for too much at once.
#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_an_engine() {
    let engine: Arc<WorkerPool> = Arc::new(engine("tiny", 3));
    let alone = engine.features(png(5)).await.unwrap().unwrap();
    let all = (0..100).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.features(png(5)).await.unwrap().unwrap() })
    });
    for features in futures::future::try_join_all(all).await.unwrap() {
        assert_eq!(features, alone);
    }
}
