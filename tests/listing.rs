//! Listing with many listers: the plan of one, byte for byte, in less time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
};

use crate::common::{
    bucket::{Bucket, Digests, Shape},
    clock::Clock,
    inputs::Input,
    moving::Moving,
    order,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pomona::{
    Result,
    dataset::{
        Sealed,
        labelling::{LabelRules, Labelling},
        settings::{Mode, Settings},
        shard::{Boundaries, ShardHasher, Sharder},
        tables::Compression,
    },
    model::{Decoding, ExtractorInfo, FeatureRange, embedded_info},
    stages::{
        self, CancellationToken, Limits, ListWork, PlanInput, PlanStep, Planned, PlannedShard, ShardWork, Silent,
        Stores,
    },
    store::{FolderStore, MemoryStore, Middle, Object, Store, list_all},
};
use proptest::prelude::*;

fn by_folder() -> Arc<Labelling> {
    Arc::new(Labelling::new(&LabelRules::default()).unwrap())
}

fn info() -> ExtractorInfo {
    embedded_info(FeatureRange::default(), Decoding::Full)
}

/// The files of a plan without times and seals, and what it took.
struct Planning {
    files: BTreeMap<String, Bytes>,
    seconds: f64,
    requests: u64,
    lists: (u64, u64),
}

/// The files of a run. Times, and the seals over them, are left out, and what rounds of listers leave.
async fn files(output: &dyn Store) -> BTreeMap<String, Bytes> {
    let mut files = BTreeMap::new();
    for object in list_all(output, "runs/").await.unwrap() {
        let mut body = output.get(&object.key).await.unwrap();
        let name = object.key.splitn(3, '/').nth(2).unwrap();
        if name == "plan.json" {
            let mut plan: serde_json::Value = serde_json::from_slice(&body).unwrap();
            plan.as_object_mut().unwrap().retain(|name, _| name != "timing" && name != "sha256");
            body = serde_json::to_vec(&plan).unwrap().into();
        }
        if !["started.json", "listing.json", "finished.jsonl"].contains(&name) && !name.starts_with("list") {
            files.insert(object.key, body);
        }
    }
    files
}

/// Whose functions list.
#[derive(Clone, Copy, Debug)]
enum How {
    InOneProcess,
    InRounds(Limits),
}

/// Plans, and returns how many functions have listed.
async fn make_plan(stores: &Stores, input: PlanInput, how: How) -> Result<(Planned, u64)> {
    let (info, stop, mut functions) = (info(), CancellationToken::default(), 0);
    let How::InRounds(limits) = how else {
        return Ok((stages::plan(stores, &info, input, &Silent, &stop).await?, 0));
    };
    loop {
        let round = match stages::plan_step(stores, &info, input.clone(), limits, &Silent, &stop).await? {
            PlanStep::Planned(planned) => return Ok((planned, functions)),
            PlanStep::List(round) => round,
        };
        // The answer was lost, so the function is called again.
        let again = stages::plan_step(stores, &info, input.clone(), limits, &Silent, &stop).await?;
        assert_eq!(again, PlanStep::List(round.clone()));
        let work = work_list::<ListWork>(stores.output.as_ref(), &round.work_list).await;
        assert_eq!(work.len() as u64, round.listers);
        functions += round.listers;
        assert!(work.len() <= limits.listers && functions < 10_000, "{functions} functions");
        // Each line twice, one of them later: a function that is retried.
        let calls: Vec<_> = work
            .iter()
            .chain(work.iter().take(3))
            .map(|work| {
                let (work, stop) = (work.clone(), &stop);
                async move { stages::list(stores, work, &Silent, stop).await.map(drop) }
            })
            .collect();
        stream::iter(calls).buffer_unordered(limits.listers).try_collect::<()>().await?;
    }
}

async fn work_list<T: serde::de::DeserializeOwned + serde::Serialize>(output: &dyn Store, key: &str) -> Vec<T> {
    let text = output.get(key).await.unwrap();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice::<Sealed<T>>(line).unwrap().0).collect()
}

