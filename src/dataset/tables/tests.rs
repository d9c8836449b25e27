use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, TimeUnit};
use bytes::Bytes;
use ndarray::{Array2, array};
use parquet::{
    basic::{self, Encoding},
    file::{metadata::RowGroupMetaData, reader::FileReader, serialized_reader::SerializedFileReader},
};

use super::{features::off_grid, *};
use crate::{
    ErrorKind, Result,
    classify::{self, ClassSums, Priors, TallyRow},
    image::THUMBNAIL,
    model::{Decoding, ExtractorInfo, FeatureRange, embedded_info},
    orb::Keypoint,
    pca::moments::{ShardMoments, TotalMoments},
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/release-0.1.0/output");

/// Rows of all its shards, of both versions.
const IMAGES: usize = 35;

fn extractor(columns: usize, range: u32) -> ExtractorInfo {
    ExtractorInfo { columns, ..embedded_info(FeatureRange::try_from(range).unwrap(), Decoding::Full) }
}

fn keypoint(octave: u8) -> Keypoint {
    let x = f32::from(octave) * 20.5;
    Keypoint { x, y: 3.25, octave, angle: 359.5, response: -1e-3, descriptor: [octave; 32] }
}

fn rows() -> FeatureRows {
    FeatureRows {
        paths: vec!["2.jpg".into(), "Äpfel/1.jpg".into()],
        labels: vec![None, Some("Äpfel".into())],
        splits: vec![Some("train".into()), None],
        modified: vec![1, -1],
        lengths: vec![10, 20],
        etags: vec!["a".into(), "b".into()],
        contents: vec![Some("0a".repeat(32)), Some("ff".repeat(32))],
        features: array![[0.5, 0.25], [3.0, 6.0]],
        thumbnails: Array2::from_shape_fn((2, THUMBNAIL), |(row, level)| {
            (row * 100) as f32 + (level % 16) as f32 / 16.0
        }),
        keypoints: vec![vec![], vec![keypoint(1), keypoint(2)]],
    }
}

/// Writes the rows and reads them, in both ways.
fn again(rows: FeatureRows, extractor: &ExtractorInfo) -> Result<FeatureRows> {
    let file = write_features(rows, "x", Compression::Snappy).unwrap();
    let (read, labelled) = (read_features(file.clone(), extractor, "k"), read_labelled_features(file, extractor, "k"));
    let message = |error: &crate::Error| error.to_string();
    let full = read.as_ref().err().map(message).filter(|error| !error.contains("content hash"));
    assert_eq!(labelled.as_ref().err().map(message), full);
    read
}

fn total(features: &Array2<f32>) -> TotalMoments {
    let mut total = TotalMoments::zero(features.ncols());
    total.add(&ShardMoments::from_features(features.view(), f64::from(1 << 20)).unwrap()).unwrap();
    total
}

#[test]
fn each_table_is_read_as_written() {
    let (rows, extractor) = (rows(), extractor(2, 8));
    for compression in [Compression::Snappy, Compression::Zstd] {
        let file = write_features(rows.clone(), "x", compression).unwrap();
        assert_eq!(read_features(file.clone(), &extractor, "k").unwrap(), rows);
        let FeatureRows { paths, labels, splits, features, .. } = rows.clone();
        let labelled = LabelledFeatures { paths, labels, splits, features };
        assert_eq!(read_labelled_features(file.clone(), &extractor, "k").unwrap(), labelled);
        assert_eq!(features::read_etags(file.clone(), "k").unwrap()[1], ("Äpfel/1.jpg".to_owned(), "b".to_owned()));
        assert!(read_features(file.slice(..file.len() / 2), &extractor, "k").is_err());
        let scores =
            ScoreRows { paths: rows.paths.clone(), labels: rows.labels.clone(), scores: rows.features.clone() };
        let file = write_scores(scores.clone(), LabelColumn::Included, "x", "b", compression).unwrap();
        assert_eq!(read_scores(file, 2, "k").unwrap(), scores);
        let file = write_scores(scores.clone(), LabelColumn::InFolder, "x", "b", compression).unwrap();
        assert_eq!(read_scores(file, 2, "k").unwrap(), ScoreRows { labels: vec![None; 2], ..scores });
    }
    let basis =
        crate::pca::fit(&total(&rows.features), f64::from(1 << 20), crate::pca::Scaling::Standardized, None).unwrap();
    assert_eq!(read_basis(write_basis(&basis, "x", "b").unwrap(), 2, "k").unwrap(), basis);
    let none = FeatureRows { features: Array2::zeros((0, 2)), ..FeatureRows::default() };
    let of_before = FeatureRows { thumbnails: Array2::zeros((2, 0)), keypoints: vec![], ..rows };
    assert_eq!(again(of_before.clone(), &extractor).unwrap(), of_before);
    assert_eq!(again(none.clone(), &extractor).unwrap(), none);
}

#[test]
fn features_of_the_wrong_extractor_are_corrupt() {
    for wrong in [extractor(1, 8), extractor(3, 8), extractor(4, 8)] {
        let error = again(rows(), &wrong).unwrap_err();
        assert!(error.is(ErrorKind::DatasetCorrupt));
        assert!(error.to_string().contains("key: k") && error.to_string().contains("row: 0"), "{error}");
    }
}

#[test]
fn a_feature_off_the_grid_is_corrupt_and_its_row_is_named() {
    let quantum = 2f32.powi(-20);
    let check = |value: f32, range: u32| {
        let mut features = Array2::<f32>::zeros((300, 70));
        features[(257, 69)] = value;
        off_grid(&features, FeatureRange::try_from(range).unwrap())
    };
    for good in [0.0, -0.0, quantum, -quantum, 8.0 - quantum, quantum - 8.0, 4.0 + quantum, 1.5] {
        assert_eq!(check(good, 8), None, "{good}");
    }
    let damaged = f32::from_bits(3.0f32.to_bits() ^ 1 << 30);
    let off = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 8.0, -8.0, 1.7e38, damaged, 0.3, quantum / 2.0, 1e-40];
    for bad in off {
        assert_eq!(check(bad, 8), Some(257), "{bad}");
    }
    assert_eq!((check(8.0, 16), check(quantum, 16), check(quantum, 1 << 20)), (None, Some(257), Some(257)));
    assert_eq!((check(1.0, 1), check(2f32.powi(-23), 1), check(1_048_575.9, 1 << 20)), (Some(257), None, None));

    let mut rows = rows();
    rows.features[(1, 0)] = 0.3;
    let error = again(rows, &extractor(2, 8)).unwrap_err();
    assert!(error.is(ErrorKind::DatasetCorrupt) && error.to_string().contains("row: 1"), "{error}");
}

