//! Writing a segment.

use std::collections::HashMap;

use ndarray::{ArrayView1, ArrayView2};
use pomona_kernels::scan::{LANES, LARGEST_CODE};
use rayon::prelude::*;

use super::{BLOCK, FORMAT, Header, MAGIC, NONE, SegmentSample, ShardCount, Subject, WholeSegment};
use crate::{Error, ErrorKind, Result, ids::ShardId, search::directions::Directions};

/// The rows of a shard, in key order.
#[derive(Clone, Copy, Debug)]
pub struct ShardRows<'a> {
    /// The shard.
    pub shard: &'a ShardId,
    /// Keys of the images.
    pub paths: &'a [String],
    /// Their labels.
    pub labels: &'a [Option<String>],
    /// Their splits.
    pub splits: &'a [Option<String>],
    /// `[rows, columns]`: features, multiples of the quantum.
    pub features: ArrayView2<'a, f32>,
}

/// Encodes the rows of a group, of which few bytes stay in memory. The bytes of a segment follow from the rows alone.
#[derive(Debug)]
pub struct SegmentWriter {
    subject: Subject,
    directions: Directions,
    /// A bound of the distance of the directions from orthonormal ones.
    excess: f64,
    /// A bound of the error of a residual.
    slack: f64,
    /// `[rows, width]`
    projected: Vec<f64>,
    residuals: Vec<f32>,
    /// Squared norms in quanta.
    squares: Vec<u64>,
    paths: Vec<u8>,
    ends: Vec<u32>,
    row_crcs: Vec<u32>,
    labels: Texts,
    splits: Texts,
    shards: Vec<ShardCount>,
}

/// Texts of rows, as numbers in the order of their first use.
#[derive(Debug, Default)]
struct Texts {
    texts: Vec<String>,
    numbers: HashMap<String, u32>,
    codes: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: Option<&str>) {
        let code = text.map_or(NONE, |text| match self.numbers.get(text) {
            Some(number) => *number,
            None => {
                let number = self.texts.len() as u32;
                self.numbers.insert(text.to_owned(), number);
                self.texts.push(text.to_owned());
                number
            }
        });
        self.codes.push(code);
    }
}

impl SegmentWriter {
    /// A writer for the rows that the sample has seen. `earlier` changes no bytes, but its directions are taken instead of fitted
    /// again if they would be the same. Fails with `Dataset.Corrupt` if a path of it is damaged.
    pub fn new(sample: SegmentSample, earlier: Option<&WholeSegment>) -> Result<Self> {
        let (subject, rows) = (sample.subject.clone(), sample.rows());
        let directions = sample.directions(earlier)?;
        Ok(SegmentWriter {
            subject,
            excess: directions.excess(),
            slack: 0.0,
            projected: Vec::with_capacity(rows * directions.width()),
            directions,
            residuals: Vec::with_capacity(rows),
            squares: Vec::with_capacity(rows),
            paths: Vec::new(),
            ends: Vec::with_capacity(rows),
            row_crcs: Vec::with_capacity(rows),
            labels: Texts::default(),
            splits: Texts::default(),
            shards: Vec::new(),
        })
    }

    /// The first bytes of a segment.
    pub fn head() -> Vec<u8> {
        [MAGIC.as_slice(), &u64::from(FORMAT).to_le_bytes()].concat()
    }

    /// The next bytes of the segment: the rows of the next shard, in key order. Fails with `Internal.Bug` if they have other
    /// columns, and with `Dataset.Corrupt` if a feature is not a multiple of the quantum in the range.
    pub fn push(&mut self, rows: ShardRows<'_>) -> Result<Vec<u8>> {
        let ShardRows { shard, paths, labels, splits, features } = rows;
        let count = paths.len();
        if features.dim() != (count, self.subject.columns) || labels.len() != count || splits.len() != count {
            return Err(bug("the rows of a shard do not fit into the segment"));
        }
        let (stride, per_unit) = (3 * self.subject.columns, self.subject.range.per_unit());
        let mut packed = vec![0; count * stride];
        let rows = packed.par_chunks_mut(stride.max(1)).enumerate();
        let failed = rows.find_map_first(|(row, to)| pack(features.row(row), &paths[row], per_unit, to).err());
        failed.map_or(Ok(()), Err)?;
        paths.iter().try_for_each(|path| self.push_path(path))?;
        labels.iter().for_each(|label| self.labels.push(label.as_deref()));
        splits.iter().for_each(|split| self.splits.push(split.as_deref()));
        self.push_packed(shard, &packed);
        Ok(packed)
    }

