//! Invariants of a data set, tested with a small model and stores in memory.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use crate::common::{
    stores::{Failing, Notes, Noting},
    *,
};
use pomona::{
    ErrorKind,
    dataset::{
        self, contents, keys,
        settings::{Mode, Refit, Settings},
    },
    model::WorkerPool,
    pca::ComponentSelection,
    stages::Stores,
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
        let files = fresh(&input, &engine, &Settings { shard_size: Some(shard_size), ..Settings::default() }).await;
        let sums = files.iter().find(|(key, _)| key.ends_with("/sums.parquet")).unwrap().1.clone();
        (sums, files.into_iter().filter(|(key, _)| key.starts_with("basis/")).collect::<Vec<_>>())
    };
    let whole = basis(1_024).await;
    assert_eq!(whole.1.len(), 1);
    for size in [1, 7, 16, 100] {
        assert_eq!(basis(size).await, whole, "shard size {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_changes_makes_no_version() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    assert!(!run(&stores, &engine, &small_shards(), "a").await.unwrap().up_to_date);
    let before = list_all(output.as_ref(), "").await.unwrap();
    assert!(run(&stores, &engine, &small_shards(), "b").await.unwrap().up_to_date);
    assert_eq!(list_all(output.as_ref(), "").await.unwrap(), before);
}

/// The sums of its group come from those of the base version, and from the rows of this image alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_image_costs_one_read_of_its_shard_and_of_the_sums_of_its_group() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    // A classifier reads the features of a small group again; an index those of the group; a search for duplicates all.
    let settings = Settings {
        shard_size: Some(16),
        classifier: false,
        index: false,
        duplicate_images: Some(0),
        ..Settings::default()
    };
    let first = run(&stores(&input, &output), &engine, &settings, "a").await.unwrap().manifest;
    input.put(&key(17), png(9_999)).await.unwrap();
    let noting = Arc::new(Noting { inner: output.clone(), gate: Notes::default() });
    let stores = Stores { input: input.clone(), output: noting.clone() };
    let second = run(&stores, &engine, &settings, "b").await.unwrap().manifest;
    assert_eq!((second.figures.inferred, second.figures.shards_computed), (1, 1));
    let [before] = &contents::groups(output.as_ref(), &first.groups).await.unwrap()[..] else { panic!("one group") };
    let [after] = &contents::groups(output.as_ref(), &second.groups).await.unwrap()[..] else { panic!("one group") };
    let calls = |key: &str| noting.gate.calls(key);
    for shard in &before.shards {
        // Copied if the shard has changed, and projected otherwise.
        assert_eq!(calls(&keys::features(&shard.id)), 1, "reads of the features of {}", shard.id);
    }
    assert_ne!(before.shards, after.shards);
    assert_eq!(calls(&keys::sums(&before.id)), 1, "reads of the sums of the base version");
    assert_eq!(calls(&keys::sums(&after.id)), 1, "writes of the new sums");
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_given_are_changed_and_infer_nothing() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let settings = Settings {
        pca: Some(ComponentSelection::Components(3)),
        csv: true,
        partition_by_label: Some(true),
        shard_size: Some(9),
        standardize: Some(false),
        ..small_shards()
    };
    let summary = run(&stores, &engine, &settings, "b").await.unwrap();
    assert_eq!((summary.manifest.version.0, summary.manifest.parent.unwrap().0), (2, 1));
    assert_eq!(summary.manifest.figures.inferred, 0);
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
    // What is left out is as in the current version.
    let without = Settings { pca: None, partition_by_label: None, standardize: None, ..settings.clone() };
    assert!(run(&stores, &engine, &without, "c").await.unwrap().up_to_date);
    let back = Settings { partition_by_label: Some(false), standardize: Some(true), ..settings };
    assert_eq!(run(&stores, &engine, &back, "d").await.unwrap().manifest.figures.inferred, 0);
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &back).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_keeps_the_basis_does_not_change_it() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let settings = Settings { pca: Some(ComponentSelection::Components(3)), ..small_shards() };
    let never = Mode { refit: Refit::Never, ..Mode::default() };
    let error = run_as(&stores, &engine, &settings, never, "b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetSettingsChanged);
    assert!(error.to_string().contains("pca: null -> {\"components\":3}"), "{error}");
}

/// What can happen to a bucket and its output.
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

    /// After any history, the data set equals that of a fresh run on the current bucket.
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
async fn a_run_that_fails_at_any_store_call_is_continued_by_the_next() {
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
        // A reader sees no version or a complete one.
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

async fn rows_of(output: &dyn Store, records: &HashSet<String>) -> u64 {
    let mut rows = 0;
    for key in records {
        rows += dataset::read_record::<dataset::ShardRecord>(output, key).await.unwrap().rows;
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_keeps_the_images_it_has_finished() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let settings = Settings { shard_size: Some(64), ..Settings::default() };
    let done = run_until(90, &stores, &engine, &settings, "a").await;
    assert!(dataset::current(output.as_ref()).await.unwrap().is_none());
    let figures = run(&stores, &engine, &settings, "b").await.unwrap().manifest.figures;
    assert_eq!(figures.inferred, 200 - done, "{done} done, {figures:?}");
    assert!(figures.inferred < 150);
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
    assert!(list_all(output.as_ref(), "partials/").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_runs_all_finish_and_lose_no_upload() {
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
        // Every run lists its own upload. The last one to publish may have listed before another run's upload.
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
async fn a_run_continues_when_another_one_creates_the_output_first() {
    let (input, output, engine) = (images(0..20).await, Arc::new(MemoryStore::new()), engine("tiny", 1));
    run(&stores(&input, &output), &engine, &small_shards(), "first").await.unwrap();
    let late = Failing::after(output, i64::MAX);
    late.gate.marker_is_late.store(true, Ordering::Relaxed);
    let stores = Stores { input, output: Arc::new(late) };
    assert!(run(&stores, &engine, &small_shards(), "second").await.unwrap().up_to_date);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflicting_commit_fails_and_changes_nothing() {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_success_mark_is_written_by_the_next_run() {
    let (input, output, engine) = (images(0..20).await, Arc::new(MemoryStore::new()), engine("tiny", 1));
    let stores = stores(&input, &output);
    let version = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest.version;
    output.delete(&keys::success(version)).await.unwrap();
    assert!(run(&stores, &engine, &small_shards(), "b").await.unwrap().up_to_date);
    assert!(output.get(&keys::success(version)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_the_workers() {
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
