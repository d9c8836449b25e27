//! `report.html` of an output: the report of the newest version, whatever the order in which runs end, and without erased
//! images.

use std::{
    collections::BTreeSet,
    io::Read,
    sync::{Arc, Mutex},
};

use crate::common::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use pomona::{
    dataset::{self, Manifest, keys, lease::Judge, newest, settings::Mode, to_record},
    ids::Version,
    model::WorkerPool,
    pipeline::Summary,
    report::{self, ReportInput, Reported},
    stages::{CancellationToken, Silent, Stores},
    store::{FolderStore, MemoryStore, Object, Store, list_all},
    versions::{
        check::{self, Checked, Depth, Fault},
        erase::{self, EraseInput, Erased},
        vacuum::{self, Action, Policy},
    },
};

/// Writes the report of a run that has published.
async fn reported(stores: &Stores, summary: &Summary) -> Reported {
    let publish = summary.published.clone().unwrap();
    report::report(stores, ReportInput { run: summary.manifest.run.clone(), publish }).await.unwrap()
}

/// The version of the newest report.
async fn newest_version(output: &dyn Store) -> Option<Version> {
    newest::find(output).await.unwrap().and_then(|newest| newest.version)
}

async fn checked(output: &dyn Store) -> Checked {
    check::check(output, Depth::Files, Judge::default(), &Silent).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_report_is_never_replaced_by_that_of_an_older_version() {
    let (input, output, engine) = (images(0..40).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let first = run(&stores, &engine, &small_shards(), "first").await.unwrap();
    input.put("kiwi/more.png", png(900)).await.unwrap();
    let second = run(&stores, &engine, &small_shards(), "second").await.unwrap();
    assert_eq!(reported(&stores, &second).await.newest_report.as_deref(), Some("report.html"));
    let newest = output.get(keys::REPORT).await.unwrap();
    assert_eq!(newest, output.get(&keys::run_report(&second.manifest.run)).await.unwrap());
    // The first run ends late: its own report is written, and the newest stays.
    assert_eq!(reported(&stores, &first).await.newest_report, None);
    assert!(output.get(&keys::run_report(&first.manifest.run)).await.is_ok());
    assert_eq!(output.get(keys::REPORT).await.unwrap(), newest);
    // A damaged page says no version, and is replaced.
    output.put(keys::REPORT, Bytes::from_static(b"<html>")).await.unwrap();
    assert!(reported(&stores, &first).await.newest_report.is_some());
    assert!(reported(&stores, &second).await.newest_report.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reports_that_are_written_at_the_same_time_the_newest_stays() {
    let (input, engine) = (images(0..20).await, engine("tiny", 1));
    let of_base = Stores { input, output: Arc::new(MemoryStore::new()) };
    let base = run(&of_base, &engine, &small_shards(), "base").await.unwrap().manifest;
    let folder = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Store>; 2] = [Arc::new(MemoryStore::new()), Arc::new(FolderStore::new(folder.path()))];
    for store in stores {
        for number in 1..=6 {
            let manifest = Manifest { version: Version(number), ..base.clone() };
            let record = to_record(&dataset::VersionState::Published(Box::new(manifest))).unwrap();
            store.put(&keys::version(Version(number)), record).await.unwrap();
        }
        for _ in 0..20 {
            store.delete(keys::REPORT).await.unwrap();
            let puts = (1..=6).map(|number| {
                let store = store.clone();
                let page = Bytes::from(format!("<meta name=\"{}\" content=\"{number}\">", newest::META));
                tokio::spawn(async move { newest::put(store.as_ref(), Version(number), page).await.unwrap() })
            });
            let written = futures::future::join_all(puts).await;
            assert!(*written[5].as_ref().unwrap());
            let stays = newest::find(store.as_ref()).await.unwrap().unwrap();
            assert_eq!(stays.version, Some(Version(6)));
        }
    }
}

const PERSON: &str = "apple/00010-jane-doe.png";

/// All texts of a file: its bytes, and what a page has compressed.
fn texts(body: &[u8]) -> Vec<Vec<u8>> {
    let mut texts = vec![body.to_vec()];
    for piece in String::from_utf8_lossy(body).split("</script>") {
        let Ok(packed) = STANDARD.decode(piece.rsplit('>').next().unwrap_or_default()) else { continue };
        let mut plain = Vec::new();
        if flate2::read::ZlibDecoder::new(packed.as_slice()).read_to_end(&mut plain).is_ok() {
            texts.push(plain);
        }
    }
    texts
}

async fn files_that_name(output: &dyn Store, name: &[u8]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for object in list_all(output, "").await.unwrap().into_iter().filter(|object| object.key.ends_with(".html")) {
        let names = |text: &Vec<u8>| text.windows(name.len()).any(|window| window == name);
        if texts(&output.get(&object.key).await.unwrap()).iter().any(names) {
            files.insert(object.key);
        }
    }
    files
}

async fn erased(stores: &Stores, engine: &WorkerPool, action: Action) -> Erased {
    let (run, keys) = (run_id(&format!("erase-{action:?}")), BTreeSet::from([PERSON.to_owned()]));
    let input = EraseInput { run, keys, mode: Mode::default(), action };
    erase::erase(stores, engine, input, Judge::default(), &Silent, &CancellationToken::default()).await.unwrap()
}

/// An output whose newest version holds the person.
async fn with_person() -> (Arc<MemoryStore>, Arc<MemoryStore>, Stores, WorkerPool) {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let before = run(&stores, &engine, &small_shards(), "before").await.unwrap();
    reported(&stores, &before).await;
    input.put(PERSON, png(4_711)).await.unwrap();
    let with = run(&stores, &engine, &small_shards(), "with").await.unwrap();
    reported(&stores, &with).await;
    (input, output, stores, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_image_is_in_no_report() {
    let (input, output, stores, engine) = with_person().await;
    let named = files_that_name(output.as_ref(), b"jane-doe").await;
    assert_eq!(named, ["report.html".to_owned(), "runs/with/report.html".to_owned()].into());
    input.delete(PERSON).await.unwrap();
    let would = erased(&stores, &engine, Action::DryRun).await;
    assert!(would.deleted.contains(&keys::REPORT.to_owned()), "{:?}", would.deleted);
    assert_eq!(newest_version(output.as_ref()).await, Some(Version(2)));
    let done = erased(&stores, &engine, Action::Delete).await;
    assert_eq!((done.version, done.report_error), (Version(3), None));
    assert!(done.checked.contains(&keys::REPORT.to_owned()));
    assert_eq!(files_that_name(output.as_ref(), b"jane-doe").await, BTreeSet::new());
    // It is the report of the version without the image.
    let manifest = dataset::version(output.as_ref(), None).await.unwrap();
    assert_eq!(newest_version(output.as_ref()).await, Some(Version(3)));
    let own = output.get(&keys::run_report(&manifest.run)).await.unwrap();
    assert_eq!(output.get(keys::REPORT).await.unwrap(), own);
    assert_eq!(checked(output.as_ref()).await.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_an_erased_version_goes_also_if_the_newest_version_has_none() {
    let (input, output, stores, engine) = with_person().await;
    input.delete(PERSON).await.unwrap();
    // This run fails to write its report.
    run(&stores, &engine, &small_shards(), "without").await.unwrap();
    assert_eq!(newest_version(output.as_ref()).await, Some(Version(2)));
    let done = erased(&stores, &engine, Action::Delete).await;
    assert!(!done.rewritten && done.deleted.contains(&keys::REPORT.to_owned()), "{done:?}");
    assert_eq!(files_that_name(output.as_ref(), b"jane-doe").await, BTreeSet::new());
    // The report of the first version is the newest one that there is.
    assert_eq!(newest_version(output.as_ref()).await, Some(Version(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_removes_the_newest_report_only_with_its_version() {
    let (input, output, stores, engine) = with_person().await;
    let all = Policy { keep_versions: 1, older_than_days: 0 };
    let seen = Mutex::new(Vec::new());
    let each = |object: &Object| seen.lock().unwrap().push(object.key.clone());
    vacuum::vacuum(output.as_ref(), all, Action::Delete, Judge::default(), &each).await.unwrap();
    assert_eq!(newest_version(output.as_ref()).await, Some(Version(2)));
    input.put("kiwi/more.png", png(900)).await.unwrap();
    run(&stores, &engine, &small_shards(), "unreported").await.unwrap();
    vacuum::vacuum(output.as_ref(), all, Action::DryRun, Judge::default(), &each).await.unwrap();
    assert_eq!(newest_version(output.as_ref()).await, Some(Version(2)));
    vacuum::vacuum(output.as_ref(), all, Action::Delete, Judge::default(), &each).await.unwrap();
    assert_eq!(newest_version(output.as_ref()).await, None);
    let removed = seen.lock().unwrap().iter().filter(|key| *key == keys::REPORT).count();
    assert_eq!(removed, 2, "named by the dry run and by the vacuum");
    assert_eq!(checked(output.as_ref()).await.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_compares_the_newest_report_and_a_repair_copies_it_again() {
    let (_, output, _, _) = with_person().await;
    let page = output.get(keys::REPORT).await.unwrap();
    assert_eq!(checked(output.as_ref()).await.problems, []);
    let older = output.get(&keys::run_report(&run_id("before"))).await.unwrap();
    for (wrong, fault) in
        [(Some(older), Fault::Damaged), (Some(page.slice(..100)), Fault::Damaged), (None, Fault::Missing)]
    {
        match wrong {
            Some(wrong) => output.put(keys::REPORT, wrong).await.unwrap(),
            None => output.delete(keys::REPORT).await.unwrap(),
        }
        let found = checked(output.as_ref()).await;
        let problems: Vec<_> = found.problems.iter().map(|p| (p.file.as_str(), p.problem, p.needed)).collect();
        assert_eq!(problems, [(keys::REPORT, fault, false)]);
        assert!(found.is_sound());
        let input = check::RepairInput { run: run_id("repair"), mode: Mode::default(), depth: Depth::Files };
        let stop = CancellationToken::new();
        let found = check::repair(output.as_ref(), input, &NoInput, Judge::default(), &Silent, &stop).await.unwrap();
        assert!(found.problems.iter().all(|problem| problem.repaired), "{:?}", found.problems);
        assert_eq!(output.get(keys::REPORT).await.unwrap(), page);
    }
}

struct NoInput;

#[async_trait::async_trait]
impl check::Tools for NoInput {
    async fn open(&self, _: &Manifest) -> pomona::Result<(Stores, WorkerPool)> {
        unreachable!("no image is needed")
    }
}
