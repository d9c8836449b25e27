//! Damaged files of every kind that Pomona reads: no panic, no hang, no memory beyond the documented bounds.
//!
//! `POMONA_FUZZ_CASES=20000 cargo test --release --test fuzz` tries more cases than the default, `POMONA_FUZZ_SEED=N` others.
//! A failure prints its seed and keeps its file. With a nightly compiler, `fuzz/` runs the same targets under libFuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod common;
#[path = "common/memory.rs"]
mod memory;
#[path = "fuzz/mutator.rs"]
mod mutator;
#[path = "fuzz/targets.rs"]
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use pomona::{
    dataset::{
        settings::{Mode, Settings},
        tables::{self, Compression},
    },
    model::ExtractorInfo,
    orb::Keypoint,
    pca::ComponentSelection,
    store::{MemoryStore, Store, list_all},
};

/// Number of damaged images; other files are a tenth of it.
const CASES: u64 = 1_500;
/// Bound of an image, bytes: 512 MiB each for samples and decoder, 192 MB for pixels, and the file. See docs/threat-model.md.
const IMAGE_BYTES: usize = 1_280 << 20;
/// Bound of a model: 4 GiB, and the file four times.
const MODEL_BYTES: usize = (4 << 30) + (8 << 20);
/// Bound of a table: a page can claim 2 GiB, and one page is unpacked at a time.
const TABLE_BYTES: usize = (2 << 30) + (64 << 20);
/// Bound of an archive: a page of Parquet, its dictionary and its values, before and after decompression.
const ARCHIVE_BYTES: usize = 1 << 30;
/// Bound of a JSON text or a name.
const TEXT_BYTES: usize = 64 << 20;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The contents of all files of a folder of the repository, in the order of their names.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let wanted = |path: &Path| path.is_file() && path.extension().is_none_or(|extension| extension != "py");
    paths.into_iter().filter(|path| wanted(path)).map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target on the files of a corpus, and on damaged ones. Asserts that it does not panic, and the bounds.
fn fuzz(name: &str, corpus: &[Vec<u8>], cases: u64, limit: (Duration, usize), target: fn(&[u8])) {
    assert!(corpus.len() >= 4, "{} files for {name}", corpus.len());
    // The thread that loads a model panics by design, with thousands of lines.
    std::panic::set_hook(Box::new(|panic| {
        if std::thread::current().name() != Some("model") {
            eprintln!("{panic}");
        }
    }));
    let seed = number("POMONA_FUZZ_SEED", 0);
    let (mut slowest, mut largest) = (Duration::ZERO, 0);
    for case in 0..corpus.len() as u64 + cases {
        let file = match corpus.get(case as usize) {
            Some(file) => file.clone(),
            None => mutator::damaged(corpus, seed.wrapping_add(case)),
        };
        let start = Instant::now();
        let (outcome, peak) = memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| target(&file))));
        let took = start.elapsed();
        (slowest, largest) = (slowest.max(took), largest.max(peak));
        if outcome.is_err() || took > limit.0 || peak > limit.1 {
            let kept = std::env::temp_dir().join(format!("pomona-fuzz-{name}-{seed}-{case}"));
            fs::write(&kept, &file).unwrap();
            let panicked = outcome.is_err();
            panic!("{name}: panicked: {panicked}, {took:?}, {peak} bytes; POMONA_FUZZ_SEED={seed}, {}", kept.display());
        }
    }
    println!("{name}: {cases} damaged files, slowest {slowest:?}, largest {} MiB", largest >> 20);
}

#[test]
fn damaged_images_are_decoded_or_rejected_within_two_seconds() {
    let _alone = memory::alone();
    let corpus = [files("corpus/image"), files("golden/pillow/formats")].concat();
    fuzz("image", &corpus, cases(), (Duration::from_secs(2), IMAGE_BYTES), targets::image);
}

/// libjpeg-turbo allocates outside of the counted memory: `/usr/bin/time -v` shows the peak of this test alone.
#[test]
fn damaged_jpegs_are_decoded_or_rejected_within_two_seconds() {
    let _alone = memory::alone();
    let mut corpus = files("golden/pillow/jpegs");
    corpus.extend(files("corpus/image").into_iter().filter(|file| file.starts_with(b"\xff\xd8")));
    fuzz("jpeg", &corpus, cases(), (Duration::from_secs(2), IMAGE_BYTES), targets::image);
}

#[test]
fn damaged_models_are_loaded_or_refused() {
    let _alone = memory::alone();
    fuzz("model", &files("models"), cases() / 10, (Duration::from_secs(20), MODEL_BYTES), targets::model);
}

