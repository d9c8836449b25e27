//! The crate without default features: no AWS SDK, no plotters, no tract; from features to a PCA all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

use std::{io::Cursor, sync::Arc};

use image::{ImageFormat, Rgb, RgbImage};
use ndarray::{Array2, Axis};
use pomona::{
    dataset::{contents, tables},
    image::Reject,
    model::{Extractor, FeatureRange, Runtime, WorkerPool},
    pca::{
        self, ComponentSelection, Scaling,
        moments::{ShardMoments, TotalMoments},
    },
    pipeline,
    stages::{CancellationToken, PlanInput, Silent, Stores},
    store::{MemoryStore, Store},
};

/// A model of the tests that the kernels run: 32 x 32 pixels, 24 features.
fn extractor() -> Extractor {
    let onnx = include_bytes!("models/tiny.onnx");
    Extractor::from_onnx(onnx.as_slice().into(), "tiny", FeatureRange::default(), Runtime::Auto).unwrap()
}

fn picture(seed: u32) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let colour = |x: u32, y: u32| Rgb([(x * 7 + seed * 31) as u8, (y * 5 + seed * 17) as u8, ((x ^ y) + seed) as u8]);
    RgbImage::from_fn(40, 30, colour).write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

#[test]
fn features_of_images_become_scores() {
    let extractor = extractor();
    let rows: Result<Vec<Vec<f32>>, Reject> = (0..20).map(|i| extractor.features_of_file(&picture(i))).collect();
    let features = Array2::from_shape_vec((20, 24), rows.unwrap().concat()).unwrap();
    let per_unit = FeatureRange::default().per_unit();
    let mut sums = TotalMoments::zero(24);
    for part in features.axis_chunks_iter(Axis(0), 7) {
        sums.add(&ShardMoments::from_features(part, per_unit).unwrap()).unwrap();
    }
    let basis = pca::fit(&sums, per_unit, Scaling::Standardized, Some(ComponentSelection::Components(3))).unwrap();
    let scores = basis.project(features.view());
    assert_eq!(scores.dim(), (20, 3));
    // Scores are centred, and their variances are those that the basis states.
    for (column, variance) in scores.axis_iter(Axis(1)).zip(&basis.explained_variance) {
        let scores: Vec<f64> = column.iter().map(|score| f64::from(*score)).collect();
        let mean = scores.iter().sum::<f64>() / 20.0;
        let found = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / 19.0;
        assert!(mean.abs() < 1e-5 && (found - variance).abs() < 1e-4 * variance, "{mean} {found} {variance}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_publishes_tables() {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    for i in 0..12 {
        input.put(&format!("fruit-{}/{i}.png", i % 3), picture(i).into()).await.unwrap();
    }
    let stores = Stores { input, output: output.clone() };
    let workers = WorkerPool::new(Arc::new(extractor()), 2).unwrap();
    let run = PlanInput::new("first".to_owned().try_into().unwrap());
    let summary = pipeline::run(&stores, &workers, &run, &Silent, &CancellationToken::new()).await.unwrap();
    assert_eq!((summary.manifest.images, summary.manifest.labels.len()), (12, 3));
    let parts = contents::parts(output.as_ref(), &summary.manifest).await.unwrap();
    let part = &parts[0].scores[0];
    let kept = summary.manifest.basis.components;
    let rows = tables::read_scores(part.read(output.as_ref()).await.unwrap(), kept, &part.key).unwrap();
    assert_eq!(rows.scores.dim(), (12, kept));
}

/// What needs a feature says so.
#[cfg(not(feature = "aws"))]
#[tokio::test]
async fn a_bucket_needs_the_feature_aws() {
    let error = pomona::store::open("s3://bucket/images/").await.unwrap_err();
    assert!(error.to_string().contains("`aws`"), "{error}");
}

#[cfg(not(feature = "tract"))]
#[test]
fn a_model_that_the_kernels_cannot_run_needs_the_feature_tract() {
    let onnx = include_bytes!("models/log.onnx");
    let refused = Extractor::from_onnx(onnx.as_slice().into(), "log", FeatureRange::default(), Runtime::Auto);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("tract") && error.contains("(GlobalAveragePool)"), "{error}");
}
