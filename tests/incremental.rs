//! Later versions of a data set: kept bases, partial listings, vacuum, erasure, differences.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use crate::common::*;
use pomona::{
    ErrorKind,
    dataset::{
        self, FileRef, Manifest, VersionState, contents, inbox, keys,
        lease::Judge,
        settings::{ListingScope, Mode, Refit, Settings},
        tables,
    },
    ids::Version,
    model::WorkerPool,
    pca::ComponentSelection,
    stages::{self, CancellationToken, PlanInput, Silent, Stores},
    store::{MemoryStore, Store, get_opt, list_all},
    versions::{
        diff, erase,
        vacuum::{self, Action, Policy},
    },
};
use proptest::prelude::*;

const NEVER: Mode = Mode {
    refit: Refit::Never,
    rebuild: false,
    listing: ListingScope::All,
    upgrade: false,
    input_moved: false,
    accept_deletions: false,
};

async fn two() -> (Arc<MemoryStore>, Arc<MemoryStore>, Stores) {
    let (input, output) = (images(0..200).await, Arc::new(MemoryStore::new()));
    let stores = stores(&input, &output);
    (input, output, stores)
}

#[tokio::test(flavor = "multi_thread")]
async fn refit_never_keeps_old_scores_and_projects_only_changed_shards() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    let first = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
    let before = scores(output.as_ref(), &first).await;
    input.put(&key(300), png(300)).await.unwrap();
    input.put(&key(17), png(9_999)).await.unwrap();
    input.delete(&key(120)).await.unwrap();
    let kept = run_as(&stores, &engine, &small_shards(), NEVER, "b").await.unwrap().manifest;
    assert_eq!((kept.version.0, &kept.basis), (2, &first.basis));
    assert_eq!((kept.images, kept.figures.added, kept.figures.changed, kept.figures.removed), (200, 1, 1, 1));
    let after = scores(output.as_ref(), &kept).await;
    for (path, row) in &after {
        if *path != key(300) && *path != key(17) {
            assert_eq!(before.get(path), Some(row), "{path}");
        }
    }
    assert!(after.contains_key(&key(300)) && !after.contains_key(&key(120)));
    assert_ne!(before[&key(17)], after[&key(17)]);
    let reduced: stages::Reduced =
        dataset::read_record(output.as_ref(), &stages::Reduced::key(&run_id("b"))).await.unwrap();
    assert!(reduced.parts_to_project < reduced.parts / 2, "{} of {}", reduced.parts_to_project, reduced.parts);

    // Without a refit there is nothing to do. With one, the data set equals that of a fresh run.
    assert!(run_as(&stores, &engine, &small_shards(), NEVER, "c").await.unwrap().up_to_date);
    let fitted = run(&stores, &engine, &small_shards(), "d").await.unwrap();
    assert!(!fitted.up_to_date);
    assert_eq!((fitted.manifest.figures.inferred, fitted.manifest.figures.added), (0, 0));
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn refit_never_keeps_parts_in_label_folders_too() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    let settings = Settings { partition_by_label: Some(true), ..small_shards() };
    let first = run(&stores, &engine, &settings, "a").await.unwrap().manifest;
    input.put(&key(300), png(300)).await.unwrap();
    let kept = run_as(&stores, &engine, &settings, NEVER, "b").await.unwrap().manifest;
    assert_eq!(kept.basis, first.basis);
    let before = scores(output.as_ref(), &first).await;
    let mut after = scores(output.as_ref(), &kept).await;
    after.remove(&key(300)).unwrap();
    assert_eq!(before, after);
    let mut labels = Vec::new();
    for version in [&first, &kept] {
        let parts = parts(output.as_ref(), version).await;
        labels.push(parts.iter().filter_map(|k| k.key.split('/').nth(2).map(str::to_owned)).collect::<HashSet<_>>());
    }
    assert_eq!(labels[0], labels[1]);
}

async fn parts(output: &dyn Store, manifest: &Manifest) -> Vec<FileRef> {
    let parts = contents::parts(output, manifest).await.unwrap();
    parts.into_iter().flat_map(|part| part.scores).collect()
}