/// The test of the columns of sums and that of the reader are the same.
#[test]
fn the_grid_is_that_of_the_sums() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        // Half of the values are near the grid.
        let any = f32::from_bits(random.u32(..));
        let near = (f64::from(random.i32(-(1 << 23) - 2..(1 << 23) + 2)) / f64::from(1 << 20)) as f32;
        let value = if random.bool() { any } else { f32::from_bits(near.to_bits() ^ u32::from(random.u8(..2))) };
        let features = array![[value]];
        let summed = ShardMoments::from_features(features.view(), f64::from(1 << 20)).is_ok();
        assert_eq!(off_grid(&features, FeatureRange::default()).is_none(), summed, "{value:e}");
    }
}

#[test]
fn paths_that_do_not_ascend_and_hashes_that_are_none_are_corrupt() {
    let fails = |change: fn(&mut FeatureRows), row: usize| {
        let mut rows = rows();
        change(&mut rows);
        let error = again(rows, &extractor(2, 8)).unwrap_err();
        assert!(error.is(ErrorKind::DatasetCorrupt), "{error}");
        assert!(error.to_string().contains(&format!("row: {row}")), "{error}");
    };
    fails(|rows| rows.paths.reverse(), 1);
    fails(|rows| rows.paths[1] = rows.paths[0].clone(), 1);
    fails(|rows| rows.contents[1] = Some("0a".repeat(31)), 1);
    fails(|rows| rows.contents[0] = Some("0x".repeat(32)), 0);
}

