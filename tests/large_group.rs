//! Memory of the work on a large group: its sums of classes and its segment of the search index.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

#[path = "common/memory.rs"]
mod memory;

use memory::{alone, peak_of};
use ndarray::Array2;
use pomona::{
    classify::{ClassSums, FOLDS, Summer},
    dataset::tables::{self, Compression, FeatureRows},
    ids::ShardId,
    model::{Extractor, FeatureRange},
    search::segment::{SegmentSample, SegmentWriter, ShardRows, Subject},
};

const COLUMNS: usize = 1_280;
/// Rows of a shard.
const ROWS: usize = 512;
const MB: usize = 1 << 20;
/// Sums of products of a fold, in 64 bits.
const FOLD: usize = COLUMNS * (COLUMNS + 1) / 2 * 8;

fn features(seed: u64) -> Array2<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    Array2::from_shape_simple_fn((ROWS, COLUMNS), || random.u32(0..1 << 22) as f32 / (1 << 20) as f32)
}

fn per_unit() -> f64 {
    FeatureRange::default().per_unit()
}

fn summed(shards: u64) -> ClassSums {
    let mut summer = Summer::new(COLUMNS, per_unit());
    for shard in 0..shards {
        let labels: Vec<_> = (0..ROWS).map(|row| Some(["a", "b", "c"][row % 3])).collect();
        let folds: Vec<u8> = (0..ROWS).map(|row| (row % FOLDS) as u8).collect();
        summer.add_rows(features(shard).view(), &labels, &folds).unwrap();
    }
    summer.finish().unwrap()
}

#[test]
fn sums_of_classes_take_64_bits_each_and_are_never_in_memory_twice() {
    let _alone = alone();
    let (sums, peak) = peak_of(|| summed(6));
    // Rows wait until there are enough of them for a fast product: 256 of each fold.
    assert!(peak < FOLDS * (FOLD + 256 * COLUMNS * 4) + 10 * MB, "summing: {} MB", peak / MB);
    let mut total = sums.clone();
    let (file, peak) = peak_of(|| tables::write_last_classes(sums, "x").unwrap());
    // The encoder collects its pages, and then writes the file. These sums are random in their low bytes.
    assert!(peak < 2 * file.len() + 8 * MB, "encoding {} MB: {} MB", file.len() / MB, peak / MB);
    let (added, peak) = peak_of(|| tables::add_classes(&mut total, file.clone(), "k"));
    added.unwrap();
    assert!(peak < FOLD + 4 * MB, "adding: {} MB", peak / MB);
    let (read, peak) = peak_of(|| tables::read_classes(file, COLUMNS, "k").unwrap());
    assert!(peak < FOLDS * FOLD + 4 * MB, "reading: {} MB", peak / MB);
    let mut expected = read.clone();
    expected.add(&read).unwrap();
    assert_eq!(total, expected);
}

/// A segment of 16 shards has 31 MB of rows.
#[test]
fn a_segment_is_made_a_shard_at_a_time() {
    let _alone = alone();
    let subject =
        Subject { group: "g".into(), extractor: "x".into(), columns: COLUMNS, range: FeatureRange::default() };
    let paths = |shard: u64| -> Vec<String> { (0..ROWS).map(|row| format!("{shard:03}/{row:04}.jpg")).collect() };
    let none = vec![None; ROWS];
    let (bytes, peak) = peak_of(|| {
        let mut sample = SegmentSample::new(subject).unwrap();
        for shard in 0..16 {
            sample.push(&paths(shard), features(shard).view()).unwrap();
        }
        let mut writer = SegmentWriter::new(sample, None).unwrap();
        let mut bytes = SegmentWriter::head().len();
        for number in 0..16 {
            let (paths, features, shard) = (paths(number), features(number), ShardId::from(format!("{number:03}")));
            let (labels, splits) = (&none, &none);
            let rows = ShardRows { shard: &shard, paths: &paths, labels, splits, features: features.view() };
            bytes += writer.push(rows).unwrap().len();
        }
        bytes + writer.finish().unwrap().len()
    });
    assert!(bytes > 31 * MB, "{bytes}");
    // A shard as features and as packed rows, what bounds the distances of all rows, and the fit of the directions.
    assert!(peak < 24 * MB, "{} MB", peak / MB);
}

#[test]
fn decoding_features_takes_twice_their_memory() {
    let _alone = alone();
    let extractor = Extractor::embedded(FeatureRange::default()).unwrap();
    let rows = FeatureRows {
        paths: (0..ROWS).map(|row| format!("{row:04}.jpg")).collect(),
        labels: vec![None; ROWS],
        splits: vec![None; ROWS],
        modified: vec![0; ROWS],
        lengths: vec![1; ROWS],
        etags: vec!["x".to_owned(); ROWS],
        contents: vec![Some("0".repeat(64)); ROWS],
        features: features(1),
        ..FeatureRows::default()
    };
    let expected = rows.features.clone();
    let file = tables::write_features(rows, "x", Compression::Snappy).unwrap();
    let (read, peak) = peak_of(|| tables::read_labelled_features(file, extractor.info(), "k").unwrap());
    assert_eq!(read.features, expected);
    // The matrix, and the parts that the decoder has made of it.
    assert!(peak < 2 * ROWS * COLUMNS * 4 + 2 * MB, "{} MB", peak / MB);
}
