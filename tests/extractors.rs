//! Extractors without a network: the same promises as for the built-in model.

use std::sync::{Arc, LazyLock};

use crate::common::*;
use bytes::Bytes;
use pomona::{
    ErrorKind,
    dataset::{self, lease::Judge, settings::Settings, tables},
    image::{self, Limits},
    model::{Extractor, ExtractorKind, FeatureRange, WorkerPool},
    orb::{Orb, Vocabulary, Weights},
    pca::ComponentSelection,
    stages::Silent,
    store::{MemoryStore, Store},
    versions::check::{Depth, check},
};
use proptest::prelude::*;

const KINDS: [ExtractorKind; 3] = [ExtractorKind::Raw, ExtractorKind::Histogram, ExtractorKind::Orb];

/// Visual words of the first images.
fn words() -> &'static Bytes {
    static WORDS: LazyLock<Bytes> = LazyLock::new(|| {
        let orb = Orb { border: 4, keypoints: 60, levels: 2, ..Orb::default() };
        let described = (0..12).map(|seed| {
            let pixels = image::decode(&png(seed), Limits::default()).unwrap();
            orb.detect(&pixels).iter().map(|keypoint| keypoint.descriptor).collect()
        });
        Vocabulary::learn(orb, Weights::Counts, &described.collect::<Vec<_>>(), 8).unwrap().to_bytes()
    });
    &WORDS
}

fn workers(kind: ExtractorKind, threads: usize) -> WorkerPool {
    let extractor = Extractor::builtin(kind, Some(words()), FeatureRange::default()).unwrap();
    WorkerPool::new(Arc::new(extractor), threads).unwrap()
}

/// A PCA of 3,072 columns takes seconds; few components do not change that, but keep the tables small.
fn settings() -> Settings {
    Settings { pca: Some(ComponentSelection::Components(3)), shard_size: Some(8), ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn features_are_on_their_grid_and_in_their_range() {
    for kind in KINDS {
        let (input, output) = (images(0..12).await, Arc::new(MemoryStore::new()));
        let stores = stores(&input, &output);
        let manifest = run(&stores, &workers(kind, 2), &settings(), "a").await.unwrap().manifest;
        assert_eq!((manifest.extractor.kind, manifest.images), (kind, 12));
        for table in
            dataset::contents::tables(output.as_ref(), &manifest, dataset::contents::Table::Features).await.unwrap()
        {
            let rows =
                tables::read_features(table.read(output.as_ref()).await.unwrap(), &manifest.extractor, &table.key);
            for row in rows.unwrap().features.rows() {
                match kind {
                    ExtractorKind::Raw => assert!(row.iter().all(|x| x.fract() == 0.0 && (0.0..256.0).contains(x))),
                    ExtractorKind::Orb => {
                        assert!(row.iter().all(|x| x.fract() == 0.0) && (0.0..=60.0).contains(&row.sum()), "{row}");
                    }
                    _ => assert!((row.iter().map(|x| f64::from(*x)).sum::<f64>() - 1.0).abs() < 1e-4),
                }
            }
        }
        let found = check(output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
        assert!(found.problems.is_empty(), "{:?}", found.problems);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_threads_nor_shards_change_the_numbers() {
    for kind in KINDS {
        let input = images(0..30).await;
        let mut bases = Vec::new();
        for (threads, shard_size) in [(1, 4), (2, 16)] {
            let output = Arc::new(MemoryStore::new());
            let settings = Settings { shard_size: Some(shard_size), ..settings() };
            let manifest =
                run(&stores(&input, &output), &workers(kind, threads), &settings, "a").await.unwrap().manifest;
            let basis = manifest.basis.file.read(output.as_ref()).await.unwrap();
            bases.push(tables::read_basis(basis, manifest.basis.columns, "basis").unwrap());
        }
        assert_eq!(bases[0], bases[1], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_extractor_is_never_taken_silently() {
    let (input, output) = (images(0..12).await, Arc::new(MemoryStore::new()));
    let stores = stores(&input, &output);
    run(&stores, &workers(ExtractorKind::Histogram, 1), &settings(), "a").await.unwrap();
    let error = run(&stores, &workers(ExtractorKind::Raw, 1), &settings(), "b").await.unwrap_err();
    assert!(error.is(ErrorKind::DatasetSettingsChanged), "{error}");
    assert!(error.to_string().contains("colour histogram") && error.to_string().contains("raw pixels"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// After any history, the data set is that of a fresh run; and an erased image leaves no trace.
    #[test]
    fn histories_do_not_matter(
        rounds in prop::collection::vec(prop::collection::vec((0u64..40, 0u64..60), 1..8), 1..3),
        erased in 0u64..20,
        kind in prop::sample::select(vec![ExtractorKind::Histogram, ExtractorKind::Orb]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (input, output) = (images(0..20).await, Arc::new(MemoryStore::new()));
            let (stores, engine) = (stores(&input, &output), workers(kind, 2));
            run(&stores, &engine, &settings(), "first").await.unwrap();
            for (i, round) in rounds.iter().enumerate() {
                for (to, of) in round {
                    // A quarter of the changes are deletions.
                    if of % 4 == 0 { input.delete(&key(*to)).await.unwrap() } else { input.put(&key(*to), png(*of)).await.unwrap() }
                }
                run(&stores, &engine, &settings(), &format!("run-{i}")).await.unwrap();
            }
            assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings()).await);
            if input.get(&key(erased)).await.is_ok() {
                input.delete(&key(erased)).await.unwrap();
                let record = erase_image(&stores, &engine, &key(erased)).await;
                assert!(!record.checked.is_empty());
                assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings()).await);
            }
        });
    }
}