#[test]
fn a_row_without_content_cannot_be_written() {
    let rows = FeatureRows { contents: vec![None; 2], ..rows() };
    assert!(write_features(rows, "x", Compression::Snappy).unwrap_err().is(ErrorKind::InternalBug));
}

#[test]
fn a_table_with_one_of_the_two_new_columns_is_corrupt() {
    let text = |name| (Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(vec!["a"])) as ArrayRef);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let modified = TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC");
    let features = list(Arc::new(Float32Array::from(vec![0.5f32])), 1, 1).unwrap();
    let old = || -> Vec<(Field, ArrayRef)> {
        vec![
            text("path"),
            text("label"),
            (Field::new("modified", time.clone(), false), Arc::new(modified.clone())),
            (Field::new("length", DataType::Int64, true), Arc::new(Int64Array::from(vec![1]))),
            text("etag"),
            (Field::new("features", list_of(DataType::Float32), false), features.clone()),
        ]
    };
    let read =
        |fields| read_features(write(fields, &[], Layout::Rows(Compression::Snappy)).unwrap(), &extractor(1, 8), "k");
    assert_eq!(read(old()).unwrap().contents, [None]);
    for name in ["split", "content_sha256"] {
        let mut fields = old();
        fields.push(text(name));
        assert!(read(fields).unwrap_err().is(ErrorKind::DatasetCorrupt), "{name}");
    }
    // A null in a column that has none.
    let mut fields = old();
    fields[3].1 = Arc::new(Int64Array::from(vec![None]));
    assert!(read(fields).unwrap_err().is(ErrorKind::DatasetCorrupt));
}

#[test]
fn keypoints_that_are_none_are_corrupt() {
    let with = |keypoint: Keypoint| FeatureRows { keypoints: vec![vec![], vec![keypoint]], ..rows() };
    let written = |rows: FeatureRows| write_features(rows, "x", Compression::Zstd);
    let read = |rows| read_features(written(rows).unwrap(), &extractor(2, 8), "k");
    assert_eq!(read(with(keypoint(3))).unwrap(), with(keypoint(3)));
    for wrong in [
        Keypoint { x: f32::NAN, ..keypoint(3) },
        Keypoint { y: f32::INFINITY, ..keypoint(3) },
        Keypoint { angle: f32::NAN, ..keypoint(3) },
        Keypoint { response: f32::NEG_INFINITY, ..keypoint(3) },
    ] {
        let error = read(with(wrong)).unwrap_err();
        assert!(error.is(ErrorKind::DatasetCorrupt) && error.to_string().contains("row: 1"), "{error}");
    }
    assert!(written(FeatureRows { keypoints: vec![vec![]], ..rows() }).unwrap_err().is(ErrorKind::InternalBug));
    // Lists of other things.
    let file = written(FeatureRows { keypoints: vec![], ..rows() }).unwrap();
    let table = Table::read(file, "k").unwrap();
    for column in ["features", "path"] {
        assert!(super::descriptors::read_keypoints(&table, column).unwrap_err().is(ErrorKind::DatasetCorrupt));
    }
}

