//! A long life of an output under attack: crashes at any call, a full disk, two writers at once, bits that flip between runs,
//! vacuums and erasures. After each round the data set equals that of an undisturbed run, and a check finds nothing.
//!
//! `POMONA_SOAK=N` plays N rounds, `POMONA_SEED=S` others than usual (`make soak`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::common::*;
use async_trait::async_trait;
use fastrand::Rng;
use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        self, Manifest,
        lease::Judge,
        settings::{Mode, Settings},
    },
    model::WorkerPool,
    stages::{CancellationToken, Silent, Stores},
    store::{MemoryStore, Store, list_all},
    versions::{
        check::{Depth, RepairInput, Tools, check, repair},
        erase::{EraseInput, erase},
        vacuum::{self, Action, Policy},
    },
};
use stores::{Failing, Gate, Gated};

fn settings() -> Settings {
    Settings { shard_size: Some(6), group_size: Some(20), ..Settings::default() }
}

/// A disk without space: some calls fail, as writes do, and later ones succeed.
#[derive(Debug)]
struct Full {
    calls: std::sync::atomic::AtomicU64,
    from: u64,
    to: u64,
}

#[async_trait]
impl Gate for Full {
    async fn before(&self, _key: &str) -> Result<()> {
        let call = self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if (self.from..self.to).contains(&call) {
            return Err(Error::new(ErrorKind::StoreFailed, "there is no space left"));
        }
        Ok(())
    }
}

struct Images(Stores);

#[async_trait]
impl Tools for Images {
    async fn open(&self, _current: &Manifest) -> Result<(Stores, WorkerPool)> {
        Ok((self.0.clone(), engine("tiny", 2)))
    }
}

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
enum Event {
    Crash,
    FullDisk,
    TwoWriters,
    FlippedBit,
    Vacuum,
    Erase,
}

const EVENTS: [Event; 6] =
    [Event::Crash, Event::FullDisk, Event::TwoWriters, Event::FlippedBit, Event::Vacuum, Event::Erase];

struct Life {
    input: Arc<MemoryStore>,
    output: Arc<MemoryStore>,
    engine: WorkerPool,
    rng: Rng,
    names: u64,
    repairs: u64,
}

impl Life {
    fn name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}-{}", self.names)
    }

    fn stores(&self) -> Stores {
        stores(&self.input, &self.output)
    }

    /// Uploads, overwrites and deletes a few images.
    async fn change_images(&mut self) {
        for _ in 0..self.rng.u64(1..4) {
            let i = self.rng.u64(0..80);
            if self.rng.u8(0..4) == 0 && list_all(self.input.as_ref(), "").await.unwrap().len() > 30 {
                self.input.delete(&key(i)).await.unwrap();
            } else {
                self.input.put(&key(i), png(self.rng.u64(..))).await.unwrap();
            }
        }
    }

    async fn happen(&mut self, event: Event) {
        let name = self.name("disturbed");
        match event {
            Event::Crash => {
                let calls = self.rng.i64(1..300);
                let dying = Failing::after(self.output.clone(), calls);
                let stores = Stores { input: self.input.clone(), output: Arc::new(dying) };
                let _ = run(&stores, &self.engine, &settings(), &name).await;
                self.bury().await;
            }
            Event::FullDisk => {
                let from = self.rng.u64(1..200);
                let gate = Full { calls: Default::default(), from, to: from + self.rng.u64(1..60) };
                let full = Gated { inner: self.output.clone(), gate };
                let stores = Stores { input: self.input.clone(), output: Arc::new(full) };
                let _ = run(&stores, &self.engine, &settings(), &name).await;
                self.bury().await;
            }
            Event::TwoWriters => {
                let (stores, settings, other) = (self.stores(), settings(), self.name("other"));
                let (a, b) = futures::join!(
                    run(&stores, &self.engine, &settings, &name),
                    run(&stores, &self.engine, &settings, &other)
                );
                a.unwrap();
                b.unwrap();
            }
            Event::FlippedBit => self.flip_a_bit().await,
            Event::Vacuum => {
                let keep = self.rng.usize(1..4);
                self.vacuum(keep).await;
            }
            Event::Erase => self.erase_an_image(&name).await,
        }
    }

    /// Deletes the marks of runs. The process of a real crash is dead, but that of this one lives.
    async fn bury(&self) {
        for object in list_all(self.output.as_ref(), "runs/").await.unwrap() {
            if object.key.ends_with("/started.json") {
                self.output.delete(&object.key).await.unwrap();
            }
        }
    }

    /// In any file of the newest state, but not in one that stands for work in progress.
    async fn flip_a_bit(&mut self) {
        let files = list_all(self.output.as_ref(), "").await.unwrap();
        let file = &files[self.rng.usize(..files.len())];
        let mut body = self.output.get(&file.key).await.unwrap().to_vec();
        if !body.is_empty() {
            let bit = self.rng.usize(..body.len() * 8);
            body[bit / 8] ^= 1 << (bit % 8);
            self.output.put(&file.key, body.into()).await.unwrap();
        }
        // What a user does when a command names a damaged file, or a check does.
        self.repair(&format!("a flipped bit in {}", file.key)).await;
    }

    async fn repair(&mut self, why: &str) {
        let input = RepairInput { run: run_id(&self.name("repair")), mode: Mode::default(), depth: Depth::Files };
        let tools = Images(self.stores());
        let judge = Judge { executions: None, break_locks: true };
        let stop = CancellationToken::default();
        let repaired = repair(self.output.as_ref(), input, &tools, judge, &Silent, &stop).await;
        let repaired = repaired.unwrap_or_else(|e| panic!("{why}: {e}"));
        self.repairs += u64::from(!repaired.problems.is_empty());
    }

    async fn vacuum(&self, keep_versions: usize) {
        let policy = Policy { keep_versions, older_than_days: 0 };
        let judge = Judge { executions: None, break_locks: true };
        vacuum::vacuum(self.output.as_ref(), policy, Action::Delete, judge, &|_| {}).await.unwrap();
    }

    async fn erase_an_image(&mut self, name: &str) {
        let all = list_all(self.input.as_ref(), "").await.unwrap();
        let gone = all[self.rng.usize(..all.len())].key.clone();
        let before = self.name("before");
        run(&self.stores(), &self.engine, &settings(), &before).await.unwrap();
        self.input.delete(&gone).await.unwrap();
        self.erase(&gone, name).await;
    }

    async fn erase(&self, gone: &str, name: &str) {
        let keys = BTreeSet::from([gone.to_owned()]);
        let order = EraseInput { run: run_id(name), keys, mode: Mode::default(), action: Action::Delete };
        let (judge, stop) = (Judge { executions: None, break_locks: true }, CancellationToken::default());
        let erased = erase(&self.stores(), &self.engine, order, judge, &Silent, &stop).await;
        erased.unwrap_or_else(|e| panic!("{gone}: {e}"));
    }
}

