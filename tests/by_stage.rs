//! Stages called one by one, as the functions of AWS call them: failed shards, repeated calls, and vacuums in between.

use std::{
    cmp::Reverse,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::common::{
    stores::{Gate, Gated},
    *,
};
use async_trait::async_trait;
use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        self, Sealed, keys,
        lease::{Executions, Judge},
        settings::{Mode, Settings},
        timing::Timer,
    },
    model::{Decoding, ExtractorKind, WorkerPool},
    report::{self, ReportInput},
    stages::{
        self, Batch, CancellationToken, LineRange, Makes, MergeDone, MergeWork, PartWork, PlanInput, Planned,
        Published, RunInput, ShardWork, Silent, Stores,
    },
    store::{MemoryStore, Store, list_all},
    versions::{
        check::{self, Depth},
        vacuum::{self, Action, Policy},
    },
};
use serde::{Serialize, de::DeserializeOwned};

const EXECUTION: &str = "arn:aws:states:eu-west-3:123456789012:execution:pomona-pipeline:r";

/// The lines of a work list, as a map passes them to its functions.
async fn work<T: DeserializeOwned + Serialize>(output: &dyn Store, key: &str) -> Vec<T> {
    let text = output.get(key).await.unwrap();
    let lines = std::str::from_utf8(&text).unwrap().lines();
    lines.map(|line| serde_json::from_str::<Sealed<T>>(line).unwrap().0).collect()
}

/// An execution: its stages are called one by one.
struct Execution {
    stores: Stores,
    engine: WorkerPool,
    settings: Settings,
}

impl Execution {
    fn new(stores: Stores, settings: Settings) -> Self {
        Execution { stores, engine: engine("tiny", 2), settings }
    }

    fn output(&self) -> &dyn Store {
        self.stores.output.as_ref()
    }

    async fn plan(&self, run: &str) -> Planned {
        let order = order(&self.settings, Mode::default(), run);
        let order = PlanInput { execution: Some(EXECUTION.to_owned()), ..order };
        let info = self.engine.extractor().info();
        stages::plan(&self.stores, info, order, &Silent, &CancellationToken::default()).await.unwrap()
    }

    async fn shards(&self, planned: &Planned) -> Vec<ShardWork> {
        work(self.output(), &planned.work_list).await
    }

    async fn featurize(&self, work: ShardWork) -> Result<stages::Featurized> {
        stages::featurize(&self.stores, &self.engine, work, &Silent, &CancellationToken::default()).await
    }

    /// Featurizes all shards but the first `failed`, then calls the other stages up to `publish`.
    async fn up_to_publish(&self, run: &str, failed: usize) {
        let planned = self.plan(run).await;
        for shard in self.shards(&planned).await.into_iter().skip(failed) {
            self.featurize(shard).await.unwrap();
        }
        for group in work::<MergeWork>(self.output(), &planned.merge_work_list).await {
            stages::merge(&self.stores, group).await.unwrap();
        }
        let reduced = stages::reduce(&self.stores, RunInput { run: run_id(run) }).await.unwrap();
        for part in work::<PartWork>(self.output(), &reduced.work_list).await {
            stages::project(&self.stores, part).await.unwrap();
        }
    }

    async fn publish(&self, run: &str) -> Result<Published> {
        stages::publish(&self.stores, RunInput { run: run_id(run) }).await
    }
}

