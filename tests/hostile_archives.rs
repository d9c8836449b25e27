//! Archives of other programs, and archives that are damaged or made to do harm: each member is a row or a reject with a
//! stable reason, and nothing fails a run.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use crate::common::*;
use crate::packs::{File, Method};
use bytes::Bytes;
use pomona::{
    archive::Unpacked,
    dataset::{contents, settings::Settings, tables},
    stages::Stores,
    store::{Form, MemoryStore, Object, Store, list_all},
};

fn fixture(name: &str) -> Bytes {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/archive").join(name)).unwrap().into()
}

/// What becomes of a member: the label and length of its row, or the reason of its reject.
type Outcome = Result<(String, i64), String>;

fn row(label: &str, length: i64) -> Outcome {
    Ok((label.to_owned(), length))
}

fn reject(reason: &str) -> Outcome {
    Err(reason.to_owned())
}

/// The rows and rejects of a run on one archive beside two loose images.
async fn outcomes(name: &str, archive: Bytes) -> BTreeMap<String, Outcome> {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    input.put(name, archive).await.unwrap();
    input.put("~/1.png", png(1)).await.unwrap();
    input.put("~/2.png", png(2)).await.unwrap();
    let stores = Stores::new(input.clone(), output.clone());
    let settings = Settings { max_reject_percent: 100.0, ..small_shards() };
    let manifest = run(&stores, &engine("tiny", 2), &settings, "a").await.unwrap().manifest;
    let mut found = BTreeMap::new();
    for table in contents::shards(output.as_ref(), &manifest).await.unwrap().iter().filter_map(|shard| shard.features())
    {
        let file = table.read(output.as_ref()).await.unwrap();
        let rows = tables::read_features(file, &manifest.extractor, &table.key).unwrap();
        for ((path, label), length) in rows.paths.into_iter().zip(rows.labels).zip(rows.lengths) {
            found.insert(path, Ok((label.unwrap(), length)));
        }
    }
    for row in contents::rejects(output.as_ref(), &manifest).await.unwrap() {
        assert!(!row.reject.detail.is_empty());
        found.insert(row.path, Err(row.reject.reason.to_string()));
    }
    assert!(found.remove("~/1.png").unwrap().is_ok() && found.remove("~/2.png").unwrap().is_ok());
    // Nothing of the archive is left to a later run: the reasons are facts.
    assert!(run(&stores, &engine("tiny", 2), &settings, "b").await.unwrap().up_to_date, "{name}");
    found
}