#[test]
fn damaged_tables_and_records_are_read_or_refused() {
    let _alone = memory::alone();
    let (tables, records) = written();
    fuzz("table", &tables, cases() / 5, (Duration::from_secs(10), TABLE_BYTES), targets::table);
    let records = [records, released()].concat();
    fuzz("record", &records, cases(), (Duration::from_secs(2), TEXT_BYTES), targets::record);
}

#[test]
fn damaged_archives_have_members_and_rejects() {
    let _alone = memory::alone();
    let limit = (Duration::from_secs(10), ARCHIVE_BYTES);
    fuzz("archive", &files("corpus/archive"), cases(), limit, targets::archive);
}

#[test]
fn damaged_inventories_are_listed_or_refused() {
    let _alone = memory::alone();
    fuzz("inventory", &inventories(), cases() / 2, (Duration::from_secs(10), TABLE_BYTES), targets::inventory);
}

#[test]
fn damaged_events_requests_and_names_are_parsed_or_refused() {
    let _alone = memory::alone();
    let limit = (Duration::from_secs(2), TEXT_BYTES);
    fuzz("event", &files("corpus/event"), cases(), limit, targets::event);
    fuzz("request", &files("corpus/request"), cases(), limit, targets::request);
    fuzz("name", &files("corpus/name"), cases(), limit, targets::name);
}

fn cases() -> u64 {
    number("POMONA_FUZZ_CASES", CASES)
}

/// An inventory in each format.
fn inventories() -> Vec<Vec<u8>> {
    let names = "key,size,last_modified_date,e_tag,is_latest";
    let rows: String =
        (0..20).map(|i| format!("a/{i:02} ä.jpg,{i},2023-11-14T22:13:{i:02}.000Z,{i:032x},true\n")).collect();
    let csv = format!("{names}\n{rows}").into_bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &csv).unwrap();
    let manifest = r#"{"sourceBucket": "fruit", "destinationBucket": "arn:aws:s3:::lists", "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag", "files": [{"key": "x/a.csv", "size": 900}]}"#;
    let (tables, _) = written();
    // A table of features has the columns of an inventory.
    let features = tables.into_iter().max_by_key(Vec::len).unwrap();
    vec![csv, gzip.finish().unwrap(), manifest.as_bytes().to_vec(), features]
}

/// The JSON files of the output of release 0.1.0.
fn released() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/release-0.1.0");
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    let paths = entries.map(walkdir::DirEntry::into_path);
    let records =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json" || extension == "claim"));
    records.map(|path| fs::read(path).unwrap()).collect()
}

/// The tables and the JSON files of an output, with rejects and partitions.
fn written() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (input, output) = (common::images(0..40).await, Arc::new(MemoryStore::new()));
        input.put("kiwi/broken.png", "not an image".into()).await.unwrap();
        let pca = Some(ComponentSelection::Components(targets::KEPT));
        let settings =
            Settings { pca, partition_by_label: Some(true), max_reject_percent: 50.0, ..common::small_shards() };
        let engine = common::engine("tiny", 1);
        assert_eq!(engine.extractor().columns(), targets::COLUMNS);
        common::run_as(&common::stores(&input, &output), &engine, &settings, Mode::default(), "fuzz").await.unwrap();
        let (mut tables, mut records) = (Vec::new(), Vec::new());
        for object in list_all(output.as_ref(), "").await.unwrap() {
            let body = output.get(&object.key).await.unwrap().to_vec();
            match object.key.rsplit_once('.') {
                Some((_, "parquet")) => tables.push(body),
                Some((_, "json" | "claim" | "jsonl")) => records.push(body),
                _ => {}
            }
        }
        let keypoints = with_keypoints(&tables, engine.extractor().info());
        tables.push(keypoints);
        (tables, records)
    })
}

/// The first of these tables that has features, with keypoints.
fn with_keypoints(tables: &[Vec<u8>], extractor: &ExtractorInfo) -> Vec<u8> {
    let read = |table: &Vec<u8>| tables::read_features(table.clone().into(), extractor, "k").ok();
    let mut rows = tables.iter().find_map(read).unwrap();
    let keypoint = |at: usize| Keypoint {
        x: at as f32 * 1.5,
        y: 7.25,
        octave: at as u8,
        angle: 300.0,
        response: -0.001,
        descriptor: [at as u8; 32],
    };
    rows.keypoints = (0..rows.len()).map(|row| (0..row % 5).map(keypoint).collect()).collect();
    tables::write_features(rows, "x", Compression::Snappy).unwrap().to_vec()
}
