//! The extractor of a run, and its visual words: they are made of a sample of the images before the first run with `orb`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::{
    CancellationToken, Silent, Stores, check,
    descriptors::keypoints,
    spans::Range,
    sweep::{Sink, Sweep},
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{self, ExtractorInput, WORDS, WordsInput, blocking::run_blocking},
    image::MAX_FILE_BYTES,
    model::{Decoding, ExtractorInfo, ExtractorKind, FeatureRange, Recipe, builtin_info, embedded_info},
    orb::{Descriptor, Keypoint, MAX_VOCABULARY_BYTES, Orb, Vocabulary},
    store::{self, Object, Store, is_ignored},
};

/// How often the file of a model is in memory while it is loaded, where that was not measured.
const COPIES: u64 = 4;
/// Images of the sample.
const SAMPLE: usize = 400;
/// Images of the sample that are read at a time.
const AT_A_TIME: usize = 8;
/// Corners of small pictures lie near their borders, too. OpenCV leaves out 31 pixels.
const BORDER: usize = 16;

/// The extractor of a run, and the file that it needs, if it needs one: visual words, or a model of the user's. A model is
/// not loaded. Without a wish, it is that of the newest version, or the built-in network if that is a model that the output
/// does not keep.
///
/// Fails with `Input.Invalid` if the wish contradicts itself, with `Model.Invalid` if there is no such model or the memory does
/// not suffice for it, and with `Dataset.Corrupt` if its file is another one. New visual words
/// fail with `Input.Invalid` if the images have no corners, and given ones with `Model.Invalid` if they are damaged.
#[compiled_once]
pub async fn extractor(
    stores: &Stores,
    input: &ExtractorInput,
    (range, decoding): (FeatureRange, Decoding),
    stop: &CancellationToken,
) -> Result<(ExtractorInfo, Option<Bytes>)> {
    let output = stores.output.as_ref();
    if let Some(sha256) = &input.model {
        return model(output, input, sha256, decoding).await;
    }
    let kind = match input.kind {
        Some(kind) => kind,
        None => {
            let current = dataset::current(output).await?.map(|manifest| manifest.extractor);
            if let (None, Some(sha256)) = (&current, &input.first_model) {
                return model(output, input, sha256, decoding).await;
            }
            let current = current.unwrap_or_else(|| embedded_info(range, decoding)).with_decoding(decoding);
            let recipe = current.recipe();
            if recipe.model.is_some()
                && let Some(file) = dataset::extractor_file(output, &recipe).await?
            {
                return Ok((current, Some(file)));
            }
            current.kind
        }
    };
    let words = words(stores, kind, &input.words, stop).await?;
    Ok((builtin_info(kind, words.as_deref(), range, decoding)?, words))
}

/// The [`extractor`] of a run, whose visual words the output keeps from now on. On AWS, that is a step of its own before the plan, so
/// that each call of the plan counts the same words ([`WordsInput::kept`]) and none has to list the images for them.
#[compiled_once]
pub async fn keep_extractor(
    stores: &Stores,
    input: &ExtractorInput,
    of_run: (FeatureRange, Decoding),
    stop: &CancellationToken,
) -> Result<ExtractorInfo> {
    let (info, file) = extractor(stores, input, of_run, stop).await?;
    if let Some(file) = file {
        dataset::keep_words(stores.output.as_ref(), &info.recipe(), file).await?;
    }
    Ok(info)
}

/// A model that the output keeps, and its file.
async fn model(
    output: &dyn Store,
    input: &ExtractorInput,
    sha256: &str,
    decoding: Decoding,
) -> Result<(ExtractorInfo, Option<Bytes>)> {
    if input.kind.is_some() || input.words != WordsInput::default() {
        return Err(Error::new(ErrorKind::InputInvalid, "an extractor has a name or is a model, not both"));
    }
    let record = dataset::model_record(output, sha256).await?;
    let needed = record.memory_mb.unwrap_or((record.bytes * COPIES) >> 20);
    if let Some(memory) = input.memory_mb.filter(|memory| *memory < needed) {
        let message =
            "the functions have too little memory for the model; deploy the stack with more (FeaturizeMemory)";
        return Err(Error::new(ErrorKind::ModelInvalid, message)
            .context("model", sha256)
            .context("needed_mb", needed)
            .context("memory_mb", memory));
    }
    let info = record.info.with_decoding(decoding);
    let file = dataset::extractor_file(output, &info.recipe()).await?;
    if file.is_none() {
        return Err(Error::new(ErrorKind::DatasetCorrupt, "the file of the model is missing").context("model", sha256));
    }
    Ok((info, file))
}