fn plan(shape: Shape, objects: u64, listers: usize, settings: &Settings, how: How) -> Planning {
    let clock = Clock::default();
    let (input, output) = (Arc::new(Bucket::new(shape, objects, listers, &clock)), Arc::new(Digests::new(&clock)));
    let stores = Stores { input: input.clone(), output: output.clone() };
    let order = order(settings, Mode::default(), "many");
    let (planned, functions) = clock.run(make_plan(&stores, order, how)).unwrap();
    assert_eq!((planned.objects, planned.objects_to_featurize), (objects, objects));
    let seconds = clock.now() as f64 / 1_000.0;
    let (requests, lists) = (input.requests.load(Relaxed), *output.lists.lock().unwrap());
    println!(
        "{shape:?}, {objects} objects, {listers} listers, {functions} functions: {seconds:.1} s, {requests} requests"
    );
    Planning { files: clock.run(files(output.inner.as_ref())), seconds, requests, lists }
}

/// Ids of the shards, as the cutter gives them for all keys in order.
fn expected(shape: Shape, objects: u64, settings: &Settings) -> Vec<String> {
    let bucket = Bucket::new(shape, objects, 1, &Clock::default());
    let hasher = ShardHasher::new(&info().id, Compression::Snappy);
    let mut sharder = Sharder::new(Boundaries::new(settings.shard_size()).unwrap(), hasher, by_folder());
    let mut ids: Vec<_> = (0..objects).filter_map(|i| sharder.push(bucket.object(i))).map(|cut| cut.id).collect();
    ids.extend(sharder.finish().map(|cut| cut.id));
    ids.iter().map(ToString::to_string).collect()
}

fn planned_ids(files: &BTreeMap<String, Bytes>) -> Vec<String> {
    let lists = files.iter().filter(|(key, _)| key.contains("/shards-"));
    let lines = lists.flat_map(|(_, list)| list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()));
    lines.map(|line| serde_json::from_slice::<PlannedShard>(line).unwrap().id.to_string()).collect()
}

fn small() -> Settings {
    Settings { shard_size: Some(64), group_size: Some(1_024), ..Settings::default() }
}

#[test]
fn many_listers_plan_what_one_plans_in_less_time() {
    let objects = 200_000;
    for shape in Shape::ALL {
        let one = plan(shape, objects, 1, &small(), How::InOneProcess);
        assert_eq!(planned_ids(&one.files), expected(shape, objects, &small()), "{shape:?}");
        for listers in [2, 7, 40] {
            let many = plan(shape, objects, listers, &small(), How::InOneProcess);
            assert!(one.files == many.files && one.lists == many.lists, "{shape:?} with {listers} listers");
            // On the virtual clock: the first divisions of 200 pages take time that more pages would hide.
            let most = one.seconds / listers as f64 * 1.6 + 10.0;
            assert!(many.seconds < most, "{shape:?} with {listers} listers: {} s of {}", many.seconds, one.seconds);
            assert!(many.requests < one.requests * 3 / 2 + 12 * listers as u64, "{shape:?}: {}", many.requests);
        }
    }
}

#[test]
fn rounds_of_functions_plan_what_one_process_plans() {
    let limits = Limits { here: 20_000, each: 10_000, most: 30_000, listers: 12 };
    for shape in Shape::ALL {
        let one = plan(shape, 200_000, 1, &small(), How::InOneProcess);
        for listers in [1, 4] {
            let many = plan(shape, 200_000, listers, &small(), How::InRounds(limits));
            assert!(one.files == many.files, "{shape:?} with {listers} listers");
            assert!(many.seconds < one.seconds, "{shape:?}: {} s of {}", many.seconds, one.seconds);
        }
    }
}

