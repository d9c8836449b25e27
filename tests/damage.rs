//! Damaged files: every kind of the registry, damaged in many ways, and what commands make of it. A command may fail with an
//! error that names the file, or give the right result; it never gives a wrong one, and never panics.
//!
//! `POMONA_DAMAGE=N` damages each file in N times as many places.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::common::*;
use bytes::Bytes;
use fastrand::Rng;
use pomona::{
    Error, ErrorKind, Result,
    dataset::{
        self, Manifest, Sealed, contents, inbox,
        lease::Judge,
        registry::{self, FileKind, Remake},
        settings::{Mode, Settings},
        tables,
    },
    ids::RunId,
    model::WorkerPool,
    search::Metric,
    stages::{self, CancellationToken, PlanInput, RunInput, ShardWork, Silent, Stores},
    store::{self, MemoryStore, Store, list_all},
    versions::{
        check::{Depth, check},
        diff::{Diff, diff},
        erase::{EraseInput, erase},
        find::{Finder, Hit, Query},
        vacuum::Action,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::from_slice;

const IMAGES: u64 = 290;
/// Files of each kind that are damaged.
const FILES: usize = 2;
/// The image that is erased, and the one that comes before the run.
const ERASED: u64 = 31;
const NEW: u64 = 500;

fn settings() -> Settings {
    Settings { shard_size: Some(32), group_size: Some(160), csv: true, ..Settings::default() }
}

/// An output, and what is true of it.
struct Truth {
    input: Arc<MemoryStore>,
    output: Arc<MemoryStore>,
    engine: WorkerPool,
    manifests: Vec<Manifest>,
    rows: BTreeMap<String, Vec<f32>>,
    diff: Diff,
    /// The data set with the new image, and that without the erased one.
    /// The images nearest to one of the newest version.
    near: Vec<Hit>,
    after_run: BTreeMap<String, Bytes>,
    after_erase: BTreeMap<String, Bytes>,
}

async fn truth() -> Truth {
    let (input, output, engine) = (images(0..IMAGES).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    input.put("kiwi/bad.png", "no image".into()).await.unwrap();
    let stores = stores(&input, &output);
    run(&stores, &engine, &settings(), "a").await.unwrap();
    input.put(&key(17), png(1_000)).await.unwrap();
    input.delete(&key(70)).await.unwrap();
    run(&stores, &engine, &settings(), "b").await.unwrap();
    inbox::add(output.as_ref(), &BTreeSet::from([key(NEW)])).await.unwrap();
    let manifests = dataset::published(output.as_ref()).await.unwrap();
    let with = copy(&input);
    with.put(&key(NEW), png(NEW)).await.unwrap();
    let without = copy(&input);
    without.delete(&key(ERASED)).await.unwrap();
    Truth {
        rows: rows(output.as_ref()).await.unwrap(),
        near: near(&output, &manifests[1]).await.unwrap(),
        diff: diff(output.as_ref(), &manifests[0], &manifests[1]).await.unwrap(),
        after_run: fresh(&with, &engine, &settings()).await,
        after_erase: fresh(&without, &engine, &settings()).await,
        input,
        output,
        engine,
        manifests,
    }
}

/// A copy with the same times: in memory, they are the etags.
fn copy(store: &MemoryStore) -> Arc<MemoryStore> {
    Arc::new(store.clone())
}

/// All rows of the newest version.
async fn rows(output: &dyn Store) -> Result<BTreeMap<String, Vec<f32>>> {
    let manifest = dataset::version(output, None).await?;
    let mut rows = BTreeMap::new();
    for table in contents::shards(output, &manifest).await?.iter().filter_map(dataset::ShardEntry::features) {
        let read = tables::read_features(table.read(output).await?, &manifest.extractor, &table.key)?;
        rows.extend(read.paths.into_iter().zip(read.features.outer_iter().map(|row| row.to_vec())));
    }
    for part in contents::parts(output, &manifest).await? {
        for file in part.scores {
            tables::read_scores(file.read(output).await?, manifest.basis.components, &file.key)?;
        }
    }
    Ok(rows)
}

/// The images of a version that are nearest to one of them.
async fn near(output: &MemoryStore, version: &dataset::Manifest) -> Result<Vec<Hit>> {
    let finder = Finder::new(copy(output), version.clone());
    let features = finder.features_of(&key(3)).await?;
    finder.nearest(&Query::new(features, 5, Metric::Euclidean)).await
}

/// Fails if an error is not one that says what is wrong.
fn named(error: &Error, what: &str) {
    let kinds = [ErrorKind::DatasetCorrupt, ErrorKind::OutputNoVersion, ErrorKind::OutputOccupied];
    let unknown = error.is(ErrorKind::OutputUnknownFormat);
    assert!(kinds.contains(&error.kind()) || unknown, "{what}: {}: {error}", error.kind().name());
}

impl Truth {
    /// Reading commands.
    async fn read(&self, output: &MemoryStore, kind: &FileKind, what: &str) {
        let read = async {
            dataset::expect_output(output).await?;
            for (number, manifest) in (1..).zip(&self.manifests) {
                let found = dataset::version(output, Some(number)).await?;
                assert_eq!(found, *manifest, "{what}: show");
            }
            assert_eq!(rows(output).await?, self.rows, "{what}: rows");
            assert_eq!(near(output, &self.manifests[1]).await?, self.near, "{what}: search");
            assert_eq!(diff(output, &self.manifests[0], &self.manifests[1]).await?, self.diff, "{what}: diff");
            Ok(())
        };
        if let Err(error) = read.await {
            named(&error, what);
        }
        // A check notices it where a result depends on the file.
        let unneeded = matches!(kind.remake, Remake::Record | Remake::Unneeded | Remake::Listing);
        match check(output, Depth::Files, Judge::default(), &Silent).await {
            Ok(found) => assert!(!found.is_sound() || unneeded, "{what}: check found nothing"),
            Err(error) => named(&error, what),
        }
    }

    /// A run with a new image, and an erasure.
    async fn write(&self, output: &MemoryStore, what: &str) {
        let (input, changed) = (copy(&self.input), copy(output));
        input.put(&key(NEW), png(NEW)).await.unwrap();
        let stores = Stores { input, output: changed.clone() };
        match run(&stores, &self.engine, &settings(), "next").await {
            Ok(_) => same(changed.as_ref(), &self.after_run, &format!("{what}: run")).await,
            Err(error) => named(&error, &format!("{what}: run")),
        }

        let (input, changed) = (copy(&self.input), copy(output));
        input.delete(&key(ERASED)).await.unwrap();
        let stores = Stores { input, output: changed.clone() };
        let keys = BTreeSet::from([key(ERASED)]);
        let order = EraseInput { run: run_id("erase"), keys, mode: Mode::default(), action: Action::Delete };
        let stop = CancellationToken::default();
        match erase(&stores, &self.engine, order, Judge::default(), &Silent, &stop).await {
            Ok(_) => {
                same(changed.as_ref(), &self.after_erase, &format!("{what}: erase")).await;
                for object in list_all(changed.as_ref(), "").await.unwrap() {
                    let body = changed.get(&object.key).await.unwrap();
                    let path = key(ERASED);
                    let found = body.windows(path.len()).any(|window| window == path.as_bytes());
                    assert!(!found, "{what}: {} still has the path", object.key);
                }
            }
            Err(error) => named(&error, &format!("{what}: erase")),
        }
    }
}

/// The current version is that of a fresh run. A damaged file that the command had no reason to read is noticed when it is
/// read.
async fn same(output: &MemoryStore, expected: &BTreeMap<String, Bytes>, what: &str) {
    // Two files are swapped.
    let damaged = if what.contains("Swap") { 2 } else { 1 };
    let manifest = match dataset::version(output, None).await {
        Ok(manifest) => manifest,
        Err(error) => return named(&error, what),
    };
    let files = match contents::files(output, &manifest).await {
        Ok(files) => files,
        Err(error) => return named(&error, what),
    };
    let mut noticed = 0;
    for file in &files {
        match file.read(output).await {
            Ok(body) => {
                let name = file.key.replace(&format!("v={}", manifest.version), "v=*");
                let comparable = !name.starts_with("scores/") && !name.starts_with("extractors/");
                if comparable && file.checksum.is_some() {
                    assert_eq!(expected.get(&name), Some(&body), "{what}: {name}");
                }
            }
            Err(error) => {
                named(&error, what);
                noticed += 1;
            }
        }
    }
    assert!(noticed <= damaged, "{what}: {noticed} files");
}

/// A way to damage a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Truncate,
    Empty,
    Delete,
    Swap,
}

async fn damaged(output: &MemoryStore, key: &str, sibling: Option<&String>, damage: Damage) -> Option<MemoryStore> {
    let store = output.clone();
    let mut body = store.get(key).await.unwrap().to_vec();
    match damage {
        Damage::Flip(bit) => *body.get_mut(bit / 8)? ^= 1 << (bit % 8),
        Damage::Truncate => body.truncate(body.len() / 2),
        Damage::Empty => body.clear(),
        Damage::Delete => {
            store.delete(key).await.unwrap();
            return Some(store);
        }
        Damage::Swap => {
            let other = store.get(sibling?).await.unwrap();
            if other == body {
                return None;
            }
            store.put(sibling?, body.into()).await.unwrap();
            body = other.to_vec();
        }
    }
    store.put(key, body.into()).await.unwrap();
    Some(store)
}

/// The files of each kind, by the kind's name.
async fn files_by_kind(output: &dyn Store) -> BTreeMap<&'static str, (&'static FileKind, Vec<String>)> {
    let mut kinds: BTreeMap<_, (_, Vec<String>)> = BTreeMap::new();
    for object in list_all(output, "").await.unwrap() {
        let kind = registry::kind_of(&object.key).unwrap_or_else(|| panic!("{} is a file of no kind", object.key));
        kinds.entry(kind.name).or_insert((kind, Vec::new())).1.push(object.key);
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damage_gives_a_wrong_result() {
    let truth = truth().await;
    let times: usize = std::env::var("POMONA_DAMAGE").map_or(1, |times| times.parse().unwrap());
    let mut rng = Rng::with_seed(20_261_126);
    let (mut reads, mut writes) = (0, 0);
    for (kind, files) in files_by_kind(truth.output.as_ref()).await.into_values() {
        let chosen: Vec<&String> = files.iter().rev().step_by((files.len() / FILES).max(1)).take(FILES).collect();
        for file in chosen {
            let sibling = files.iter().find(|other| *other != file);
            let bits = truth.output.get(file).await.unwrap().len() * 8;
            // Every 64th bit of small files when asked for; otherwise some bits of every file.
            let flips: Vec<usize> = match bits {
                0 => Vec::new(),
                _ if times > 1 && bits < 64 * 400 => (0..bits).step_by(64).map(|bit| bit + rng.usize(..64)).collect(),
                _ => (0..6 * times).map(|_| rng.usize(..bits)).collect(),
            };
            let whole = [Damage::Truncate, Damage::Empty, Damage::Delete, Damage::Swap];
            let flips = flips.into_iter().map(Damage::Flip);
            for (number, damage) in whole.into_iter().chain(flips).enumerate() {
                let Some(output) = damaged(&truth.output, file, sibling, damage).await else { continue };
                let what = format!("{} {file} {damage:?}", kind.name);
                truth.read(&output, kind, &what).await;
                reads += 1;
                if number < 5 * times {
                    truth.write(&output, &what).await;
                    writes += 1;
                }
            }
        }
    }
    println!("{reads} damaged outputs read, {writes} written to");
    assert!(reads > 400 && writes > 150, "{reads} {writes}");
}

/// One attempt of a run as the state machine makes it: an item of a map that finds damage ends without an error.
async fn attempt(stores: &Stores, engine: &WorkerPool, name: &RunId, number: u32) -> Result<()> {
    let stop = CancellationToken::default();
    let earlier = (1..number).map(|earlier| name.attempt(earlier).unwrap()).collect();
    let input = PlanInput { settings: settings(), earlier, ..PlanInput::new(name.attempt(number)?) };
    let planned = stages::plan(stores, engine.extractor().info(), input, &Silent, &stop).await?;
    let run = RunInput { run: planned.run.clone() };
    for Sealed(work) in lines::<ShardWork>(stores, &planned.work_list).await {
        stages::featurize(stores, engine, work, &Silent, &stop).await?;
    }
    for Sealed(work) in lines(stores, &planned.merge_work_list).await {
        ended(stages::merge(stores, work).await)?;
    }
    let reduced = stages::reduce(stores, run.clone()).await?;
    for Sealed(work) in lines(stores, &reduced.work_list).await {
        ended(stages::project(stores, work).await)?;
    }
    stages::publish(stores, run).await.map(drop)
}

async fn lines<T: DeserializeOwned + Serialize>(stores: &Stores, key: &str) -> Vec<Sealed<T>> {
    let text = stores.output.get(key).await.unwrap();
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| from_slice(line).unwrap()).collect()
}

fn ended<T>(item: Result<T>) -> Result<()> {
    match item {
        Err(error) if error.is(ErrorKind::DatasetCorrupt) => Ok(()),
        item => item.map(drop),
    }
}

/// In separate processes, the next attempt learns from notes what is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn an_execution_makes_damaged_shards_and_groups_again() {
    let truth = truth().await;
    truth.input.put(&key(NEW), png(NEW)).await.unwrap();
    let kinds = files_by_kind(truth.output.as_ref()).await;
    let of_version: BTreeSet<String> =
        contents::files(truth.output.as_ref(), &truth.manifests[1]).await.unwrap().into_iter().map(|f| f.key).collect();
    let mut healed = 0;
    for kind in [registry::FEATURES, registry::SHARD, registry::SUMS, registry::GROUP] {
        for file in kinds[kind.name].1.iter().filter(|file| of_version.contains(*file)) {
            for damage in [Damage::Flip(801), Damage::Truncate, Damage::Delete] {
                let what = format!("{file} {damage:?}");
                let output = Arc::new(damaged(&truth.output, file, None, damage).await.unwrap());
                let stores = stores(&truth.input, &output);
                let (name, mut number) = (run_id("execution"), 1);
                while let Err(error) = attempt(&stores, &truth.engine, &name, number).await {
                    assert!(error.is(ErrorKind::DatasetCorrupt), "{what}: {error}");
                    number += 1;
                    assert!(number <= 3, "{what}: {error}");
                }
                if number > 1 {
                    assert_eq!(data_set(output.as_ref()).await, truth.after_run, "{what}");
                } else {
                    // Nothing has read the file.
                    same(output.as_ref(), &truth.after_run, &what).await;
                }
                for earlier in 1..number {
                    let mark = dataset::keys::started(&name.attempt(earlier).unwrap());
                    assert_eq!(store::get_opt(output.as_ref(), &mark).await.unwrap(), None, "{what}");
                }
                healed += u64::from(number > 1);
            }
        }
    }
    assert!(healed > 20, "{healed} executions met damage");
}
