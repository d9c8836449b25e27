//! Images that are there twice, from the run to the list: every one is found, whatever its place and the history.

use std::{collections::BTreeSet, io::Cursor, sync::Arc};

use crate::common::*;
use bytes::Bytes;
use pomona::{
    ErrorKind,
    dataset::{
        self, Manifest, Searched, contents, keys,
        settings::{Mode, Settings},
        tables::{self, DuplicateRow},
    },
    demo,
    search::{Components, Limit, squared_quanta},
    store::{MemoryStore, Store},
    versions::findings::{self, DuplicateGroup},
};
use proptest::prelude::*;

/// The same pixels as [`png`] in another file.
fn saved_again(seed: u64) -> Bytes {
    let image = image::load_from_memory(&png(seed)).unwrap();
    let mut file = Vec::new();
    image.write_to(&mut Cursor::new(&mut file), image::ImageFormat::Bmp).unwrap();
    file.into()
}

/// The same picture, a little brighter.
fn brighter(seed: u64) -> Bytes {
    let image = image::load_from_memory(&png(seed)).unwrap().brighten(1);
    let mut file = Vec::new();
    image.write_to(&mut Cursor::new(&mut file), image::ImageFormat::Png).unwrap();
    file.into()
}

fn settings() -> Settings {
    Settings { duplicate_distance: Some(0.02), ..small_shards() }
}