#[test]
fn sums_are_read_from_integers_and_decimals() {
    let sums = total(&rows().features);
    for file in [write_group_sums(&sums, "x").unwrap(), write_total_sums(&sums, "x").unwrap()] {
        assert_eq!(read_sums(file.clone(), 2, "k").unwrap(), sums);
        assert!(read_sums(file.clone(), 3, "k").unwrap_err().is(ErrorKind::DatasetCorrupt));
        assert!(read_sums(file.slice(..file.len() / 2), 2, "k").is_err());
    }
    let fits = |sum: i128| {
        let sums = TotalMoments::from_parts(1, vec![sum], vec![sum]).unwrap();
        let (group, total) = (write_group_sums(&sums, "x"), write_total_sums(&sums, "x"));
        for file in [&group, &total].into_iter().flatten() {
            assert_eq!(read_sums(file.clone(), 1, "k").unwrap(), sums);
        }
        let is_bug = |result: &Result<_>| result.as_ref().is_err_and(|e: &crate::Error| e.is(ErrorKind::InternalBug));
        assert!((group.is_ok() || is_bug(&group)) && (total.is_ok() || is_bug(&total)));
        (group.is_ok(), total.is_ok())
    };
    let most = 10i128.pow(38) - 1;
    assert_eq!((fits(i64::MAX.into()), fits(i64::MIN.into())), ((true, true), (true, true)));
    assert_eq!((fits(i128::from(i64::MAX) + 1), fits(i128::from(i64::MIN) - 1)), ((false, true), (false, true)));
    assert_eq!((fits(most), fits(-most), fits(most + 1)), ((false, true), (false, true), (false, false)));
}

/// Files of a folder of the output of release 0.1.0, with their keys.
fn files_of_format_1(folder: &str, name: &str) -> Vec<(String, Bytes)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("{FIXTURE}/{folder}")).unwrap() {
        let path = entry.unwrap().path();
        let path = if path.is_dir() { path.join(name) } else { path };
        files.push((path.display().to_string(), std::fs::read(&path).unwrap().into()));
    }
    files
}

#[test]
fn tables_of_format_1_are_read() {
    let extractor = extractor(24, 8);
    let (mut images, mut summed) = (0, 0);
    for (key, file) in files_of_format_1("shards", "features.parquet") {
        let rows = read_features(file, &extractor, &key).unwrap();
        assert_eq!((rows.splits, rows.contents), (vec![None; rows.paths.len()], vec![None; rows.paths.len()]));
        images += rows.paths.len();
        let sums = key.replace("features", "moments");
        let moments = read_sums(std::fs::read(&sums).unwrap().into(), 24, &sums).unwrap();
        assert_eq!(moments, total(&rows.features));
        summed += moments.rows() as usize;
    }
    assert_eq!((images, summed), (IMAGES, IMAGES));
    for (key, file) in files_of_format_1("moments", "") {
        assert_eq!(read_sums(file, 24, &key).unwrap().rows(), 24);
    }
}

fn columns(file: &Bytes) -> Vec<(String, basic::Compression, Vec<Encoding>)> {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let group: &RowGroupMetaData = reader.metadata().row_group(0);
    let of = |c: &parquet::file::metadata::ColumnChunkMetaData| {
        (c.column_path().string(), c.compression(), c.encodings().collect())
    };
    group.columns().iter().map(of).collect()
}

#[test]
fn only_labels_have_dictionaries_and_only_zstd_splits_bytes() {
    for compression in [Compression::Snappy, Compression::Zstd] {
        for (path, codec, encodings) in columns(&write_features(rows(), "x", compression).unwrap()) {
            let is_zstd = compression == Compression::Zstd;
            assert_eq!(matches!(codec, basic::Compression::ZSTD(_)), is_zstd, "{path}");
            assert_eq!(codec == basic::Compression::SNAPPY, !is_zstd, "{path}");
            let has = |encoding| encodings.contains(&encoding);
            assert_eq!(has(Encoding::RLE_DICTIONARY), ["label", "split"].contains(&&*path), "{path}");
            let is_matrix = ["features.list.element", "thumbnail.list.element"].contains(&&*path);
            assert_eq!(has(Encoding::BYTE_STREAM_SPLIT), is_zstd && is_matrix, "{path}");
            assert!(!has(Encoding::DELTA_BYTE_ARRAY) && !has(Encoding::DELTA_LENGTH_BYTE_ARRAY), "{path}");
        }
    }
}

