//! The requests of a run, counted by its stores, are those of the estimate and of the receipt.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::common::{
    stores::{Gate, Gated},
    *,
};
use crate::packs::File;
use bytes::Bytes;
use pomona::{
    cost::estimate::{Counts, Lines, Workload, requests},
    dataset::{
        Sealed,
        settings::{Mode, Settings},
        timing::Timer,
    },
    report::{self, ReportInput},
    stages::{
        self, CancellationToken, Limits, ListWork, MergeWork, PartWork, PlanInput, PlanStep, Planned, RunInput,
        ShardWork, Silent, Stores,
    },
    store::{MemoryStore, Store},
};
use serde::{Serialize, de::DeserializeOwned};

/// Counts requests by their price in S3: PUT and LIST, and GET. Deletions are free.
#[derive(Debug, Default)]
struct Requests {
    puts: AtomicU64,
    gets: AtomicU64,
}

impl Gate for Requests {
    fn page(&self) {
        self.puts.fetch_add(1, Relaxed);
    }
    fn written(&self) {
        self.puts.fetch_add(1, Relaxed);
    }
    fn read(&self) {
        self.gets.fetch_add(1, Relaxed);
    }
}

fn counted(inner: Arc<MemoryStore>) -> Arc<Gated<Requests>> {
    Arc::new(Gated { inner, gate: Requests::default() })
}

async fn lines<T: DeserializeOwned + Serialize>(output: &MemoryStore, key: &str) -> Vec<T> {
    let text = output.get(key).await.unwrap();
    let lines = std::str::from_utf8(&text).unwrap().lines();
    lines.map(|line| serde_json::from_str::<Sealed<T>>(line).unwrap().0).collect()
}

/// What was done, and what was counted.
struct Made {
    counts: Counts,
    /// Of the input, and of the output.
    input: (u64, u64),
    output: (u64, u64),
}

/// Calls the stages as the state machine does. Each function opens the stores anew.
async fn made(images: Arc<MemoryStore>, settings: &Settings, limits: Limits) -> Made {
    let results = Arc::new(MemoryStore::new());
    let (input, output) = (counted(images), counted(results.clone()));
    let stores = || Stores::new(input.clone(), output.clone());
    let (engine, stop) = (engine("tiny", 2), CancellationToken::default());
    let run = || RunInput { run: run_id("r") };
    let mut of = Lines::default();
    let planned: Planned = loop {
        let order = PlanInput { execution: Some("arn".to_owned()), ..order(settings, Mode::default(), "r") };
        let step = stages::plan_step(&stores(), engine.extractor().info(), order, limits, &Silent, &stop).await;
        let round = match step.unwrap() {
            PlanStep::Planned(planned) => break planned,
            PlanStep::List(round) => round,
        };
        of.rounds += 1;
        for work in lines::<ListWork>(&results, &round.work_list).await {
            of.list += 1;
            stages::list(&stores(), work, &Silent, &stop).await.unwrap();
        }
    };
    for work in lines::<ShardWork>(&results, &planned.work_list).await {
        of.featurize += 1;
        stages::featurize(&stores(), &engine, work, &Silent, &stop).await.unwrap();
    }
    let groups = lines::<MergeWork>(&results, &planned.merge_work_list).await;
    let (made, groups_made) = (planned.shards_to_featurize, planned.groups);
    of.merge = groups.len() as u64;
    for work in groups {
        stages::merge(&stores(), work).await.unwrap();
    }
    let reduced = stages::reduce(&stores(), run()).await.unwrap();
    for work in lines::<PartWork>(&results, &reduced.work_list).await {
        of.project += 1;
        stages::project(&stores(), work).await.unwrap();
    }
    stages::publish(&stores(), run()).await.unwrap();
    // The pictures of a report are not among the requests of a run.
    let read = input.gate.gets.load(Relaxed);
    let publish = Timer::start().read();
    report::report(&stores(), ReportInput { run: run_id("r"), publish }).await.unwrap();
    let counts = Counts {
        images: planned.objects,
        inferred: planned.objects,
        shards: planned.shards,
        made,
        groups: groups_made,
        parts: reduced.parts,
        lines: of,
        classifier: reduced.classifier.is_some_and(|classifier| classifier.fitted().is_some()),
        index: reduced.index.is_some(),
    };
    let of = |store: &Gated<Requests>| (store.gate.puts.load(Relaxed), store.gate.gets.load(Relaxed));
    Made { counts, input: (of(&input).0, read), output: of(&output) }
}

/// Whether two numbers of requests are equal but for those of a run of any size.
fn assert_about(what: &str, counted: u64, estimated: u64) {
    println!("{what}: {counted} counted, {estimated} estimated");
    assert!(counted.abs_diff(estimated) * 50 <= estimated + 600, "{what}: {counted} counted, {estimated} estimated");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_estimate_has_the_requests_that_the_stores_count() {
    for (settings, limits) in [
        (small_shards(), Limits::default()),
        (Settings { classifier: false, ..small_shards() }, Limits::default()),
        (Settings { index: false, ..small_shards() }, Limits::default()),
        (small_shards(), Limits::of(1_000)),
        // One group, whose sums and index are made by two functions.
        (Settings { group_size: None, ..small_shards() }, Limits::default()),
    ] {
        let count = if settings.group_size.is_none() { 7_000 } else { 4_000 };
        let made = made(images(0..count).await, &settings, limits).await;
        println!("{:?}", made.counts);
        assert_eq!(made.counts.lines.rounds > 0, limits != Limits::default());
        let estimated = requests(&made.counts);
        assert_eq!(made.input.1, count);
        assert_eq!(made.counts.lines.merge, if settings.group_size.is_none() { 2 } else { made.counts.groups });
        assert_about("PUT, LIST", made.input.0 + made.output.0, estimated.puts);
        assert_about("GET", made.input.1 + made.output.1, estimated.gets);
    }
}

/// The project's goal: at most 5,000 GETs for a million packed images, at the default sizes of shards on AWS and on one
/// machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_packed_images_take_at_most_five_thousand_gets() {
    const IMAGES: u64 = 8_000;
    const BYTES: usize = 5_000;
    // What the model sees does not matter here: a PNG may have any bytes behind its end.
    let image = |i: u64| {
        let mut file = png(i).to_vec();
        file.resize(BYTES, i as u8);
        Bytes::from(file)
    };
    let files: Vec<File> = (0..IMAGES).map(|i| (format!("{i:06}.png"), image(i), 1_700_000_000)).collect();
    let images = Arc::new(MemoryStore::new());
    for (number, files) in files.chunks(4_000).enumerate() {
        images.put(&format!("{number}.tar"), crate::packs::tar(files)).await.unwrap();
    }
    for shard_size in [320, 1_024] {
        let settings = Settings { shard_size: Some(shard_size), ..Settings::default() };
        let made = made(images.clone(), &settings, Limits::default()).await;
        let gets = made.input.1;
        // The archives of this test are smaller than those of the estimate: 22 MB.
        let work = Workload { packed: true, bytes_per_image: 5_632, shard_size, ..Workload::new(IMAGES) };
        let estimated = work.image_gets() + (2 - work.archives());
        println!(
            "shard_size {shard_size}: {gets} GETs for {IMAGES} images in {} shards, {} for a million; estimated {estimated}",
            made.counts.shards,
            gets * 1_000_000 / IMAGES
        );
        assert!(gets * 1_000_000 / IMAGES <= 5_000);
        assert!(gets.abs_diff(estimated) <= 4, "{gets} {estimated}");
    }
}