impl Life {
    fn new(input: Arc<MemoryStore>, seed: u64) -> Self {
        let (output, engine, rng) = (Arc::new(MemoryStore::new()), engine("tiny", 2), Rng::with_seed(seed));
        Life { input, output, engine, rng, names: 0, repairs: 0 }
    }
}

/// The soak found that the work list of the new version named the first image of the old group.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_and_the_last_image_of_a_group_can_be_erased() {
    let life = Life::new(images(0..60).await, 1);
    run(&life.stores(), &life.engine, &settings(), "first").await.unwrap();
    let groups = dataset::current(life.output.as_ref()).await.unwrap().unwrap().groups;
    assert!(groups.len() > 2);
    for (number, gone) in [&groups[0].first, &groups[1].last, &groups[2].first].into_iter().enumerate() {
        life.input.delete(gone).await.unwrap();
        life.erase(gone, &format!("erase-{number}")).await;
        let expected = fresh(&life.input, &life.engine, &settings()).await;
        assert!(data_set(life.output.as_ref()).await == expected, "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_data_set_is_that_of_an_undisturbed_run() {
    let number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (rounds, seed) = (number("POMONA_SOAK", 40), number("POMONA_SEED", 20_261_126));
    println!("POMONA_SOAK={rounds} POMONA_SEED={seed}");
    let mut life = Life::new(images(0..60).await, seed);
    let mut happened: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..rounds {
        life.change_images().await;
        let event = EVENTS[life.rng.usize(..EVENTS.len())];
        life.happen(event).await;
        let what = format!("seed {seed}, round {round}, {event:?}");
        let name = life.name("undisturbed");
        if let Err(error) = run(&life.stores(), &life.engine, &settings(), &name).await {
            panic!("{what}: {error}");
        }
        let expected = fresh(&life.input, &life.engine, &settings()).await;
        assert!(data_set(life.output.as_ref()).await == expected, "{what}: the data set is another one");
        let mut found = check(life.output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
        if !found.is_sound() {
            // Features of images that are gone cannot be made again. The versions that had them go.
            let newest = found.versions.last().copied().unwrap();
            assert!(found.problems.iter().all(|problem| !problem.versions.contains(&newest)), "{what}: {found:?}");
            life.vacuum(1).await;
            found = check(life.output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
        }
        assert!(found.is_sound(), "{what}: {:?}", found.problems);
        *happened.entry(format!("{event:?}")).or_default() += 1;
    }
    println!("{happened:?}, {} repairs", life.repairs);
}