    /// The next bytes of the segment: the rows of the next shard, as they are in another segment. None if that does not have the
    /// shard. Fails with `Dataset.Corrupt` if a row is damaged.
    pub fn copy(&mut self, shard: &ShardId, from: &WholeSegment) -> Result<Option<Vec<u8>>> {
        let Some(rows) = from.rows_of(shard) else { return Ok(None) };
        let segment = &from.segment;
        let mut packed = Vec::with_capacity(rows.len() * 3 * self.subject.columns);
        for row in rows {
            packed.extend_from_slice(from.packed(row)?);
            self.push_path(segment.path(from.paths(), row)?)?;
            self.labels.push(segment.label(row));
            self.splits.push(segment.split(row));
        }
        self.push_packed(shard, &packed);
        Ok(Some(packed))
    }

    /// Adds the path of the next row.
    fn push_path(&mut self, path: &str) -> Result<()> {
        self.paths.extend_from_slice(path.as_bytes());
        self.paths.push(0);
        self.ends.push(u32::try_from(self.paths.len()).map_err(|_| bug("the paths of a segment are too long"))?);
        Ok(())
    }

    /// Adds what bounds the distances of the rows of a shard.
    fn push_packed(&mut self, shard: &ShardId, packed: &[u8]) {
        let (columns, width) = (self.subject.columns, self.directions.width());
        let (stride, per_unit) = (3 * columns, self.subject.range.per_unit());
        let rows = packed.len() / stride;
        let projected = self.directions.project(rows, |row, to| {
            let values = values_of(&packed[row * stride..][..stride], columns);
            values.enumerate().for_each(|(column, x)| to(column, f64::from(x) / per_unit));
        });
        let zero = vec![0; columns];
        for (number, row) in packed.chunks_exact(stride).enumerate() {
            let square = pomona_kernels::scan::squared_packed(&zero, &row[..2 * columns], &row[2 * columns..]);
            let projected = &projected[number * width..(number + 1) * width];
            let (residual, error) = residual(square as f64 / (per_unit * per_unit), projected, self.excess);
            self.slack = self.slack.max(error);
            self.residuals.push(residual as f32);
            self.squares.push(square);
            self.row_crcs.push(crc32fast::hash(row));
        }
        self.projected.extend(projected);
        self.shards.push(ShardCount { id: shard.clone(), rows: rows as u64 });
    }

    /// The rest of the bytes of the segment. Fails with `Internal.Bug` if its texts are too long.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let (rows, columns, width) = (self.ends.len(), self.subject.columns, self.directions.width());
        let (centres, reach) = centres(&self.projected, width);
        let scale = if reach > 0.0 { reach / f64::from(LARGEST_CODE) } else { 1.0 };
        let mut rest = Vec::with_capacity(rows * (2 * width + 28) + self.paths.len() + 4 * width * columns);
        self.write_codes((&centres, scale), &mut rest);
        rest.extend(self.residuals.iter().flat_map(|x| x.to_le_bytes()));
        rest.extend(self.squares.iter().flat_map(|x| x.to_le_bytes()));
        for column in [&self.labels.codes, &self.splits.codes, &self.row_crcs, &self.ends] {
            rest.extend(column.iter().flat_map(|x| x.to_le_bytes()));
        }
        let scan_crcs = rest.chunks(BLOCK).map(crc32fast::hash).collect();
        let model = rest.len();
        rest.extend(self.directions.values.iter().flat_map(|x| x.to_le_bytes()));
        rest.extend(centres.iter().flat_map(|x| x.to_le_bytes()));
        let model_crc = crc32fast::hash(&rest[model..]);
        let header = Header {
            format: FORMAT,
            group: self.subject.group,
            extractor: self.subject.extractor,
            range: self.subject.range,
            columns,
            rows,
            width,
            scale,
            excess: self.excess,
            slack: self.slack,
            paths_bytes: self.paths.len(),
            labels: self.labels.texts,
            splits: self.splits.texts,
            shards: self.shards,
            scan_crcs,
            model_crc,
            paths_crc: crc32fast::hash(&self.paths),
        };
        rest.append(&mut self.paths);
        let header = serde_json::to_vec(&header).map_err(|e| bug("a header cannot be encoded").source(e))?;
        let length = u32::try_from(header.len()).map_err(|_| bug("the labels of a segment are too long"))?;
        rest.extend_from_slice(&header);
        rest.extend_from_slice(&length.to_le_bytes());
        rest.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        rest.extend_from_slice(MAGIC);
        rest.extend_from_slice(&[0; 8]);
        Ok(rest)
    }

    fn write_codes(&self, (centres, scale): (&[f64], f64), to: &mut Vec<u8>) {
        let (rows, width) = (self.ends.len(), self.directions.width());
        let mut block = vec![0i16; width * LANES];
        for first in (0..rows).step_by(LANES) {
            block.fill(0);
            for row in first..rows.min(first + LANES) {
                let projected = &self.projected[row * width..(row + 1) * width];
                for (at, (value, centre)) in projected.iter().zip(centres).enumerate() {
                    block[at * LANES + row - first] = code(*value, *centre, scale);
                }
            }
            to.extend(block.iter().flat_map(|code| code.to_le_bytes()));
        }
    }
}

