//! Listing with many listers: the plan of one, byte for byte, in less time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use common::{
    bucket::{Bucket, Digests, Shape},
    clock::Clock,
    order,
};
use pomona::{
    dataset::{
        settings::{Mode, Settings},
        shard::{Boundaries, ShardHasher, Sharder},
        tables::Compression,
    },
    model::{Decoding, ExtractorInfo, FeatureRange, embedded_info},
    stages::{self, CancellationToken, PlannedShard, Silent, Stores},
    store::{Store, list_all},
};

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

/// The files of a run. Times, and the seals over them, are left out.
async fn files(output: &dyn Store) -> BTreeMap<String, Bytes> {
    let mut files = BTreeMap::new();
    for object in list_all(output, "runs/").await.unwrap() {
        let mut body = output.get(&object.key).await.unwrap();
        if object.key.ends_with("plan.json") {
            let mut plan: serde_json::Value = serde_json::from_slice(&body).unwrap();
            plan.as_object_mut().unwrap().retain(|name, _| name != "timing" && name != "sha256");
            body = serde_json::to_vec(&plan).unwrap().into();
        }
        if !object.key.ends_with("started.json") {
            files.insert(object.key, body);
        }
    }
    files
}

fn plan(shape: Shape, objects: u64, listers: usize, settings: &Settings) -> Planning {
    let clock = Clock::default();
    let (input, output) = (Arc::new(Bucket::new(shape, objects, listers, &clock)), Arc::new(Digests::new(&clock)));
    let stores = Stores { input: input.clone(), output: output.clone() };
    let order = order(settings, Mode::default(), "many");
    let planned = clock.run(stages::plan(&stores, &info(), order, &Silent, &CancellationToken::default())).unwrap();
    assert_eq!((planned.objects, planned.objects_to_featurize), (objects, objects));
    let seconds = clock.now() as f64 / 1_000.0;
    let lists = *output.lists.lock().unwrap();
    Planning { files: clock.run(files(output.inner.as_ref())), seconds, requests: input.requests.load(Relaxed), lists }
}

/// Ids of the shards, as the cutter gives them for all keys in order.
fn expected(shape: Shape, objects: u64, settings: &Settings) -> Vec<String> {
    let bucket = Bucket::new(shape, objects, 1, &Clock::default());
    let hasher = ShardHasher::new(&info().id, Compression::Snappy);
    let mut sharder = Sharder::new(Boundaries::new(settings.shard_size()).unwrap(), hasher);
    let mut ids: Vec<_> = (0..objects).filter_map(|i| sharder.push(bucket.object(i))).map(|cut| cut.id).collect();
    ids.extend(sharder.finish().map(|cut| cut.id));
    ids.iter().map(ToString::to_string).collect()
}

fn planned_ids(files: &BTreeMap<String, Bytes>) -> Vec<String> {
    let lists = files.iter().filter(|(key, _)| key.contains("/shards-"));
    let lines = lists.flat_map(|(_, list)| list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()));
    lines.map(|line| serde_json::from_slice::<PlannedShard>(line).unwrap().id.to_string()).collect()
}

#[test]
fn many_listers_plan_what_one_plans_in_less_time() {
    let settings = Settings { shard_size: Some(64), group_size: Some(1_024), ..Settings::default() };
    for shape in Shape::ALL {
        let objects = 200_000;
        let one = plan(shape, objects, 1, &settings);
        assert_eq!(planned_ids(&one.files), expected(shape, objects, &settings), "{shape:?}");
        for listers in [2, 7, 40] {
            let many = plan(shape, objects, listers, &settings);
            println!(
                "{shape:?}: {listers} listers {:.1} s, {} requests; one {:.1} s, {} requests; {:?}",
                many.seconds, many.requests, one.seconds, one.requests, many.lists
            );
            assert!(one.files == many.files, "{shape:?} with {listers} listers");
            let most = one.seconds / listers as f64 * 1.6 + 5.0;
            assert!(many.seconds < most, "{shape:?} with {listers} listers: {} s of {}", many.seconds, one.seconds);
            assert!(many.requests < one.requests * 3 / 2 + 12 * listers as u64, "{shape:?}: {}", many.requests);
        }
    }
}
