//! The classifier of a data set: a pure function of images and settings, whatever the history and the sharding.

use std::{collections::BTreeSet, sync::Arc};

use crate::common::*;
use bytes::Bytes;
use pomona::{
    classify::{Classifier, FOLDS, MAX_CLASSES, NoClassifier, Priors, fold_of},
    dataset::{
        self, Classification, ClassifierSummary, Manifest, contents, keys,
        lease::Judge,
        registry,
        settings::{Mode, Refit, Settings},
        tables::{self, PredictionRow},
    },
    model::WorkerPool,
    stages::{Silent, Stores},
    store::{MemoryStore, Store, list_all},
    versions::check::{Depth, check},
};

/// Groups of more than 125 images keep their sums of classes: the small model has 24 columns.
fn settings() -> Settings {
    Settings { shard_size: Some(16), group_size: Some(160), ..Settings::default() }
}

async fn current(output: &MemoryStore) -> Manifest {
    dataset::current(output).await.unwrap().unwrap()
}

fn summary(manifest: &Manifest) -> &ClassifierSummary {
    manifest.classifier.as_ref().and_then(Classification::fitted).expect("a classifier")
}

async fn classifier(output: &MemoryStore) -> (Classifier, Bytes) {
    let manifest = current(output).await;
    let file = &summary(&manifest).file;
    let body = file.read(output).await.unwrap();
    (tables::read_classifier(body.clone(), manifest.extractor.columns, &file.key).unwrap(), body)
}

async fn predictions(output: &MemoryStore) -> Vec<PredictionRow> {
    let mut rows = Vec::new();
    for part in contents::parts(output, &current(output).await).await.unwrap() {
        let file = part.predictions.expect("predictions").file;
        rows.extend(tables::read_predictions(file.read(output).await.unwrap(), &file.key).unwrap());
    }
    rows
}

