//! The report: its findings are those of all images, and its size is bounded.

use std::{io::Read, sync::Arc};

use crate::common::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};
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
    report::{self, ReportInput},
    stages::Stores,
    store::{MemoryStore, Store},
    versions::findings,
};

const IMAGES: usize = 100_000;
const PART: usize = 1_000;
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

fn score(row: usize, component: usize) -> f32 {
    noise(row * KEPT + component) - 2.0
}

/// Writes the parts of the scores; returns the list of them.
async fn fill_scores(output: &MemoryStore, images: usize) -> Vec<FileRef> {
    let (each, mut parts) = (PART, Vec::new());
    for part in 0..images / PART {
        let rows = part * each..(part + 1) * each;
        let table = ScoreRows {
            paths: rows.clone().map(path).collect(),
            labels: rows.clone().map(|i| Some(label(i % LABELS))).collect(),
            scores: Array2::from_shape_fn((each, KEPT), |(i, k)| score(rows.start + i, k)),
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

async fn fill(output: &MemoryStore, images: usize) -> Manifest {
    let per_unit = f64::from(1 << 20);
    let on_grid = |x: f32| ((f64::from(x) * per_unit).round() / per_unit) as f32;
    let features = Array2::from_shape_fn((40, COLUMNS), |(row, column)| on_grid(noise(row * COLUMNS + column)));
    let mut totals = TotalMoments::zero(COLUMNS);
    totals.add(&ShardMoments::from_features(features.view(), per_unit).unwrap()).unwrap();
    let basis = pca::fit(&totals, per_unit, pca::Scaling::Standardized, Some(SELECTION)).unwrap();
    let body = tables::write_basis(&basis, "x", "b").unwrap();
    let basis_file = FileRef::of(keys::basis(&"b".into()), &body);
    output.put(&basis_file.key, body).await.unwrap();

    let scores = fill_scores(output, images).await;
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
        images: images as u64,
        rejects: rejects.len() as u64,
        ignored: Some(0),
        labels_unused: None,
        duplicates: None,
        outliers: None,
        index: None,
        labels: (0..LABELS).map(|i| LabelCount { label: Some(label(i)), images: (images / LABELS) as u64 }).collect(),
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
        figures: RunFigures { inferred: images as u64, ..RunFigures::default() },
    }
}

/// A page, and what it embeds.
struct Page {
    html: String,
    about: serde_json::Value,
    points: Vec<u8>,
    texts: serde_json::Value,
}

impl Page {
    fn new(html: String) -> Self {
        let element = |id: &str| {
            let (_, rest) = html.split_once(&format!("<script id=\"{id}\"")).unwrap();
            rest.split_once('>').unwrap().1.split("</script>").next().unwrap().to_owned()
        };
        let inflated = |id: &str| {
            let (mut plain, packed) = (Vec::new(), STANDARD.decode(element(id)).unwrap());
            flate2::read::ZlibDecoder::new(packed.as_slice()).read_to_end(&mut plain).unwrap();
            plain
        };
        let about = serde_json::from_str(&element("about")).unwrap();
        let (points, texts) = (inflated("points"), serde_json::from_slice(&inflated("texts")).unwrap());
        Page { html, about, points, texts }
    }

    async fn read(output: &dyn Store, key: &str) -> Self {
        Page::new(String::from_utf8(output.get(key).await.unwrap().to_vec()).unwrap())
    }

    fn rows(&self) -> usize {
        self.about["rows"].as_u64().unwrap() as usize
    }

    fn says(&self, text: &str) -> bool {
        self.html.contains(text)
    }

    /// A list as rows of texts.
    fn list(&self, name: &str) -> Vec<Vec<String>> {
        serde_json::from_value(self.texts["lists"][name]["rows"].clone()).unwrap()
    }

    /// The numbers of a component, as the script decodes them; after the last component, those of the labels.
    fn column(&self, wanted: usize) -> Vec<u32> {
        let columns = self.about["columns"].as_array().unwrap();
        let planes = |i: usize| columns.get(i).map_or(&self.about["label_planes"], |c| &c["planes"]).as_u64().unwrap();
        let start: u64 = (0..wanted).map(planes).sum();
        let rows = self.rows();
        let plane = |plane: u64, row: usize| u32::from(self.points[(start + plane) as usize * rows + row]);
        (0..rows).map(|row| (0..planes(wanted)).map(|p| plane(p, row) << (8 * p)).sum()).collect()
    }
}

async fn written(input: &MemoryStore, output: &MemoryStore, manifest: &Manifest) -> (Page, Receipt) {
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
    let receipt = Receipt::new(manifest, 0, &records, at).unwrap();
    let written = report::write(input, output, manifest, &records, &receipt).await.unwrap();
    (Page::read(output, &written.report).await, receipt)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_a_hundred_thousand_images_has_all_of_them_and_is_below_two_and_a_half_megabytes() {
    let (input, output) = (MemoryStore::new(), MemoryStore::new());
    let manifest = fill(&output, IMAGES).await;
    let pictures: Vec<_> = (0..64).map(png).collect();
    for i in 0..IMAGES {
        input.put(&path(i), pictures[i % 64].clone()).await.unwrap();
    }
    let (page, receipt) = written(&input, &output, &manifest).await;
    assert!(page.html.len() < 2_500_000, "{} bytes", page.html.len());
    // The page says what it does not show.
    for said in ["All 100,000 images are drawn", "The first 60 are", "40 of them shown", "and 200 more"] {
        assert!(page.says(said), "{said}");
    }
    assert!(page.says("data:image/jpeg;base64,"));
    assert_eq!(page.rows(), IMAGES);
    let labels = page.column(8);
    for i in (0..IMAGES).step_by(997) {
        assert_eq!((page.texts["paths"][i].as_str(), labels[i]), (Some(path(i).as_str()), (i % LABELS) as u32));
    }
    for (component, column) in page.about["columns"].as_array().unwrap().iter().enumerate() {
        let (low, step) = (column["low"].as_f64().unwrap(), column["step"].as_f64().unwrap());
        let numbers = page.column(component);
        for row in (0..IMAGES).step_by(101) {
            let (is, should_be) = (low + step * f64::from(numbers[row]), f64::from(score(row, component)));
            assert!((is - should_be).abs() <= step / 2.0 + 1e-9, "{component} {row}: {is} {should_be}");
        }
    }
    // 1,001 pieces of 0.9 s with 1,769 MB each.
    assert!((receipt.usage.gb_seconds - 1_001.0 * 0.9 * 1_769.0 / 1_024.0).abs() < 1e-6);
    assert!(receipt.billed() && receipt.prices.region == "eu-west-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_room_for_all_images_says_that_it_draws_a_sample() {
    let output = MemoryStore::new();
    let images = report::POINTS + 100_000;
    let manifest = fill(&output, images).await;
    let (page, _) = written(&MemoryStore::new(), &output, &manifest).await;
    let rows = page.rows();
    assert!((report::POINTS / 2..=report::POINTS).contains(&rows), "{rows}");
    assert!(page.says(&format!("A sample of {} of 300,000 images is drawn", report::text::count(rows as u64))));
    assert!(page.html.len() < 5_000_000, "{} bytes", page.html.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_searched_has_no_number() {
    let output = MemoryStore::new();
    let manifest = fill(&output, 2_000).await;
    let (page, _) = written(&MemoryStore::new(), &output, &manifest).await;
    for what in ["groups of duplicates", "of them across labels", "suspect labels", "outliers"] {
        assert!(page.says(&format!("<strong>–</strong> <span>{what}: not searched</span>")), "{what}");
    }
    // Duplicates, suspects and outliers.
    assert_eq!(page.html.matches("<p>Not searched: ").count(), 3);
    assert!(!page.says("None."));
}

/// Writes the report of a run that has published.
async fn reported(stores: &Stores, summary: &pomona::pipeline::Summary) -> report::Reported {
    let publish = summary.published.clone().unwrap();
    report::report(stores, ReportInput { run: summary.manifest.run.clone(), publish }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_copy_is_on_the_page() {
    let (input, output) = (images(0..3_000).await, Arc::new(MemoryStore::new()));
    // Far apart in the order of the keys, each under another label: no sample of 1,000 images is sure to have both of a pair.
    for i in 0..10 {
        input.put(&format!("zebra/copy {i}.png"), png(i * 290 + 7)).await.unwrap();
    }
    let stores = stores(&input, &output);
    let summary = run(&stores, &engine("tiny", 2), &small_shards(), "r").await.unwrap();
    let written = reported(&stores, &summary).await;
    let page = Page::read(output.as_ref(), &written.report).await;
    let groups = findings::duplicates(output.as_ref(), &summary.manifest).await.unwrap();
    let copies: Vec<_> =
        groups.iter().filter(|group| group.paths.iter().any(|path| path.starts_with("zebra/"))).collect();
    assert_eq!(copies.len(), 10);
    assert!(page.says("10 images with the bytes of another"), "{:?}", summary.manifest.duplicates);
    let across = groups.iter().filter(|group| group.across_labels).count();
    assert!(
        across >= 10 && page.says(&format!("<strong>{across}</strong> <span>of them across labels</span>")),
        "{across}"
    );
    // The list is the table.
    let listed: Vec<(String, String, String)> =
        page.list("duplicates").into_iter().map(|row| (row[0].clone(), row[1].clone(), row[5].clone())).collect();
    let table = groups.iter().flat_map(|group| {
        let rows = group.paths.iter().zip(&group.copies);
        rows.map(|(path, copy)| (group.group.to_string(), path.clone(), copy.to_string()))
    });
    assert_eq!(listed, table.collect::<Vec<_>>());
    assert!(page.says("The page has all "));
    let outliers: Vec<String> = page.list("outliers").into_iter().map(|row| row[0].clone()).collect();
    let table = findings::outliers(output.as_ref(), &summary.manifest).await.unwrap();
    assert_eq!(outliers, table.into_iter().map(|row| row.path).collect::<Vec<_>>());
}
