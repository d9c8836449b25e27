//! The Delta log: after any history, vacuum, erasure and repair, it says what the versions are.

use std::{collections::BTreeMap, sync::Arc};

use crate::common::*;
use pomona::{
    dataset::{self, contents, lease::Judge, settings::Settings},
    ids::Version,
    stages::Silent,
    store::{MemoryStore, Store, list_all},
    versions::{
        check::{Checked, Depth, check},
        vacuum::{Action, Policy, vacuum},
    },
};
use proptest::prelude::*;

fn settings() -> Settings {
    Settings { delta: Some(true), shard_size: Some(8), ..Settings::default() }
}

/// The files of each version of the table, as a reader of Delta finds them.
async fn replay(output: &dyn Store) -> BTreeMap<u64, Vec<(String, u64)>> {
    let (mut files, mut versions) = (BTreeMap::new(), BTreeMap::new());
    for (object, number) in list_all(output, "delta/_delta_log/").await.unwrap().iter().zip(0u64..) {
        assert_eq!(object.key, format!("delta/_delta_log/{number:020}.json"));
        let body = output.get(&object.key).await.unwrap();
        for line in std::str::from_utf8(&body).unwrap().lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(path) = action["remove"]["path"].as_str() {
                assert!(files.remove(path).is_some(), "{path} was not there");
            }
            if let Some(path) = action["add"]["path"].as_str() {
                let known = files.insert(path.to_owned(), action["add"]["size"].as_u64().unwrap());
                assert!(known.is_none(), "{path} is added twice");
            }
        }
        versions.insert(number, files.clone().into_iter().collect());
    }
    versions
}

/// Compares the log with all published versions.
async fn expect_true(output: &dyn Store) {
    let table = replay(output).await;
    for manifest in dataset::published(output).await.unwrap() {
        let shards = contents::shards(output, &manifest).await.unwrap();
        let mut files: Vec<(String, u64)> = Vec::new();
        for shard in shards.iter().filter(|shard| shard.rows > 0) {
            let name = format!("{}.parquet", shard.id);
            assert_eq!(
                output.get(&format!("delta/{name}")).await.unwrap(),
                shard.features().unwrap().read(output).await.unwrap()
            );
            files.push((name, shard.features.as_ref().unwrap().bytes));
        }
        files.sort();
        assert_eq!(table[&manifest.version.0], files, "version {}", manifest.version);
    }
    let found = checked(output).await;
    assert!(found.problems.is_empty() && found.unknown.is_empty(), "{:?}", found.problems);
}

async fn checked(output: &dyn Store) -> Checked {
    check(output, Depth::Files, Judge::default(), &Silent).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn the_log_is_true_after_any_history(
        rounds in prop::collection::vec(prop::collection::vec((0u64..50, 0u64..60), 1..8), 1..5),
        (keep, erased) in (1usize..4, 0u64..30),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (input, output, engine) = (images(0..30).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
            let stores = stores(&input, &output);
            run(&stores, &engine, &settings(), "first").await.unwrap();
            for (i, round) in rounds.iter().enumerate() {
                for (to, of) in round {
                    if of % 4 == 0 { input.delete(&key(*to)).await.unwrap() } else { input.put(&key(*to), png(*of)).await.unwrap() }
                }
                // The setting stays until it is taken back.
                let order = Settings { delta: None, ..settings() };
                run(&stores, &engine, &order, &format!("run-{i}")).await.unwrap();
                expect_true(output.as_ref()).await;
            }
            let policy = Policy { keep_versions: keep, older_than_days: 0 };
            vacuum(output.as_ref(), policy, Action::Delete, Judge::default(), &|_| ()).await.unwrap();
            expect_true(output.as_ref()).await;
            if input.get(&key(erased)).await.is_ok() {
                input.delete(&key(erased)).await.unwrap();
                erase_image(&stores, &engine, &key(erased)).await;
                expect_true(output.as_ref()).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_mends_what_a_killed_one_has_left() {
    let (input, output, engine) = (images(0..20).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &settings(), "a").await.unwrap();
    let commit = format!("delta/_delta_log/{:020}.json", 1);
    let body = output.get(&commit).await.unwrap();
    // Killed between the publication and the commit of the log.
    output.delete(&commit).await.unwrap();
    assert_eq!(checked(output.as_ref()).await.problems.len(), 1);
    assert!(run(&stores, &engine, &settings(), "b").await.unwrap().up_to_date);
    assert_eq!(output.get(&commit).await.unwrap(), body);
    expect_true(output.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_without_the_setting_change_nothing_in_the_table() {
    let (input, output, engine) = (images(0..20).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &Settings { delta: None, ..settings() }, "a").await.unwrap();
    assert!(list_all(output.as_ref(), "delta/").await.unwrap().is_empty());
    let second = run(&stores, &engine, &settings(), "b").await.unwrap();
    assert!(!second.up_to_date);
    let table = replay(output.as_ref()).await;
    assert_eq!((table.len(), table[&1].len()), (3, 0));
    input.put(&key(90), png(90)).await.unwrap();
    let third = run(&stores, &engine, &Settings { delta: Some(false), ..settings() }, "c").await.unwrap().manifest;
    assert_eq!((third.version, third.settings.delta), (Version(3), None));
    assert_eq!(replay(output.as_ref()).await.len(), 3);
}