fn csv() -> Settings {
    Settings { csv: true, ..small_shards() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_failed_shard_has_a_report_and_a_receipt() {
    let (input, output) = (images(0..200).await, Arc::new(MemoryStore::new()));
    let settings = Settings { max_reject_percent: 50.0, ..csv() };
    let execution = Execution::new(stores(&input, &output), settings.clone());
    execution.up_to_publish("r", 1).await;
    let published = execution.publish("r").await.unwrap();
    assert!(published.rejects > 0 && published.images + published.rejects == 200, "{published:?}");
    let publish = Timer::start().read();
    let reported = report::report(&execution.stores, ReportInput { run: run_id("r"), publish }).await.unwrap();
    let receipt = String::from_utf8(output.get(&reported.receipt).await.unwrap().to_vec()).unwrap();
    assert!(receipt.contains("\"stage\": \"featurize\""), "{receipt}");
    assert!(output.get(&reported.report).await.is_ok() && reported.dollars > 0.0);

    // The next run computes the failed shard.
    execution.up_to_publish("s", 0).await;
    let healed = execution.publish("s").await.unwrap();
    assert_eq!((healed.images, healed.rejects), (200, 0));
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &execution.engine, &settings).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_again_gives_the_same_answer() {
    let (input, output) = (images(0..100).await, Arc::new(MemoryStore::new()));
    let execution = Execution::new(stores(&input, &output), csv());
    execution.up_to_publish("r", 0).await;
    let first = execution.publish("r").await.unwrap();
    let before = list_all(output.as_ref(), "").await.unwrap();
    assert_eq!(execution.publish("r").await.unwrap(), first);
    assert_eq!(list_all(output.as_ref(), "").await.unwrap(), before);
    // As a function that was killed after its commit leaves the run.
    output.delete(&keys::success(first.version)).await.unwrap();
    output.put(&keys::csv_part(&run_id("r"), 0), "left over".into()).await.unwrap();
    output.put(&keys::started(&run_id("r")), "{}".into()).await.unwrap();
    assert_eq!(execution.publish("r").await.unwrap(), first);
    let keys = |objects: Vec<pomona::store::Object>| objects.into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!(keys(list_all(output.as_ref(), "").await.unwrap()), keys(before));
}

/// Throttles all reads after the first ones.
#[derive(Debug)]
struct Throttles {
    left: AtomicU64,
}

#[async_trait]
impl Gate for Throttles {
    async fn before(&self, _: &str) -> Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::new(ErrorKind::StoreThrottled, "slow down"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_shard_keeps_the_rows_that_it_has() {
    let (input, output) = (images(0..100).await, Arc::new(MemoryStore::new()));
    // One shard.
    let settings = Settings { shard_size: Some(10_000), ..Settings::default() };
    let throttled = Arc::new(Gated { inner: input.clone(), gate: Throttles { left: AtomicU64::new(60) } });
    let mut execution = Execution::new(Stores { input: throttled, output: output.clone() }, settings.clone());
    let planned = execution.plan("r").await;
    let shards = execution.shards(&planned).await;
    let mut inferred = 0;
    let mut failed = 0;
    for shard in &shards {
        match execution.featurize(shard.clone()).await {
            Ok(made) => inferred += made.inferred,
            Err(e) => {
                assert!(e.is(ErrorKind::StoreThrottled), "{e}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0, "the input was not throttled");
    execution.stores.input = input.clone();
    let mut copied = 0;
    for shard in &shards {
        let made = execution.featurize(shard.clone()).await.unwrap();
        copied += made.copied;
        inferred += made.inferred;
    }
    assert!(copied > 0, "nothing was kept");
    assert!(list_all(output.as_ref(), keys::PARTIALS).await.unwrap().is_empty());
    assert!(inferred <= 200 - copied);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_of_an_execution_do_not_walk_neighbouring_keys() {
    let (input, output) = (images(0..200).await, Arc::new(MemoryStore::new()));
    let execution = Execution::new(stores(&input, &output), small_shards());
    let planned = execution.plan("r").await;
    let shards = execution.shards(&planned).await;
    let places = |shards: &[ShardWork]| shards.iter().map(|work| work.group).collect::<Vec<_>>();
    assert!(shards.len() > 8 && !places(&shards).is_sorted(), "{:?}", places(&shards));
    assert!(shards.iter().map(|work| (Reverse(work.objects.length), &work.shard)).is_sorted());
    // The same input has the same order.
    let again = Execution::new(stores(&input, &Arc::new(MemoryStore::new())), small_shards());
    let planned = again.plan("r").await;
    assert_eq!(places(&again.shards(&planned).await), places(&shards));
    // On one machine, the shards of a group follow each other, so that its sums grow while its features are in memory.
    let output = Arc::new(MemoryStore::new());
    let here = Execution::new(stores(&input, &output), small_shards());
    let info = here.engine.extractor().info();
    let order = order(&here.settings, Mode::default(), "r");
    let planned = stages::plan(&here.stores, info, order, &Silent, &CancellationToken::default()).await.unwrap();
    assert!(places(&here.shards(&planned).await).is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_a_batch_that_fails_does_not_cost_the_others() {
    let (input, output) = (images(0..100).await, Arc::new(MemoryStore::new()));
    let execution = Execution::new(stores(&input, &output), small_shards());
    let planned = execution.plan("r").await;
    let (shards, list) = (execution.shards(&planned).await, planned.work_list);
    // The list of the objects of the first shard is gone.
    let (lost, size) = (&shards[0].objects.key, output.get(&list).await.unwrap().len() as u64);
    let same_list = shards.iter().filter(|work| work.objects.key == *lost).count() as u64;
    output.delete(lost).await.unwrap();
    let lines = LineRange { key: list, offset: 0, length: size, sha256: String::new() };
    let batch = Batch {
        run: run_id("r"),
        lines,
        count: shards.len() as u64,
        decoding: Decoding::Full,
        kind: ExtractorKind::Network,
        words: None,
        model: None,
    };
    let stop = CancellationToken::default();
    let failed = stages::featurize_batch(&execution.stores, &execution.engine, &batch, &Silent, &stop).await;
    assert!(failed.unwrap_err().is(ErrorKind::StoreNotFound));
    let done = finished_shards(output.as_ref()).await.len() as u64;
    assert!(same_list < planned.shards && done == planned.shards - same_list, "{done} of {}", planned.shards);
}

/// All executions have ended.
struct Ended;

#[async_trait]
impl Executions for Ended {
    async fn is_running(&self, _: &str) -> Option<bool> {
        Some(false)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_redriven_after_a_vacuum_does_not_publish() {
    let (input, output) = (images(0..100).await, Arc::new(MemoryStore::new()));
    let execution = Execution::new(stores(&input, &output), small_shards());
    execution.up_to_publish("r", 0).await;
    // The execution fails before `publish`. A vacuum finds its mark, and that it has ended.
    let judge = Judge { executions: Some(&Ended), ..Judge::default() };
    // A store in memory has no clock: all of its files are younger than that.
    let keep = Policy { keep_versions: 1, older_than_days: 40_000 };
    vacuum::vacuum(output.as_ref(), keep, Action::DryRun, judge, &|_| {}).await.unwrap();
    // A dry run changes nothing, and a redriven run publishes.
    assert!(output.get(&keys::started(&run_id("r"))).await.is_ok());
    // A vacuum may delete shards that the run reuses. It ends the run, whatever the age of its files.
    vacuum::vacuum(output.as_ref(), keep, Action::Delete, judge, &|_| {}).await.unwrap();
    let refused = execution.publish("r").await.unwrap_err();
    assert!(refused.is(ErrorKind::DatasetCorrupt), "{refused}");
    assert!(refused.to_string().contains("a vacuum has ended this run"), "{refused}");
    assert!(dataset::current(output.as_ref()).await.unwrap().is_none());
    // A new plan finds what is left.
    execution.up_to_publish("s", 0).await;
    assert_eq!(execution.publish("s").await.unwrap().images, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_run_in_batches_gives_the_bytes_of_one_without() {
    let (input, output) = (images(0..2_100).await, Arc::new(MemoryStore::new()));
    // 2,100 shards: the smallest list that has batches.
    let settings = Settings { shard_size: Some(1), group_size: Some(512), ..csv() };
    let execution = Execution::new(stores(&input, &output), settings.clone());
    let order = order(&settings, Mode::default(), "r");
    let order = PlanInput { execution: Some(EXECUTION.to_owned()), concurrency: Some(8), ..order };
    let (info, stop) = (execution.engine.extractor().info(), CancellationToken::default());
    let planned = stages::plan(&execution.stores, info, order, &Silent, &stop).await.unwrap();
    let list = planned.batch_list.clone().unwrap();
    let batches: Vec<Batch> = work(output.as_ref(), &list).await;
    assert_eq!(batches.iter().map(|batch| batch.count).sum::<u64>(), planned.shards_to_featurize);
    assert!(batches.len() >= 32 && batches.iter().all(|batch| batch.count <= 65), "{}", batches.len());
    let (stores, engine) = (&execution.stores, &execution.engine);
    for (number, batch) in batches.iter().enumerate() {
        let done = stages::featurize_batch(stores, engine, batch, &Silent, &stop).await.unwrap();
        assert_eq!(done.rows, batch.count);
        if number == 0 {
            // A call that is repeated leaves out what is finished.
            let again = stages::featurize_batch(stores, engine, batch, &Silent, &stop).await.unwrap();
            assert_eq!((again.shards, again.inferred), (0, 0));
        }
    }
    for group in work::<MergeWork>(output.as_ref(), &planned.merge_work_list).await {
        stages::merge(stores, group).await.unwrap();
    }
    let reduced = stages::reduce(stores, RunInput { run: run_id("r") }).await.unwrap();
    let mut rows = 0;
    for batch in work::<Batch>(output.as_ref(), &reduced.batch_list.unwrap()).await {
        rows += stages::project_batch(stores, &batch).await.unwrap().rows;
    }
    assert_eq!((rows, execution.publish("r").await.unwrap().images), (2_100, 2_100));
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, engine, &settings).await);
    let keys: Vec<String> = list_all(output.as_ref(), "").await.unwrap().into_iter().map(|o| o.key).collect();
    assert!(keys.iter().all(|key| pomona::dataset::registry::kind_of(key).is_some()), "{keys:?}");

    // A damaged list of batches is noticed.
    let text = output.get(&list).await.unwrap().to_vec();
    let line = String::from_utf8(text).unwrap().lines().next().unwrap().replace("\"count\":", "\"count\":1");
    assert!(serde_json::from_str::<Sealed<stages::Line<ShardWork>>>(&line).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_functions_sum_a_large_group_and_make_its_segment_of_the_index() {
    let (input, output) = (images(0..4_200).await, Arc::new(MemoryStore::new()));
    let settings = Settings { shard_size: Some(128), ..Settings::default() };
    let execution = Execution::new(stores(&input, &output), settings.clone());
    let planned = execution.plan("r").await;
    let shards = execution.shards(&planned).await;
    // The largest first, so that none of them ends long after the others.
    assert!(shards.is_sorted_by_key(|shard| Reverse(shard.objects.length)));
    assert!(shards.first().unwrap().objects.length > shards.last().unwrap().objects.length);
    for shard in shards {
        execution.featurize(shard).await.unwrap();
    }
    let [sums, segment] = &work::<MergeWork>(output.as_ref(), &planned.merge_work_list).await[..] else {
        panic!("two lines were expected")
    };
    assert_eq!((planned.groups, sums.makes, segment.makes), (1, Makes::Sums, Makes::Segment));
    let MergeDone::Segment(indexed) = stages::merge(&execution.stores, segment.clone()).await.unwrap() else {
        panic!()
    };
    let MergeDone::Group(merged) = stages::merge(&execution.stores, sums.clone()).await.unwrap() else { panic!() };
    assert_eq!((&indexed.id, merged.index), (&merged.entry.id, None));
    // Without the segment, there is no version.
    let record = keys::index_record(&run_id("r"), 0);
    let body = output.get(&record).await.unwrap();
    output.delete(&record).await.unwrap();
    let reduce = || stages::reduce(&execution.stores, RunInput { run: run_id("r") });
    assert!(reduce().await.unwrap_err().is(ErrorKind::DatasetCorrupt));
    output.put(&record, body).await.unwrap();
    let reduced = reduce().await.unwrap();
    assert_eq!(reduced.index.unwrap().segments, [indexed.index]);
    for part in work::<PartWork>(output.as_ref(), &reduced.work_list).await {
        stages::project(&execution.stores, part).await.unwrap();
    }
    execution.publish("r").await.unwrap();
    let publish = Timer::start().read();
    let reported = report::report(&execution.stores, ReportInput { run: run_id("r"), publish }).await.unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&output.get(&reported.receipt).await.unwrap()).unwrap();
    assert_eq!((&receipt["lines"][2]["stage"], &receipt["lines"][2]["invocations"]), (&"merge".into(), &2.into()));
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &execution.engine, &settings).await);
    let checked = check::check(output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
    assert_eq!(checked.problems, []);
    output.delete(&record).await.unwrap();
    let checked = check::check(output.as_ref(), Depth::Files, Judge::default(), &Silent).await.unwrap();
    let missing: Vec<&str> = checked.problems.iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(missing, [record.as_str()]);
}

/// An execution keeps its definition and the versions of its functions. The first release whose executions do so reads the lists
/// of the one before, and every later one should: these files are not edited when a field is added.
#[test]
fn work_lists_of_format_2_are_read_by_later_releases() {
    fn read<T: DeserializeOwned + Serialize>(name: &str) -> T {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/work-lists").join(name);
        serde_json::from_str::<Sealed<T>>(&std::fs::read_to_string(path).unwrap()).unwrap().0
    }
    assert!(matches!(read::<stages::Line<ShardWork>>("featurize.json"), stages::Line::One(_)));
    assert!(matches!(read::<stages::Line<PartWork>>("project.json"), stages::Line::One(_)));
    assert!(matches!(read::<stages::Line<PartWork>>("batch.json"), stages::Line::Batch(_)));
    assert_eq!(read::<MergeWork>("merge.json").group, 0);
}
