//! The search for images that are like another one: with an index and without one, every answer is that of comparing all rows.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use crate::common::*;
use pomona::{
    ErrorKind,
    dataset::{
        self, Manifest, contents, keys,
        lease::Judge,
        registry,
        settings::Settings,
        tables::{self, FeatureRows},
    },
    search::Metric,
    stages::{Silent, Stores},
    store::{self, FolderStore, MemoryStore, Object, Store},
    versions::{
        check::{Depth, check},
        find::{Finder, Hit, Query},
    },
};
use proptest::prelude::*;

async fn rows(output: &dyn Store, version: &Manifest) -> Vec<FeatureRows> {
    let mut all = Vec::new();
    for shard in contents::shards(output, version).await.unwrap() {
        let Some(file) = shard.features() else { continue };
        all.push(tables::read_features(file.read(output).await.unwrap(), &version.extractor, &file.key).unwrap());
    }
    all
}

/// Distances in plain f64, from all rows.
fn brute_force(tables: &[FeatureRows], query: &Query) -> Vec<Hit> {
    let mut all = Vec::new();
    for table in tables {
        for (i, row) in table.features.outer_iter().enumerate() {
            let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                row.iter().zip(&query.features).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
            };
            let lengths = sum(&|x, _| x * x).sqrt() * sum(&|_, y| y * y).sqrt();
            let distance = match query.metric {
                Metric::Euclidean => sum(&|x, y| (x - y) * (x - y)).sqrt(),
                Metric::Cosine if lengths == 0.0 => 1.0,
                Metric::Cosine => 1.0 - sum(&|x, y| x * y) / lengths,
            };
            let (path, label) = (table.paths[i].clone(), table.labels[i].clone());
            if query.except.as_ref() != Some(&path) && (query.label.is_none() || query.label == label) {
                all.push(Hit { path, distance, label });
            }
        }
    }
    all.sort_by(|a, b| (a.distance, &a.path).partial_cmp(&(b.distance, &b.path)).unwrap());
    all.truncate(query.count);
    all
}

fn queries(tables: &[FeatureRows]) -> Vec<Query> {
    let mut queries = Vec::new();
    for table in tables.iter().step_by(3) {
        let (features, path) = (table.features.row(0).to_vec(), table.paths[0].clone());
        for metric in [Metric::Cosine, Metric::Euclidean] {
            for count in [0, 1, 7, 1_000] {
                let query = Query::new(features.clone(), count, metric);
                queries.push(Query { except: Some(path.clone()), ..query.clone() });
                queries.push(Query { label: Some("apple".to_owned()), ..query.clone() });
                queries.push(Query { label: Some("nothing".to_owned()), ..query });
            }
        }
    }
    queries
}

fn same(found: &[Hit], expected: &[Hit]) {
    let near = |a: &Hit, b: &Hit| (a.distance - b.distance).abs() < 1e-9;
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| near(a, b)), "{found:?} {expected:?}");
    // Rounding may exchange the order of two rows that are equally far.
    let last = found.last().map_or(0.0, |last| last.distance) - 1e-9;
    let paths = |hits: &[Hit]| -> BTreeSet<String> {
        hits.iter().filter(|hit| hit.distance < last).map(|hit| hit.path.clone()).collect()
    };
    assert_eq!(paths(found), paths(expected));
}

