//! A change of the extractor: another revision of the program, another decoding.

use std::{fs, sync::Arc};

use crate::common::*;
use pomona::{
    ErrorKind,
    dataset::{
        self, VersionState, keys,
        settings::{ListingScope, Mode},
    },
    ids::{ExtractorId, Version},
    model::{Decoding, Extractor, FeatureRange},
    store::{MemoryStore, Store},
};

/// Makes a version look as if another release had made it.
async fn age(output: &MemoryStore, version: u64) {
    let key = keys::version(Version(version));
    let state = dataset::state(output, Version(version)).await.unwrap();
    let VersionState::Published(mut manifest) = state else { panic!("{state:?}") };
    manifest.extractor.id = ExtractorId::from("an older revision");
    output.put(&key, dataset::to_record(&VersionState::Published(manifest)).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_revision_is_computed_again_only_on_request() {
    let (input, output, engine) = (images(0..120).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &small_shards(), "old").await.unwrap();
    age(&output, 1).await;
    input.put(&key(500), png(500)).await.unwrap();
    for listing in [ListingScope::All, ListingScope::Changed] {
        let mode = Mode { listing, ..Mode::default() };
        let error = run_as(&stores, &engine, &small_shards(), mode, "new").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DatasetUpgradeNeeded);
        let text = error.to_string();
        assert!(text.contains("120 images") && text.contains("dollars"), "{text}");
    }
    let mode = Mode { upgrade: true, ..Mode::default() };
    let made = run_as(&stores, &engine, &small_shards(), mode, "upgraded").await.unwrap().manifest;
    assert_eq!((made.version.0, made.extractor.id), (2, engine.extractor().info().id.clone()));
    assert_eq!(dataset::version(output.as_ref(), Some(1)).await.unwrap().images, 120);
    assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &small_shards()).await);

    // Another model is no revision.
    let error = run_as(&stores, &crate::common::engine("nhwc", 1), &small_shards(), mode, "other").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DatasetSettingsChanged);
}

#[test]
fn the_decoding_is_part_of_the_extractor() {
    let full = Extractor::embedded(FeatureRange::default()).unwrap();
    let scaled = Extractor::embedded(FeatureRange::default()).unwrap().with_decoding(Decoding::Scaled);
    assert_ne!(full.info().id, scaled.info().id);
    assert!(!full.info().is_revision_of(scaled.info()));
    assert_eq!(*scaled.info(), pomona::model::embedded_info(FeatureRange::default(), Decoding::Scaled));
    let json = serde_json::to_value(full.info()).unwrap();
    assert!(json.get("decoding").is_none(), "{json}");

    // A photo of 1,800 x 1,350 pixels is decoded at a half of them: 224 x 2 fits into 900 x 675. A small one is decoded whole.
    let photo = |width, height| {
        let shade = |x: u32, y: u32| (f64::from(x * y) / f64::from(width * height) * 255.0) as u8;
        let image =
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([shade(x, y), (x / 7) as u8, (y / 5) as u8]));
        let mut file = std::io::Cursor::new(Vec::new());
        image.write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
        file.into_inner()
    };
    let both = |file: &[u8]| [&full, &scaled].map(|extractor| extractor.features_of_file(file).unwrap());
    let [whole, half] = both(&photo(1_800, 1_350));
    assert_ne!(whole, half);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(&whole, &half) / (dot(&whole, &whole) * dot(&half, &half)).sqrt();
    assert!(cosine > 0.99, "{cosine}");
    let [whole, small] = both(&photo(447, 600));
    assert_eq!(whole, small);
}

#[cfg(feature = "cli")]
#[test]
fn a_change_of_the_decoding_needs_a_rebuild() {
    use crate::common::program::{fails, json, pomona, write_images};

    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 12);
    let run = |options: &[&str]| {
        let mut command = pomona();
        command.arg("run").arg(&images).arg(&output).arg("--model").arg(model_path("tiny")).args(options);
        command
    };
    json(&mut run(&["--decode", "scaled"]));
    assert_eq!(json(&mut run(&["--decode", "scaled"]))["up_to_date"], true);
    let refused = fails(&mut run(&[]), 1, "Dataset.SettingsChanged");
    assert!(refused.contains("decode: scaled -> full"), "{refused}");
    let manifest = fs::read_to_string(output.join("versions/00000001.json")).unwrap();
    assert!(manifest.contains("\"decoding\": \"scaled\""), "{manifest}");
    assert_eq!(json(&mut run(&["--rebuild"]))["version"], 2);
}