pub(super) fn bug(message: &'static str) -> Error {
    Error::new(ErrorKind::InternalBug, message)
}

/// Packs a row. Fails with `Dataset.Corrupt` if a feature is not a multiple of the quantum in the range.
pub(super) fn pack(row: ArrayView1<'_, f32>, path: &str, per_unit: f64, to: &mut [u8]) -> Result<()> {
    let (high, low) = to.split_at_mut(2 * row.len());
    for ((x, high), low) in row.iter().zip(high.chunks_exact_mut(2)).zip(low) {
        let number = quanta(*x, per_unit).ok_or_else(|| {
            Error::new(ErrorKind::DatasetCorrupt, "a feature is out of range or not a multiple of the quantum")
                .context("path", path)
        })?;
        high.copy_from_slice(&((number >> 8) as i16).to_le_bytes());
        *low = number as u8;
    }
    Ok(())
}

/// A feature in quanta. None if it is not a multiple of the quantum in the range.
pub(super) fn quanta(feature: f32, per_unit: f64) -> Option<i32> {
    let number = f64::from(feature) * per_unit;
    (number.abs() < f64::from(1u32 << crate::model::FEATURE_BITS) && number.fract() == 0.0).then_some(number as i32)
}

/// The numbers of a packed row in quanta.
pub(super) fn values_of(row: &[u8], columns: usize) -> impl Iterator<Item = i32> + '_ {
    let (high, low) = row.split_at(2 * columns);
    high.chunks_exact(2)
        .zip(low)
        .map(|(high, low)| (i32::from(i16::from_le_bytes([high[0], high[1]])) << 8) | i32::from(*low))
}

/// The middle of each projection, and the largest distance from it.
fn centres(projected: &[f64], width: usize) -> (Vec<f64>, f64) {
    let mut ends = vec![(f64::INFINITY, f64::NEG_INFINITY); width];
    for row in projected.chunks_exact(width.max(1)) {
        ends.iter_mut().zip(row).for_each(|(end, x)| *end = (end.0.min(*x), end.1.max(*x)));
    }
    let centres: Vec<f64> =
        ends.iter().map(|(low, high)| if low <= high { low / 2.0 + high / 2.0 } else { 0.0 }).collect();
    let reach = ends.iter().map(|(low, high)| (high - low) / 2.0).filter(|reach| reach.is_finite()).fold(0.0, f64::max);
    (centres, reach)
}

/// The code of a projection. One outside of the range gets the code of its end.
pub(super) fn code(value: f64, centre: f64, scale: f64) -> i16 {
    let largest = f64::from(LARGEST_CODE);
    ((value - centre) / scale).round().clamp(-largest, largest) as i16
}

/// The distance of a row from the space of the directions, given its squared norm, and a bound of the error of that.
pub(super) fn residual(square: f64, projected: &[f64], excess: f64) -> (f64, f64) {
    let rest = (square - projected.iter().map(|x| x * x).sum::<f64>()).max(0.0);
    let error = (2.0 * excess + 4e-12) * square;
    let residual = rest.sqrt();
    let above = (rest + error).sqrt() - residual;
    let below = residual - (rest - error).max(0.0).sqrt();
    // It is stored as f32, and compared in f32.
    (residual, above.max(below) + residual * 4.0 * f64::from(f32::EPSILON))
}