async fn scores(output: &dyn Store, manifest: &Manifest) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for file in parts(output, manifest).await {
        assert!(file.key.starts_with(&keys::pca(manifest.version)), "{}", file.key);
        let body = file.read(output).await.unwrap();
        let rows = tables::read_scores(body, manifest.basis.components, &file.key).unwrap();
        let each = rows.scores.outer_iter().map(|row| row.to_vec());
        all.extend(rows.paths.into_iter().zip(each));
    }
    assert_eq!(all.len() as u64, manifest.images);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_needs_a_rebuild_that_replaces_everything() {
    let (input, output, stores) = two().await;
    run(&stores, &engine("tiny", 2), &small_shards(), "a").await.unwrap();
    let other = engine("nhwc", 2);
    for mode in [Mode::default(), NEVER] {
        let error = run_as(&stores, &other, &small_shards(), mode, "b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DatasetSettingsChanged);
        assert!(error.to_string().contains("extractor: tiny (") && error.to_string().contains("-> nhwc ("), "{error}");
    }
    let mode = Mode { rebuild: true, ..NEVER };
    let made = run_as(&stores, &other, &small_shards(), mode, "c").await.unwrap().manifest;
    assert_eq!((made.figures.inferred, made.figures.added, made.figures.removed), (200, 200, 200));
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &other, &small_shards()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_counted_correctly_after_a_crashed_run() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    let first = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest.figures;
    assert_eq!((first.added, first.changed, first.removed), (200, 0, 0));
    for i in 300..310 {
        input.put(&key(i), png(i)).await.unwrap();
    }
    input.put(&key(3), png(777)).await.unwrap();
    input.delete(&key(99)).await.unwrap();
    // A run that crashes when all shards are finished.
    let dying = PlanInput { settings: small_shards(), ..PlanInput::new(run_id("dying")) };
    stages::plan(&stores, engine.extractor().info(), dying, &Silent, &CancellationToken::default()).await.unwrap();
    let lines = output.get(&keys::run(&run_id("dying"), "featurize.jsonl")).await.unwrap();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let dataset::Sealed(work) = serde_json::from_slice(line).unwrap();
        stages::featurize(&stores, &engine, work, &Silent, &CancellationToken::default()).await.unwrap();
    }
    let figures = run(&stores, &engine, &small_shards(), "next").await.unwrap().manifest.figures;
    assert_eq!((figures.inferred, figures.added, figures.changed, figures.removed), (0, 10, 1, 1));
}

/// What can happen to a bucket between two runs.
#[derive(Clone, Debug)]
enum Change {
    Upload(u64),
    Overwrite(u64),
    Delete(u64),
    Rename(u64, u64),
    /// Deletes all images between two keys, which can be whole shards.
    Clear(u64, u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0u64..260).prop_map(Change::Upload),
        2 => (0u64..260).prop_map(Change::Overwrite),
        2 => (0u64..260).prop_map(Change::Delete),
        2 => (0u64..260, 0u64..260).prop_map(|(a, b)| Change::Rename(a, b)),
        1 => (0u64..200, 0u64..60).prop_map(|(a, b)| Change::Clear(a, a + b)),
    ]
}