/// The objects of a plan, and the ids of their shards, in order.
async fn planned(output: &dyn Store, planned: &Planned) -> (Vec<Object>, Vec<String>) {
    let (mut objects, mut ids) = (Vec::new(), Vec::new());
    for work in work_list::<ShardWork>(output, &planned.work_list).await {
        let lines = work.objects.offset..work.objects.offset + work.objects.length;
        let lines = output.get_range(&work.objects.key, lines).await.unwrap();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        objects.extend(lines.map(|line| serde_json::from_slice::<Object>(line).unwrap()));
        ids.push(work.shard.to_string());
    }
    (objects, ids)
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]/[a-c]{0,2}[0-9]{1,3}",
        "[a-f0-9]{2,4}",
        "x/y/z/[0-9]{1,2}/[a-zé漢~ ]{1,2}",
        "[ -~&&[^/.]]{1,3}",
        "(a|a-|a\\.|a/b)/?[0-9]?\\.?jpg",
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_that_was_taken_back_stays_so_in_later_rounds() {
    let input = crate::common::images(0..200).await;
    let of_base = Settings {
        label_depth: Some(1),
        split_pattern: Some("(?<split>p)".to_owned()),
        ..crate::common::small_shards()
    };
    let back = Settings { label_depth: Some(0), split_pattern: Some(String::new()), ..crate::common::small_shards() };
    let limits = Limits { here: 20, each: 20, most: 60, listers: 4 };
    let mut planned = Vec::new();
    for how in [How::InOneProcess, How::InRounds(limits)] {
        let output = Arc::new(MemoryStore::new());
        let stores = Stores { input: input.clone(), output: output.clone() };
        crate::common::run(&stores, &crate::common::engine("tiny", 1), &of_base, "base").await.unwrap();
        let order = order(&back, Mode { rebuild: true, ..Mode::default() }, "many");
        let (made, functions) = make_plan(&stores, order, how).await.unwrap();
        assert_eq!(functions > 0, matches!(how, How::InRounds(_)));
        let plan: serde_json::Value =
            serde_json::from_slice(&output.get("runs/many/plan.json").await.unwrap()).unwrap();
        planned.push((plan["settings"].clone(), work_list::<ShardWork>(output.as_ref(), &made.work_list).await));
    }
    assert!(planned[0] == planned[1], "{} {}", planned[0].0, planned[1].0);
}

