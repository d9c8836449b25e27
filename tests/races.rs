//! Concurrent runs and vacuums on one output, in an order that a seed decides.
//!
//! Everything runs on one thread. Each store call waits until the schedule releases it. Then it may fail before it has an
//! effect, or after it (a lost answer). A failed test prints the seed of its schedule.

use std::{
    collections::VecDeque,
    future::poll_fn,
    ops::Range,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::common::{
    inputs::{Input, Listed},
    stores::{Gate, Gated},
    *,
};
use async_trait::async_trait;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream, FuturesUnordered},
};
use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        self, Manifest, VersionState, contents, keys,
        lease::Judge,
        settings::{Mode, Refit, Settings},
    },
    model::WorkerPool,
    stages::Stores,
    store::{MemoryStore, Object, Store, list_all},
    versions::vacuum::{self, Action, Policy},
};
use tokio::sync::oneshot;

#[derive(Debug)]
struct Schedule {
    random: fastrand::Rng,
    /// One call in `failures` fails; none if it is 0.
    failures: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// The gate of one racer. All racers share the schedule.
#[derive(Clone, Debug)]
struct Turns(Arc<Mutex<Schedule>>);

impl Turns {
    fn new(seed: u64, failures: usize) -> Self {
        Turns(Arc::new(Mutex::new(Schedule {
            random: fastrand::Rng::with_seed(seed),
            failures,
            waiting: VecDeque::new(),
        })))
    }

    fn fails(&self) -> bool {
        let schedule = &mut *self.0.lock().unwrap();
        schedule.failures > 0 && schedule.random.usize(..schedule.failures * 2) == 0
    }

    /// Releases one of the waiting calls; false if none waits.
    fn release_one(&self) -> bool {
        let schedule = &mut *self.0.lock().unwrap();
        let waiting = schedule.waiting.len();
        if waiting == 0 {
            return false;
        }
        let at = schedule.random.usize(..waiting);
        schedule.waiting.swap_remove_back(at).unwrap().send(()).ok();
        true
    }

    fn made_to_fail(&self) -> Result<()> {
        if self.fails() { Err(Error::new(ErrorKind::StoreUnavailable, "made to fail")) } else { Ok(()) }
    }
}

#[async_trait]
impl Gate for Turns {
    async fn before(&self, _key: &str) -> Result<()> {
        let (go, wait) = oneshot::channel();
        self.0.lock().unwrap().waiting.push_back(go);
        wait.await.unwrap();
        self.made_to_fail()
    }
    async fn after(&self, _key: &str) -> Result<()> {
        self.made_to_fail()
    }
}

/// Polls until the future is ready. Futures in this file wait for the schedule only, so no waker is needed.
fn block_on<F: Future>(future: F) -> F::Output {
    // Deadlines need the clock of a runtime. None of them passes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _clock = runtime.enter();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

type Racer<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls all racers until each of them waits, then releases one call; repeats until all have ended.
fn race(turns: &Turns, racers: Vec<Racer<'_>>) {
    let mut racers: FuturesUnordered<_> = racers.into_iter().collect();
    let mut steps = 0u64;
    block_on(poll_fn(|context| {
        loop {
            match racers.poll_next_unpin(context) {
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(())) => {}
                Poll::Pending => {
                    steps += 1;
                    assert!(steps < 200_000, "a racer does not end");
                    assert!(turns.release_one(), "all racers wait, but no call can be released");
                }
            }
        }
    }));
}

/// An input whose listers take turns with all other calls, in pages of three objects.
#[derive(Debug)]
struct Paged {
    inner: Arc<MemoryStore>,
    turns: Turns,
}

impl Listed for Paged {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        stream::try_unfold(Some(after.map(str::to_owned)), move |after| async move {
            let Some(after) = after else { return Ok(None) };
            self.turns.before(prefix).await?;
            let mut page = self.inner.list(prefix, after.as_deref()).try_next().await?.unwrap_or_default();
            page.truncate(3);
            let last = page.last().map(|last| last.key.clone());
            Ok((!page.is_empty()).then_some((page, Some(last))))
        })
        .boxed()
    }
    fn listers(&self) -> usize {
        4
    }
    fn objects(&self) -> &MemoryStore {
        &self.inner
    }
}

