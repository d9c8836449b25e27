//! Reading a segment: its parts come from the caller, and are checked here.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;

use super::{BLOCK, FORMAT, Header, Layout, MAGIC, NONE, Subject, TRAILER, damaged, write::values_of};
use crate::{Result, ids::ShardId, search::directions::Directions};

/// Bytes at the end of a file that usually have its whole header.
pub const TAIL: u64 = 64 << 10;

/// The header of a segment, and where its parts are.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    header: Header,
    layout: Layout,
}

impl SegmentFile {
    /// The number of bytes at the end of a file that [`open`](SegmentFile::open) needs. Fails with `Dataset.Corrupt`.
    pub fn tail_bytes(tail: &[u8]) -> Result<u64> {
        Ok(trailer(tail)?.0 as u64 + TRAILER as u64)
    }

    /// Decodes the header from the end of a file of `bytes` bytes. Fails with `Dataset.Corrupt` if it is damaged, or if this is
    /// the segment of something else.
    pub fn open(tail: &[u8], bytes: u64, subject: &Subject) -> Result<Self> {
        let (length, crc) = trailer(tail)?;
        let end = tail.len() - TRAILER;
        let text = end.checked_sub(length).map(|start| &tail[start..end]).ok_or_else(|| damaged("it is too short"))?;
        if crc32fast::hash(text) != crc {
            return Err(damaged("its header does not have its checksum"));
        }
        let header: Header = serde_json::from_slice(text).map_err(damaged)?;
        let layout = Layout::of(&header).ok_or_else(|| damaged("it is too large"))?;
        let whole = layout.paths().end + length + TRAILER;
        let in_shards = header.shards.iter().try_fold(0u64, |sum, shard| sum.checked_add(shard.rows));
        let sound = header.format == FORMAT
            && whole as u64 == bytes
            && in_shards == Some(header.rows as u64)
            && header.scan_crcs.len() == layout.scan().len().div_ceil(BLOCK)
            && header.scale > 0.0
            && header.scale.is_finite();
        if !sound {
            return Err(damaged("its header does not describe its content"));
        }
        let Subject { group, extractor, columns, range } = subject;
        if (&header.group, &header.extractor, &header.columns, &header.range) != (group, extractor, columns, range) {
            return Err(damaged("it is the segment of another group"));
        }
        Ok(SegmentFile { header, layout })
    }

    /// Where the part is that a [`Segment`] is made of.
    pub fn body(&self) -> Range<u64> {
        self.layout.scan().start as u64..self.layout.model().end as u64
    }

    /// Where the paths are.
    pub fn paths(&self) -> Range<u64> {
        let Range { start, end } = self.layout.paths();
        start as u64..end as u64
    }
}

/// Length and checksum of the header.
fn trailer(tail: &[u8]) -> Result<(usize, u32)> {
    let start = tail.len().checked_sub(TRAILER).ok_or_else(|| damaged("it is too short"))?;
    let trailer = &tail[start..];
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| trailer[at + i]));
    if &trailer[8..16] != MAGIC || trailer[16..] != [0; 8] {
        return Err(damaged("it does not end as a segment does"));
    }
    Ok((word(0) as usize, word(4)))
}

/// A segment in memory, without its rows and paths.
#[derive(Debug)]
pub struct Segment {
    file: SegmentFile,
    pub(super) directions: Directions,
    pub(super) centres: Vec<f64>,
    /// `[rows / LANES, width, LANES]`: `i16`. Not decoded, because that would take most of the time of opening.
    pub(super) codes: Bytes,
    pub(super) residuals: Vec<f32>,
    /// Squared norms in quanta.
    pub(super) squares: Vec<u64>,
    pub(super) labels: Vec<u32>,
    pub(super) splits: Vec<u32>,
    pub(super) row_crcs: Vec<u32>,
    ends: Vec<u32>,
}

impl Segment {
    /// Decodes what is at [`SegmentFile::body`]. Fails with `Dataset.Corrupt`.
    pub fn open(file: SegmentFile, body: Bytes) -> Result<Self> {
        let layout = file.layout;
        let scan = layout.scan().len();
        if body.len() != scan + layout.model().len() {
            return Err(damaged("a part has another length"));
        }
        let (scan, model) = body.split_at(scan);
        let blocks = scan.chunks(BLOCK).zip(&file.header.scan_crcs);
        if blocks.into_iter().any(|(block, crc)| crc32fast::hash(block) != *crc)
            || crc32fast::hash(model) != file.header.model_crc
        {
            return Err(damaged("a part does not have its checksum"));
        }
        let (codes, mut rest) = scan.split_at(layout.codes_bytes());
        let mut column = |bytes: usize| {
            let (column, after) = rest.split_at(layout.rows * bytes);
            rest = after;
            column
        };
        let residuals = words(column(4)).map(f32::from_bits).collect();
        let squares = longs(column(8)).collect();
        let [labels, splits, row_crcs, ends] = [(); 4].map(|()| words(column(4)).collect::<Vec<u32>>());
        let (directions, centres) = model.split_at(layout.width * layout.columns * 4);
        let header = &file.header;
        let known =
            |codes: &[u32], texts: &[String]| codes.iter().all(|code| *code == NONE || (*code as usize) < texts.len());
        let ascending = ends.windows(2).all(|pair| pair[0] < pair[1]);
        let last = ends.last().map_or(0, |end| *end as usize);
        if !known(&labels, &header.labels)
            || !known(&splits, &header.splits)
            || !ascending
            || last != header.paths_bytes
        {
            return Err(damaged("its columns contradict its header"));
        }
        Ok(Segment {
            directions: Directions::new(words(directions).map(f32::from_bits).collect(), layout.columns),
            centres: longs(centres).map(f64::from_bits).collect(),
            codes: body.slice(..codes.len()),
            residuals,
            squares,
            labels,
            splits,
            row_crcs,
            ends,
            file,
        })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.file.header.rows
    }

