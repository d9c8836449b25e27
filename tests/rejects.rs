//! What a run rejects or refuses: images, inputs, outputs and models.

use std::{collections::HashSet, sync::Arc};

use crate::common::{
    stores::{Refuses, Refusing},
    *,
};
use bytes::Bytes;
use pomona::{
    ErrorKind,
    dataset::{self, keys, settings::Settings, tables},
    image::Reason,
    model::{Extractor, FeatureRange, Runtime},
    pca::ComponentSelection,
    stages::Stores,
    store::{MemoryStore, Store, list_all},
};

async fn rejects(output: &dyn Store) -> Vec<(String, String)> {
    let manifest = dataset::current(output).await.unwrap().unwrap();
    let key = manifest.outputs.rejects.key;
    let rows = tables::read_rejects(output.get(&key).await.unwrap(), &key).unwrap();
    rows.into_iter().map(|[path, reason, _]| (path, reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_images_become_rejects_with_their_reason() {
    let (input, output) = (images(0..40).await, Arc::new(MemoryStore::new()));
    let good = png(1);
    let bad: [(&str, Bytes, Reason); 4] = [
        ("bad/empty.png", Bytes::new(), Reason::Empty),
        ("bad/notes.jpg", "hello".into(), Reason::NotAnImage),
        ("bad/truncated.png", good.slice(..good.len() / 2), Reason::Truncated),
        ("bad/photo.avif", Bytes::from_static(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"), Reason::UnsupportedFormat),
    ];
    for (key, body, _) in &bad {
        input.put(key, body.clone()).await.unwrap();
    }
    let settings = Settings { max_reject_percent: 20.0, ..small_shards() };
    let summary = run(&stores(&input, &output), &engine("tiny", 2), &settings, "a").await.unwrap();
    assert_eq!((summary.manifest.images, summary.manifest.rejects), (40, 4));
    let mut expected: Vec<_> = bad.iter().map(|(key, _, reason)| ((*key).to_owned(), reason.to_string())).collect();
    expected.sort();
    assert_eq!(rejects(output.as_ref()).await, expected);
}

/// Files of other programs: see tests/unsupported/make.py.
#[tokio::test(flavor = "multi_thread")]
async fn a_format_that_is_not_read_is_named() {
    let (input, output) = (images(0..40).await, Arc::new(MemoryStore::new()));
    let expected = [
        ("arithmetic-progressive.jpg", "arithmetic-coded JPEG: baseline and progressive JPEGs"),
        ("arithmetic.jpg", "arithmetic-coded JPEG: baseline and progressive JPEGs"),
        ("avif.avif", "AVIF: JPEG, PNG"),
        ("big.tiff", "BigTIFF: JPEG, PNG"),
        ("heic.heic", "HEIC: JPEG, PNG"),
        ("jpeg-2000-codestream.j2k", "JPEG 2000: JPEG, PNG"),
        ("jpeg-2000.jp2", "JPEG 2000: JPEG, PNG"),
        ("jpeg-xl.jxl", "JPEG XL: JPEG, PNG"),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unsupported");
    for (name, _) in expected {
        input.put(&format!("bad/{name}"), std::fs::read(folder.join(name)).unwrap().into()).await.unwrap();
    }
    let settings = Settings { max_reject_percent: 20.0, ..small_shards() };
    let manifest = run(&stores(&input, &output), &engine("tiny", 2), &settings, "a").await.unwrap().manifest;
    let key = manifest.outputs.rejects.key;
    let rows = tables::read_rejects(output.get(&key).await.unwrap(), &key).unwrap();
    assert_eq!(rows.len(), expected.len());
    for ([path, reason, detail], (name, start)) in rows.iter().zip(expected) {
        assert_eq!((path, reason.as_str()), (&format!("bad/{name}"), "unsupported_format"));
        assert!(detail.starts_with(start), "{name}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn features_that_are_not_finite_or_out_of_range_reject_their_image() {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    let mut black = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(8, 8).write_to(&mut black, image::ImageFormat::Png).unwrap();
    input.put("black.png", black.into_inner().into()).await.unwrap();
    for i in 0..5 {
        input.put(&key(i), png(i)).await.unwrap();
    }
    run(&stores(&input, &output), &engine("log", 1), &small_shards(), "a").await.unwrap();
    assert_eq!(rejects(output.as_ref()).await, [("black.png".to_owned(), "not_finite".to_owned())]);

    let output = Arc::new(MemoryStore::new());
    let settings = Settings { max_reject_percent: 100.0, ..small_shards() };
    let error = run(&stores(&input, &output), &engine("large", 1), &settings, "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PcaTooFewImages);
    let records = finished_shards(output.as_ref()).await;
    let mut reasons = HashSet::new();
    for key in records {
        let record: dataset::ShardRecord = dataset::read_record(output.as_ref(), &key).await.unwrap();
        reasons.extend(record.rejects.into_iter().map(|r| r.reject.reason));
    }
    assert_eq!(reasons, HashSet::from([Reason::OutOfRange]));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_rejects_fail_the_run_and_write_the_table() {
    let (input, output) = (images(0..50).await, Arc::new(MemoryStore::new()));
    for i in 0..3 {
        input.put(&format!("bad/{i}.jpg"), "no image".into()).await.unwrap();
    }
    let error = run(&stores(&input, &output), &engine("tiny", 2), &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetTooManyRejects);
    let key = keys::run(&run_id("a"), "rejects.parquet");
    assert!(error.to_string().contains(&key), "{error}");
    let rows = tables::read_rejects(output.get(&key).await.unwrap(), &key).unwrap();
    assert_eq!(rows.len(), 3);
    assert!(dataset::current(output.as_ref()).await.unwrap().is_none());
    // A run with a higher limit reuses the features of the failed run.
    let settings = Settings { max_reject_percent: 10.0, ..small_shards() };
    let summary = run(&stores(&input, &output), &engine("tiny", 2), &settings, "b").await.unwrap();
    assert_eq!((summary.manifest.figures.inferred, summary.manifest.rejects), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_reads_an_unreadable_object_again() {
    for (kind, reason) in [
        (ErrorKind::StoreDenied, "no_permission"),
        (ErrorKind::StoreArchived, "archived"),
        (ErrorKind::StoreNotFound, "unreadable"),
    ] {
        let (input, output, engine) = (images(0..40).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
        let refusing = Arc::new(Refusing { inner: input.clone(), gate: Refuses { key: key(7), kind } });
        let refused = Stores { input: refusing, output: output.clone() };
        let summary = run(&refused, &engine, &small_shards(), "a").await.unwrap();
        assert_eq!((summary.manifest.images, summary.manifest.rejects), (39, 1));
        assert_eq!(rejects(output.as_ref()).await, [(key(7), reason.to_owned())]);
        let figures = run(&stores(&input, &output), &engine, &small_shards(), "b").await.unwrap().manifest.figures;
        assert_eq!(figures.inferred, 1);
        assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_s3_has_archived_says_so() {
    let (input, output) = (images(0..20).await, Arc::new(MemoryStore::new()));
    input.put("a.tar", crate::packs::tar(&[("1.png".to_owned(), png(1), 0)])).await.unwrap();
    let refuses = Refuses { key: "a.tar".to_owned(), kind: ErrorKind::StoreArchived };
    let stores = Stores::new(Arc::new(Refusing { inner: input, gate: refuses }), output.clone());
    run(&stores, &engine("tiny", 1), &small_shards(), "a").await.unwrap();
    assert_eq!(rejects(output.as_ref()).await, [("a.tar".to_owned(), "archived".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_images_and_too_many_components_say_what_is_possible() {
    let engine = engine("tiny", 1);
    let outcome = async |n: u64, pca| {
        let (input, output) = (images(0..n).await, Arc::new(MemoryStore::new()));
        run(&stores(&input, &output), &engine, &Settings { pca, ..small_shards() }, "a").await
    };
    assert_eq!(outcome(0, None).await.unwrap_err().kind(), ErrorKind::InputEmpty);
    assert_eq!(outcome(1, None).await.unwrap_err().kind(), ErrorKind::PcaTooFewImages);
    assert_eq!(outcome(2, None).await.unwrap().manifest.basis.components, 1);
    let error = outcome(10, Some(ComponentSelection::Components(10))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PcaTooManyComponents);
    assert!(error.to_string().contains("1 to 9 are possible"), "{error}");
    let basis = outcome(10, Some(ComponentSelection::Variance(1.0))).await.unwrap().manifest.basis;
    assert!((basis.explained_variance_ratio.iter().sum::<f64>() - 1.0).abs() < 1e-9);

    let same = Arc::new(MemoryStore::new());
    for i in 0..4 {
        same.put(&key(i), png(0)).await.unwrap();
    }
    let error = run(&stores(&same, &Arc::new(MemoryStore::new())), &engine, &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PcaNoVariance);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_with_other_files_is_refused_and_not_changed() {
    let (input, output) = (images(0..5).await, Arc::new(MemoryStore::new()));
    output.put("thesis.docx", "important".into()).await.unwrap();
    let error = run(&stores(&input, &output), &engine("tiny", 1), &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputOccupied);
    assert_eq!(list_all(output.as_ref(), "").await.unwrap().len(), 1);

    let newer = Arc::new(MemoryStore::new());
    newer.put(dataset::MARKER, r#"{"what": "", "format": 99}"#.into()).await.unwrap();
    let error = run(&stores(&input, &newer), &engine("tiny", 1), &small_shards(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputUnknownFormat);
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_and_folder_markers_are_ignored() {
    let (input, output) = (images(0..20).await, Arc::new(MemoryStore::new()));
    for key in [".DS_Store", "kiwi/._1.png", ".git/config", "apple/"] {
        input.put(key, "x".into()).await.unwrap();
    }
    let manifest = run(&stores(&input, &output), &engine("tiny", 1), &small_shards(), "a").await.unwrap().manifest;
    assert_eq!((manifest.images, manifest.rejects, manifest.ignored), (20, 0, Some(4)));
}

/// As a data set with annotations has them: more of other files than of images.
#[tokio::test]
async fn files_that_are_plainly_no_images_are_ignored_and_counted() {
    let (input, output) = (images(0..30).await, Arc::new(MemoryStore::new()));
    for i in 0..26 {
        input.put(&format!("kiwi/{i}.xml"), "<annotation/>".into()).await.unwrap();
    }
    for key in ["README.md", "labels.CSV", "kiwi/Thumbs.db", "kiwi/desktop.ini", "apple/LICENSE"] {
        input.put(key, "text".into()).await.unwrap();
    }
    // A name alone does not say that this is no image.
    input.put("kiwi/image", png(777)).await.unwrap();
    let manifest = run(&stores(&input, &output), &engine("tiny", 1), &small_shards(), "a").await.unwrap().manifest;
    assert_eq!((manifest.images, manifest.rejects, manifest.ignored), (31, 0, Some(31)));
}

#[tokio::test]
async fn a_model_of_another_shape_is_used_or_refused_with_the_reason() {
    let load = |onnx: &[u8]| {
        Extractor::from_onnx(Bytes::copy_from_slice(onnx), "test", FeatureRange::default(), Runtime::Auto)
    };
    assert_eq!(engine("nhwc", 1).extractor().columns(), 24);
    for (name, expected) in [
        ("two-inputs", "2 inputs"),
        ("two-outputs", "2 outputs"),
        ("any-size", "fixed H and W"),
        ("grey", "shape [?, 1, 32, 32]"),
        ("wide", "4097 numbers"),
    ] {
        let error = load(&std::fs::read(model_path(name)).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelInvalid);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    let tiny = std::fs::read(model_path("tiny")).unwrap();
    for damaged in [&b"not a model"[..], &[], &tiny[..tiny.len() / 2]] {
        assert_eq!(load(damaged).unwrap_err().kind(), ErrorKind::ModelInvalid);
    }
}