fn settings() -> Settings {
    Settings { shard_size: Some(3), ..Settings::default() }
}

async fn gated_run(
    input: Arc<MemoryStore>,
    stores: Stores,
    engine: &WorkerPool,
    name: String,
    upload: u64,
    mode: Mode,
) -> Result<Manifest> {
    input.put(&key(upload), png(upload)).await.unwrap();
    run_as(&stores, engine, &settings(), mode, &name).await.map(|summary| summary.manifest)
}

/// Reads all files of the current version; gives its number of images.
async fn read_whole(store: &dyn Store) -> Result<Option<u64>> {
    let Some(manifest) = dataset::current(store).await? else { return Ok(None) };
    let whole = async {
        for file in contents::files(store, &manifest).await?.iter().filter(|file| !file.key.ends_with("_SUCCESS")) {
            file.read(store).await?;
        }
        Ok::<_, Error>(())
    };
    match whole.await {
        Ok(()) => Ok(Some(manifest.images)),
        // A vacuum may remove the version while it is read; its state then says so.
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => {
            let state = dataset::state(store, manifest.version).await?;
            assert!(matches!(state, VersionState::Removed { .. }), "{e} in {}", manifest.version);
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// What each run uploaded, and how it ended.
type Outcomes = Mutex<Vec<(u64, Result<Manifest>)>>;

/// One schedule: `runs` runs, a reader and, if asked for, a vacuum on one output, which mostly has a version already. The
/// runs list with one lister each, or with four.
fn schedule(seed: u64, runs: u64, failures: usize, with_vacuum: bool, listers: bool, engine: &WorkerPool) {
    let (input, output) = block_on(async {
        let (input, output) = (images(0..6).await, Arc::new(MemoryStore::new()));
        if !seed.is_multiple_of(3) {
            run(&stores(&input, &output), engine, &settings(), "first").await.unwrap();
        }
        (input, output)
    });
    let turns = Turns::new(seed, failures);
    let gated = || -> Arc<dyn Store> { Arc::new(Gated { inner: output.clone(), gate: turns.clone() }) };
    let outcomes = Outcomes::default();
    let mut racers: Vec<Racer<'_>> = Vec::new();
    for racer in 0..runs {
        let (input, output, outcomes) = (input.clone(), gated(), &outcomes);
        let many: Arc<dyn Store> = Arc::new(Input(Paged { inner: input.clone(), turns: turns.clone() }));
        let stores = Stores { input: if listers { many } else { input.clone() }, output };
        let refit = if (seed + racer).is_multiple_of(4) { Refit::Never } else { Refit::Always };
        let mode = Mode { refit, ..Mode::default() };
        racers.push(Box::pin(async move {
            let upload = 10 + racer;
            let outcome = gated_run(input, stores, engine, format!("racer-{racer}"), upload, mode).await;
            outcomes.lock().unwrap().push((upload, outcome));
        }));
    }
    if with_vacuum {
        racers.push(Box::pin(vacuums(gated(), seed)));
    }
    racers.push(Box::pin(reads(gated(), seed)));
    race(&turns, racers);

    block_on(async {
        let current = dataset::current(output.as_ref()).await.unwrap();
        for (upload, outcome) in outcomes.into_inner().unwrap() {
            match outcome {
                // No update is lost: the upload of a run that has succeeded is in the current version.
                Ok(_) => {
                    let rows = rows(output.as_ref(), current.as_ref().unwrap()).await;
                    assert!(rows.contains(&key(upload)), "seed {seed}: the upload of {upload} is lost");
                }
                Err(e) => {
                    let expected = [ErrorKind::DatasetConflict, ErrorKind::DatasetBusy, ErrorKind::StoreUnavailable];
                    assert!(expected.contains(&e.kind()), "seed {seed}: {e}");
                    assert!(failures > 0 || with_vacuum || runs > 5, "seed {seed}: {e}");
                }
            }
        }
        no_forks(output.as_ref(), seed).await;
        last_run(&input, &output, engine, seed).await;
    });
}

async fn vacuums(store: Arc<dyn Store>, seed: u64) {
    let policy = Policy { keep_versions: 1, older_than_days: 0 };
    for _ in 0..3 {
        match vacuum::vacuum(store.as_ref(), policy, Action::Delete, Judge::default(), &|_| {}).await {
            Ok(_) => {}
            Err(e) => assert!(e.kind().retryable() || e.is(ErrorKind::OutputNoVersion), "seed {seed}: {e}"),
        }
    }
}

async fn reads(store: Arc<dyn Store>, seed: u64) {
    for _ in 0..4 {
        if let Err(e) = read_whole(store.as_ref()).await {
            assert_eq!(e.kind(), ErrorKind::StoreUnavailable, "seed {seed}: {e}");
        }
    }
}

/// After the race, one undisturbed run gives the data set of a fresh run.
async fn last_run(input: &Arc<MemoryStore>, output: &Arc<MemoryStore>, engine: &WorkerPool, seed: u64) {
    // Leases and locks of failed racers. They would expire after some days.
    for object in list_all(output.as_ref(), "").await.unwrap() {
        if object.key.ends_with("started.json") || object.key == keys::LOCK {
            output.delete(&object.key).await.unwrap();
        }
    }
    run(&stores(input, output), engine, &settings(), "last").await.unwrap();
    assert_eq!(
        data_set(output.as_ref()).await,
        fresh(input, engine, &settings()).await,
        "seed {seed}: the data set is not that of the bucket"
    );
}

async fn rows(output: &dyn Store, manifest: &Manifest) -> std::collections::HashSet<String> {
    let mut rows = std::collections::HashSet::new();
    for table in contents::shards(output, manifest).await.unwrap().iter().filter_map(dataset::ShardEntry::features) {
        let file = table.read(output).await.unwrap();
        rows.extend(pomona::dataset::tables::read_features(file, &manifest.extractor, &table.key).unwrap().paths);
    }
    rows
}

/// The parent of each version is the version before it.
async fn no_forks(output: &dyn Store, seed: u64) {
    let mut parent = None;
    for version in dataset::versions(output).await.unwrap().decided {
        match dataset::state(output, version).await.unwrap() {
            VersionState::Published(manifest) => {
                assert!(parent.is_none() || manifest.parent == parent, "seed {seed}: version {version} is a fork");
                parent = Some(version);
            }
            VersionState::Removed { .. } => parent = Some(version),
            VersionState::Abandoned { .. } => {}
        }
    }
}

/// The usual seeds of a test, or `POMONA_SEEDS=FIRST..END` from the environment (`make soak`).
fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(given) = std::env::var("POMONA_SEEDS") else { return usual };
    let range = given.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    range.filter(|range| !range.is_empty()).unwrap_or_else(|| panic!("POMONA_SEEDS={given} is not FIRST..END"))
}

fn schedules(seeds: Range<u64>, runs: u64, failures: usize, with_vacuum: bool, listers: bool) {
    // No worker threads: inference runs on the thread of the racers.
    let engine = engine("tiny", 0);
    for seed in seeds {
        schedule(seed, runs, failures, with_vacuum, listers, &engine);
    }
}

#[test]
fn two_runs_race() {
    schedules(seeds(0..500), 2, 0, false, false);
}

#[test]
fn two_runs_race_while_calls_fail() {
    schedules(seeds(1_000..1_700), 2, 60, false, false);
}

#[test]
fn two_runs_and_a_vacuum_race_while_calls_fail() {
    schedules(seeds(2_000..2_500), 2, 100, true, false);
}

#[test]
fn eight_runs_race() {
    schedules(seeds(3_000..3_150), 8, 0, false, false);
}

#[test]
fn eight_runs_and_a_vacuum_race_while_calls_fail() {
    schedules(seeds(4_000..4_200), 8, 150, true, false);
}

/// Each run uploads an image first, while the others list with four listers each.
#[test]
fn runs_with_many_listers_race_with_uploads() {
    schedules(seeds(5_000..5_150), 3, 0, false, true);
}

#[test]
fn runs_with_many_listers_and_a_vacuum_race_while_calls_fail() {
    schedules(seeds(6_000..6_200), 3, 150, true, true);
}