    /// The header.
    pub fn file(&self) -> &SegmentFile {
        &self.file
    }

    pub(super) fn scale(&self) -> f64 {
        self.file.header.scale
    }

    pub(super) fn excess(&self) -> f64 {
        self.file.header.excess
    }

    pub(super) fn slack(&self) -> f64 {
        self.file.header.slack
    }

    pub(super) fn per_unit(&self) -> f64 {
        self.file.header.range.per_unit()
    }

    /// Where a row is in the file. None for rows that it does not have.
    pub fn row(&self, row: u32) -> Option<Range<u64>> {
        let stride = self.file.layout.stride() as u64;
        let start = super::HEAD as u64 + u64::from(row) * stride;
        ((row as usize) < self.rows()).then_some(start..start + stride)
    }

    /// Fails with `Dataset.Corrupt` if this is not the content of a row.
    pub fn check_row(&self, row: u32, packed: &[u8]) -> Result<()> {
        if packed.len() == self.file.layout.stride()
            && self.row_crcs.get(row as usize) == Some(&crc32fast::hash(packed))
        {
            return Ok(());
        }
        Err(damaged("a row does not have its checksum"))
    }

    /// The features of a row that was [checked](Segment::check_row).
    pub fn features(&self, packed: &[u8]) -> Vec<f32> {
        let per_unit = self.per_unit();
        values_of(packed, self.file.layout.columns).map(|x| (f64::from(x) / per_unit) as f32).collect()
    }

    /// Fails with `Dataset.Corrupt` if this is not the content of [`SegmentFile::paths`].
    pub fn check_paths(&self, paths: &[u8]) -> Result<()> {
        if paths.len() == self.file.header.paths_bytes && crc32fast::hash(paths) == self.file.header.paths_crc {
            return Ok(());
        }
        Err(damaged("its paths do not have their checksum"))
    }

    /// The path of a row. Fails with `Dataset.Corrupt` if it is no text.
    pub fn path<'p>(&self, paths: &'p [u8], row: u32) -> Result<&'p str> {
        let row = row as usize;
        let start = if row == 0 { Some(0) } else { self.ends.get(row - 1).map(|end| *end as usize) };
        let end = self.ends.get(row).map(|end| *end as usize - 1);
        let text = start.zip(end).and_then(|(start, end)| paths.get(start..end));
        text.and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(|| damaged("a path is no text"))
    }

    /// The row with a path, if there is one. Fails with `Dataset.Corrupt`.
    pub fn row_of(&self, paths: &[u8], path: &str) -> Result<Option<u32>> {
        let (mut low, mut high) = (0, self.rows() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.path(paths, middle)?.cmp(path) {
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// The label of a row.
    pub fn label(&self, row: u32) -> Option<&str> {
        text(&self.file.header.labels, &self.labels, row)
    }

    /// The split of a row.
    pub fn split(&self, row: u32) -> Option<&str> {
        text(&self.file.header.splits, &self.splits, row)
    }

    /// The code of a label or split. None if no row has it.
    pub(super) fn code_of(&self, kind: Kind, text: &str) -> Option<u32> {
        let texts = match kind {
            Kind::Label => &self.file.header.labels,
            Kind::Split => &self.file.header.splits,
        };
        texts.iter().position(|known| known == text).map(|at| at as u32)
    }

    /// The shard of a row, and its position there.
    pub fn place(&self, row: u32) -> Option<(&ShardId, u64)> {
        let mut left = u64::from(row);
        for shard in &self.file.header.shards {
            if left < shard.rows {
                return Some((&shard.id, left));
            }
            left -= shard.rows;
        }
        None
    }
}

/// A whole segment in memory, whose rows are [copied](super::SegmentWriter::copy) into another.
#[derive(Debug)]
pub struct WholeSegment {
    pub(super) subject: Subject,
    pub(super) segment: Segment,
    pub(super) file: Bytes,
    shards: HashMap<ShardId, Range<u32>>,
}

impl WholeSegment {
    /// Decodes a file. Fails with `Dataset.Corrupt` if it is damaged, or the segment of something else.
    pub fn open(file: Bytes, subject: &Subject) -> Result<Self> {
        let head = SegmentFile::open(&file, file.len() as u64, subject)?;
        let body = head.body();
        let segment = Segment::open(head, file.slice(body.start as usize..body.end as usize))?;
        let mut shards = HashMap::new();
        let mut first = 0;
        for shard in &segment.file.header.shards {
            // All shards together have as many rows as the segment, whose number fits.
            let end = first + shard.rows as u32;
            shards.insert(shard.id.clone(), first..end);
            first = end;
        }
        let whole = WholeSegment { subject: subject.clone(), segment, file, shards };
        whole.segment.check_paths(whole.paths())?;
        Ok(whole)
    }

    /// The rows of a shard. None if the segment does not have it.
    pub fn rows_of(&self, shard: &ShardId) -> Option<Range<u32>> {
        self.shards.get(shard).cloned()
    }

    pub(super) fn paths(&self) -> &[u8] {
        let at = self.segment.file.paths();
        &self.file[at.start as usize..at.end as usize]
    }
}

/// Texts of rows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Label,
    Split,
}

fn text<'t>(texts: &'t [String], codes: &[u32], row: u32) -> Option<&'t str> {
    texts.get(*codes.get(row as usize)? as usize).map(String::as_str)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

fn longs(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(std::array::from_fn(|i| word[i])))
}
