//! What is done with damaged bytes, and what must hold then. A target panics if something does not hold.
//!
//! `tests/fuzz.rs` runs the targets on stable Rust; `fuzz/` runs them with libFuzzer.

#![allow(unreachable_pub)] // `fuzz/src/lib.rs` exports the targets

#[path = "../../functions/host/src/event.rs"]
mod event;

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use pomona::{
    ErrorKind, Result,
    archive::Unpacked,
    aws::request::Request,
    dataset::{
        self, GroupRecord, LabelCount, PartList, Sealed, ShardRecord, VersionState, keys, partition, tables, to_json,
        to_record,
    },
    ids::{RunId, Version},
    image::{self, Limits, Pixels, Reason},
    inventory::Inventoried,
    model::{Decoding, Extractor, ExtractorInfo, FeatureRange, MAX_COLUMNS, Runtime, embedded_info},
    stages::{Featurized, MergeWork, Merged, PartWork, Plan, PlanInput, Projected, Published, Reduced, ShardWork},
    store::{MemoryStore, Store, bucket_and_prefix, list_all},
};
use serde::{Serialize, de::DeserializeOwned};

/// Features of an image in the corpus of tables.
pub const COLUMNS: usize = 24;
/// Scores of an image in the corpus of tables.
pub const KEPT: usize = 4;

/// Decodes an image, below the guard of the worker threads. The first bytes choose the format.
pub fn image(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(Pixels { width, height, data }) = image::decode_scaled(data, limits, 24, 18) {
        assert_eq!(data.len(), width * height * 3);
    }
    match image::decode(data, limits) {
        Ok(pixels) => {
            let Pixels { width, height, ref data } = pixels;
            assert_eq!(data.len(), width * height * 3);
            assert!((width * height) as u64 <= limits.pixels && width.max(height) <= limits.side as usize);
            // The time limit is for decoding.
            if width * height <= 1 << 22 {
                assert_eq!(image::resize(pixels, 16, 16).data.len(), 16 * 16 * 3);
            }
        }
        Err(reject) => {
            assert!(!reject.detail.is_empty());
            use Reason::{Corrupt, Empty, NotAnImage, TooLarge, Truncated, UnsupportedFormat};
            assert!(matches!(reject.reason, Empty | NotAnImage | UnsupportedFormat | Truncated | Corrupt | TooLarge));
        }
    }
}

/// What was read. An error must be the one that names the damaged file.
fn named<T>(read: Result<T>, key: &str) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::DatasetCorrupt, "{error}");
            assert!(error.to_string().contains(&format!("key: {key}")), "{error}");
            None
        }
    }
}

/// Reads a table as each of its kinds.
pub fn table(data: &[u8]) {
    let file = || Bytes::copy_from_slice(data);
    let extractor = ExtractorInfo { columns: COLUMNS, ..embedded_info(FeatureRange::default(), Decoding::Full) };
    if let Some(rows) = named(tables::read_features(file(), &extractor, "k"), "k") {
        assert_eq!(rows.features.dim(), (rows.len(), COLUMNS));
        assert!([rows.labels.len(), rows.splits.len(), rows.contents.len(), rows.etags.len()] == [rows.len(); 4]);
        assert!([rows.modified.len(), rows.lengths.len()] == [rows.len(); 2]);
        assert!(rows.keypoints.is_empty() || rows.keypoints.len() == rows.len());
        assert!(rows.paths.is_sorted() && rows.features.iter().all(|value| value.abs() < 8.0));
    }
    if let Some(rows) = named(tables::read_labelled_features(file(), &extractor, "k"), "k") {
        assert_eq!((rows.features.dim(), rows.labels.len()), ((rows.paths.len(), COLUMNS), rows.paths.len()));
    }
    if let Some(rows) = named(tables::read_scores(file(), KEPT, "k"), "k") {
        assert_eq!((rows.scores.dim(), rows.labels.len()), ((rows.paths.len(), KEPT), rows.paths.len()));
    }
    if let Some(sums) = named(tables::read_sums(file(), COLUMNS, "k"), "k") {
        assert_eq!(sums.columns(), COLUMNS);
    }
    if let Some(basis) = named(tables::read_basis(file(), COLUMNS, "k"), "k") {
        assert_eq!((basis.mean.len(), basis.scale.len(), basis.columns()), (COLUMNS, COLUMNS, COLUMNS));
    }
    named(tables::read_rejects(file(), "k"), "k");
}