/// Makes the change and returns the keys that upload events would name.
async fn apply(input: &MemoryStore, change: &Change) -> Vec<String> {
    match change {
        Change::Upload(i) => {
            input.put(&key(*i), png(*i)).await.unwrap();
            vec![key(*i)]
        }
        Change::Overwrite(i) => {
            input.put(&key(*i), png(*i + 1_000)).await.unwrap();
            vec![key(*i)]
        }
        Change::Delete(i) => {
            input.delete(&key(*i)).await.unwrap();
            vec![key(*i)]
        }
        Change::Rename(from, to) => {
            if let Some(body) = get_opt(input, &key(*from)).await.unwrap() {
                input.delete(&key(*from)).await.unwrap();
                input.put(&key(*to), body).await.unwrap();
            }
            vec![key(*from), key(*to)]
        }
        Change::Clear(from, to) => {
            let keys: Vec<_> = (*from..*to).map(key).collect();
            for key in &keys {
                input.delete(key).await.unwrap();
            }
            keys
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A partial listing plans the same shards as a full one, for any order and any repetition of the notices.
    #[test]
    fn a_partial_listing_plans_the_same_as_a_full_one(
        rounds in prop::collection::vec(prop::collection::vec(change(), 1..12), 1..5),
        shard_size in 2u32..24,
        group_size in 1u32..200,
        bad in 0u64..260,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
            let settings =
                Settings { shard_size: Some(shard_size), group_size: Some(group_size), ..Settings::default() };
            input.put(&key(bad), "no image".into()).await.unwrap();
            let stores = stores(&input, &output);
            run(&stores, &engine, &settings, "first").await.unwrap();
            for (i, round) in rounds.iter().enumerate() {
                let mut noticed = BTreeSet::new();
                for change in round {
                    noticed.extend(apply(&input, change).await);
                }
                for key in &noticed {
                    inbox::add(output.as_ref(), &BTreeSet::from([key.clone()])).await.unwrap();
                }
                inbox::add(output.as_ref(), &noticed).await.unwrap();
                let plan = async |name: String, listing| {
                    let mode = Mode { listing, accept_deletions: true, ..Mode::default() };
                    let input = order(&settings, mode, &name);
                    stages::plan(&stores, engine.extractor().info(), input, &Silent, &CancellationToken::default()).await.unwrap();
                    let plan = get_opt(output.as_ref(), &stages::Plan::key(&run_id(&name))).await.unwrap();
                    let plan: Option<stages::Plan> = plan.map(|plan| serde_json::from_slice(&plan).unwrap());
                    // The lease of this run, which is not continued.
                    output.delete(&keys::started(&run_id(&name))).await.unwrap();
                    plan.map(|plan| (plan.objects, plan.groups.into_iter().map(|group| group.id).collect::<Vec<_>>()))
                };
                let whole = plan(format!("whole-{i}"), ListingScope::All).await;
                let partial = plan(format!("partial-{i}"), ListingScope::Changed).await;
                assert_eq!(whole, partial);
                let mode = Mode { listing: ListingScope::Changed, accept_deletions: true, ..Mode::default() };
                run_as(&stores, &engine, &settings, mode, &format!("run-{i}")).await.unwrap();
                assert!(list_all(output.as_ref(), keys::INBOX).await.unwrap().is_empty());
            }
            assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_listing_lists_few_objects() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    run(&stores(&input, &output), &engine, &small_shards(), "a").await.unwrap();
    input.put(&key(77), png(5_000)).await.unwrap();
    inbox::add(output.as_ref(), &BTreeSet::from([key(77)])).await.unwrap();
    let counting = Arc::new(stores::Counting { inner: input.clone(), gate: stores::Counts::default() });
    let stores = Stores { input: counting.clone(), output: output.clone() };
    let mode = Mode { listing: ListingScope::Changed, ..Mode::default() };
    let figures = run_as(&stores, &engine, &small_shards(), mode, "c").await.unwrap().manifest.figures;
    assert_eq!((figures.inferred, figures.changed), (1, 1));
    let listed = counting.gate.listed.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..80).contains(&listed), "{listed} of 200 objects were listed");
}

fn everything(keep_versions: usize) -> Policy {
    Policy { keep_versions, older_than_days: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_keeps_complete_versions_and_deletes_the_rest() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    for round in 0..4 {
        input.put(&key(400 + round), png(round)).await.unwrap();
        input.delete(&key(round * 30)).await.unwrap();
        run(&stores, &engine, &small_shards(), &format!("r{round}")).await.unwrap();
    }
    output.put("partials/0123.parquet", "half".into()).await.unwrap();
    output.put("notes-of-mine.txt", "not Pomona's".into()).await.unwrap();
    let all = dataset::published(output.as_ref()).await.unwrap();
    let kept: Vec<_> = [&all[2], &all[3]].into_iter().cloned().collect();
    let mut before = Vec::new();
    for manifest in &kept {
        before.push(data_set_of(output.as_ref(), manifest).await);
    }
    let everything_there = list_all(output.as_ref(), "").await.unwrap();
    let planned =
        vacuum::vacuum(output.as_ref(), everything(2), Action::DryRun, Judge::default(), &|_| {}).await.unwrap();
    assert_eq!(list_all(output.as_ref(), "").await.unwrap(), everything_there, "a dry run deletes nothing");
    let done = vacuum::vacuum(output.as_ref(), everything(2), Action::Delete, Judge::default(), &|_| {}).await.unwrap();
    assert_eq!(planned, done);
    assert_eq!((done.kept.len(), done.removed.len()), (2, 2));
    for (manifest, files) in kept.iter().zip(&before) {
        assert_eq!(&data_set_of(output.as_ref(), manifest).await, files);
    }
    let mut named = HashSet::new();
    for manifest in &kept {
        named.extend(contents::files(output.as_ref(), manifest).await.unwrap().into_iter().map(|file| file.key));
    }
    named.extend(["pomona.json".to_owned(), "notes-of-mine.txt".to_owned()]);
    for object in list_all(output.as_ref(), "").await.unwrap() {
        let of_kept_run = kept.iter().any(|m| object.key.starts_with(&format!("runs/{}/", m.run)));
        assert!(named.contains(&object.key) || object.key.starts_with("versions/") || of_kept_run, "{}", object.key);
    }
    assert_eq!(
        dataset::state(output.as_ref(), Version(1)).await.unwrap(),
        VersionState::Removed { version: Version(1) }
    );
    let error = dataset::version(output.as_ref(), Some(1)).await.unwrap_err();
    assert!(error.to_string().contains("has been removed"), "{error}");
    // The next run reuses the kept shards.
    input.put(&key(500), png(500)).await.unwrap();
    let figures = run(&stores, &engine, &small_shards(), "next").await.unwrap().manifest.figures;
    assert_eq!(figures.inferred, 1);
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn young_versions_are_kept() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    input.put(&key(400), png(1)).await.unwrap();
    run(&stores, &engine, &small_shards(), "b").await.unwrap();
    let policy = Policy { keep_versions: 1, older_than_days: 1 };
    let done = vacuum::vacuum(output.as_ref(), policy, Action::Delete, Judge::default(), &|_| {}).await.unwrap();
    assert_eq!((done.kept.len(), done.removed.len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_and_a_run_exclude_each_other() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    input.put(&key(400), png(1)).await.unwrap();
    let planned = order(&small_shards(), Mode::default(), "going");
    stages::plan(&stores, engine.extractor().info(), planned, &Silent, &CancellationToken::default()).await.unwrap();
    let error =
        vacuum::vacuum(output.as_ref(), everything(1), Action::Delete, Judge::default(), &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetBusy);
    assert!(error.to_string().contains("going"), "{error}");
    assert!(get_opt(output.as_ref(), keys::LOCK).await.unwrap().is_none());

    // Leases of crashed runs and vacuums expire.
    let old = r#"{"at": "2020-01-01T00:00:00Z"}"#;
    output.put(&keys::started(&run_id("going")), old.into()).await.unwrap();
    output.put(keys::LOCK, old.into()).await.unwrap();
    vacuum::vacuum(output.as_ref(), everything(1), Action::Delete, Judge::default(), &|_| {}).await.unwrap();

    let now =
        dataset::to_json(&serde_json::json!({"at": dataset::published(output.as_ref()).await.unwrap()[0].finished}));
    output.put(keys::LOCK, now.unwrap()).await.unwrap();
    assert_eq!(run(&stores, &engine, &small_shards(), "b").await.unwrap_err().kind(), ErrorKind::DatasetBusy);
    let error =
        vacuum::vacuum(output.as_ref(), everything(1), Action::Delete, Judge::default(), &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetBusy);
    output.delete(keys::LOCK).await.unwrap();
    run(&stores, &engine, &small_shards(), "c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_run_does_not_publish_below_removed_versions() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    let first = run(&stores, &engine, &small_shards(), "a").await.unwrap().manifest;
    let mut slow = first.clone();
    slow.version = dataset::claim(output.as_ref(), &run_id("slow")).await.unwrap();
    (slow.parent, slow.run) = (Some(first.version), run_id("slow"));
    for i in 0..3 {
        input.put(&key(400 + i), png(i)).await.unwrap();
        run(&stores, &engine, &small_shards(), &format!("fast-{i}")).await.unwrap();
    }
    vacuum::vacuum(output.as_ref(), everything(1), Action::Delete, Judge::default(), &|_| {}).await.unwrap();
    let error = dataset::commit(output.as_ref(), slow).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetConflict);
}

async fn erase_keys(stores: &Stores, engine: &WorkerPool, keys: &[String]) -> pomona::Result<erase::Erased> {
    let (run, mode, action) = (run_id("erase"), Mode::default(), Action::Delete);
    let input = erase::EraseInput { run, keys: keys.iter().cloned().collect(), mode, action };
    erase::erase(stores, engine, input, Judge::default(), &Silent, &CancellationToken::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_image_is_in_no_byte_of_the_output() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let settings = Settings { csv: true, ..small_shards() };
    let stores = stores(&input, &output);
    let person = "apple/00010-jane-doe.png".to_owned();
    run(&stores, &engine, &settings, "before").await.unwrap();
    input.put(&person, png(4_711)).await.unwrap();
    input.put("apple/00011-john.png", png(4_712)).await.unwrap();
    run(&stores, &engine, &settings, "with").await.unwrap();
    output.put("partials/x.parquet", "apple/00010-jane-doe.png".into()).await.unwrap();

    let error = erase_keys(&stores, &engine, std::slice::from_ref(&person)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InputInvalid);
    assert!(error.to_string().contains("still in the input"), "{error}");
    input.delete(&person).await.unwrap();
    inbox::add(output.as_ref(), &BTreeSet::from([person.clone()])).await.unwrap();
    let erased = erase_keys(&stores, &engine, std::slice::from_ref(&person)).await.unwrap();
    assert_eq!((erased.version.0, erased.rewritten, erased.removed_versions), (3, true, vec![Version(2)]));
    assert!(!erased.checked.is_empty() && !erased.deleted.is_empty());
    for object in list_all(output.as_ref(), "").await.unwrap() {
        let bytes = output.get(&object.key).await.unwrap();
        let found = bytes.windows(8).any(|window| window == b"jane-doe");
        assert!(!found, "{} still names the image", object.key);
    }
    let versions: Vec<u64> = dataset::published(output.as_ref()).await.unwrap().iter().map(|m| m.version.0).collect();
    assert_eq!(versions, [1, 3], "a version that never held the image stays");
    data_set_of(output.as_ref(), &dataset::version(output.as_ref(), Some(1)).await.unwrap()).await;
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);

    let again = erase_keys(&stores, &engine, &[person]).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InputUnknownKey);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_names_keys_and_the_angle_between_the_subspaces() {
    let ((input, output, stores), engine) = (two().await, engine("tiny", 2));
    let settings = Settings { pca: Some(ComponentSelection::Components(3)), ..small_shards() };
    let one = run(&stores, &engine, &settings, "a").await.unwrap().manifest;
    input.put(&key(300), png(300)).await.unwrap();
    input.put(&key(17), png(9_999)).await.unwrap();
    input.delete(&key(120)).await.unwrap();
    let two = run(&stores, &engine, &settings, "b").await.unwrap().manifest;
    let diff = diff::diff(output.as_ref(), &one, &two).await.unwrap();
    assert_eq!((diff.added, diff.changed, diff.removed), (vec![key(300)], vec![key(17)], vec![key(120)]));
    let angles = diff.angles.unwrap();
    assert_eq!(angles.len(), 3);
    assert!(angles[0] < 20.0 && angles[2] > 1e-3 && angles.is_sorted(), "{angles:?}");
    let same = diff::diff(output.as_ref(), &two, &two).await.unwrap();
    assert!(same.added.is_empty() && same.changed.is_empty() && same.removed.is_empty());
    assert!(same.angles.unwrap().iter().all(|angle| *angle < 1e-4));
}