/// The file of the visual words of an output, if its extractor needs one: as given, those of its newest version, or new ones,
/// which are made of a sample of the images.
///
/// The sample are the images with the smallest SHA-256 of their keys, so new words are a function of the images. Later runs
/// keep the words, unless others are given: features of different words cannot be compared.
///
/// Fails with `Input.Invalid` if words are asked for another extractor, with `Model.Invalid` if the words that are given are damaged, and
/// with `Input.Invalid` if the images have no corners.
async fn words(
    stores: &Stores,
    kind: ExtractorKind,
    input: &WordsInput,
    stop: &CancellationToken,
) -> Result<Option<Bytes>> {
    input.check(kind)?;
    if kind != ExtractorKind::Orb {
        return Ok(None);
    }
    let output = stores.output.as_ref();
    if let Some(kept) = &input.kept {
        let recipe = Recipe { kind, decoding: Decoding::Full, words: Some(kept.clone()), model: None };
        return dataset::extractor_file(output, &recipe).await;
    }
    if let Some(location) = &input.location {
        let file = store::read_file(location, MAX_VOCABULARY_BYTES).await?;
        return with_keypoints(file, input.keypoints).map(Some);
    }
    let mut kept = false;
    let recipe = dataset::current(output).await?.map(|manifest| manifest.extractor.recipe());
    if let Some(recipe) = recipe.filter(|recipe| recipe.words.is_some())
        && let Some(file) = dataset::extractor_file(output, &recipe).await?
    {
        let known = Vocabulary::from_bytes(&file)?;
        if input.words.is_none_or(|words| words == known.len()) && input.weights.is_none_or(|w| w == known.weights()) {
            return with_keypoints(file, input.keypoints).map(Some);
        }
        kept = known.keeps_keypoints();
    }
    learn(stores, input, kept, stop).await.map(Some)
}

/// New words. Keypoints are kept if the last version has `kept` them, unless something else is asked for.
async fn learn(stores: &Stores, input: &WordsInput, kept: bool, stop: &CancellationToken) -> Result<Bytes> {
    let orb = Orb { border: BORDER, ..Orb::default() };
    let sample = sample(stores, stop).await?;
    let described: Vec<_> = sample.iter().map(|object| keypoints(stores.input.as_ref(), object, orb, stop)).collect();
    // A store that fails is an error: another sample would have other words. A reject has no corners.
    let found: Vec<_> = stream::iter(described).buffered(AT_A_TIME).try_collect().await?;
    let of_image = |found: Vec<Keypoint>| found.into_iter().map(|keypoint| keypoint.descriptor).collect();
    let images: Vec<Vec<Descriptor>> = found.into_iter().map(|found| of_image(found.unwrap_or_default())).collect();
    check(stop)?;
    let (weights, words) = (input.weights.unwrap_or_default(), input.words.unwrap_or(WORDS));
    let keypoints = input.keypoints.unwrap_or(kept);
    run_blocking(move || Ok(Vocabulary::learn(orb, weights, &images, words)?.with_keypoints(keypoints).to_bytes()))
        .await
}

/// The file of the same words, with keypoints in the tables of features or without, if that is asked for.
fn with_keypoints(file: Bytes, keypoints: Option<bool>) -> Result<Bytes> {
    let Some(keypoints) = keypoints else { return Ok(file) };
    let words = Vocabulary::from_bytes(&file)?;
    Ok(if words.keeps_keypoints() == keypoints { file } else { words.with_keypoints(keypoints).to_bytes() })
}

/// The objects of the sample, in the order of their hashes.
async fn sample(stores: &Stores, stop: &CancellationToken) -> Result<Vec<Object>> {
    let (input, sample) = (stores.input.as_ref(), Sample::default());
    let sweep = Sweep::new(input, &sample, u64::MAX, &Silent, stop);
    sweep.list(vec![Range::default()], input.listers()).await?;
    let chosen = std::mem::take(&mut *sample.chosen());
    if chosen.is_empty() {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images of which visual words could be made"));
    }
    Ok(chosen.into_values().collect())
}

/// The objects with the smallest hashes, by these: whatever the order in which they are listed.
#[derive(Default)]
struct Sample(Mutex<BTreeMap<[u8; 32], Object>>);

impl Sample {
    fn chosen(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Object>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Sample {
    type Part = ();

    fn part(&self, _after: Option<String>) {}

    async fn add(&self, _part: &mut (), objects: Vec<Object>) -> Result<()> {
        let usable = objects.into_iter().filter(|object| !is_ignored(&object.key) && object.size <= MAX_FILE_BYTES);
        let hashed = usable.map(|object| (Sha256::digest(&object.key).into(), object));
        // Before the lock: other listers wait for it.
        let hashed: Vec<([u8; 32], Object)> = hashed.collect();
        let chosen = &mut *self.chosen();
        for (hash, object) in hashed {
            chosen.insert(hash, object);
            if chosen.len() > SAMPLE {
                chosen.pop_last();
            }
        }
        Ok(())
    }

    async fn end(&self, _part: (), _until: Option<String>) -> Result<()> {
        Ok(())
    }
}
