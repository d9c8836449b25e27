//! The report of a large data set: its size does not grow with the number of images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

mod common;

use common::png;
use jiff::Timestamp;
use ndarray::Array2;
use pomona::{
    cost::receipt::{Place, Receipt, StageRecords},
    dataset::{
        BasisSummary, FileRef, LabelCount, Manifest, Moments, Outputs, Part, PartList, RejectedObject, RunFigures,
        keys,
        settings::Settings,
        tables::{self, ScoreRows},
        timing::Timing,
        to_record,
    },
    ids::Version,
    image::{Reason, Reject},
    model::{FeatureRange, embedded_info},
    pca::{
        self, ComponentSelection,
        moments::{ShardMoments, TotalMoments},
    },
    report,
    store::{MemoryStore, Store},
};

const IMAGES: usize = 100_000;
const PARTS: usize = 100;
const LABELS: usize = 400;
const COLUMNS: usize = 12;
const KEPT: usize = 10;
const SELECTION: ComponentSelection = ComponentSelection::Components(KEPT);

fn path(i: usize) -> String {
    format!("Training/A label with a rather long name, number {:03}/photo-{i:07}-of-the-orchard_100.jpg", i % LABELS)
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn label(i: usize) -> String {
    format!("A label with a rather long name, number {i:03}")
}

fn noise(i: usize) -> f32 {
    ((i as u64).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 40) as f32
        / 4_194_304.0
}

/// Writes the parts of the scores; returns the list of them.
async fn fill_scores(output: &MemoryStore) -> Vec<FileRef> {
    let (each, mut parts) = (IMAGES / PARTS, Vec::new());
    for part in 0..PARTS {
        let rows = part * each..(part + 1) * each;
        let table = ScoreRows {
            paths: rows.clone().map(path).collect(),
            labels: rows.clone().map(|i| Some(label(i % LABELS))).collect(),
            scores: Array2::from_shape_fn((each, KEPT), |(i, k)| noise((rows.start + i) * KEPT + k) - 2.0),
        };
        let key = keys::part(Version(1), None, part as u64);
        let body = tables::write_scores(table, tables::LabelColumn::Included, "x", "b", Default::default()).unwrap();
        let scores = vec![FileRef::of(key.clone(), &body)];
        output.put(&key, body).await.unwrap();
        parts.push(Part { part: part as u64, shard: "s".into(), rows: each as u64, scores, predictions: None });
    }
    let list = to_record(&PartList { version: Version(1), group: 0, parts }).unwrap();
    let scores = vec![FileRef::of(keys::part_list(Version(1), 0), &list)];
    output.put(&scores[0].key, list).await.unwrap();
    scores
}

async fn fill(output: &MemoryStore) -> Manifest {
    let per_unit = f64::from(1 << 20);
    let on_grid = |x: f32| ((f64::from(x) * per_unit).round() / per_unit) as f32;
    let features = Array2::from_shape_fn((40, COLUMNS), |(row, column)| on_grid(noise(row * COLUMNS + column)));
    let mut totals = TotalMoments::zero(COLUMNS);
    totals.add(&ShardMoments::from_features(features.view(), per_unit).unwrap()).unwrap();
    let basis = pca::fit(&totals, per_unit, pca::Scaling::Standardized, Some(SELECTION)).unwrap();
    let body = tables::write_basis(&basis, "x", "b").unwrap();
    let basis_file = FileRef::of(keys::basis(&"b".into()), &body);
    output.put(&basis_file.key, body).await.unwrap();

    let scores = fill_scores(output).await;
    let bare = |key| FileRef { key, checksum: None };
    let reject =
        |i: usize| RejectedObject { path: path(i), reject: Reject::new(Reason::NotAnImage, "no bytes of an image") };
    let rejects: Vec<_> = (0..5_000).map(reject).collect();
    let key = keys::rejects(Version(1));
    output.put(&key, tables::write_rejects(&rejects, "x").unwrap()).await.unwrap();
    Manifest {
        classifier: None,
        format: 2,
        version: Version(1),
        parent: None,
        run: "large".to_owned().try_into().unwrap(),
        created: at("2026-11-22T06:00:00Z"),
        finished: at("2026-11-22T06:10:00Z"),
        pomona: "0".to_owned(),
        input: "s3://bucket/images/".to_owned(),
        input_identity: None,
        settings: Settings::default(),
        extractor: embedded_info(FeatureRange::default(), pomona::model::Decoding::Full),
        images: IMAGES as u64,
        rejects: rejects.len() as u64,
        ignored: Some(0),
        labels_unused: None,
        duplicates: None,
        outliers: None,
        index: None,
        labels: (0..LABELS).map(|i| LabelCount { label: Some(label(i)), images: (IMAGES / LABELS) as u64 }).collect(),
        basis: BasisSummary {
            id: "b".into(),
            file: basis_file,
            components: KEPT,
            explained_variance: basis.explained_variance.clone(),
            explained_variance_ratio: basis.explained_variance_ratio.clone(),
            total_variance: basis.total_variance,
            columns: COLUMNS,
            constant_columns: 0,
            components_for_90_percent: basis.components_for(0.9),
            components_for_99_percent: basis.components_for(0.99),
        },
        moments: Moments { id: "t".into(), file: bare(keys::totals(&"t".into())) },
        outputs: Outputs { features: None, scores, csv: None, rejects: bare(key) },
        groups: Vec::new(),
        released: None,
        figures: RunFigures { inferred: IMAGES as u64, ..RunFigures::default() },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_a_hundred_thousand_images_is_below_five_megabytes() {
    let (input, output) = (MemoryStore::new(), MemoryStore::new());
    let manifest = fill(&output).await;
    let pictures: Vec<_> = (0..64).map(png).collect();
    for i in 0..IMAGES {
        input.put(&path(i), pictures[i % 64].clone()).await.unwrap();
    }
    let timing = |i: usize| Timing {
        began: at(&format!("2026-11-22T06:00:{:02}Z", i % 60)),
        milliseconds: 900,
        memory_mb: Some(1_769),
    };
    let records = [
        StageRecords::one("plan", timing(0)),
        StageRecords::new("featurize", (0..1_000).map(|i| (format!("{i:032x}"), timing(i))).collect()),
    ];
    let at = Place::Lambda { region: "eu-west-3".to_owned() };
    let receipt = Receipt::new(&manifest, 0, &records, at).unwrap();
    let written = report::write(&input, &output, &manifest, &records, &receipt).await.unwrap();
    let page = String::from_utf8(output.get(&written.report).await.unwrap().to_vec()).unwrap();
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    // The page says what it does not show.
    for said in
        ["300 of 100,000 images are drawn", "of 100,000 images", "The first 60 are", "40 of them shown", "and 200 more"]
    {
        assert!(page.contains(said), "{said}");
    }
    assert_eq!(page.matches("class=\"point\"").count(), 600);
    assert!(page.contains("data:image/jpeg;base64,"));
    // 1,001 pieces of 0.9 s with 1,769 MB each.
    assert!((receipt.usage.gb_seconds - 1_001.0 * 0.9 * 1_769.0 / 1_024.0).abs() < 1e-6);
    assert!(receipt.billed() && receipt.prices.region == "eu-west-3");
}
