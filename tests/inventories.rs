//! Inventories of each kind list what a listing lists, and no listing is asked for.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use crate::common::{
    stores::{Counting, Counts},
    *,
};
use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_schema::{Field, Schema};
use flate2::{Compression, write::GzEncoder};
use parquet::arrow::ArrowWriter;
use pomona::{
    ErrorKind, Result,
    dataset::settings::Settings,
    inventory::Inventoried,
    stages::Stores,
    store::{FolderStore, MemoryStore, Object, Store, list_all},
};
use tempfile::TempDir;

/// Objects with names of all kinds, some of them in archives' names, in no order.
fn objects(count: usize) -> Vec<Object> {
    let mut random = fastrand::Rng::with_seed(5);
    let mut objects: Vec<Object> = (0..count)
        .map(|i| Object {
            key: format!("{}/{:05} +%20\"ä,\u{1}.jpg", ["apple", "Äpfel rot", "x.tar!y", ""][i % 4], i * 7_919 % count),
            etag: format!("{:032x}", random.u128(..)).into(),
            size: random.u64(..1 << 40),
            modified: 1_700_000_000_000_000 + i as i64 * 1_000_000,
            packed: None,
        })
        .collect();
    random.shuffle(&mut objects);
    objects
}

fn sorted(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    objects
}

fn iso(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).unwrap().to_string()
}

fn url(key: &str) -> String {
    percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string().replace("%20", "+")
}

async fn list(location: &Path) -> Result<Vec<Object>> {
    // The store below is empty: whatever is listed comes from the inventory.
    let store = Inventoried::new(Arc::new(MemoryStore::new()), location.to_str().unwrap());
    list_all(&store, "").await
}

/// A Parquet file with these columns.
fn parquet_file(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, column)| column).collect()).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// The columns of the live inventory of S3 Metadata.
fn metadata_columns(objects: &[Object]) -> Vec<(&'static str, ArrayRef)> {
    let numbers = |of: &dyn Fn(&Object) -> i64| Int64Array::from_iter_values(objects.iter().map(of));
    let times = objects.iter().map(|object| object.modified / 1_000);
    vec![
        ("bucket", texts(objects.iter().map(|_| "fruit"))),
        ("key", texts(objects.iter().map(|object| object.key.as_str()))),
        ("storage_class", texts(objects.iter().map(|_| "STANDARD"))),
        ("size", Arc::new(numbers(&|object| object.size as i64))),
        ("last_modified_date", Arc::new(TimestampMillisecondArray::from_iter_values(times))),
        ("e_tag", texts(objects.iter().map(|object| object.etag.as_str()))),
    ]
}

