//! The rows of a group to which directions are fitted.

use std::collections::BinaryHeap;

use ndarray::ArrayView2;
use sha2::{Digest, Sha256};

use super::{
    HEAD, MAX_COLUMNS, Subject, WholeSegment,
    write::{bug, pack, values_of},
};
use crate::{Result, ids::ShardId, search::directions::Directions};

/// Rows to which directions are fitted.
const SAMPLE: usize = 512;

/// Chooses rows: those whose paths have the smallest hashes, so that a new image rarely changes them. It gets all rows of a
/// group, in key order, before its [`SegmentWriter`](super::SegmentWriter) does.
#[derive(Debug)]
pub struct SegmentSample {
    pub(super) subject: Subject,
    chosen: BinaryHeap<Chosen>,
    next: u32,
}

/// A row of the sample. Rows are compared by hash and number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chosen {
    hash: u64,
    number: u32,
    packed: Vec<u8>,
}

impl SegmentSample {
    /// A sample of no rows. Fails with `Internal.Bug` if rows have too many columns for an index.
    pub fn new(subject: Subject) -> Result<Self> {
        if !(1..=MAX_COLUMNS).contains(&subject.columns) {
            return Err(bug("an index cannot have rows of this length"));
        }
        Ok(SegmentSample { subject, chosen: BinaryHeap::new(), next: 0 })
    }

    /// Looks at the rows of the next shard, `[rows, columns]`. Fails with `Internal.Bug` if they have other columns, and with
    /// `Dataset.Corrupt` if a feature is not a multiple of the quantum in the range.
    pub fn push(&mut self, paths: &[String], features: ArrayView2<'_, f32>) -> Result<()> {
        if features.dim() != (paths.len(), self.subject.columns) {
            return Err(bug("the rows of a shard do not fit into the segment"));
        }
        let (columns, per_unit) = (self.subject.columns, self.subject.range.per_unit());
        for (path, row) in paths.iter().zip(features.outer_iter()) {
            self.offer(path, || {
                let mut packed = vec![0; 3 * columns];
                pack(row, path, per_unit, &mut packed).map(|()| packed)
            })?;
        }
        Ok(())
    }

    /// Looks at the rows of the next shard in another segment. Returns false if that does not have the shard. Fails with
    /// `Dataset.Corrupt` if a row is damaged.
    pub fn copy(&mut self, shard: &ShardId, from: &WholeSegment) -> Result<bool> {
        let Some(rows) = from.rows_of(shard) else { return Ok(false) };
        for row in rows {
            let path = from.segment.path(from.paths(), row)?;
            self.offer(path, || from.packed(row).map(<[u8]>::to_vec))?;
        }
        Ok(true)
    }

    /// The number of rows so far.
    pub(super) fn rows(&self) -> usize {
        self.next as usize
    }

    fn offer(&mut self, path: &str, packed: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
        let (hash, number) = (hash(path), self.next);
        self.next = number.checked_add(1).ok_or_else(|| bug("a segment has too many rows"))?;
        if self.chosen.len() >= SAMPLE {
            if self.chosen.peek().is_some_and(|last| (last.hash, last.number) < (hash, number)) {
                return Ok(());
            }
            self.chosen.pop();
        }
        self.chosen.push(Chosen { hash, number, packed: packed()? });
        Ok(())
    }

    /// Directions for the rows: those of `earlier` if they were fitted to the same numbers.
    pub(super) fn directions(self, earlier: Option<&WholeSegment>) -> Result<Directions> {
        let columns = self.subject.columns;
        let quantum = 1.0 / self.subject.range.per_unit();
        let sample = self.into_rows();
        if let Some(earlier) = earlier.filter(|earlier| earlier.segment.directions.columns == columns)
            && earlier.sample()? == sample
        {
            return Ok(earlier.segment.directions.clone());
        }
        let values = sample.iter().flat_map(|row| values_of(row, columns).map(|x| f64::from(x) * quantum));
        Ok(Directions::fit(&values.collect::<Vec<f64>>(), columns))
    }

    /// The packed rows of the sample, in their order.
    fn into_rows(self) -> Vec<Vec<u8>> {
        let mut chosen = self.chosen.into_vec();
        chosen.sort_unstable_by_key(|row| row.number);
        chosen.into_iter().map(|row| row.packed).collect()
    }
}

impl WholeSegment {
    /// The packed rows to which the directions of this segment are fitted.
    fn sample(&self) -> Result<Vec<Vec<u8>>> {
        let mut sample = SegmentSample::new(self.subject.clone())?;
        for row in 0..self.segment.rows() as u32 {
            // A damaged row is not in the other sample, either; if it is not copied, it does not matter.
            sample.offer(self.segment.path(self.paths(), row)?, || self.bytes_of(row).map(<[u8]>::to_vec))?;
        }
        Ok(sample.into_rows())
    }

    /// A row as it is in the file. Fails with `Dataset.Corrupt` if it is damaged.
    pub(super) fn packed(&self, row: u32) -> Result<&[u8]> {
        let packed = self.bytes_of(row)?;
        self.segment.check_row(row, packed).map(|()| packed)
    }

    fn bytes_of(&self, row: u32) -> Result<&[u8]> {
        let stride = 3 * self.segment.directions.columns;
        let start = HEAD + row as usize * stride;
        self.file.get(start..start + stride).ok_or_else(|| bug("a segment has no such row"))
    }
}

fn hash(path: &str) -> u64 {
    let digest = Sha256::digest(path);
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}
