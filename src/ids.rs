//! The names of things: runs, versions, shards, extractors, bases, and what tells two contents of one key apart.
//!
//! They are types, not strings, and stand below everything else, so that no two rooms need each other for a name. Each is
//! written to JSON as the plain string or number.

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
            /// The identifier as it stands in keys and records.
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
    /// 128 bits of SHA-256 in hexadecimal, over the extractor and the shard's (key, etag) list.
    ShardId;
    /// 128 bits of SHA-256 over model file, preprocessing revision, arithmetic and feature range.
    ExtractorId;
    /// 128 bits of SHA-256 over what a basis was fitted on and how.
    BasisId;
    /// 128 bits of SHA-256 over exact sums.
    MomentsId;
    /// What a store says to tell one content of a key from another.
    ///
    /// S3's entity tag there; size and modification time, both exact, in a folder.
    ETag;
}

/// Number of a version, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// The name of a run: its folder below `runs/`, and on AWS the name of its execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RunId(String);

impl TryFrom<String> for RunId {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=80).contains(&name.len()) && name.chars().all(legal) && !name.starts_with('.') {
            Ok(RunId(name))
        } else {
            Err(Error::new(ErrorKind::InputInvalid, "a run's name has 1 to 80 letters, digits, and - _ . (not first)")
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
    /// The name of the `attempt`-th attempt of the same run, from 1.
    pub fn attempt(&self, attempt: u32) -> Result<RunId> {
        if attempt == 1 { Ok(self.clone()) } else { format!("{self}-{attempt}").try_into() }
    }
}

/// Hexadecimal of the first 16 bytes of a SHA-256.
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