/// An inventory of S3 in a folder as S3 writes it to a bucket; returns its manifest.
fn s3_inventory(root: &TempDir, format: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
    let base = "inventories/fruit/daily";
    let mut listed = Vec::new();
    for (name, body) in files {
        let key = format!("{base}/data/{name}");
        fs::create_dir_all(root.path().join(&key).parent().unwrap()).unwrap();
        fs::write(root.path().join(&key), body).unwrap();
        listed.push(serde_json::json!({"key": key, "size": body.len(), "MD5checksum": "0"}));
    }
    let manifest = serde_json::json!({
        "sourceBucket": "fruit", "destinationBucket": "arn:aws:s3:::lists", "version": "2016-11-30",
        "creationTimestamp": "1700000000000", "fileFormat": format,
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass",
        "files": listed,
    });
    let path = root.path().join(base).join("2023-11-14T01-00Z/manifest.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, manifest.to_string()).unwrap();
    path
}

fn csv_line(object: &Object, latest: bool, marker: bool) -> String {
    let (key, time) = (url(&object.key), iso(object.modified));
    let (size, etag) =
        if marker { (String::new(), String::new()) } else { (object.size.to_string(), object.etag.to_string()) };
    format!("\"fruit\",\"{key}\",\"v1\",\"{latest}\",\"{marker}\",\"{size}\",\"{time}\",\"{etag}\",\"STANDARD\"\n")
}

fn gzip(text: &str) -> Vec<u8> {
    // In two parts, as from parallel writers.
    let (first, second) = text.split_at(text.len() / 2);
    let parts = [first, second].map(|part| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(part.as_bytes()).unwrap();
        encoder.finish().unwrap()
    });
    parts.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_of_each_kind_lists_what_there_is() {
    let all = objects(9_000);
    let expected = sorted(all.clone());
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);

    parquet_file(&at("live.parquet"), metadata_columns(&all));
    assert!(list(&at("live.parquet")).await.unwrap() == expected, "Parquet");
    fs::create_dir(at("parts")).unwrap();
    for (number, part) in all.chunks(2_500).enumerate() {
        parquet_file(&at(&format!("parts/{number}.parquet")), metadata_columns(part));
    }
    assert!(list(&at("parts")).await.unwrap() == expected, "a folder of Parquet files");

    let mut csv = csv::Writer::from_path(at("own.csv")).unwrap();
    csv.write_record(["path", "etag", "length", "modified", "note"]).unwrap();
    for object in &all {
        let (size, time) = (object.size.to_string(), object.modified.to_string());
        csv.write_record([&object.key, object.etag.as_str(), &size, &time, "x"]).unwrap();
    }
    csv.flush().unwrap();
    drop(csv);
    assert!(list(&at("own.csv")).await.unwrap() == expected, "CSV");
    fs::write(at("own.csv.gz"), gzip(&fs::read_to_string(at("own.csv")).unwrap())).unwrap();
    assert!(list(&at("own.csv.gz")).await.unwrap() == expected, "compressed CSV");
    fs::copy(at("own.csv.gz"), at("OWN.CSV.GZ")).unwrap();
    assert!(list(&at("OWN.CSV.GZ")).await.unwrap() == expected, "compressed CSV, named in capitals");

    let lines = |part: &[Object]| gzip(&part.iter().map(|object| csv_line(object, true, false)).collect::<String>());
    let files: Vec<_> = all.chunks(4_000).enumerate().map(|(i, part)| (format!("{i}.csv.gz"), lines(part))).collect();
    assert!(list(&s3_inventory(&root, "CSV", &files)).await.unwrap() == expected, "S3 Inventory in CSV");
    let files = vec![("all.parquet".to_owned(), fs::read(at("live.parquet")).unwrap())];
    assert!(list(&s3_inventory(&root, "Parquet", &files)).await.unwrap() == expected, "S3 Inventory in Parquet");

    // From any key on.
    let store = Inventoried::new(Arc::new(MemoryStore::new()), at("live.parquet").to_str().unwrap());
    for (prefix, after) in
        [("apple/", None), ("apple/", Some("apple/04")), ("", Some("x")), ("Ä", Some("Z")), ("~", None)]
    {
        let pages: Vec<Vec<Object>> = futures::TryStreamExt::try_collect(store.list(prefix, after)).await.unwrap();
        assert!(pages.iter().all(|page| (1..=1_000).contains(&page.len())));
        let wanted =
            |object: &&Object| object.key.starts_with(prefix) && after.is_none_or(|after| object.key.as_str() > after);
        assert!(pages.concat() == expected.iter().filter(wanted).cloned().collect::<Vec<_>>(), "{prefix} {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_versions_of_a_key_the_latest_counts() {
    let root = tempfile::tempdir().unwrap();
    let object = |key: &str, etag: &str| Object {
        key: key.to_owned(),
        etag: etag.into(),
        size: 3,
        modified: 1_700_000_000_000_000,
        packed: None,
    };
    let (a1, a2, b1, b2) = (object("a", "1"), object("a", "2"), object("b", "3"), object("b", "4"));
    let lines = [
        csv_line(&a1, false, false),
        csv_line(&a2, true, false),
        csv_line(&b1, false, false),
        csv_line(&b2, true, true),
        csv_line(&object("c", "5"), true, false).replace("\"fruit\"", "\"other\""),
    ];
    let manifest = s3_inventory(&root, "CSV", &[("1.csv.gz".to_owned(), gzip(&lines.concat()))]);
    assert_eq!(list(&manifest).await.unwrap(), [a2.clone(), object("c", "5")]);

    // The journal of S3 Metadata, in which the last event of a key counts.
    let events = [
        ("a", "01", "CREATE", &a1),
        ("a", "03", "CREATE", &a2),
        ("a", "02", "UPDATE_METADATA", &a1),
        ("b", "05", "DELETE", &b1),
        ("b", "04", "CREATE", &b1),
    ];
    let rows: Vec<Object> = events.iter().map(|(.., object)| (*object).clone()).collect();
    let mut columns = metadata_columns(&rows);
    columns.push(("sequence_number", texts(events.iter().map(|(_, sequence, ..)| *sequence))));
    columns.push(("record_type", texts(events.iter().map(|(_, _, kind, _)| *kind))));
    columns.push(("is_delete_marker", Arc::new(BooleanArray::from(vec![false; 5]))));
    parquet_file(&root.path().join("journal.parquet"), columns);
    assert_eq!(list(&root.path().join("journal.parquet")).await.unwrap(), [a2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_inventory_is_named() {
    let root = tempfile::tempdir().unwrap();
    let fails = async |path: &Path, kind: ErrorKind, text: &str| {
        let error = list(path).await.unwrap_err();
        assert!(error.is(kind) && error.to_string().contains(text), "{kind}: {error}");
    };
    fails(&root.path().join("none.parquet"), ErrorKind::InputNotFound, "there is no inventory here").await;
    fails(root.path(), ErrorKind::InputNotFound, "there is no inventory here").await;
    fails(&root.path().join("none.json"), ErrorKind::InputNotFound, "no such manifest").await;
    fails(&s3_inventory(&root, "ORC", &[]), ErrorKind::InputInvalid, "ORC are not read").await;
    let manifest = s3_inventory(&root, "CSV", &[("1.csv.gz".to_owned(), gzip("\"fruit\",\"a\"\n"))]);
    fails(&manifest, ErrorKind::InputInvalid, "a row has no etag (key: a)").await;
    let data = root.path().join("inventories/fruit/daily/data/1.csv.gz");
    fs::write(&data, b"short").unwrap();
    fails(&manifest, ErrorKind::InputInvalid, "5 bytes instead of").await;
    fs::remove_file(&data).unwrap();
    fails(&manifest, ErrorKind::InputNotFound, "a file of the inventory is missing").await;
    fs::write(root.path().join("x.csv"), "key,size\na,1\n").unwrap();
    fails(&root.path().join("x.csv"), ErrorKind::InputInvalid, "no column etag, last_modified_date").await;
    fs::write(root.path().join("y.csv"), "key,size,etag,modified\na,many,e,0\n").unwrap();
    fails(&root.path().join("y.csv"), ErrorKind::InputInvalid, "\"many\" is no size").await;
    fs::write(root.path().join("z.parquet"), "PAR1").unwrap();
    fails(&root.path().join("z.parquet"), ErrorKind::InputInvalid, "cannot be read").await;
}

/// `pomona run` on a folder with a manifest, in another working directory.
fn run_in(folder: &Path, images: &Path, manifest: &str) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pomona"));
    let output = tempfile::tempdir().unwrap();
    command.current_dir(folder).arg("run").arg(images).arg(output.path().join("out"));
    command.args(["--inventory", manifest, "--model"]).arg(fs::canonicalize(model_path("tiny")).unwrap());
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relative_manifest_finds_its_files_and_no_others() {
    let root = tempfile::tempdir().unwrap();
    let images = root.path().join("images");
    fs::create_dir_all(&images).unwrap();
    (0..3).for_each(|i| fs::write(images.join(format!("{i}.png")), png(i)).unwrap());
    let listed = list_all(&FolderStore::new(&images), "").await.unwrap();
    let lines: String = listed.iter().map(|object| csv_line(object, true, false)).collect();
    let manifest = s3_inventory(&root, "CSV", &[("1.csv.gz".to_owned(), gzip(&lines))]);
    // The files are in a folder beside that of the manifest, which its relative path does not show.
    let done = run_in(manifest.parent().unwrap(), &images, "manifest.json");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    // A file of the same name where the program runs is not that of the inventory.
    let here = tempfile::tempdir().unwrap();
    fs::rename(root.path().join("inventories/fruit/daily/data/1.csv.gz"), here.path().join("1.csv.gz")).unwrap();
    let done = run_in(here.path(), &images, manifest.to_str().unwrap());
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && text.contains("a file of the inventory is missing"), "{text}");
}

/// A run with an inventory asks for no listing, makes the same data set, and rejects what has changed since.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_an_inventory_equals_one_on_a_listing() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    program::write_images(&images, 120);
    fs::write(images.join("more.tar"), crate::packs::tar(&[("x/1.png".to_owned(), png(900), 0)])).unwrap();
    let (engine, settings) = (engine("tiny", 2), small_shards());
    let loose = Stores::new(Arc::new(FolderStore::new(&images)), Arc::new(MemoryStore::new()));
    run(&loose, &engine, &settings, "a").await.unwrap();
    let expected = data_set(loose.output.as_ref()).await;

    let mut listed = list_all(&FolderStore::new(&images), "").await.unwrap();
    let inventory = folder.path().join("inventory.csv");
    let write = |listed: &[Object]| {
        let mut csv = csv::Writer::from_path(&inventory).unwrap();
        csv.write_record(["Key", "Size", "LastModifiedDate", "ETag"]).unwrap();
        for object in listed {
            csv.write_record([&object.key, &object.size.to_string(), &iso(object.modified), object.etag.as_str()])
                .unwrap();
        }
    };
    listed.reverse();
    write(&listed);
    let location = inventory.to_str().unwrap();
    let inner: Arc<dyn Store> = Arc::new(FolderStore::new(&images));
    let stores = Stores::new(Arc::new(Inventoried::new(inner, location)), Arc::new(MemoryStore::new()));
    run(&stores, &engine, &settings, "a").await.unwrap();
    assert!(data_set(stores.output.as_ref()).await == expected);

    // In memory, where listings are counted.
    let memory = images_in_memory(&listed, &images).await;
    let counting = Arc::new(Counting { inner: memory.clone(), gate: Counts::default() });
    write(&list_all(memory.as_ref(), "").await.unwrap());
    let stores = Stores::new(Arc::new(Inventoried::new(counting.clone(), location)), Arc::new(MemoryStore::new()));
    let made = run(&stores, &engine, &settings, "a").await.unwrap().manifest;
    assert_eq!((made.images, made.rejects, counting.gate.listed.load(Ordering::Relaxed)), (121, 0, 0));

    // An object that is gone, and one that was replaced, are rejects of a run on the old inventory.
    memory.delete("label 0/00007.png").await.unwrap();
    memory.put("label 0/00008.png", png(8_000)).await.unwrap();
    let stores = Stores::new(Arc::new(Inventoried::new(counting, location)), Arc::new(MemoryStore::new()));
    let lenient = Settings { max_reject_percent: 5.0, ..settings };
    let made = run(&stores, &engine, &lenient, "a").await.unwrap().manifest;
    let rejects = pomona::dataset::contents::rejects(stores.output.as_ref(), &made).await.unwrap();
    let found: Vec<_> = rejects.iter().map(|row| (row.path.as_str(), row.reject.reason.name())).collect();
    assert_eq!(found, [("label 0/00007.png", "unreadable"), ("label 0/00008.png", "unreadable")]);
}

async fn images_in_memory(listed: &[Object], folder: &Path) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    for object in listed {
        store.put(&object.key, fs::read(folder.join(&object.key)).unwrap().into()).await.unwrap();
    }
    store
}
