//! Identifiers: runs, versions, shards, groups, lists of members, extractors, bases, classifiers, moments, and the etags of
//! objects.
//!
//! They are types instead of strings, and every room may import them, so that no two rooms import each other for an id.
//! In JSON, each is a plain string or number.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

macro_rules! text_id {
    ($( $(#[$doc:meta])* $name:ident; )+) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The identifier as written in keys and records.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                $name(id)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                $name(id.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+ };
}

text_id! {
    /// Identifies a shard: 128 bits of SHA-256, in hexadecimal, of extractor id, compression, and key, etag, label and
    /// split of each object.
    ShardId;
    /// Identifies the list of an archive's members: 128 bits of SHA-256, in hexadecimal, of key, etag and size of the
    /// archive.
    ContainerId;
    /// Identifies a group of shards: 128 bits of SHA-256, in hexadecimal, of the ids of its shards.
    GroupId;
    /// Identifies an extractor: 128 bits of SHA-256, in hexadecimal, of model file, preprocessing, arithmetic and
    /// feature range.
    ExtractorId;
    /// Identifies a basis: 128 bits of SHA-256, in hexadecimal, of extractor id, moments id and PCA settings.
    BasisId;
    /// Identifies total moments: 128 bits of SHA-256, in hexadecimal, of row count, sums and sums of products.
    MomentsId;
    /// Identifies a classifier: 128 bits of SHA-256, in hexadecimal, of all that its file has.
    ClassifierId;
    /// Identifies the rules by which training images and folds are chosen: 128 bits of SHA-256, in hexadecimal.
    RulesId;
    /// Identifies the content of an object. It changes when the object is replaced.
    ///
    /// In a bucket, the entity tag of S3. In a folder, modification time (nanoseconds) and size.
    ETag;
}

/// The number of a version, from 1. Displayed with eight digits, as in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// The name of a run: its folder below `runs/`, and on AWS the name of its execution.
///
/// 1 to 80 ASCII letters, digits, `-`, `_` and `.`, not starting with `.`. `try_from` fails with `Input.Invalid`
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RunId(String);

impl TryFrom<String> for RunId {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        if RunId::is_name(&name) {
            Ok(RunId(name))
        } else {
            Err(Error::new(
                ErrorKind::InputInvalid,
                "a run name must have 1 to 80 letters, digits or -_. and must not start with .",
            )
            .context("run", name))
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RunId {
    /// The time, to the second, and a few letters that keep two runs of the same second apart.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        let mark = now.subsec_nanosecond() as u32 ^ std::process::id().rotate_left(16);
        RunId(format!("{}-{mark:08x}", now.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// Whether a run can have this name.
    pub(crate) fn is_name(name: &str) -> bool {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=80).contains(&name.len()) && name.chars().all(legal) && !name.starts_with('.')
    }

    /// The name of attempt number `attempt` (from 1) of this run: the name itself, then `name-2`, `name-3`. Fails with
    /// `Input.Invalid` if that is longer than 80 characters.
    pub fn attempt(&self, attempt: u32) -> Result<RunId> {
        if attempt == 1 { Ok(self.clone()) } else { format!("{self}-{attempt}").try_into() }
    }
}

/// The first 16 bytes of a SHA-256 digest, in hexadecimal.
pub(crate) fn short_hex(digest: &[u8]) -> String {
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_names_are_folder_names() {
        assert!(RunId::try_from("2026-11-24T10_00.1".to_owned()).is_ok());
        for bad in ["", ".hidden", "a/b", "ä", &"x".repeat(81)] {
            assert!(RunId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        let run = RunId::try_from("r".to_owned()).unwrap();
        assert_eq!(run.attempt(1).unwrap(), run);
        assert_eq!(run.attempt(3).unwrap().to_string(), "r-3");
    }
}