/// The version without its index: its tables are searched.
fn without_index(version: &Manifest) -> Manifest {
    Manifest { index: None, ..version.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_all_rows_in_a_folder_and_in_memory() {
    let (folder, engine) = (tempfile::tempdir().unwrap(), engine("tiny", 2));
    let input = images(0..300).await;
    let outputs: [Arc<dyn Store>; 2] = [Arc::new(MemoryStore::new()), Arc::new(FolderStore::new(folder.path()))];
    for output in outputs {
        let stores = Stores::new(input.clone(), output.clone());
        let version = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
        assert!(version.groups.len() > 1 && version.index.as_ref().unwrap().segments.len() == version.groups.len());
        let tables = rows(output.as_ref(), &version).await;
        let finder = Finder::new(output.clone(), version.clone());
        let slow = Finder::new(output.clone(), without_index(&version));
        assert!(finder.has_index() && !slow.has_index());
        for query in queries(&tables) {
            let found = finder.nearest(&query).await.unwrap();
            same(&found, &brute_force(&tables, &query));
            // Not nearly: the same bits.
            assert_eq!(found, slow.nearest(&query).await.unwrap());
        }
        let path = &tables[2].paths[1];
        assert_eq!(finder.features(path).await.unwrap().unwrap(), tables[2].features.row(1).to_vec());
        assert_eq!(finder.features(path).await.unwrap(), slow.features(path).await.unwrap());
        assert_eq!(finder.features("no/such.png").await.unwrap(), None);
        let error = finder.features_of("apple/00001.pn").await.unwrap_err();
        assert!(error.is(ErrorKind::InputUnknownKey) && error.to_string().contains("nearest keys"), "{error}");
        let wrong = Query::new(vec![0.0; 3], 5, Metric::Cosine);
        assert!(finder.nearest(&wrong).await.unwrap_err().is(ErrorKind::InputInvalid));
        assert!(slow.nearest(&wrong).await.unwrap_err().is(ErrorKind::InputInvalid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_index_answers_without_the_store() {
    let (input, output) = (images(0..300).await, Arc::new(MemoryStore::new()));
    let version = run(&stores(&input, &output), &engine("tiny", 2), &small_shards(), "a").await.unwrap().manifest;
    let tables = rows(output.as_ref(), &version).await;
    let segments = store::list_all(output.as_ref(), keys::INDEX).await.unwrap();
    let bytes: u64 = segments.iter().map(|object| object.size).sum();
    let finder = |copied| Finder::new(output.clone(), version.clone()).with_copy(copied);
    let (copied, too_large, cut) = (finder(bytes), finder(bytes - 1), finder(bytes));
    let query = &Query::new(tables[0].features.row(0).to_vec(), 7, Metric::Euclidean);
    let expected = copied.nearest(query).await.unwrap();
    assert_eq!(too_large.nearest(query).await.unwrap(), expected);
    for Object { key, .. } in segments {
        let body = output.get(&key).await.unwrap();
        output.put(&key, body.slice(..16)).await.unwrap();
    }
    for query in queries(&tables) {
        same(&copied.nearest(&query).await.unwrap(), &brute_force(&tables, &query));
    }
    assert!(cut.nearest(query).await.unwrap_err().is(ErrorKind::DatasetCorrupt));
    assert!(too_large.nearest(query).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_searched_with_and_without_folders_of_labels() {
    let (input, engine) = (images(0..120).await, engine("tiny", 2));
    let mut answers = Vec::new();
    for partition_by_label in [false, true] {
        let output = Arc::new(MemoryStore::new());
        let settings = Settings { partition_by_label: Some(partition_by_label), ..small_shards() };
        let version = run(&stores(&input, &output), &engine, &settings, "a").await.unwrap().manifest;
        let tables = rows(output.as_ref(), &version).await;
        let finder = Finder::new(output.clone(), version);
        let scores = finder.scores_of(tables[0].features.row(0).to_vec()).await.unwrap();
        let query = Query { label: tables[0].labels[0].clone(), ..Query::new(scores, 9, Metric::Euclidean) };
        let found = finder.nearest_by_scores(&query).await.unwrap();
        assert_eq!((found[0].path.as_str(), found[0].distance), (tables[0].paths[0].as_str(), 0.0));
        assert!(found.len() == 9 && found.is_sorted_by(|a, b| a.distance <= b.distance));
        assert!(found.iter().all(|hit| hit.label == query.label));
        answers.push(found);
    }
    assert_eq!(answers[0], answers[1]);
}

fn segments(files: &std::collections::BTreeMap<String, bytes::Bytes>) -> BTreeSet<String> {
    files.keys().filter(|key| registry::INDEX.parse(key).is_some()).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_new_image_changes_one_segment_and_the_setting_is_heeded() {
    let (input, output, engine) = (images(0..400).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    let before = segments(&data_set(output.as_ref()).await);
    assert!(before.len() > 3);
    input.put("apple/new.png", png(5_000)).await.unwrap();
    run(&stores, &engine, &small_shards(), "b").await.unwrap();
    let after = segments(&data_set(output.as_ref()).await);
    assert!(after.difference(&before).count() <= 2, "{after:?}");
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);

    let off = Settings { index: false, ..small_shards() };
    let version = run(&stores, &engine, &off, "c").await.unwrap().manifest;
    assert!(version.index.is_none() && segments(&data_set(output.as_ref()).await).is_empty());
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &off).await);
    assert!(run(&stores, &engine, &off, "d").await.unwrap().up_to_date);
    let version = run(&stores, &engine, &small_shards(), "e").await.unwrap().manifest;
    assert_eq!((version.figures.inferred, segments(&data_set(output.as_ref()).await)), (0, after));
    assert!(run(&stores, &engine, &small_shards(), "f").await.unwrap().up_to_date);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_segment_is_an_error_and_is_made_again_by_the_next_run() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let version = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
    let key = keys::index(&version.groups[1].id);
    let body = output.get(&key).await.unwrap();
    let query = Query::new(rows(output.as_ref(), &version).await[0].features.row(0).to_vec(), 5, Metric::Cosine);
    output.delete(&key).await.unwrap();
    let error = Finder::new(output.clone(), version.clone()).nearest(&query).await.unwrap_err();
    assert!(error.is(ErrorKind::DatasetCorrupt) && error.to_string().contains(&key), "{error}");
    let found = check(output.as_ref(), Depth::Files, Judge::default(), &Silent).await.unwrap();
    assert_eq!(found.problems.iter().map(|problem| problem.file.as_str()).collect::<Vec<_>>(), [key.as_str()]);
    run(&stores, &engine, &small_shards(), "b").await.unwrap();
    assert_eq!(output.get(&key).await.unwrap(), body);
    assert_eq!(dataset::current(output.as_ref()).await.unwrap().unwrap().version, version.version);
    assert_eq!(Finder::new(output.clone(), version).nearest(&query).await.unwrap().len(), 5);
}

/// The features of a row as the index stores them.
fn packed(row: &[f32]) -> Vec<u8> {
    let quanta: Vec<i32> = row.iter().map(|x| (f64::from(*x) * f64::from(1u32 << 20)) as i32).collect();
    let high = quanta.iter().flat_map(|x| ((x >> 8) as i16).to_le_bytes());
    high.chain(quanta.iter().map(|x| (x & 255) as u8)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_image_is_in_no_segment() {
    let (input, output, engine) = (images(0..100).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let person = "apple/jane-doe.png";
    input.put(person, png(4_711)).await.unwrap();
    let version = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
    let row = Finder::new(output.clone(), version).features_of(person).await.unwrap();
    let holders = || async {
        let mut holders = BTreeSet::new();
        for object in store::list_all(output.as_ref(), keys::INDEX).await.unwrap() {
            let body = output.get(&object.key).await.unwrap();
            let has = |needle: &[u8]| body.windows(needle.len()).any(|part| part == needle);
            if has(person.as_bytes()) || has(&packed(&row)) {
                assert!(has(person.as_bytes()) && has(&packed(&row)));
                holders.insert(object.key);
            }
        }
        holders
    };
    assert_eq!(holders().await.len(), 1);
    input.delete(person).await.unwrap();
    let erased = erase_image(&stores, &engine, person).await;
    assert!(erased.deleted.iter().any(|key| registry::INDEX.parse(key).is_some()));
    assert_eq!(holders().await, BTreeSet::new());
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// After any history, the segments are those of a fresh run.
    #[test]
    fn no_segment_depends_on_the_history(
        rounds in prop::collection::vec(prop::collection::vec((0u64..90, prop::option::of(0u64..60)), 1..10), 1..4),
        (shard_size, group_size) in (2u32..24, 1u32..200),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
            let settings =
                Settings { shard_size: Some(shard_size), group_size: Some(group_size), ..Settings::default() };
            for (i, round) in rounds.iter().enumerate() {
                for (at, of) in round {
                    match of {
                        Some(of) => input.put(&key(*at), png(*of)).await.unwrap(),
                        None => input.delete(&key(*at)).await.unwrap(),
                    }
                }
                run(&stores(&input, &output), &engine, &settings, &format!("run-{i}")).await.unwrap();
            }
            assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
        });
    }
}

/// The files of an output in a folder survive their deletion while they are open, as a vacuum may delete them.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_index_in_a_folder_answers_after_its_files_are_deleted() {
    let (folder, engine) = (tempfile::tempdir().unwrap(), engine("tiny", 2));
    let output: Arc<dyn Store> = Arc::new(FolderStore::new(folder.path()));
    let stores = Stores::new(images(0..80).await, output.clone());
    let version = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
    let query = Query::new(rows(output.as_ref(), &version).await[0].features.row(0).to_vec(), 5, Metric::Cosine);
    let finder = Finder::new(output, version);
    let before = finder.nearest(&query).await.unwrap();
    std::fs::remove_dir_all(Path::new(folder.path()).join("index")).unwrap();
    let again = Query { count: 3, ..query };
    assert_eq!(finder.nearest(&again).await.unwrap(), before[..3]);
}
