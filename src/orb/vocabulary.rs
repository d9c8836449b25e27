//! Visual words: descriptors that stand for many similar ones, and images as counts of words.
//!
//! Grana, Borghesani, Manfredi and Cucchiara, "A fast approach for integrating ORB descriptors in the bag of words model" (2013)
//! calls the clustering k-majority.

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Descriptor, Keypoint, Orb, hamming};
use crate::{Error, ErrorKind, Result, image::Pixels};

/// Most rounds of the clustering. It ends earlier when no word changes.
const ROUNDS: usize = 50;
/// Most words of a vocabulary.
pub const MAX_WORDS: usize = 2_048;
/// Largest file of a vocabulary, bytes.
pub const MAX_VOCABULARY_BYTES: u64 = 1 << 20;
/// The form of the file.
const FORMAT: &str = "pomona visual words 1";

/// How counts of words become features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// The counts.
    #[default]
    Counts,
    /// Their shares of all words of the image.
    L1,
    /// The shares, times the logarithm of how rare a word is: ln(images / images with the word).
    TfIdf,
}

/// Words, and how images become counts of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    format: String,
    /// How images are described.
    orb: Orb,
    /// What features are made of the counts.
    weights: Weights,
    /// Whether tables of features have the keypoints of each image, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keypoints: bool,
    /// Images of which the words were made.
    images: u64,
    /// In the order of the features.
    words: Vec<Word>,
}

/// A word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    #[serde(with = "hex")]
    descriptor: Descriptor,
    /// Images of the sample that have it.
    images: u64,
}

impl Vocabulary {
    /// Makes at most `words` words of the descriptors of some images. There are fewer if there are fewer descriptors that
    /// differ. A function of the images in their order: threads and processors make no difference.
    ///
    /// Fails with `Input.Invalid` without any descriptor, or with more than [`MAX_WORDS`] words or none.
    pub fn learn(orb: Orb, weights: Weights, images: &[Vec<Descriptor>], words: usize) -> Result<Self> {
        if !(1..=MAX_WORDS).contains(&words) {
            let message = format!("a vocabulary has 1 to {MAX_WORDS} words");
            return Err(Error::new(ErrorKind::InputInvalid, message).context("words", words));
        }
        let all: Vec<Descriptor> = images.iter().flatten().copied().collect();
        let words = majority(&all, words);
        if words.is_empty() {
            let message = "no image of the sample has a corner, so there are no visual words";
            return Err(Error::new(ErrorKind::InputInvalid, message).context("images of the sample", images.len()));
        }
        let words = words.into_iter().map(|descriptor| Word { descriptor, images: 0 }).collect();
        let mut vocabulary = Vocabulary {
            format: FORMAT.to_owned(),
            orb,
            weights,
            keypoints: false,
            images: images.len() as u64,
            words,
        };
        let counts: Vec<Vec<u32>> = images.par_iter().map(|image| vocabulary.counts(image)).collect();
        for (at, word) in vocabulary.words.iter_mut().enumerate() {
            word.images = counts.iter().filter(|counts| counts[at] > 0).count() as u64;
        }
        Ok(vocabulary)
    }

    /// Reads a file of [`to_bytes`](Vocabulary::to_bytes). Fails with `Model.Invalid`.
    pub fn from_bytes(file: &[u8]) -> Result<Self> {
        let invalid =
            |why: String| Error::new(ErrorKind::ModelInvalid, "this is no vocabulary of visual words").source(why);
        if file.len() as u64 > MAX_VOCABULARY_BYTES {
            return Err(invalid(format!("it has {} bytes; at most {MAX_VOCABULARY_BYTES} are read", file.len())));
        }
        let read: Vocabulary = serde_json::from_slice(file).map_err(|e| invalid(e.to_string()))?;
        if read.format != FORMAT {
            return Err(invalid(format!("its format is {:?}, not {FORMAT:?}", read.format)));
        }
        read.orb.check().map_err(invalid)?;
        match read.words.len() {
            1..=MAX_WORDS => Ok(read),
            words => Err(invalid(format!("it has {words} words"))),
        }
    }

    /// The file: JSON, one line per word.
    pub fn to_bytes(&self) -> Bytes {
        let words: Vec<String> = self.words.iter().map(|word| serde_json::json!(word).to_string()).collect();
        let [format, orb, weights] =
            [serde_json::json!(self.format), serde_json::json!(self.orb), serde_json::json!(self.weights)];
        // The files of vocabularies without keypoints are those of earlier releases.
        let keypoints = if self.keypoints { "\"keypoints\":true,\n" } else { "" };
        let head = format!(
            "{{\"format\":{format},\n\"orb\":{orb},\n\"weights\":{weights},\n{keypoints}\"images\":{},\n\"words\":[\n",
            self.images
        );
        format!("{head}{}\n]}}\n", words.join(",\n")).into()
    }

    /// The number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether it has no words, which is never so.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What features are made of the counts.
    pub fn weights(&self) -> Weights {
        self.weights
    }

    /// Whether tables of features have the keypoints of each image, too.
    pub fn keeps_keypoints(&self) -> bool {
        self.keypoints
    }