/// The groups of a version, by comparing the features of all pairs: path, distance from the first, same bytes.
async fn brute_force(output: &dyn Store, version: &Manifest) -> Vec<Vec<(String, f64, bool)>> {
    let (mut paths, mut hashes, mut rows, mut looks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for shard in contents::shards(output, version).await.unwrap() {
        let Some(file) = shard.features() else { continue };
        let table = tables::read_features(file.read(output).await.unwrap(), &version.extractor, &file.key).unwrap();
        rows.extend(table.features.outer_iter().map(|row| row.to_vec()));
        looks.extend(table.thumbnails.outer_iter().map(|row| row.to_vec()));
        paths.extend(table.paths);
        hashes.extend(table.contents);
    }
    let range = version.extractor.feature_range;
    let limit = Limit::new(version.duplicates.as_ref().unwrap().distance, range);
    let mut components = Components::new(paths.len() as u32);
    for a in 0..paths.len() {
        for b in a + 1..paths.len() {
            let levels = looks[a].iter().zip(&looks[b]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let is_look = (levels / looks[a].len() as f64).sqrt() <= version.duplicates.as_ref().unwrap().levels;
            if hashes[a] == hashes[b] || is_look || limit.includes(squared_quanta(&rows[a], &rows[b], range)) {
                components.connect(a as u32, b as u32);
            }
        }
    }
    let of_group = |group: Vec<u32>| {
        let first = group[0] as usize;
        let row = |row: u32| {
            let row = row as usize;
            let distance = limit.distance_of(squared_quanta(&rows[first], &rows[row], range));
            (paths[row].clone(), distance, hashes[first] == hashes[row])
        };
        group.into_iter().map(row).collect()
    };
    components.groups().into_iter().map(of_group).collect()
}

async fn table(output: &dyn Store, version: &Manifest) -> Vec<DuplicateRow> {
    let mut rows = Vec::new();
    for file in &version.duplicates.as_ref().unwrap().files {
        rows.extend(tables::read_duplicates(file.read(output).await.unwrap(), &file.key).unwrap());
    }
    rows
}

fn groups(rows: &[DuplicateRow]) -> Vec<Vec<(String, f64, bool)>> {
    let row = |row: &DuplicateRow| (row.path.clone(), row.distance, row.same_bytes);
    rows.chunk_by(|a, b| a.group == b.group).map(|group| group.iter().map(row).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_copy_is_found_with_its_label_and_split() {
    let (input, output, engine) = (images(0..300).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let planted = [
        ("train/pear/same.png", png(7)),
        ("test/apple/saved.bmp", saved_again(120)),
        ("kiwi/brighter.png", brighter(160)),
        ("a/first.png", png(500)),
        ("z/last.png", png(500)),
    ];
    for (key, body) in planted {
        input.put(key, body).await.unwrap();
    }
    let version = run(&stores(&input, &output), &engine, &settings(), "a").await.unwrap().manifest;
    let rows = table(output.as_ref(), &version).await;
    assert_eq!(groups(&rows), brute_force(output.as_ref(), &version).await);
    let of = |path: &str| {
        let group = rows.iter().find(|row| row.path == path).unwrap_or_else(|| panic!("{path} is not found")).group;
        rows.iter().filter(|row| row.group == group).cloned().collect::<Vec<_>>()
    };
    let same = of("train/pear/same.png");
    assert_eq!(same.iter().map(|row| row.path.clone()).collect::<Vec<_>>(), [key(7), "train/pear/same.png".into()]);
    assert!(same.iter().all(|row| row.same_bytes && row.distance == 0.0 && row.across_labels && !row.across_splits));
    let saved = of("test/apple/saved.bmp");
    assert!(saved.iter().any(|row| row.path == key(120)));
    assert_eq!(saved.iter().map(|row| row.distance).collect::<Vec<_>>(), [0.0, 0.0]);
    assert_eq!(saved.iter().map(|row| row.same_bytes).collect::<Vec<_>>(), [true, false]);
    assert!(saved.iter().all(|row| row.across_labels && row.across_splits));
    assert_eq!(of("a/first.png"), of("z/last.png"));
    let summary = version.duplicates.as_ref().unwrap();
    assert_eq!((summary.searched, summary.images, summary.distance), (Searched::NearDuplicates, 305, 0.02));
    assert_eq!((summary.copies, summary.rows), (2, rows.len() as u64));
    let listed = findings::duplicates(output.as_ref(), &version).await.unwrap();
    assert_eq!(listed.len() as u64, summary.groups);
    assert_eq!(listed.iter().filter(|group| group.across_labels).count() as u64, summary.across_labels);
    let copies: Vec<&DuplicateGroup> = listed.iter().filter(|group| group.same_bytes).collect();
    assert_eq!(copies.iter().map(|group| group.paths.len()).collect::<Vec<_>>(), [2, 2]);
}

/// A picture that is saved as JPEG again has other features than its original, and another thumbnail, by a little. Another view
/// of the same fruit is no copy.
#[tokio::test(flavor = "multi_thread")]
async fn copies_that_were_saved_as_jpeg_again_are_found() {
    const VIEWS: u32 = 60;
    let (input, output, engine) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()), engine("tiny", 2));
    for (number, variety) in demo::VARIETIES.iter().enumerate() {
        for view in 0..4 {
            let file = demo::jpeg(variety, view, VIEWS).unwrap();
            let picture = image::load_from_memory(&file).unwrap();
            let mut copy = Vec::new();
            let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut copy, 95);
            picture.write_with_encoder(encoder).unwrap();
            input.put(&format!("originals/{number:03}-{view}.jpg"), file.into()).await.unwrap();
            input.put(&format!("again/{number:03}-{view}.jpg"), copy.into()).await.unwrap();
        }
    }
    let settings = Settings { duplicate_distance: Some(0.0), ..small_shards() };
    let version = run(&stores(&input, &output), &engine, &settings, "a").await.unwrap().manifest;
    let found = groups(&table(output.as_ref(), &version).await);
    let paths: Vec<Vec<String>> = found.into_iter().map(|group| group.into_iter().map(|row| row.0).collect()).collect();
    let names = (0..demo::VARIETIES.len()).flat_map(|number| (0..4).map(move |view| format!("{number:03}-{view}.jpg")));
    let expected: Vec<_> = names.map(|name| vec![format!("again/{name}"), format!("originals/{name}")]).collect();
    assert_eq!(paths, expected);
    let without = Settings { duplicate_levels: Some(0.0), ..settings };
    let version = run(&stores(&input, &output), &engine, &without, "b").await.unwrap().manifest;
    assert_eq!(version.duplicates.unwrap().groups, 0);
}

/// A thousand equal images are one group, not half a million pairs.
#[tokio::test(flavor = "multi_thread")]
async fn many_equal_images_are_one_group() {
    let (input, output, engine) = (images(0..4).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    for i in 0..1_000 {
        input.put(&format!("copies/{i:04}.png"), png(9_000)).await.unwrap();
    }
    let version = run(&stores(&input, &output), &engine, &settings(), "a").await.unwrap().manifest;
    let summary = version.duplicates.as_ref().unwrap();
    assert_eq!((summary.groups, summary.rows, summary.copies), (1, 1_000, 999));
    assert_eq!(groups(&table(output.as_ref(), &version).await).len(), 1);
}

/// With more images than the setting allows, only the same bytes are searched, and the version says so; with four times as
/// many, nothing is, and listing is an error rather than an empty list.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_searched_is_said() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    input.put("kiwi/same.png", png(3)).await.unwrap();
    input.put("kiwi/saved.bmp", saved_again(5)).await.unwrap();
    let stores = stores(&input, &output);
    let of = |most| Settings { duplicate_images: Some(most), ..settings() };
    let version = run(&stores, &engine, &of(62), "a").await.unwrap().manifest;
    assert_eq!(version.duplicates.as_ref().unwrap().searched, Searched::NearDuplicates);
    assert!(table(output.as_ref(), &version).await.iter().any(|row| row.path == "kiwi/saved.bmp"));
    let version = run(&stores, &engine, &of(61), "b").await.unwrap().manifest;
    assert_eq!(version.duplicates.as_ref().unwrap().searched, Searched::SameBytes);
    let paths: Vec<String> = table(output.as_ref(), &version).await.into_iter().map(|row| row.path).collect();
    assert_eq!(paths, [key(3), "kiwi/same.png".to_owned()]);
    let version = run(&stores, &engine, &of(3), "c").await.unwrap().manifest;
    assert_eq!(version.duplicates.as_ref().unwrap().searched, Searched::Nothing);
    let error = findings::duplicates(output.as_ref(), &version).await.unwrap_err();
    assert!(error.is(ErrorKind::InputInvalid) && error.to_string().contains("not searched"), "{error}");
}

/// A version of a release without the tables gets them, and nothing is inferred for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_gets_the_tables() {
    let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let mut version = run(&stores, &engine, &settings(), "a").await.unwrap().manifest;
    (version.duplicates, version.outliers) = (None, None);
    let error = findings::duplicates(output.as_ref(), &version).await.unwrap_err();
    assert!(error.to_string().contains("older release"), "{error}");
    let state = dataset::VersionState::Published(Box::new(version.clone()));
    output.put(&keys::version(version.version), dataset::to_record(&state).unwrap()).await.unwrap();
    let next = run(&stores, &engine, &settings(), "b").await.unwrap();
    assert!(!next.up_to_date && next.manifest.duplicates.is_some() && next.manifest.outliers.is_some());
    assert_eq!(next.manifest.figures.inferred, 0);
    assert!(run(&stores, &engine, &settings(), "c").await.unwrap().up_to_date);
}

#[tokio::test(flavor = "multi_thread")]
async fn outliers_are_those_of_all_scores() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let white = image::RgbImage::from_pixel(16, 12, image::Rgb([255; 3]));
    let mut file = Vec::new();
    white.write_to(&mut Cursor::new(&mut file), image::ImageFormat::Png).unwrap();
    input.put("kiwi/white.png", file.into()).await.unwrap();
    for by_label in [false, true] {
        let settings = Settings { partition_by_label: Some(by_label), ..small_shards() };
        let mode = Mode { rebuild: true, ..Mode::default() };
        let name = format!("run-{by_label}");
        let version = run_as(&stores(&input, &output), &engine, &settings, mode, &name).await.unwrap().manifest;
        let found = findings::outliers(output.as_ref(), &version).await.unwrap();
        let mut distances = Vec::new();
        for part in contents::parts(output.as_ref(), &version).await.unwrap() {
            for file in part.scores {
                let body = file.read(output.as_ref()).await.unwrap();
                let rows = tables::read_scores(body, version.basis.components, &file.key).unwrap();
                for (path, scores) in rows.paths.into_iter().zip(rows.scores.outer_iter()) {
                    let squares = scores.iter().zip(&version.basis.explained_variance);
                    let squares = squares.map(|(x, v)| if *v > 0.0 { f64::from(*x).powi(2) / v } else { 0.0 });
                    distances.push((squares.sum::<f64>().sqrt(), path));
                }
            }
        }
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let centre = median(distances.iter().map(|(distance, _)| *distance).collect());
        let deviation = 1.4826 * median(distances.iter().map(|(distance, _)| (distance - centre).abs()).collect());
        let threshold = version.outliers.as_ref().unwrap().threshold.unwrap();
        assert!((threshold - centre - 5.0 * deviation).abs() < 1e-9, "{threshold} {centre} {deviation}");
        let expected: BTreeSet<&str> =
            distances.iter().filter(|(distance, _)| *distance > threshold).map(|(_, path)| path.as_str()).collect();
        assert_eq!(found.iter().map(|row| row.path.as_str()).collect::<BTreeSet<_>>(), expected);
        assert!(found.is_sorted_by(|a, b| a.distance >= b.distance));
        assert!(found.iter().all(|row| row.label.as_deref() == row.path.split('/').next()));
    }
}