async fn made(input: &Arc<MemoryStore>, engine: &WorkerPool, settings: &Settings) -> Arc<MemoryStore> {
    let output = Arc::new(MemoryStore::new());
    run(&stores(input, &output), engine, settings, "fresh").await.unwrap();
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_sharding_and_number_of_threads_gives_the_same_bytes() {
    let (input, output, engine) = (images(0..300).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let mut kept = BTreeSet::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..6 {
        run(&stores, &engine, &settings(), &format!("r{round}")).await.unwrap();
        let manifest = current(&output).await;
        kept.extend(summary(&manifest).sums.iter().flatten().map(|sums| sums.sha256.clone()));
        let fresh = made(&input, &engine, &settings()).await;
        assert_eq!(data_set(output.as_ref()).await, data_set(fresh.as_ref()).await, "round {round}");
        assert_eq!(summary(&manifest), summary(&current(&fresh).await));
        for _ in 0..=rng.usize(0..4) {
            let image = rng.u64(0..300);
            match rng.u8(0..3) {
                0 => drop(input.delete(&key(image)).await),
                1 => input.put(&key(image), png(10_000 + round * 10 + image)).await.unwrap(),
                _ => input.put(&key(300 + rng.u64(0..40)), png(20_000 + image)).await.unwrap(),
            }
        }
    }
    assert!(kept.len() > 4, "{} files of sums of classes", kept.len());

    run(&stores, &engine, &settings(), "last").await.unwrap();
    let expected = (classifier(&output).await.1, predictions(&output).await);
    let one_thread = crate::common::engine("tiny", 1);
    for (shard_size, group_size, engine) in [(1, 1, &engine), (300, 32_768, &one_thread), (9, 40, &one_thread)] {
        let settings = Settings { shard_size: Some(shard_size), group_size: Some(group_size), ..settings() };
        let other = made(&input, engine, &settings).await;
        assert_eq!(classifier(&other).await.1, expected.0, "shards of {shard_size}");
        assert_eq!(predictions(&other).await, expected.1, "shards of {shard_size}");
    }
    let found = check(output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_the_classifier_is_that_of_a_data_set_that_never_had_the_image() {
    let (input, output, engine) = (images(0..300).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    // The only image of its class: its features are the mean of the class.
    input.put("quince/1.png", png(99_999)).await.unwrap();
    let stores = stores(&input, &output);
    run(&stores, &engine, &settings(), "a").await.unwrap();
    assert_eq!(classifier(&output).await.0.classes.len(), 5);
    input.delete("quince/1.png").await.unwrap();
    erase_image(&stores, &engine, "quince/1.png").await;
    let fresh = made(&input, &engine, &settings()).await;
    assert_eq!(data_set(output.as_ref()).await, data_set(fresh.as_ref()).await);
    for object in list_all(output.as_ref(), "").await.unwrap() {
        if registry::CLASSIFIER.parse(&object.key).is_some() || registry::CLASSES.parse(&object.key).is_some() {
            let body = output.get(&object.key).await.unwrap();
            assert!(!body.windows(6).any(|window| window == b"quince"), "{}", object.key);
        }
    }
}

/// The mean of a class of copies is the features of each of them: it is no trace of the one that is erased.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_image_can_be_erased_and_the_others_stay() {
    let (input, output, engine) = (images(0..300).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    for (name, copies) in [("a", &["quince/2.png", "quince/3.png"][..]), ("b", &["quince/1.png"])] {
        for copy in copies {
            input.put(copy, png(99_999)).await.unwrap();
        }
        run(&stores, &engine, &settings(), name).await.unwrap();
    }
    input.delete("quince/1.png").await.unwrap();
    erase_image(&stores, &engine, "quince/1.png").await;
    let versions: Vec<u64> = dataset::published(output.as_ref()).await.unwrap().iter().map(|m| m.version.0).collect();
    assert_eq!((versions, classifier(&output).await.0.classes.len()), (vec![1, 3], 5));
    let fresh = made(&input, &engine, &settings()).await;
    assert_eq!(data_set(output.as_ref()).await, data_set(fresh.as_ref()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn training_images_are_predicted_out_of_fold_and_held_out_ones_by_the_whole_model() {
    let (input, engine) = (images(0..200).await, engine("tiny", 2));
    let held_out = Settings { holdout: Some("kiwi/001[56]*".into()), ..settings() };
    let output = made(&input, &engine, &held_out).await;
    let manifest = current(&output).await;
    let (classifier, _) = classifier(&output).await;
    let rows = predictions(&output).await;
    let is_out = |path: &str| path.starts_with("kiwi/0015") || path.starts_with("kiwi/0016");
    assert_eq!(rows.iter().filter(|row| is_out(&row.path)).count(), 20);
    assert!(rows.iter().all(|row| (row.split.as_deref() == Some("holdout")) == is_out(&row.path)));
    assert_eq!((summary(&manifest).images, classifier.accuracy.images), (180, 180));
    let correct = |split: Option<&str>| {
        let rows = rows.iter().filter(|row| row.split.as_deref() == split);
        rows.filter(|row| row.label.as_ref() == Some(&row.predicted)).count() as u64
    };
    assert_eq!(correct(None), classifier.accuracy.correct);
    let splits: Vec<_> = summary(&manifest).splits.iter().map(|s| (s.split.as_deref(), s.images, s.correct)).collect();
    assert_eq!(splits, [(None, 180, correct(None)), (Some("holdout"), 20, correct(Some("holdout")))]);
    // The same, from the features and the published models.
    let mut folds = [0u64; FOLDS];
    for shard in contents::shards(output.as_ref(), &manifest).await.unwrap() {
        let file = shard.features().unwrap();
        let table = tables::read_features(file.read(output.as_ref()).await.unwrap(), &manifest.extractor, &file.key);
        let table = table.unwrap();
        for (path, features) in table.paths.iter().zip(table.features.outer_iter()) {
            let model = if is_out(path) {
                Some(&classifier.model)
            } else {
                classifier.without[usize::from(fold_of(path))].as_ref()
            };
            let model = model.unwrap();
            let scores = model.weights.dot(&features.mapv(f64::from)) + ndarray::aview1(&model.bias);
            let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            let row = rows.iter().find(|row| row.path == *path).unwrap();
            assert_eq!(row.predicted, classifier.classes[model.classes[best]].label, "{path}");
            folds[usize::from(fold_of(path))] += u64::from(!is_out(path));
        }
    }
    assert_eq!(classifier.folds.iter().map(|fold| fold.images).collect::<Vec<_>>(), folds);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_classifier_are_kept_until_others_are_given() {
    let (input, output, engine) = (images(0..200).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    let given = Settings {
        priors: Some(Priors::Equal),
        fold_pattern: Some(r"/(\d{4})\d".into()),
        holdout: Some("nothing".into()),
        ..settings()
    };
    run(&stores, &engine, &given, "a").await.unwrap();
    let first = summary(&current(&output).await).clone();
    assert_eq!((first.priors, first.grouped), (Priors::Equal, Some(200)));
    assert!(run(&stores, &engine, &settings(), "b").await.unwrap().up_to_date);
    let reset = Settings { fold_pattern: Some(String::new()), ..settings() };
    assert!(!run(&stores, &engine, &reset, "c").await.unwrap().up_to_date);
    let second = summary(&current(&output).await).clone();
    assert_eq!((second.priors, second.grouped, &second.rules.holdout), (Priors::Equal, None, &first.rules.holdout));
    assert_ne!(second.id, first.id);
    // A pattern that never matches leaves each image in a fold of its own key, and that is stated.
    let never = Settings { fold_pattern: Some("no such".into()), ..settings() };
    run(&stores, &engine, &never, "d").await.unwrap();
    let third = summary(&current(&output).await).clone();
    assert_eq!((third.grouped, third.correct), (Some(0), second.correct));
    let off = Settings { classifier: false, ..settings() };
    run(&stores, &engine, &off, "e").await.unwrap();
    let none = Some(Classification::None { reason: NoClassifier::Off });
    assert_eq!(current(&output).await.classifier, none);
    let parts = contents::parts(output.as_ref(), &current(&output).await).await.unwrap();
    assert!(parts.iter().all(|part| part.predictions.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_basis_keeps_the_classifier_and_predicts_new_images_only() {
    let (input, output, engine) = (images(0..300).await, Arc::new(MemoryStore::new()), engine("tiny", 2));
    let stores = stores(&input, &output);
    run(&stores, &engine, &settings(), "a").await.unwrap();
    let (before, rows) = (summary(&current(&output).await).clone(), predictions(&output).await);
    input.put(&key(777), png(777)).await.unwrap();
    let mode = Mode { refit: Refit::Never, ..Mode::default() };
    run_as(&stores, &engine, &settings(), mode, "b").await.unwrap();
    let after = summary(&current(&output).await).clone();
    assert_eq!((&after.id, after.images), (&before.id, before.images));
    let mut again = predictions(&output).await;
    again.retain(|row| row.path != key(777));
    assert_eq!(again, rows);
    run(&stores, &engine, &settings(), "c").await.unwrap();
    let fresh = made(&input, &engine, &settings()).await;
    assert_eq!(data_set(output.as_ref()).await, data_set(fresh.as_ref()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_without_two_labels_says_why_it_has_no_classifier() {
    let engine = engine("tiny", 2);
    for (names, reason) in [
        (vec!["1.png", "2.png", "3.png"], NoClassifier::NoLabels),
        (vec!["a/1.png", "a/2.png", "3.png"], NoClassifier::OneLabel),
        (vec!["a/1.png", "b/2.png", "c/3.png"], NoClassifier::NoVariance),
    ] {
        let input = Arc::new(MemoryStore::new());
        for (name, seed) in names.iter().zip(0..) {
            input.put(name, png(seed)).await.unwrap();
        }
        let output = made(&input, &engine, &settings()).await;
        assert_eq!(current(&output).await.classifier, Some(Classification::None { reason }));
        assert!(list_all(output.as_ref(), keys::CLASSIFIER).await.unwrap().is_empty());
        assert!(list_all(output.as_ref(), keys::PREDICTED).await.unwrap().is_empty());
        let found = check(output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
        assert!(found.problems.is_empty(), "{:?}", found.problems);
    }
    let input = Arc::new(MemoryStore::new());
    for i in 0..=MAX_CLASSES as u64 {
        input.put(&format!("{i}/1.png"), png(i)).await.unwrap();
    }
    input.put("0/2.png", png(5_000)).await.unwrap();
    let output = made(&input, &engine, &Settings { group_size: None, ..settings() }).await;
    let reason = NoClassifier::TooManyLabels;
    assert_eq!(current(&output).await.classifier, Some(Classification::None { reason }));
    assert!(list_all(output.as_ref(), "groups/").await.unwrap().iter().all(|object| !object.key.contains("classes")));

    let stores = Stores { input: images(0..9).await, output: Arc::new(MemoryStore::new()) };
    let bad = Settings { holdout: Some("a/***".into()), ..settings() };
    assert!(run(&stores, &engine, &bad, "a").await.unwrap_err().to_string().contains("a/***"));
}
