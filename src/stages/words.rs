//! The visual words of a data set: made of a sample of its images before its first run with the extractor `orb`.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::{CancellationToken, Stores, check, descriptors::keypoints};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, WORDS, WordsInput, blocking::run_blocking},
    image::MAX_FILE_BYTES,
    model::ExtractorKind,
    orb::{Descriptor, Keypoint, MAX_VOCABULARY_BYTES, Orb, Vocabulary},
    store::{self, Object, is_ignored},
};

/// Images of the sample.
const SAMPLE: usize = 400;
/// Images of the sample that are read at a time.
const AT_A_TIME: usize = 8;
/// Corners of small pictures lie near their borders, too. OpenCV leaves out 31 pixels.
const BORDER: usize = 16;

/// The file of the visual words of an output, if its extractor needs one: as given, those of its newest version, or new ones,
/// which are made of a sample of the images.
///
/// The sample are the images with the smallest SHA-256 of their keys, so new words are a function of the images. Later runs
/// keep the words, unless others are given: features of different words cannot be compared.
///
/// Fails with `Input.Invalid` if words are asked for another extractor, with `Model.Invalid` if the words that are given are damaged, and
/// with `Input.Invalid` if the images have no corners.
pub async fn words(
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
    if let Some(location) = &input.location {
        return store::read_file(location, MAX_VOCABULARY_BYTES).await.map(Some);
    }
    let recipe = dataset::current(output).await?.map(|manifest| manifest.extractor.recipe());
    if let Some(file) = dataset::words(output, &recipe.unwrap_or_default()).await? {
        let known = Vocabulary::from_bytes(&file)?;
        if input.words.is_none_or(|words| words == known.len()) && input.weights.is_none_or(|w| w == known.weights()) {
            return Ok(Some(file));
        }
    }
    learn(stores, input, stop).await.map(Some)
}

async fn learn(stores: &Stores, input: &WordsInput, stop: &CancellationToken) -> Result<Bytes> {
    let orb = Orb { border: BORDER, ..Orb::default() };
    let sample = sample(stores, stop).await?;
    let described: Vec<_> = sample.iter().map(|object| keypoints(stores.input.as_ref(), object, orb, stop)).collect();
    // A store that fails is an error: another sample would have other words. A reject has no corners.
    let found: Vec<_> = stream::iter(described).buffered(AT_A_TIME).try_collect().await?;
    let of_image = |found: Vec<Keypoint>| found.into_iter().map(|keypoint| keypoint.descriptor).collect();
    let images: Vec<Vec<Descriptor>> = found.into_iter().map(|found| of_image(found.unwrap_or_default())).collect();
    check(stop)?;
    let (weights, words) = (input.weights.unwrap_or_default(), input.words.unwrap_or(WORDS));
    run_blocking(move || Ok(Vocabulary::learn(orb, weights, &images, words)?.to_bytes())).await
}

/// The objects of the sample, in the order of their hashes.
async fn sample(stores: &Stores, stop: &CancellationToken) -> Result<Vec<Object>> {
    let mut chosen: BTreeMap<[u8; 32], Object> = BTreeMap::new();
    let mut pages = stores.input.list("", None);
    while let Some(page) = pages.try_next().await? {
        check(stop)?;
        for object in page.into_iter().filter(|object| !is_ignored(&object.key) && object.size <= MAX_FILE_BYTES) {
            let hash: [u8; 32] = Sha256::digest(&object.key).into();
            chosen.insert(hash, object);
            if chosen.len() > SAMPLE {
                chosen.pop_last();
            }
        }
    }
    if chosen.is_empty() {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images of which visual words could be made"));
    }
    Ok(chosen.into_values().collect())
}
