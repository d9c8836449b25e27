//! Reasons why an image has no features.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{Deserialize, Serialize};

use crate::ErrorKind;

/// Why an image has no features. The names are stable; the rejects table contains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The file has no bytes.
    Empty,
    /// The first bytes are not those of a known image format.
    NotAnImage,
    /// An image format, or a variant of one, that Pomona does not decode.
    UnsupportedFormat,
    /// The file ends before the end of the image.
    Truncated,
    /// The file violates its format.
    Corrupt,
    /// The file has more bytes or pixels than the limits allow.
    TooLarge,
    /// The store refused access.
    NoPermission,
    /// The object is in an archive from which it must be restored first.
    Archived,
    /// The object could not be read for another reason, such as a network failure.
    Unreadable,
    /// A feature is NaN or infinite.
    NotFinite,
    /// A feature is outside of the feature range.
    OutOfRange,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 11] = [
        Reason::Empty,
        Reason::NotAnImage,
        Reason::UnsupportedFormat,
        Reason::Truncated,
        Reason::Corrupt,
        Reason::TooLarge,
        Reason::NoPermission,
        Reason::Archived,
        Reason::Unreadable,
        Reason::NotFinite,
        Reason::OutOfRange,
    ];

    /// The stable name, such as `not_an_image`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::NotAnImage => "not_an_image",
            Reason::UnsupportedFormat => "unsupported_format",
            Reason::Truncated => "truncated",
            Reason::Corrupt => "corrupt",
            Reason::TooLarge => "too_large",
            Reason::NoPermission => "no_permission",
            Reason::Archived => "archived",
            Reason::Unreadable => "unreadable",
            Reason::NotFinite => "not_finite",
            Reason::OutOfRange => "out_of_range",
        }
    }

    /// Why an object has no features if reading it fails with this error, and a retry does not mend that.
    pub fn of(error: ErrorKind) -> Reason {
        match error {
            ErrorKind::StoreDenied => Reason::NoPermission,
            ErrorKind::StoreArchived => Reason::Archived,
            _ => Reason::Unreadable,
        }
    }

    /// The reason of this name; `Corrupt` for names that a later release may write.
    pub(crate) fn from_name(name: &str) -> Reason {
        Reason::ALL.into_iter().find(|reason| reason.name() == name).unwrap_or(Reason::Corrupt)
    }

    /// Replaces the etag of an object that could not be read in the hash of its shard.
    pub(crate) fn placeholder(self) -> String {
        format!("!{}", self.name())
    }

    /// Whether a later read of the same (key, etag) can succeed. The next run tries again.
    pub fn may_pass(self) -> bool {
        matches!(self, Reason::NoPermission | Reason::Archived | Reason::Unreadable)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why one image has no features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The reason.
    pub reason: Reason,
    /// What exactly was found, for the user. Part of the rejects table.
    pub detail: String,
}

impl Reject {
    /// A reject; `detail` is formatted.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Reject { reason, detail: detail.to_string() }
    }
}

/// Work on a file. A panic of a decoder rejects the image and nothing else.
pub(crate) fn guarded<T>(work: impl FnOnce() -> std::result::Result<T, Reject>) -> std::result::Result<T, Reject> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Reject::new(Reason::Corrupt, "the decoder gave up on this file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_serde_writes() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