#[test]
fn the_names_of_the_compressions_are_those_of_the_settings() {
    let json = |compression| serde_json::to_string(&compression).unwrap();
    assert_eq!((json(Compression::Snappy), json(Compression::Zstd)), ("\"snappy\"".into(), "\"zstd\"".into()));
    assert_eq!(Compression::default(), Compression::Snappy);
}

#[test]
fn a_classifier_its_sums_and_its_predictions_are_read_as_written() {
    let features = Array2::from_shape_fn((40, 3), |(row, column)| ((row * 5 + column * 11) % 23) as f32 / 4.0);
    // The single image of a class is in a fold of its own, so that one model does not know the class.
    let label = |row: usize| Some(if row == 39 { "c" } else { ["a", "b"][row % 2] });
    let labels: Vec<_> = (0..40).map(label).collect();
    let folds: Vec<u8> = (0..40).map(|row| if row == 39 { 4 } else { (row % 3) as u8 }).collect();
    let sums = ClassSums::from_rows(features.view(), &labels, &folds, f64::from(1 << 20)).unwrap();
    let file = write_classes(&sums, "x").unwrap();
    assert_eq!(read_classes(file.clone(), 3, "k").unwrap(), sums);
    assert!(read_classes(file.clone(), 4, "k").unwrap_err().is(ErrorKind::DatasetCorrupt));
    assert!(read_classes(file.slice(..file.len() / 2), 3, "k").is_err());
    assert_eq!(write_last_classes(sums.clone(), "x").unwrap(), file);

    let mut twice = sums.clone();
    add_classes(&mut twice, file.clone(), "k").unwrap();
    let mut expected = sums.clone();
    expected.add(&sums).unwrap();
    assert_eq!(twice, expected);
    // The last fold has a class without images, after four folds that are as they should be.
    let (at, one) = (br#"["c",1]"#, br#"["c",0]"#);
    let place = file.windows(at.len()).position(|bytes| bytes == at).unwrap();
    let damaged = [&file[..place], one, &file[place + one.len()..]].concat();
    assert!(add_classes(&mut twice, damaged.into(), "k").unwrap_err().is(ErrorKind::DatasetCorrupt));
    assert_eq!(twice, expected);

    let candidates = classify::fit(sums, f64::from(1 << 20), Priors::Counts).unwrap().unwrap();
    let images: Vec<_> =
        labels.iter().zip(&folds).map(|(label, fold)| TallyRow { label: *label, fold: *fold }).collect();
    let classifier = candidates.choose(&candidates.tally(features.view(), &images));
    let file = write_classifier(&classifier, "x", "id").unwrap();
    let read = read_classifier(file.clone(), 3, "k").unwrap();
    assert_eq!(read, classifier);
    assert_eq!(read.without.iter().flatten().map(|model| model.classes.len()).collect::<Vec<_>>(), [3, 3, 3, 2]);
    assert!(read_classifier(file, 2, "k").unwrap_err().is(ErrorKind::DatasetCorrupt));

    let row = |number: usize| PredictionRow {
        path: format!("{number}"),
        label: (number > 0).then(|| "a".to_owned()),
        split: (number > 1).then(|| "test".to_owned()),
        predicted: "b".to_owned(),
        probability: 1.0 / 3.0,
        second: (number > 2).then(|| "a".to_owned()),
        margin: 0.1,
        label_probability: (number > 2).then_some(1e-300),
        suspect: number > 2,
    };
    let rows: Vec<_> = (0..4).map(row).collect();
    for compression in [Compression::Snappy, Compression::Zstd] {
        let file = write_predictions(&rows, "x", "id", compression).unwrap();
        assert_eq!(read_predictions(file.clone(), "k").unwrap(), rows);
        assert!(read_predictions(file.slice(..file.len() - 9), "k").is_err());
    }
}
