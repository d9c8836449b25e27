//! Where the content of an object is that is a part of another object: a member of an archive.
//!
//! A listing finds members, and a work list hands them to the stage that reads them, so that stage needs no index of the
//! archive. The room `archive` makes and reads these records.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::ETag;

/// The place of a member in its archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// The archive's etag when its members were listed.
    pub etag: ETag,
    /// The archive's size in bytes.
    pub size: u64,
    /// The label that the archive gives the image, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Bytes of the archive that hold the member, with its header if the format has one there.
    pub range: Range<u64>,
    /// How the bytes hold it.
    pub form: Form,
}

/// How bytes of an archive hold a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Form {
    /// They are its content.
    Plain,
    /// A local header of a zip file, and then the data.
    Zip {
        /// Length of the data in bytes.
        length: u64,
        /// Whether the data is deflated; otherwise it is the content.
        deflated: bool,
        /// CRC-32 of the content.
        crc: u32,
    },
    /// A data page of a Parquet column of byte arrays.
    Page {
        /// The page's dictionary, if the column has one.
        dictionary: Option<Range<u64>>,
        /// Number of values of the page, nulls included.
        values: u32,
        /// Number of the member among them, from 0.
        value: u32,
        /// The compression of the column, as Parquet names it.
        codec: String,
        /// Definition levels of the column above 0.
        levels: u8,
        /// Bytes of page and dictionary after decompression.
        unpacked: u64,
    },
    /// The content cannot be read, for a reason that stays as long as the archive is the same; or the object stands for
    /// an archive that is not whole.
    Unusable {
        /// Name of the reason in the rejects table.
        reason: String,
        /// What was found.
        detail: String,
    },
}
