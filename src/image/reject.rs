//! Why an image has no features.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an image has no features. The names are stable: they stand in the rejects table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No bytes at all.
    Empty,
    /// The first bytes are those of no image format.
    NotAnImage,
    /// An image format, or a variant of one, that Pomona does not read.
    UnsupportedFormat,
    /// The file ends before the image does.
    Truncated,
    /// The file contradicts its format.
    Corrupt,
    /// More bytes or pixels than Pomona takes.
    TooLarge,
    /// Access was refused.
    NoPermission,
    /// The object could not be read for another reason.
    Unreadable,
    /// The model gave NaN or infinity.
    NotFinite,
    /// The model gave a number beyond the feature range.
    OutOfRange,
}

impl Reason {
    pub const ALL: [Reason; 10] = [
        Reason::Empty,
        Reason::NotAnImage,
        Reason::UnsupportedFormat,
        Reason::Truncated,
        Reason::Corrupt,
        Reason::TooLarge,
        Reason::NoPermission,
        Reason::Unreadable,
        Reason::NotFinite,
        Reason::OutOfRange,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::NotAnImage => "not_an_image",
            Reason::UnsupportedFormat => "unsupported_format",
            Reason::Truncated => "truncated",
            Reason::Corrupt => "corrupt",
            Reason::TooLarge => "too_large",
            Reason::NoPermission => "no_permission",
            Reason::Unreadable => "unreadable",
            Reason::NotFinite => "not_finite",
            Reason::OutOfRange => "out_of_range",
        }
    }

    /// What stands for the etag of an object that was not read, in the id of its shard.
    pub fn placeholder(self) -> String {
        format!("!{}", self.name())
    }

    /// Whether the same (key, etag) may be read after all the next time: the next run looks at it again.
    pub fn may_pass(self) -> bool {
        matches!(self, Reason::NoPermission | Reason::Unreadable)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A reason and what exactly was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    pub reason: Reason,
    pub detail: String,
}

impl Reject {
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Reject { reason, detail: detail.to_string() }
    }
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
