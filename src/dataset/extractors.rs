//! Files that an output keeps for its extractor: visual words, or a model of the user's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{blocking::run_blocking, from_record, keys, record::damaged, to_record};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    model::{ExtractorInfo, ExtractorKind, Recipe},
    orb::Weights,
    store::{self, Store},
};

/// Words, if no other number is asked for.
pub const WORDS: usize = 256;

/// Where the visual words of an output come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordsInput {
    /// Location of a file of words, which another data set has made. None for those of the output, or new ones.
    pub location: Option<String>,
    /// How many new words are made. None for [`WORDS`].
    pub words: Option<usize>,
    /// What features are made of the counts of new words. None for the counts.
    pub weights: Option<Weights>,
    /// Whether tables of features have the keypoints of each image, too. None for as before, or as the given words say.
    pub keypoints: Option<bool>,
    /// SHA-256 of words that the output keeps, which [`keep_extractor`](crate::stages::keep_extractor) has made for this run. They
    /// stand above the rest.
    pub kept: Option<String>,
}

/// What computes the features of a run, as its user asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtractorInput {
    /// An extractor without a model of the user's. None for that of the last version.
    pub kind: Option<ExtractorKind>,
    /// SHA-256 of a model that the output keeps.
    pub model: Option<String>,
    /// The same for an output without a version, if nothing else is asked for.
    pub first_model: Option<String>,
    /// Where visual words come from.
    pub words: WordsInput,
    /// Memory of each function that computes features, MB; None where it does not count.
    pub memory_mb: Option<u64>,
}

impl WordsInput {
    /// Fails with `Input.Invalid` if something is asked of an extractor without words.
    pub fn check(&self, kind: ExtractorKind) -> Result<()> {
        if kind == ExtractorKind::Orb || *self == WordsInput::default() {
            return Ok(());
        }
        let message = "a vocabulary, a number of words, their weights and keypoints belong to the extractor orb";
        Err(Error::new(ErrorKind::InputInvalid, message).context("extractor", kind.name()))
    }
}

/// `models/<sha256>/record.json`: a model of the user's that an output keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// What it computes.
    #[serde(flatten)]
    pub info: ExtractorInfo,
    /// Bytes of its file.
    pub bytes: u64,
    /// Milliseconds of an image on one processor, where it was measured.
    pub milliseconds_per_image: f64,
    /// Most memory of a process that computed features with it on one processor, MB; None where it could not be measured.
    pub memory_mb: Option<u64>,
}

/// Reads the record of a model that an output keeps. Fails with `Model.Invalid` if it keeps no model of this SHA-256.
#[compiled_once]
pub async fn model_record(output: &dyn Store, sha256: &str) -> Result<ModelRecord> {
    let missing =
        || Error::new(ErrorKind::ModelInvalid, "the output does not keep this model; `pomona model push` it first");
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::new(ErrorKind::InputInvalid, "a model is named by its SHA-256").context("found", sha256));
    }
    let key = keys::model_record(sha256);
    let text = store::get_opt(output, &key).await?.ok_or_else(|| missing().context("model", sha256))?;
    let record: ModelRecord = from_record(&text, &key)?;
    if record.info.model_sha256 != sha256 {
        return Err(damaged("this is the record of another model", &key));
    }
    Ok(record)
}

/// Keeps a model in an output, or an empty store, where a model with the same file has then these options. A damaged file is
/// replaced. Fails as [`open_output`](super::open_output) does.
#[compiled_once]
pub async fn keep_model(output: &dyn Store, record: &ModelRecord, file: Bytes) -> Result<()> {
    let sha256 = &record.info.model_sha256;
    super::open_output(output).await?;
    output.put(&keys::model(sha256), file).await?;
    // Last, so that a push that was killed keeps nothing.
    output.put(&keys::model_record(sha256), to_record(record)?).await
}

/// Reads the file that an extractor needs: that of its visual words, or a model that the output keeps. None if it needs none,
/// or is a model that the output does not keep.
///
/// Fails with `Dataset.Corrupt` if the file is another one, or if that of the visual words is missing.
#[compiled_once]
pub async fn extractor_file(output: &dyn Store, recipe: &Recipe) -> Result<Option<Bytes>> {
    let (key, sha256) = match recipe {
        Recipe { words: Some(words), .. } => (keys::vocabulary(words), words),
        Recipe { model: Some(model), .. } => (keys::model(&model.model_sha256), &model.model_sha256),
        Recipe { words: None, model: None, .. } => return Ok(None),
    };
    let Some(file) = store::get_opt(output, &key).await? else {
        let is_kept = recipe.words.is_some();
        return if is_kept { Err(damaged("a file of this data set is missing", &key)) } else { Ok(None) };
    };
    let (file, found) = run_blocking(move || {
        let found = super::sha256(&file);
        Ok((file, found))
    })
    .await?;
    if found != *sha256 {
        return Err(damaged("a file of this data set is damaged: it has another SHA-256 than its name", &key));
    }
    Ok(Some(file))
}

/// Keeps visual words of an extractor in an output, or an empty store. Fails as [`open_output`](super::open_output) does.
#[compiled_once]
pub async fn keep_words(output: &dyn Store, recipe: &Recipe, file: Bytes) -> Result<()> {
    let Some(words) = &recipe.words else { return Ok(()) };
    super::open_output(output).await?;
    output.put_if_absent(&keys::vocabulary(words), file).await.map(drop)
}
