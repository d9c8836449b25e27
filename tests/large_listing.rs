//! Plans of very large buckets on a virtual clock: time and memory of each function. `POMONA_KEYS` has the numbers of keys
//! (`make scale-keys`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod common;
#[path = "common/memory.rs"]
mod memory;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use common::{
    bucket::{Bucket, Digests, Shape},
    clock::Clock,
    order,
};
use futures::{StreamExt, TryStreamExt, stream};
use memory::{alone, peak_of};
use pomona::{
    dataset::{
        Sealed,
        settings::{Mode, Settings},
    },
    model::{Decoding, ExtractorInfo, FeatureRange, embedded_info},
    stages::{self, CancellationToken, Limits, ListWork, PlanStep, Silent, Stores},
    store::{Store, list_all},
};
use sha2::{Digest, Sha256};

/// Most memory of one function, bytes.
const MEMORY: usize = 512 << 20;
/// Names of the files of a run that are not those of its plan.
const OTHERS: [&str; 4] = ["started.json", "listing.json", "finished.jsonl", "plan.json"];

fn info() -> ExtractorInfo {
    embedded_info(FeatureRange::default(), Decoding::Full)
}

fn keys() -> Vec<u64> {
    let given = std::env::var("POMONA_KEYS").unwrap_or_else(|_| "300000".to_owned());
    given.split(',').map(|number| number.parse().unwrap()).collect()
}

struct Place {
    clock: Clock,
    input: Arc<Bucket>,
    output: Arc<Digests>,
    stores: Stores,
}

impl Place {
    fn new(shape: Shape, objects: u64, listers: usize) -> Self {
        let clock = Clock::default();
        let (input, output) = (Arc::new(Bucket::new(shape, objects, listers, &clock)), Arc::new(Digests::new(&clock)));
        let stores = Stores { input: input.clone(), output: output.clone() };
        Place { clock, input, output, stores }
    }

    /// Digest of the files of the plan, and of the plan itself without times.
    fn digest(&self) -> (BTreeMap<String, String>, u64) {
        let output = self.output.inner.as_ref();
        self.clock.run(async {
            let mut digests = BTreeMap::new();
            for object in list_all(output, "runs/").await.unwrap() {
                let name = object.key.splitn(3, '/').nth(2).unwrap().to_owned();
                let body = output.get(&object.key).await.unwrap();
                if name == "plan.json" {
                    let mut plan: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    plan.as_object_mut().unwrap().retain(|name, _| name != "timing" && name != "sha256");
                    digests.insert(name, format!("{:x?}", Sha256::digest(plan.to_string())));
                } else if !OTHERS.contains(&name.as_str()) && !name.starts_with("list") {
                    digests.insert(name, format!("{:x?}", Sha256::digest(&body)));
                }
            }
            (digests, self.output.lists.lock().unwrap().1)
        })
    }

    fn report(&self, how: &str, peak: usize) -> f64 {
        let (seconds, requests) = (self.clock.now() as f64 / 1_000.0, self.input.requests.load(Relaxed));
        let (keys, peak) = (self.input.objects, peak >> 20);
        println!("{:?}, {keys} keys, {how}: {seconds:.1} s, {requests} requests, at most {peak} MB", self.input.shape);
        seconds
    }
}

/// All in one process. Returns the simulated seconds.
fn in_one_process(place: &Place) -> f64 {
    let order = order(&Settings::default(), Mode::default(), "many");
    let (info, stop) = (info(), CancellationToken::default());
    let plan = stages::plan(&place.stores, &info, order, &Silent, &stop);
    let (planned, peak) = peak_of(|| place.clock.run(plan).unwrap());
    assert_eq!(planned.objects, place.input.objects);
    assert!(peak < MEMORY, "{peak} bytes");
    place.report(&format!("{} listers in one process", place.input.listers()), peak)
}

/// In rounds of functions, each with some listers. Alone, each function's memory is measured; otherwise, they run at the
/// same time. Returns the simulated seconds.
fn in_rounds(place: &Place, limits: Limits, measured: bool) -> f64 {
    let order = order(&Settings::default(), Mode::default(), "many");
    let (info, stop, stores) = (info(), CancellationToken::default(), &place.stores);
    let (mut peak, mut functions) = (0, 0);
    loop {
        let step = stages::plan_step(stores, &info, order.clone(), limits, &Silent, &stop);
        let (step, used) = peak_of(|| place.clock.run(step).unwrap());
        peak = peak.max(used);
        let PlanStep::List(round) = step else { break };
        let text = place.clock.run(place.output.inner.get(&round.work_list)).unwrap();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let work: Vec<ListWork> = lines.map(|line| serde_json::from_slice::<Sealed<_>>(line).unwrap().0).collect();
        functions += work.len();
        let calls = work.into_iter().map(|work| stages::list(stores, work, &Silent, &stop));
        if measured {
            for call in calls {
                let (_, used) = peak_of(|| place.clock.run(call).unwrap());
                peak = peak.max(used);
            }
        } else {
            let all = stream::iter(calls).buffer_unordered(limits.listers).map_ok(drop).try_collect::<()>();
            place.clock.run(all).unwrap();
        }
    }
    assert!(!measured || peak < MEMORY, "{peak} bytes");
    let how = if measured { "one after the other" } else { "side by side" };
    place.report(&format!("{functions} functions {how}"), if measured { peak } else { 0 })
}

#[test]
fn a_large_bucket_is_planned_in_time_and_in_little_memory() {
    let _alone = alone();
    for objects in keys() {
        // The project's goals: a minute for 10 million keys, five for 100 million.
        let most = if objects > 10_000_000 { 300.0 } else { 60.0 };
        let shapes = if objects > 10_000_000 { &Shape::ALL[..1] } else { &Shape::ALL[..] };
        for shape in shapes {
            let one = Place::new(*shape, objects, 1);
            in_one_process(&one);
            let expected = one.digest();
            let many = Place::new(*shape, objects, 100);
            assert!(in_one_process(&many) < most);
            assert!(many.digest() == expected);
            // Small enough for several rounds in the usual test.
            let usual = Limits::default();
            let few = Limits { here: objects / 10, each: objects / 20, most: objects / 10, ..usual };
            let limits = if objects > 3_000_000 { usual } else { few };
            let rounds = Place::new(*shape, objects, 16);
            assert!(in_rounds(&rounds, limits, false) < most);
            assert!(rounds.digest() == expected);
            let measured = Place::new(*shape, objects, 16);
            in_rounds(&measured, limits, true);
            assert!(measured.digest() == expected);
        }
    }
}