#[test]
fn a_call_that_was_killed_before_its_last_write_is_repeated() {
    let clock = Clock::default();
    let input = Input(Moving {
        inner: MemoryStore::new(),
        page: 7,
        listers: 2,
        volatile: Vec::new(),
        clock: clock.clone(),
        random: Mutex::new(fastrand::Rng::with_seed(1)),
    });
    let planned = clock.run(async {
        for i in 0..200 {
            input.inner.put(&crate::common::key(i), Bytes::new()).await.unwrap();
        }
        let output = Arc::new(MemoryStore::new());
        let stores = Stores { input: Arc::new(input), output: output.clone() };
        let (info, stop, order) = (info(), CancellationToken::default(), order(&small(), Mode::default(), "many"));
        let limits = |here| Limits { here, each: 20, most: 60, listers: 4 };
        let first = stages::plan_step(&stores, &info, order.clone(), limits(20), &Silent, &stop).await.unwrap();
        assert!(matches!(first, PlanStep::List(_)));
        output.delete("runs/many/listing.json").await.unwrap();
        // The second call is faster, and lists more before it stops.
        let again = stages::plan_step(&stores, &info, order.clone(), limits(120), &Silent, &stop).await.unwrap();
        assert!(matches!(again, PlanStep::List(_)));
        make_plan(&stores, order, How::InRounds(limits(120))).await.map(|(planned, _)| planned.objects)
    });
    assert_eq!(planned.unwrap(), 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// A listing is not atomic. What it found is planned as one lister would plan it, and each key is found at most once;
    /// keys that were there all the time are found.
    #[test]
    fn a_changing_input_is_planned_as_it_was_found(
        stable in prop::collection::btree_set(key(), 1..250),
        volatile in prop::collection::btree_set(key(), 0..60),
        (page, listers, shard_size) in (1usize..12, 1usize..9, 1u32..24),
        (here, each, most, functions) in (1u64..60, 1u64..40, 1u64..60, 1usize..6),
        (seed, rounds) in (any::<u64>(), any::<bool>()),
    ) {
        let clock = Clock::default();
        let settings = Settings { shard_size: Some(shard_size), group_size: Some(shard_size * 4), ..Settings::default() };
        let visible = |key: &&String| !key.ends_with('/') && !key.split('/').any(|part| part.starts_with('.'));
        let volatile: Vec<String> = volatile.difference(&stable).cloned().collect();
        let input = Input(Moving {
            inner: MemoryStore::new(),
            page,
            listers,
            volatile: volatile.clone(),
            clock: clock.clone(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        let (stores, found, ids) = clock.run(async {
            for key in &stable {
                input.inner.put(key, Bytes::new()).await.unwrap();
            }
            let stores = Stores { input: Arc::new(input), output: Arc::new(MemoryStore::new()) };
            let limits = Limits { here, each, most, listers: functions };
            let how = if rounds { How::InRounds(limits) } else { How::InOneProcess };
            match make_plan(&stores, order(&settings, Mode::default(), "moving"), how).await {
                Ok((plan, _)) => {
                    let (objects, ids) = planned(stores.output.as_ref(), &plan).await;
                    assert_eq!(plan.objects, objects.len() as u64);
                    (stores, objects, ids)
                }
                Err(e) => {
                    assert!(e.is(pomona::ErrorKind::InputEmpty) && !stable.iter().any(|key| visible(&key)), "{e}");
                    (stores, Vec::new(), Vec::new())
                }
            }
        });
        let keys: Vec<&String> = found.iter().map(|object| &object.key).collect();
        prop_assert!(keys.is_sorted_by(|a, b| a < b), "a key comes twice, or not in its order");
        let all: BTreeSet<&String> = stable.iter().chain(&volatile).filter(visible).collect();
        prop_assert!(keys.iter().all(|key| all.contains(*key)));
        let missing: Vec<_> = stable.iter().filter(visible).filter(|key| keys.binary_search(key).is_err()).collect();
        prop_assert!(missing.is_empty(), "{missing:?} not found");
        let hasher = ShardHasher::new(&info().id, Compression::Snappy);
        let mut sharder = Sharder::new(Boundaries::new(shard_size).unwrap(), hasher, by_folder());
        let mut expected: Vec<_> = found.into_iter().filter_map(|object| sharder.push(object)).collect();
        expected.extend(sharder.finish());
        prop_assert_eq!(ids, expected.iter().map(|cut| cut.id.to_string()).collect::<Vec<_>>());
        drop(stores);
    }
}

/// A folder that is listed by one lister.
#[derive(Debug)]
struct Alone(FolderStore);

#[async_trait::async_trait]
impl Store for Alone {
    fn location(&self) -> String {
        self.0.location()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> stream::BoxStream<'a, Result<Vec<Object>>> {
        self.0.list(prefix, after)
    }
    async fn get(&self, key: &str) -> Result<Bytes> {
        self.0.get(key).await
    }
    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        self.0.get_listed(object).await
    }
    async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        self.0.get_range(key, range).await
    }
    async fn put_stream(&self, key: &str, body: stream::BoxStream<'_, Result<Bytes>>) -> Result<()> {
        self.0.put_stream(key, body).await
    }
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        self.0.put_if_absent(key, body).await
    }
    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        self.0.replace(listed, body).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_listed_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(15);
    let parts = ["a", "a-", "a.b", "é", "ab", "x%20", "0", "zz", "m m"];
    for i in 0..700 {
        let depth = random.usize(1..4);
        let folder = (0..depth).fold(dir.path().to_owned(), |path, _| path.join(parts[random.usize(..parts.len())]));
        fs::create_dir_all(&folder).unwrap();
        for j in 0..random.usize(..20) {
            fs::write(folder.join(format!("{}{i}-{j}.png", parts[j % parts.len()])), [0; 3]).unwrap();
        }
    }
    std::os::unix::fs::symlink(dir.path().join("zz"), dir.path().join("b")).unwrap();
    let inputs: [Arc<dyn Store>; 2] =
        [Arc::new(Alone(FolderStore::new(dir.path()))), Arc::new(FolderStore::new(dir.path()))];
    assert!(inputs[0].listers() == 1 && inputs[1].listers() > 1);
    let mut plans = Vec::new();
    for input in inputs {
        let stores = Stores { input, output: Arc::new(MemoryStore::new()) };
        make_plan(&stores, order(&small(), Mode::default(), "folder"), How::InOneProcess).await.unwrap();
        let mut files = files(stores.output.as_ref()).await;
        // It names the place, which the wrapper writes otherwise.
        files.retain(|key, _| !key.ends_with("plan.json"));
        plans.push(files);
    }
    assert!(plans[0].len() > 5 && plans[0] == plans[1]);
}

#[tokio::test]
async fn a_folder_is_divided_where_a_folder_begins() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["a", "b/x", "b/y", "b/z", "c"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("1.png"), []).unwrap();
    }
    let store = FolderStore::new(dir.path());
    let key = |key: &str| Middle::Key(key.to_owned());
    for (after, until, expected) in [
        ("a/1.png", None, key("c/")),
        ("a/1.png", Some("c/"), key("b/")),
        ("b/x/1.png", Some("c/"), key("b/z/")),
        ("b/x/1.png", Some("b/z/"), key("b/y/")),
        ("b/z/1.png", Some("c/"), Middle::Whole),
        ("c/1.png", None, Middle::Whole),
        ("gone/x/1.png", None, Middle::Whole),
        ("c", None, key("c/")),
    ] {
        assert_eq!(store.middle(after, until).await.unwrap(), expected, "{after} {until:?}");
    }
}