    /// The same words, with keypoints in the tables of features or without.
    #[must_use]
    pub fn with_keypoints(self, keypoints: bool) -> Self {
        Vocabulary { keypoints, ..self }
    }

    /// The keypoints of an image.
    pub fn detect(&self, pixels: &Pixels) -> Vec<Keypoint> {
        self.orb.detect(pixels)
    }

    /// The features of an image with these keypoints, one for each word.
    pub fn features(&self, keypoints: &[Keypoint]) -> Vec<f32> {
        let descriptors: Vec<Descriptor> = keypoints.iter().map(|keypoint| keypoint.descriptor).collect();
        let counts = self.counts(&descriptors);
        let all = counts.iter().sum::<u32>().max(1);
        let feature = |(count, word): (&u32, &Word)| match self.weights {
            Weights::Counts => *count as f32,
            Weights::L1 => (f64::from(*count) / f64::from(all)) as f32,
            Weights::TfIdf => {
                let rare = libm::log(self.images.max(1) as f64 / word.images.max(1) as f64);
                (f64::from(*count) / f64::from(all) * rare) as f32
            }
        };
        counts.iter().zip(&self.words).map(feature).collect()
    }

    /// A bound of the features.
    pub fn largest(&self) -> u32 {
        match self.weights {
            Weights::Counts => u32::try_from(self.orb.keypoints).unwrap_or(u32::MAX),
            Weights::L1 => 1,
            // A sample has fewer than e^64 images.
            Weights::TfIdf => 63,
        }
    }

    /// How often each word occurs.
    pub fn counts(&self, descriptors: &[Descriptor]) -> Vec<u32> {
        let mut counts = vec![0; self.words.len()];
        for descriptor in descriptors {
            let distances = self.words.iter().map(|word| hamming(&word.descriptor, descriptor));
            if let Some(count) = nearest(distances).and_then(|(word, _)| counts.get_mut(word)) {
                *count += 1;
            }
        }
        counts
    }
}

/// The place of the smallest distance, the first of equal ones.
fn nearest(distances: impl Iterator<Item = u32>) -> Option<(usize, u32)> {
    distances.enumerate().min_by_key(|(at, distance)| (*distance, *at))
}

/// Clusters descriptors by Hamming distance: at most `words` of them, each the majority of the bits of its cluster. Where a bit is
/// set in one half of a cluster, the word keeps it as it was; a cluster that has lost all its descriptors keeps its word.
pub fn majority(descriptors: &[Descriptor], words: usize) -> Vec<Descriptor> {
    let mut centres = start(descriptors, words);
    for _ in 0..ROUNDS {
        let ones = descriptors.par_chunks(1_024).map(|part| ones(part, &centres)).reduce(
            || vec![Ones::default(); centres.len()],
            |mut a, b| {
                a.iter_mut().zip(&b).for_each(|(a, b)| a.add(b));
                a
            },
        );
        let next: Vec<Descriptor> = ones.iter().zip(&centres).map(|(ones, centre)| ones.majority(centre)).collect();
        if next == centres {
            break;
        }
        centres = next;
    }
    centres
}

/// The words at the beginning: descriptors that differ, evenly spread over all.
pub(super) fn start(descriptors: &[Descriptor], words: usize) -> Vec<Descriptor> {
    let mut seen = std::collections::HashSet::new();
    let different: Vec<&Descriptor> = descriptors.iter().filter(|descriptor| seen.insert(**descriptor)).collect();
    let count = different.len().min(words);
    (0..count).map(|at| *different[at * different.len() / count]).collect()
}

/// How many descriptors of a cluster have each bit.
#[derive(Clone)]
struct Ones {
    descriptors: u32,
    bits: Box<[u32; 256]>,
}

impl Default for Ones {
    fn default() -> Self {
        Ones { descriptors: 0, bits: Box::new([0; 256]) }
    }
}

impl Ones {
    fn add(&mut self, other: &Ones) {
        self.descriptors += other.descriptors;
        self.bits.iter_mut().zip(other.bits.iter()).for_each(|(a, b)| *a += b);
    }

    fn majority(&self, before: &Descriptor) -> Descriptor {
        let mut word = *before;
        for (bit, ones) in self.bits.iter().enumerate() {
            let mask = 1 << (bit % 8);
            match (2 * ones).cmp(&self.descriptors) {
                std::cmp::Ordering::Greater => word[bit / 8] |= mask,
                std::cmp::Ordering::Less => word[bit / 8] &= !mask,
                std::cmp::Ordering::Equal => {}
            }
        }
        word
    }
}

fn ones(descriptors: &[Descriptor], centres: &[Descriptor]) -> Vec<Ones> {
    let mut all = vec![Ones::default(); centres.len()];
    for descriptor in descriptors {
        let distances = centres.iter().map(|centre| hamming(centre, descriptor));
        let Some(of) = nearest(distances).and_then(|(word, _)| all.get_mut(word)) else { continue };
        of.descriptors += 1;
        for (bit, ones) in of.bits.iter_mut().enumerate() {
            *ones += u32::from(descriptor[bit / 8] >> (bit % 8) & 1);
        }
    }
    all
}

/// Descriptors in files: 64 hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let digits = || D::Error::custom("a descriptor has 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(digits());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| digits())?;
        }
        Ok(bytes)
    }
}