/// Reads a manifest, a record or a work list. What is read is written and read again without a difference.
pub fn record(data: &[u8]) {
    versions(data);
    stored::<ShardRecord>(data);
    stored::<GroupRecord>(data);
    stored::<PartList>(data);
    stored::<Plan>(data);
    stored::<Featurized>(data);
    stored::<Merged>(data);
    stored::<Reduced>(data);
    stored::<Projected>(data);
    round_trip::<Vec<LabelCount>>(data);
    round_trip::<PlanInput>(data);
    round_trip::<Published>(data);
    for line in data.split(|byte| *byte == b'\n') {
        drop(serde_json::from_slice::<Sealed<ShardWork>>(line));
        drop(serde_json::from_slice::<Sealed<MergeWork>>(line));
        if let Ok(Sealed(work)) = serde_json::from_slice::<Sealed<PartWork>>(line) {
            round_trip::<PartWork>(&to_json(&work).expect("what was read can be written"));
        }
    }
}

/// The result of a call of a store in memory, which never waits.
fn now<T>(call: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(call).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a store in memory waits"),
    }
}

fn store(key: &str, body: Bytes) -> MemoryStore {
    let store = MemoryStore::new();
    now(store.put(key, body)).expect("a store in memory takes every file");
    store
}

/// The text with a right seal, as if its writer had meant it. None if it is no JSON object.
fn resealed(data: &[u8]) -> Option<Bytes> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).ok()?;
    fields.remove("sha256");
    to_record(&fields).ok()
}

/// The text as it is, which its seal gives away, and with a right seal.
fn forms(data: &[u8]) -> impl Iterator<Item = Bytes> {
    [Some(Bytes::copy_from_slice(data)), resealed(data)].into_iter().flatten()
}

/// Reads a record from a store.
fn stored<T: Serialize + DeserializeOwned>(data: &[u8]) {
    for text in forms(data) {
        if let Some(value) = named(now(dataset::read_record::<T>(&store("k", text), "k")), "k") {
            round_trip::<T>(&to_json(&value).expect("what was read can be written"));
        }
    }
}

/// Reads a text as the record of a version, of both formats.
fn versions(data: &[u8]) {
    let key = keys::version(Version(1));
    for text in forms(data) {
        let state = named(now(dataset::state(&store(&key, text), Version(1))), &key);
        if let Some(VersionState::Published(manifest)) = state {
            assert!(manifest.seconds() >= 0.0);
            assert!(manifest.shards() >= manifest.groups.len() as u64 || manifest.released.is_none());
            round_trip::<VersionState>(&to_json(&VersionState::Published(manifest)).expect("it can be written"));
        }
    }
}

fn round_trip<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let text = to_json(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(to_json(&again).expect("what was read can be written"), text);
}

/// Loads an ONNX file, and runs it on a grey image.
pub fn model(data: &[u8]) {
    let onnx = bytes::Bytes::copy_from_slice(data);
    match Extractor::from_onnx(onnx, "fuzz", FeatureRange::default(), Runtime::Auto) {
        Ok(extractor) => assert!((1..=MAX_COLUMNS).contains(&extractor.columns())),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ModelInvalid),
    }
}

/// Lists the members of an archive of each kind, and reads them.
pub fn archive(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for name in ["a.tar", "a.zip", "a.parquet"] {
        runtime.block_on(members(name, data));
    }
}