/// What can happen to an image between two runs.
#[derive(Clone, Debug)]
enum Change {
    Copy(u64, u64),
    SaveAgain(u64, u64),
    Brighten(u64, u64),
    Delete(u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0u64..90, 0u64..60).prop_map(|(to, of)| Change::Copy(to, of)),
        (0u64..90, 0u64..60).prop_map(|(to, of)| Change::SaveAgain(to, of)),
        (0u64..90, 0u64..60).prop_map(|(to, of)| Change::Brighten(to, of)),
        (0u64..90).prop_map(Change::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// After any history, the table is that of a fresh run, and of all pairs.
    #[test]
    fn no_group_depends_on_the_history(
        rounds in prop::collection::vec(prop::collection::vec(change(), 1..10), 1..4),
        (shard_size, group_size) in (2u32..24, 1u32..200),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (input, output, engine) = (images(0..60).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
            let settings =
                Settings { shard_size: Some(shard_size), group_size: Some(group_size), ..settings() };
            for (i, round) in rounds.iter().enumerate() {
                for change in round {
                    match change {
                        Change::Copy(to, of) => input.put(&key(*to), png(*of)).await.unwrap(),
                        Change::SaveAgain(to, of) => input.put(&key(*to), saved_again(*of)).await.unwrap(),
                        Change::Brighten(to, of) => input.put(&key(*to), brighter(*of)).await.unwrap(),
                        Change::Delete(of) => input.delete(&key(*of)).await.unwrap(),
                    }
                }
                let stores = stores(&input, &output);
                let version = run(&stores, &engine, &settings, &format!("run-{i}")).await.unwrap().manifest;
                let rows = table(output.as_ref(), &version).await;
                assert_eq!(groups(&rows), brute_force(output.as_ref(), &version).await);
            }
            assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings).await);
        });
    }
}
