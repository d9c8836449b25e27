//! A segment of the search index: the rows of a group of shards, in a form in which few of them have to be read.
//!
//! A segment has the rows without loss, as integers, and of each row what bounds its distance from a query: *codes* (its
//! projection onto a few directions, rounded) and its *residual* (its distance from the space of these directions). All but the
//! rows is read when a segment is [opened](Segment::open). Every part has a checksum, the rows one each.
//!
//! `docs/search.md` has the format and the proof of the bound.
//!
//! ```text
//! 16 bytes   magic, number of the format
//! rows       [rows, 3 x columns]: i16 of each number divided by 256, then u8 of the rest
//! scan       codes [rows / 32, width, 32] i16, residuals f32, squared norms u64, labels u32, splits u32,
//!            checksums of rows u32, ends of paths u32
//! model      directions [width, columns] f32, centres [width] f64
//! paths      each with a zero byte at its end
//! header     JSON
//! 24 bytes   length of the header, its checksum, both u32; magic
//! ```
//!
//! All numbers are little-endian.

mod read;
mod sample;
mod scan;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{Segment, SegmentFile, TAIL, WholeSegment};
pub use sample::SegmentSample;
pub use scan::{Filter, Prepared, Scanned};
pub use write::{SegmentWriter, ShardRows};

use crate::{
    Error, ErrorKind,
    ids::{ExtractorId, GroupId, ShardId},
    model::FeatureRange,
};

/// Number of the format. It is a part of the key of a segment.
pub const FORMAT: u32 = 1;
/// Most columns of an index. With 40,960 rows, the rows of a segment then take 503 MB.
pub const MAX_COLUMNS: usize = 4_096;

const MAGIC: &[u8; 8] = b"POMONAIX";
const HEAD: usize = 16;
const TRAILER: usize = 24;
/// Bytes of the scan section that have a checksum.
const BLOCK: usize = 1 << 20;
/// Code of a missing label or split.
const NONE: u32 = u32::MAX;

/// What a segment belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The group of shards.
    pub group: GroupId,
    /// The extractor of the features.
    pub extractor: ExtractorId,
    /// Numbers of a row.
    pub columns: usize,
    /// Their range.
    pub range: FeatureRange,
}

/// A shard of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardCount {
    id: ShardId,
    rows: u64,
}

/// The header of a segment. All offsets follow from its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    group: GroupId,
    extractor: ExtractorId,
    range: FeatureRange,
    columns: usize,
    rows: usize,
    /// Number of directions.
    width: usize,
    /// Difference of two projections whose codes differ by 1.
    scale: f64,
    /// A bound of the distance of the directions from orthonormal ones.
    excess: f64,
    /// A bound of the error of a residual.
    slack: f64,
    paths_bytes: usize,
    /// The texts of the codes of labels and splits.
    labels: Vec<String>,
    splits: Vec<String>,
    shards: Vec<ShardCount>,
    /// CRC-32 of the blocks of the scan section, of the model, and of the paths.
    scan_crcs: Vec<u32>,
    model_crc: u32,
    paths_crc: u32,
}

/// Where the sections of a segment begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    rows: usize,
    columns: usize,
    width: usize,
    paths_bytes: usize,
}

impl Layout {
    /// None if a file cannot have so many bytes.
    fn of(header: &Header) -> Option<Layout> {
        let Header { rows, columns, width, paths_bytes, .. } = *header;
        let small =
            rows <= u32::MAX as usize && (1..=MAX_COLUMNS).contains(&columns) && paths_bytes <= u32::MAX as usize;
        let fits = small && width <= pomona_kernels::scan::MOST_CODES;
        fits.then_some(Layout { rows, columns, width, paths_bytes })
    }

    /// Bytes of a row.
    fn stride(&self) -> usize {
        3 * self.columns
    }

    fn codes_bytes(&self) -> usize {
        self.rows.div_ceil(pomona_kernels::scan::LANES) * self.width * pomona_kernels::scan::LANES * 2
    }

    fn scan(&self) -> std::ops::Range<usize> {
        let start = HEAD + self.rows * self.stride();
        start..start + self.codes_bytes() + self.rows * (4 + 8 + 4 + 4 + 4 + 4)
    }

    fn model(&self) -> std::ops::Range<usize> {
        let start = self.scan().end;
        start..start + self.width * (self.columns * 4 + 8)
    }

    fn paths(&self) -> std::ops::Range<usize> {
        let start = self.model().end;
        start..start + self.paths_bytes
    }
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::DatasetCorrupt, "this segment of the index is damaged").source(why.to_string())
}

#[cfg(test)]
mod tests;
