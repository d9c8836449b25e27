//! Extractors without a network: the same promises as for the built-in model.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::common::{
    inputs::{Input, Listed},
    *,
};
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use pomona::{
    ErrorKind, Result,
    dataset::{self, ExtractorInput, ModelRecord, WordsInput, keys, lease::Judge, settings::Settings, tables},
    image::{self, Limits},
    model::{Decoding, Extractor, ExtractorKind, FeatureRange, ModelOptions, Runtime, WorkerPool},
    orb::{Orb, Vocabulary, Weights},
    pca::ComponentSelection,
    stages::{self, CancellationToken, Silent, Stores},
    store::{MemoryStore, Object, Store, list_all},
    versions::check::{Depth, check},
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const KINDS: [ExtractorKind; 3] = [ExtractorKind::Raw, ExtractorKind::Histogram, ExtractorKind::Orb];

/// Visual words of the first images. Their extractor keeps keypoints.
fn words() -> &'static Bytes {
    static WORDS: LazyLock<Bytes> = LazyLock::new(|| {
        let orb = Orb { border: 4, keypoints: 60, levels: 2, ..Orb::default() };
        let described = (0..12).map(|seed| {
            let pixels = image::decode(&png(seed), Limits::default()).unwrap();
            orb.detect(&pixels).iter().map(|keypoint| keypoint.descriptor).collect()
        });
        let words = Vocabulary::learn(orb, Weights::Counts, &described.collect::<Vec<_>>(), 8).unwrap();
        words.with_keypoints(true).to_bytes()
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

/// A model that an output keeps, and its bytes.
async fn pushed(output: &dyn Store, memory_mb: Option<u64>) -> (ModelRecord, Bytes) {
    let onnx = Bytes::from(std::fs::read(model_path("tiny")).unwrap());
    let range = FeatureRange::default();
    let extractor = Extractor::from_onnx_with(
        onnx.clone(),
        "tiny.onnx",
        range,
        Runtime::Auto,
        ModelOptions { l2: true, ..ModelOptions::default() },
    );
    let info = extractor.unwrap().info().clone();
    let record = ModelRecord { info, bytes: onnx.len() as u64, milliseconds_per_image: 2.0, memory_mb };
    dataset::keep_model(output, &record, onnx.clone()).await.unwrap();
    (record, onnx)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_an_output_keeps_is_that_of_its_next_runs() {
    let (input, output) = (images(0..12).await, Arc::new(MemoryStore::new()));
    let stores = stores(&input, &output);
    let (record, onnx) = pushed(output.as_ref(), Some(300)).await;
    let (sha256, of_run) = (record.info.model_sha256.clone(), (FeatureRange::default(), Decoding::Full));
    let chosen =
        async |wish: &ExtractorInput| stages::extractor(&stores, wish, of_run, &CancellationToken::new()).await;
    let wish = ExtractorInput { model: Some(sha256.clone()), memory_mb: Some(300), ..ExtractorInput::default() };
    assert_eq!(chosen(&wish).await.unwrap(), (record.info.clone(), Some(onnx.clone())));
    // Before the first run, only the stack's default makes it the extractor.
    let open = ExtractorInput::default();
    assert!(chosen(&open).await.unwrap().0.recipe().model.is_none());
    let of_stack = ExtractorInput { first_model: Some(sha256.clone()), ..open.clone() };
    let (info, file) = chosen(&of_stack).await.unwrap();
    assert_eq!(info, record.info);

    let workers = WorkerPool::new(Arc::new(Extractor::of_recipe(&info.recipe(), file, of_run.0).unwrap()), 2).unwrap();
    run(&stores, &workers, &settings(), "a").await.unwrap();
    assert_eq!(chosen(&open).await.unwrap().0, record.info);
    let scaled =
        stages::extractor(&stores, &open, (of_run.0, Decoding::Scaled), &CancellationToken::new()).await.unwrap().0;
    assert!(scaled.id != record.info.id && scaled.decoding == Decoding::Scaled && scaled.l2);
    // A wish for another one stands above it.
    let raw = ExtractorInput { kind: Some(ExtractorKind::Raw), ..of_stack };
    assert_eq!(chosen(&raw).await.unwrap().0.kind, ExtractorKind::Raw);
    assert!(
        chosen(&ExtractorInput { kind: Some(ExtractorKind::Raw), ..wish })
            .await
            .unwrap_err()
            .is(ErrorKind::InputInvalid)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_used_fails_before_any_shard() {
    let (input, output) = (images(0..12).await, Arc::new(MemoryStore::new()));
    let stores = stores(&input, &output);
    let (record, onnx) = pushed(output.as_ref(), Some(3_009)).await;
    let sha256 = &record.info.model_sha256;
    let refused = async |model: &str, memory_mb: Option<u64>| {
        let wish = ExtractorInput { model: Some(model.to_owned()), memory_mb, ..ExtractorInput::default() };
        let of_run = (FeatureRange::default(), Decoding::Full);
        stages::extractor(&stores, &wish, of_run, &CancellationToken::new()).await.unwrap_err()
    };
    let too_large = refused(sha256, Some(3_008)).await;
    assert!(too_large.is(ErrorKind::ModelInvalid) && too_large.to_string().contains("needed_mb: 3009"), "{too_large}");
    assert!(refused(&"0".repeat(64), None).await.is(ErrorKind::ModelInvalid));
    assert!(refused("../pomona.json", None).await.is(ErrorKind::InputInvalid));
    let key = dataset::keys::model(sha256);
    output.put(&key, onnx.slice(1..)).await.unwrap();
    let damaged = refused(sha256, None).await;
    assert!(damaged.is(ErrorKind::DatasetCorrupt) && damaged.to_string().contains(&key), "{damaged}");
    output.delete(&key).await.unwrap();
    assert!(refused(sha256, None).await.is(ErrorKind::DatasetCorrupt));
    // Where the memory was not measured, the file is in memory four times.
    output.put(&key, onnx.clone()).await.unwrap();
    let large = ModelRecord { bytes: 800 << 20, memory_mb: None, ..record.clone() };
    dataset::keep_model(output.as_ref(), &large, onnx).await.unwrap();
    assert!(refused(sha256, Some(3_008)).await.to_string().contains("needed_mb: 3200"));
}

/// A picture with corners: squares of 12 pixels.
fn squares(seed: u64) -> Bytes {
    let picture = ::image::RgbImage::from_fn(96, 96, |x, y| {
        let square = seed * 64 + u64::from(x / 12 + y / 12 * 8) + 1;
        ::image::Rgb([(square.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8; 3])
    });
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, ::image::ImageFormat::Png).unwrap();
    file.into_inner().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_a_step_of_their_own_has_made_are_those_of_the_plan() {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    for image in 0..6 {
        input.put(&key(image), squares(image)).await.unwrap();
    }
    let (stores, stop) = (stores(&input, &output), CancellationToken::new());
    let of_run = (FeatureRange::default(), Decoding::Full);
    let asked = WordsInput { words: Some(8), ..WordsInput::default() };
    let wish = ExtractorInput { kind: Some(ExtractorKind::Orb), words: asked, ..ExtractorInput::default() };
    let words = async |wish: &ExtractorInput| {
        stages::keep_extractor(&stores, wish, of_run, &stop).await.unwrap().recipe().words
    };
    let kept = words(&wish).await.unwrap();
    let first = output.get(&dataset::keys::vocabulary(&kept)).await.unwrap();
    // An image that came meanwhile would change new words, but not these.
    input.put(&key(31), squares(31)).await.unwrap();
    let same = WordsInput { kept: Some(kept.clone()), ..wish.words.clone() };
    let given = ExtractorInput { words: same, ..wish.clone() };
    let (info, file) = stages::extractor(&stores, &given, of_run, &stop).await.unwrap();
    assert_eq!((info.recipe().words.as_deref(), file), (Some(kept.as_str()), Some(first)));
    assert_ne!(words(&wish).await, Some(kept.clone()));
    // Words that are gone are not made again silently; other extractors have none.
    output.delete(&dataset::keys::vocabulary(&kept)).await.unwrap();
    assert!(stages::extractor(&stores, &given, of_run, &stop).await.unwrap_err().is(ErrorKind::DatasetCorrupt));
    let raw = ExtractorInput { kind: Some(ExtractorKind::Raw), ..ExtractorInput::default() };
    assert_eq!(words(&raw).await, None);
}

/// An input in pages of ten objects.
#[derive(Debug)]
struct Pages {
    inner: Arc<MemoryStore>,
    listers: usize,
    /// Pages that are being listed, and the most there were.
    at_once: [AtomicUsize; 2],
}

impl Listed for Pages {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        stream::try_unfold(after.map(str::to_owned), move |after| async move {
            let [now, most] = &self.at_once;
            most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut page = self.inner.list(prefix, after.as_deref()).try_next().await?.unwrap_or_default();
            now.fetch_sub(1, Relaxed);
            page.truncate(10);
            let last = page.last().map(|last| last.key.clone());
            Ok(last.map(|last| (page, Some(last))))
        })
        .boxed()
    }
    fn listers(&self) -> usize {
        self.listers
    }
    fn objects(&self) -> &MemoryStore {
        &self.inner
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_of_many_listers_is_that_of_one() {
    let inner = Arc::new(MemoryStore::new());
    let mut by_hash = BTreeMap::new();
    for image in 0..500 {
        inner.put(&key(image), squares(image)).await.unwrap();
        by_hash.insert(Sha256::digest(key(image)), image);
    }
    let orb = Orb { border: 16, ..Orb::default() };
    let descriptors = |image: u64| {
        let keypoints = orb.detect(&image::decode(&squares(image), Limits::default()).unwrap());
        keypoints.iter().map(|keypoint| keypoint.descriptor).collect()
    };
    let sample: Vec<_> = by_hash.into_values().take(400).map(descriptors).collect();
    let expected = Vocabulary::learn(orb, Weights::Counts, &sample, 8).unwrap().to_bytes();
    for (listers, at_least) in [(1, 1), (16, 5)] {
        let input = Arc::new(Input(Pages { inner: inner.clone(), listers, at_once: Default::default() }));
        let stores = Stores { input: input.clone(), output: Arc::new(MemoryStore::new()) };
        let words = chosen(&stores, WordsInput { words: Some(8), ..WordsInput::default() }).await;
        assert_eq!(words.words(), Some(&expected), "{listers} listers");
        let most = input.at_once[1].load(Relaxed);
        assert!((at_least..=listers).contains(&most), "{most} of {listers} listers");
    }
}

/// Compares the keypoints of each row with those of its image. Returns their number.
async fn checked_keypoints(input: &MemoryStore, output: &dyn Store, orb: Orb) -> usize {
    let version = dataset::current(output).await.unwrap().unwrap();
    let mut found = 0;
    for table in dataset::contents::tables(output, &version, dataset::contents::Table::Features).await.unwrap() {
        let rows = tables::read_features(table.read(output).await.unwrap(), &version.extractor, &table.key).unwrap();
        assert_eq!(rows.keypoints.len(), rows.len());
        for (path, keypoints) in rows.paths.iter().zip(&rows.keypoints) {
            let pixels = image::decode(&input.get(path).await.unwrap(), Limits::default()).unwrap();
            assert_eq!(*keypoints, orb.detect(&pixels), "{path}");
            found += keypoints.len();
        }
    }
    found
}

/// The extractor that a wish ends in.
async fn chosen(stores: &Stores, words: WordsInput) -> Extractor {
    let wish = ExtractorInput { kind: Some(ExtractorKind::Orb), words, ..ExtractorInput::default() };
    let (of_run, stop) = ((FeatureRange::default(), Decoding::Full), CancellationToken::new());
    let (info, file) = stages::extractor(stores, &wish, of_run, &stop).await.unwrap();
    Extractor::of_recipe(&info.recipe(), file, of_run.0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keypoints_are_kept_beside_the_features() {
    let (input, output) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    for image in 0..60 {
        // Some images have no corner.
        input.put(&key(image), if image % 7 == 0 { png(image) } else { squares(image) }).await.unwrap();
    }
    let stores = stores(&input, &output);
    let words = WordsInput { words: Some(8), keypoints: Some(true), ..WordsInput::default() };
    let pool = |extractor| WorkerPool::new(Arc::new(extractor), 2).unwrap();
    let engine = pool(chosen(&stores, words).await);
    let orb = Orb { border: 16, ..Orb::default() };
    // What a stopped run has kept, and what is copied of an earlier version, has them, too.
    let settings = Settings { shard_size: Some(32), ..settings() };
    run_until(40, &stores, &engine, &settings, "stopped").await;
    assert!(!list_all(output.as_ref(), keys::PARTIALS).await.unwrap().is_empty());
    let copied = run(&stores, &engine, &settings, "first").await.unwrap().manifest.figures;
    assert!(copied.inferred < 60, "{copied:?}");
    let found = checked_keypoints(&input, output.as_ref(), orb).await;
    assert!(found > 60, "{found}");
    input.put(&key(11), squares(80)).await.unwrap();
    input.delete(&key(12)).await.unwrap();
    let figures = run(&stores, &engine, &settings, "second").await.unwrap().manifest.figures;
    assert_eq!(figures.inferred, 1);
    checked_keypoints(&input, output.as_ref(), orb).await;
    let found = check(output.as_ref(), Depth::Numbers, Judge::default(), &Silent).await.unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);

    // Later runs keep them, until they are told otherwise: then it is another extractor with the same words.
    let open = chosen(&stores, WordsInput::default()).await;
    assert_eq!(open.info(), engine.extractor().info());
    let without = chosen(&stores, WordsInput { keypoints: Some(false), ..WordsInput::default() }).await;
    assert!(!without.keeps_keypoints() && without.info().id != open.info().id);
    assert_eq!(without.features_of_file(&squares(3)).unwrap(), open.features_of_file(&squares(3)).unwrap());
    let error = run(&stores, &pool(without), &settings, "third").await.unwrap_err();
    assert!(error.is(ErrorKind::DatasetSettingsChanged) && error.to_string().contains("with keypoints"), "{error}");
    let others = chosen(&stores, WordsInput { words: Some(4), ..WordsInput::default() }).await;
    assert!(others.columns() == 4 && others.keeps_keypoints());
    // Words that are given say it themselves, unless the run does.
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("words.json");
    std::fs::write(&place, open.words().unwrap()).unwrap();
    let given = WordsInput { location: Some(place.to_str().unwrap().to_owned()), ..WordsInput::default() };
    assert_eq!(chosen(&stores, given.clone()).await.info(), open.info());
    assert!(!chosen(&stores, WordsInput { keypoints: Some(false), ..given }).await.keeps_keypoints());
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
                // Plots only.
                assert!(record.not_searched.iter().all(|file| file.file.ends_with(".png")), "{:?}", record.not_searched);
                assert_eq!(data_set(output.as_ref()).await, fresh(&input, &engine, &settings()).await);
            }
        });
    }
}