async fn members(name: &str, data: &[u8]) {
    let input = Arc::new(MemoryStore::new());
    input.put(name, bytes::Bytes::copy_from_slice(data)).await.expect("a put in memory");
    let store = Unpacked::new(input, Arc::new(MemoryStore::new()));
    // Keys are ascending, or this is an error.
    let listed = list_all(&store, "").await.expect("a listing");
    // The second time from the list in the output.
    assert_eq!(list_all(&store, "").await.expect("a listing"), listed);
    for object in &listed {
        assert!(object.key == name || object.key.starts_with(&format!("{name}!")), "{}", object.key);
        let packed = object.packed.as_ref().expect("a place");
        assert!(packed.range.start <= packed.range.end && packed.range.end <= data.len() as u64, "{object:?}");
        match store.get_listed(object).await {
            Ok(content) => assert_eq!(content.len() as u64, object.size),
            // A read outside of the archive would be an error without a reason, or the reason `unreadable`.
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("reason: ") && !text.contains("reason: unreadable"), "{error}");
            }
        }
    }
}

/// Lists the objects of an inventory of each kind.
pub fn inventory(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.csv", "a.csv.gz", "a.parquet", "manifest.json"] {
        let path = folder.path().join(name);
        std::fs::write(&path, data).expect("a file");
        let store = Inventoried::new(Arc::new(MemoryStore::new()), &path.to_string_lossy());
        match runtime.block_on(list_all(&store, "")) {
            Ok(listed) => assert!(listed.iter().all(|object| !object.key.is_empty())),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::InputInvalid | ErrorKind::InputNotFound), "{error}");
            }
        }
    }
}

/// Parses a message of the queue that S3 events go to.
pub fn event(data: &[u8]) {
    match event::Message::parse(&String::from_utf8_lossy(data), "s3://fruit/images/") {
        Ok(event::Message::Changed(key)) => assert!(!key.is_empty()),
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::InputInvalid),
    }
}

/// Parses the input of an execution.
pub fn request(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    match Request::parse(value) {
        Ok(request) => {
            assert!(request.input.starts_with("s3://") && request.output.starts_with("s3://"));
            assert!(request.settings.check().is_ok());
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::InputInvalid),
    }
}

/// Uses a text as a label, a key, a location and the name of a run.
pub fn name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let folder = partition::folder_value(Some(&text));
    assert!(
        !folder.is_empty() && !folder.contains(['/', '\\', '=', ':']) && !folder.chars().any(|c| c.is_ascii_control())
    );
    if !text.is_empty() {
        assert_eq!(percent_decoded(&folder), text);
    }
    let version = Version(7);
    let part = keys::part(version, Some(&folder), 3);
    assert_eq!(keys::parse_part(version, &part), Some((Some(folder.as_str()), 3)));
    let parsed = keys::parse_version(&text);
    if let Some((version, file)) = parsed {
        let key = if file == keys::VersionFile::State { keys::version(version) } else { keys::claim(version) };
        assert_eq!(keys::parse_version(&key), parsed);
    }
    drop((keys::parse_part(version, &text), keys::parse_shard(&text), keys::parse_totals(&text)));
    let _ = (keys::parse_started(&text), keys::parse_ticket(&text));
    if let Ok((bucket, prefix)) = bucket_and_prefix(&text) {
        assert!(!bucket.is_empty() && !bucket.contains('/') && !prefix.starts_with('/'));
    }
    if let Ok(run) = RunId::try_from(text.into_owned()) {
        assert!(!run.to_string().contains(['/', '\\']) && run.to_string() != "..");
    }
}

/// The text that `%XX` stand for, one for each character.
fn percent_decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (code, rest) = piece.split_at(2);
        decoded.push(char::from(u8::from_str_radix(code, 16).expect("two hexadecimal digits")));
        decoded.push_str(rest);
    }
    decoded
}