async fn expect(name: &str, archive: Bytes, expected: impl IntoIterator<Item = (&str, Outcome)>) {
    let found = outcomes(name, archive).await;
    let expected: BTreeMap<String, Outcome> =
        expected.into_iter().map(|(member, outcome)| (format!("{name}{member}"), outcome)).collect();
    assert_eq!(found, expected, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tar_files_of_gnu_tar_and_python_are_read() {
    let long = (0..4).map(|i| format!("folder name of forty letters or so, {i}")).collect::<Vec<_>>();
    let long_label = long[3].clone();
    let long = format!("!long/{}/1.png", long.join("/"));
    for name in ["gnu.tar", "posix.tar"] {
        let stem = name.trim_end_matches(".tar");
        let expected = [
            ("!4.png", row(stem, 199)),
            ("!apple/1.png", row("apple", 198)),
            ("!apple/2.png", row("apple", 200)),
            ("!apple/link.png", reject("unsupported_format")),
            ("!apple/second name.png", reject("unsupported_format")),
            (&long, row(&long_label, 198)),
            ("!sparse.png", reject("unsupported_format")),
            ("!Äpfel 苹果/3.png", row("Äpfel 苹果", 199)),
        ];
        expect(name, fixture(name), expected).await;
    }
    // Names are only names, and what starts with a dot is hidden. Of two members with one name the last counts.
    let found = outcomes("python.tar", fixture("python.tar")).await;
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let expected =
        ["python.tar!dot/slash.png", "python.tar!etc/absolute.png", "python.tar!inner.tar", "python.tar!twice.png"];
    assert_eq!(names, expected);
    assert_eq!(found["python.tar!inner.tar"], reject("unsupported_format"));
    let input = Arc::new(MemoryStore::new());
    input.put("python.tar", fixture("python.tar")).await.unwrap();
    let listed = list_all(&Unpacked::new(input, Arc::new(MemoryStore::new())), "").await.unwrap();
    assert!(listed.iter().all(|object| object.modified == 1_700_000_000_250_000), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_webdataset_are_those_of_its_label_files() {
    let found = outcomes("webdataset.tar", fixture("webdataset.tar")).await;
    let labels: Vec<_> =
        found.iter().map(|(path, outcome)| (path.as_str(), outcome.as_ref().unwrap().0.as_str())).collect();
    let expected = [
        ("webdataset.tar!0001.png", "7"),
        ("webdataset.tar!0002.png", "pear"),
        ("webdataset.tar!0003.png", "won"),
        ("webdataset.tar!dir/0004.png", "dir"),
    ];
    assert_eq!(labels, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_label_file_copies_rows_and_infers_nothing() {
    let write = |label: &str| {
        let mut files: Vec<File> = (0..30).map(|i| (format!("{i:02}.png"), png(i), 1_700_000_000)).collect();
        files.push(("07.cls".to_owned(), label.to_owned().into(), 1_700_000_000));
        crate::packs::tar(&files)
    };
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let stores = Stores::new(input.clone(), output.clone());
    input.put("a.tar", write("one")).await.unwrap();
    let engine = engine("tiny", 2);
    run(&stores, &engine, &small_shards(), "a").await.unwrap();
    input.put("a.tar", write("two")).await.unwrap();
    let made = run(&stores, &engine, &small_shards(), "b").await.unwrap().manifest;
    let labels: Vec<_> = made.labels.iter().map(|count| (count.label.as_deref().unwrap(), count.images)).collect();
    assert_eq!((made.figures.inferred, labels), (0, vec![("a", 29), ("two", 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn zip_files_of_infozip_and_python_are_read() {
    let long = (0..4).map(|i| format!("folder name of forty letters or so, {i}")).collect::<Vec<_>>();
    let members = [
        ("!4.png".to_owned(), row("infozip", 199)),
        ("!apple/1.png".to_owned(), row("apple", 198)),
        ("!apple/2.png".to_owned(), row("apple", 200)),
        (format!("!long/{}/1.png", long.join("/")), row(&long[3], 198)),
        ("!Äpfel 苹果/3.png".to_owned(), row("Äpfel 苹果", 199)),
    ];
    expect("infozip.zip", fixture("infozip.zip"), members.iter().map(|(name, row)| (name.as_str(), row.clone()))).await;
    let encrypted = members.iter().map(|(name, _)| (name.as_str(), reject("unsupported_format")));
    expect("encrypted.zip", fixture("encrypted.zip"), encrypted).await;
    let expected = [
        ("!method/0.png", row("method", 198)),
        ("!method/8.png", row("method", 200)),
        ("!method/12.png", reject("unsupported_format")),
        ("!method/14.png", reject("unsupported_format")),
        ("!zip64.png", row("python", 199)),
    ];
    expect("python.zip", fixture("python.zip"), expected).await;
    expect("prefixed.zip", fixture("prefixed.zip"), [("!apple/1.png", row("apple", 198))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_of_pyarrow_are_read() {
    let label = |i: usize| ["apple", "pear", "apple", "pear", "apple", "pear", "7"][i];
    for name in ["huggingface.parquet", "zstd.parquet"] {
        let stem = name.trim_end_matches(".parquet");
        let found = outcomes(name, fixture(name)).await;
        assert_eq!(found.len(), 9, "{found:?}");
        for i in 0..7 {
            assert_eq!(found[&format!("{name}!{i:09}-{i}.png")].as_ref().unwrap().0, label(i), "{name} {i}");
        }
        assert_eq!(found[&format!("{name}!000000007-null.png")], reject("empty"));
        assert_eq!(found[&format!("{name}!000000008")], reject("empty"), "{stem}");
    }
    let expected = [("!000000000", row("x", 200)), ("!000000001", row("y", 200)), ("!000000002", row("flat", 199))];
    expect("flat.parquet", fixture("flat.parquet"), expected).await;
    expect("gzip.parquet", fixture("gzip.parquet"), [("", reject("unsupported_format"))]).await;
    expect("numbers.parquet", fixture("numbers.parquet"), [("", reject("not_an_image"))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_not_opened_are_named() {
    for name in ["a.tar.gz", "a.TGZ", "a.tar.zst", "a.7z", "a.rar"] {
        expect(name, Bytes::from_static(b"\x1f\x8bwhatever"), [("", reject("unsupported_format"))]).await;
    }
    for name in ["a.tar", "a.zip", "a.parquet"] {
        expect(name, Bytes::from(vec![b'x'; 2_000]), [("", reject("not_an_image"))]).await;
    }
    // A hidden archive is no object, and neither is one in a hidden folder.
    expect(".a.tar", fixture("gnu.tar"), []).await;
}

fn some() -> Vec<File> {
    (0..6).map(|i| (format!("x/{i}.png"), png(i), 1_700_000_000)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_archive_has_the_members_that_are_whole() {
    let tar = crate::packs::tar(&some());
    let length = png(3).len() as i64;
    // A header, and the content in whole blocks.
    let member = 512 + png(3).len().next_multiple_of(512);
    let whole = |count: usize| (0..count).map(|i| format!("!x/{i}.png")).collect::<Vec<_>>();
    // In the fourth image; at the end of the third; before the mark of the end.
    for (end, count) in [(3 * member + 600, 3), (3 * member, 3), (6 * member, 6)] {
        let names = whole(count);
        let rows = names.iter().map(|name| (name.as_str(), row("x", length)));
        expect("a.tar", tar.slice(..end), rows.chain([("", reject("truncated"))])).await;
    }
    expect("a.tar", tar.slice(..100), [("", reject("truncated"))]).await;
    expect("a.tar", Bytes::new(), [("", reject("truncated"))]).await;
    let zip = crate::packs::zip(&some(), Method::Deflated);
    expect("a.zip", zip.slice(..zip.len() - 5), [("", reject("truncated"))]).await;
    let table = crate::packs::parquet(&some(), 3);
    expect("a.parquet", table.slice(..table.len() - 1), [("", reject("truncated"))]).await;
}

/// The bytes with a number at an offset.
fn patched(file: &Bytes, at: usize, number: u32) -> Bytes {
    let mut file = file.to_vec();
    file[at..at + 4].copy_from_slice(&number.to_le_bytes());
    file.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn zip_files_that_lie_are_rejected_member_by_member() {
    let files = some();
    let zip = crate::packs::zip(&files, Method::Deflated);
    let start = zip.windows(4).position(|mark| mark == b"PK\x01\x02").unwrap();
    let entry = 46 + "x/0.png".len() + 9;
    let corrupt_third = |zip: Bytes, what: &'static str| async move {
        let found = outcomes("a.zip", zip).await;
        let (bad, good): (Vec<_>, Vec<_>) = found.iter().partition(|(_, outcome)| outcome.is_err());
        assert_eq!((bad.len(), good.len()), (1, 5), "{what}: {found:?}");
        assert_eq!(bad[0], (&"a.zip!x/2.png".to_owned(), &reject("corrupt")), "{what}");
    };
    let third = start + 2 * entry;
    let size = files[2].1.len() as u32;
    corrupt_third(patched(&zip, third + 16, 1), "CRC-32").await;
    corrupt_third(patched(&zip, third + 24, size + 1), "longer than it says").await;
    corrupt_third(patched(&zip, third + 24, size - 1), "shorter than it says").await;
    corrupt_third(patched(&zip, third + 24, 100 << 20), "a bomb").await;
    // Overlapping members, as in zip bombs.
    let packed = u32::from_le_bytes(zip[third + 20..third + 24].try_into().unwrap());
    corrupt_third(patched(&zip, third + 20, packed + 200), "reaches into the next").await;
    // Two members in one place: the one whose place it is overlaps, and the other has another CRC-32.
    let found = outcomes("a.zip", patched(&zip, third + 42, 0)).await;
    let bad: Vec<_> = found.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    let bad_member = |name: &str| (format!("a.zip!{name}"), reject("corrupt"));
    let expected = [bad_member("x/0.png"), bad_member("x/2.png")];
    assert_eq!(bad, expected.iter().map(|(name, outcome)| (name, outcome)).collect::<Vec<_>>());
    // The directory.
    let end = zip.len() - 22;
    expect("a.zip", patched(&zip, end + 16, zip.len() as u32), [("", reject("corrupt"))]).await;
    expect(
        "a.zip",
        patched(&zip, end + 8, 0xfff0_fff0),
        [("", reject("truncated"))].into_iter().chain(rows_of(&files)),
    )
    .await;
}

fn rows_of(files: &[File]) -> impl Iterator<Item = (&'static str, Outcome)> {
    let names = ["!x/0.png", "!x/1.png", "!x/2.png", "!x/3.png", "!x/4.png", "!x/5.png"];
    let lengths: Vec<i64> = files.iter().map(|(_, content, _)| content.len() as i64).collect();
    names.into_iter().zip(lengths).map(|(name, length)| (name, row("x", length)))
}

#[tokio::test(flavor = "multi_thread")]
async fn tar_files_that_lie_end_where_they_lie() {
    let files = some();
    let tar = crate::packs::tar(&files);
    let third = 2 * (512 + files[0].1.len().next_multiple_of(512));
    // The header of the third member, with another size and the right checksum.
    let with_size = |size: u64| {
        let mut file = tar.to_vec();
        let mut header = tar::Header::from_byte_slice(&file[third..third + 512]).clone();
        header.set_size(size);
        header.set_cksum();
        file[third..third + 512].copy_from_slice(header.as_bytes());
        Bytes::from(file)
    };
    let first_two = || rows_of(&files).take(2);
    for size in [1 << 20, u64::from(u32::MAX), u64::MAX - 3, 1 << 62] {
        expect("a.tar", with_size(size), first_two().chain([("", reject("truncated"))])).await;
    }
    // A name that takes all memory, and one that is too long for a key.
    let mut long = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3 << 20);
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_cksum();
    long.append(&header, vec![b'a'; 3 << 20].as_slice()).unwrap();
    let mut file = long.into_inner().unwrap();
    file.truncate(file.len() - 1_024);
    file.extend_from_slice(&tar);
    let rest = rows_of(&files).skip(1);
    expect("a.tar", file.into(), rest.chain([("", reject("too_large"))])).await;
    let damaged = patched(&tar, third + 200, 0x7777_7777);
    expect("a.tar", damaged, first_two().chain([("", reject("corrupt"))])).await;
}

/// No range of an archive is read that lies outside of it, whatever a work list says.
#[tokio::test]
async fn a_place_outside_of_the_archive_is_an_error() {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    input.put("a.tar", crate::packs::tar(&some())).await.unwrap();
    let store = Unpacked::new(input, output);
    let listed = list_all(&store, "").await.unwrap();
    for range in [0..1 << 40, 1 << 40..1 << 41] {
        let mut object: Object = listed[0].clone();
        object.packed.as_mut().unwrap().range = range;
        assert!(store.get_listed(&object).await.is_err());
    }
    let mut object = listed[0].clone();
    object.packed.as_mut().unwrap().form = Form::Zip { length: u64::MAX, deflated: true, crc: 0 };
    assert!(store.get_listed(&object).await.is_err());
}
