//! Visual words that an output keeps for its extractor.

use bytes::Bytes;

use super::{
    keys,
    record::{damaged, sha256},
};
use crate::{
    Error, ErrorKind, Result,
    model::{ExtractorKind, Recipe},
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
}

impl WordsInput {
    /// Fails with `Input.Invalid` if something is asked of an extractor without words.
    pub fn check(&self, kind: ExtractorKind) -> Result<()> {
        if kind == ExtractorKind::Orb || *self == WordsInput::default() {
            return Ok(());
        }
        let message = "a vocabulary, a number of words and their weights belong to the extractor orb";
        Err(Error::new(ErrorKind::InputInvalid, message).context("extractor", kind.name()))
    }
}

/// Reads the file of the visual words of an extractor; None if it has none. Fails with `Dataset.Corrupt` if the file is missing
/// or another one.
pub async fn words(output: &dyn Store, recipe: &Recipe) -> Result<Option<Bytes>> {
    let Some(words) = &recipe.words else { return Ok(None) };
    let key = keys::vocabulary(words);
    match store::get_opt(output, &key).await? {
        Some(file) if sha256(&file) == *words => Ok(Some(file)),
        Some(_) => Err(damaged("a file of this data set is damaged: it has another SHA-256 than its name", &key)),
        None => Err(damaged("a file of this data set is missing", &key)),
    }
}

/// Keeps the file of visual words of an extractor in an output, or an empty store. Fails as [`open_output`](super::open_output)
/// does.
pub async fn keep_words(output: &dyn Store, recipe: &Recipe, file: Bytes) -> Result<()> {
    let Some(words) = &recipe.words else { return Ok(()) };
    super::open_output(output).await?;
    output.put_if_absent(&keys::vocabulary(words), file).await.map(drop)
}
