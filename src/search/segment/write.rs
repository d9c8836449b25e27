//! Writing a segment.

use std::collections::HashMap;

use bytes::Bytes;
use ndarray::ArrayView2;
use pomona_kernels::scan::{LANES, LARGEST_CODE};
use sha2::{Digest, Sha256};

use super::{BLOCK, FORMAT, HEAD, Header, Layout, MAGIC, MAX_COLUMNS, NONE, ShardCount, Subject, WholeSegment};
use crate::{Error, ErrorKind, Result, ids::ShardId, search::directions::Directions};

/// Rows to which directions are fitted.
const SAMPLE: usize = 512;

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

/// Collects the rows of a group. The bytes of a segment follow from the rows alone.
#[derive(Debug)]
pub struct SegmentWriter {
    subject: Subject,
    /// The file up to the rows so far.
    file: Vec<u8>,
    paths: Vec<u8>,
    ends: Vec<u32>,
    row_crcs: Vec<u32>,
    labels: Texts,
    splits: Texts,
    shards: Vec<ShardCount>,
    /// Hash of the path and number of each row; those with the smallest hashes are the sample.
    hashes: Vec<(u64, u32)>,
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
    /// A writer for about this number of rows. Fails with `Internal.Bug` if rows have too many columns for an index.
    pub fn new(subject: Subject, rows: usize) -> Result<Self> {
        if !(1..=MAX_COLUMNS).contains(&subject.columns) {
            return Err(bug("an index cannot have rows of this length"));
        }
        let mut file = Vec::with_capacity(HEAD + rows * (3 * subject.columns + 256));
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&u64::from(FORMAT).to_le_bytes());
        Ok(SegmentWriter {
            subject,
            file,
            paths: Vec::new(),
            ends: Vec::new(),
            row_crcs: Vec::new(),
            labels: Texts::default(),
            splits: Texts::default(),
            shards: Vec::new(),
            hashes: Vec::new(),
        })
    }

    /// Adds the rows of the next shard, in key order. Fails with `Internal.Bug` if they have other columns, and with
    /// `Dataset.Corrupt` if a feature is not a multiple of the quantum in the range.
    pub fn push(&mut self, rows: ShardRows<'_>) -> Result<()> {
        let ShardRows { shard, paths, labels, splits, features } = rows;
        let count = paths.len();
        if features.dim() != (count, self.subject.columns) || labels.len() != count || splits.len() != count {
            return Err(bug("the rows of a shard do not fit into the segment"));
        }
        let per_unit = self.subject.range.per_unit();
        for (row, path) in features.outer_iter().zip(paths) {
            let start = self.file.len();
            let numbers: Option<Vec<i32>> = row.iter().map(|x| quanta(*x, per_unit)).collect();
            let numbers = numbers.ok_or_else(|| {
                Error::new(ErrorKind::DatasetCorrupt, "a feature is out of range or not a multiple of the quantum")
                    .context("path", path)
            })?;
            self.file.extend(numbers.iter().flat_map(|x| ((x >> 8) as i16).to_le_bytes()));
            self.file.extend(numbers.iter().map(|x| *x as u8));
            self.row_crcs.push(crc32fast::hash(&self.file[start..]));
            self.push_path(path)?;
        }
        labels.iter().for_each(|label| self.labels.push(label.as_deref()));
        splits.iter().for_each(|split| self.splits.push(split.as_deref()));
        self.shards.push(ShardCount { id: shard.clone(), rows: count as u64 });
        Ok(())
    }

    /// Adds the rows of the next shard, in key order, as they are in another segment. Returns false if that does not have the
    /// shard. Fails with `Dataset.Corrupt`, without adding any, if a row is damaged.
    pub fn copy(&mut self, shard: &ShardId, from: &WholeSegment) -> Result<bool> {
        let Some(rows) = from.rows_of(shard) else { return Ok(false) };
        let (segment, paths) = (&from.segment, from.paths());
        let count = rows.len() as u64;
        let stride = 3 * self.subject.columns;
        let start = HEAD + rows.start as usize * stride;
        let packed =
            from.file.get(start..start + rows.len() * stride).ok_or_else(|| bug("a segment has other columns"))?;
        for (number, row) in rows.clone().zip(packed.chunks_exact(stride)) {
            segment.check_row(number, row)?;
            segment.path(paths, number)?;
        }
        self.file.extend_from_slice(packed);
        for row in rows {
            self.row_crcs.push(segment.row_crcs[row as usize]);
            self.push_path(segment.path(paths, row)?)?;
            self.labels.push(segment.label(row));
            self.splits.push(segment.split(row));
        }
        self.shards.push(ShardCount { id: shard.clone(), rows: count });
        Ok(true)
    }

    /// Adds the path of the next row.
    fn push_path(&mut self, path: &str) -> Result<()> {
        let number = u32::try_from(self.ends.len()).map_err(|_| bug("a segment has too many rows"))?;
        self.paths.extend_from_slice(path.as_bytes());
        self.paths.push(0);
        self.ends.push(u32::try_from(self.paths.len()).map_err(|_| bug("the paths of a segment are too long"))?);
        self.hashes.push((hash(path), number));
        Ok(())
    }

    /// The bytes of the segment. They do not depend on `earlier`, whose directions are taken instead of fitted again if they
    /// would be the same.
    pub fn finish(mut self, earlier: Option<&WholeSegment>) -> Result<Bytes> {
        let directions = self.directions(earlier)?;
        let (rows, columns) = (self.ends.len(), self.subject.columns);
        let layout = Layout { rows, columns, width: directions.width(), paths_bytes: self.paths.len() };
        let sketched = Sketched::new(&self.file[HEAD..], &layout, &directions, self.subject.range.per_unit());
        let start = self.file.len();
        sketched.write_codes(&layout, &mut self.file);
        self.file.extend(sketched.residuals.iter().flat_map(|x| x.to_le_bytes()));
        self.file.extend(sketched.squares.iter().flat_map(|x| x.to_le_bytes()));
        for column in [&self.labels.codes, &self.splits.codes, &self.row_crcs, &self.ends] {
            self.file.extend(column.iter().flat_map(|x| x.to_le_bytes()));
        }
        let scan_crcs = self.file[start..].chunks(BLOCK).map(crc32fast::hash).collect();
        let model = self.file.len();
        self.file.extend(directions.values.iter().flat_map(|x| x.to_le_bytes()));
        self.file.extend(sketched.centres.iter().flat_map(|x| x.to_le_bytes()));
        let model_crc = crc32fast::hash(&self.file[model..]);
        let header = Header {
            format: FORMAT,
            group: self.subject.group,
            extractor: self.subject.extractor,
            range: self.subject.range,
            columns,
            rows,
            width: layout.width,
            scale: sketched.scale,
            excess: sketched.excess,
            slack: sketched.slack,
            paths_bytes: self.paths.len(),
            labels: self.labels.texts,
            splits: self.splits.texts,
            shards: self.shards,
            scan_crcs,
            model_crc,
            paths_crc: crc32fast::hash(&self.paths),
        };
        self.file.append(&mut self.paths);
        let header = serde_json::to_vec(&header).map_err(|e| bug("a header cannot be encoded").source(e))?;
        let length = u32::try_from(header.len()).map_err(|_| bug("the labels of a segment are too long"))?;
        self.file.extend_from_slice(&header);
        self.file.extend_from_slice(&length.to_le_bytes());
        self.file.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        self.file.extend_from_slice(MAGIC);
        self.file.extend_from_slice(&[0; 8]);
        Ok(self.file.into())
    }

    /// Directions for the rows. The sample has the rows with the smallest hashes, so that a new image rarely changes it.
    fn directions(&mut self, earlier: Option<&WholeSegment>) -> Result<Directions> {
        let columns = self.subject.columns;
        let sample = sample(&mut self.hashes);
        let rows = &self.file[HEAD..];
        if let Some(earlier) = earlier.filter(|earlier| earlier.segment.directions.columns == columns)
            && earlier.has_sample(rows, &sample)?
        {
            return Ok(earlier.segment.directions.clone());
        }
        let quantum = 1.0 / self.subject.range.per_unit();
        let values =
            sample.into_iter().flat_map(|row| numbers(rows, row as usize, columns).map(|x| f64::from(x) * quantum));
        Ok(Directions::fit(&values.collect::<Vec<f64>>(), columns))
    }
}

impl WholeSegment {
    /// Whether directions of this segment are fitted to the same numbers as those of the rows `sample` of `rows`.
    fn has_sample(&self, rows: &[u8], numbers: &[u32]) -> Result<bool> {
        let mut hashes = Vec::with_capacity(self.segment.rows());
        for row in 0..self.segment.rows() as u32 {
            hashes.push((hash(self.segment.path(self.paths(), row)?), row));
        }
        let own = sample(&mut hashes);
        let stride = 3 * self.segment.directions.columns;
        let at = |number: u32| number as usize * stride..(number as usize + 1) * stride;
        let equal = |(own, other): (&u32, &u32)| self.file[HEAD..].get(at(*own)) == rows.get(at(*other));
        Ok(own.len() == numbers.len() && own.iter().zip(numbers).all(equal))
    }
}

/// The rows with the smallest hashes, in their order.
fn sample(hashes: &mut [(u64, u32)]) -> Vec<u32> {
    hashes.sort_unstable();
    let mut sample: Vec<u32> = hashes.iter().take(SAMPLE).map(|(_, row)| *row).collect();
    sample.sort_unstable();
    sample
}

fn bug(message: &'static str) -> Error {
    Error::new(ErrorKind::InternalBug, message)
}

fn hash(path: &str) -> u64 {
    let digest = Sha256::digest(path);
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}

/// A feature in quanta. None if it is not a multiple of the quantum in the range.
pub(super) fn quanta(feature: f32, per_unit: f64) -> Option<i32> {
    let number = f64::from(feature) * per_unit;
    (number.abs() < f64::from(1u32 << crate::model::FEATURE_BITS) && number.fract() == 0.0).then_some(number as i32)
}

/// The numbers of a packed row in quanta.
pub(super) fn numbers(rows: &[u8], row: usize, columns: usize) -> impl Iterator<Item = i32> + '_ {
    let row = &rows[row * 3 * columns..][..3 * columns];
    let (high, low) = row.split_at(2 * columns);
    high.chunks_exact(2)
        .zip(low)
        .map(|(high, low)| (i32::from(i16::from_le_bytes([high[0], high[1]])) << 8) | i32::from(*low))
}

/// What bounds the distances of rows.
struct Sketched {
    projected: Vec<f64>,
    centres: Vec<f64>,
    scale: f64,
    excess: f64,
    slack: f64,
    residuals: Vec<f32>,
    /// Squared norms in quanta.
    squares: Vec<u64>,
}

impl Sketched {
    fn new(rows: &[u8], layout: &Layout, directions: &Directions, per_unit: f64) -> Self {
        let (width, columns) = (layout.width, layout.columns);
        let projected = directions.project(layout.rows, |row, to| {
            numbers(rows, row, columns).enumerate().for_each(|(column, x)| to(column, f64::from(x) / per_unit));
        });
        let zero = vec![0; columns];
        let squares: Vec<u64> = rows
            .chunks_exact(layout.stride())
            .map(|row| pomona_kernels::scan::squared_packed(&zero, &row[..2 * columns], &row[2 * columns..]))
            .collect();
        let (centres, reach) = centres(&projected, width);
        let excess = directions.excess();
        let mut slack = 0.0f64;
        let mut residuals = Vec::with_capacity(layout.rows);
        for (row, squares) in squares.iter().enumerate() {
            let projected = &projected[row * width..(row + 1) * width];
            let (residual, error) = residual(*squares as f64 / (per_unit * per_unit), projected, excess);
            slack = slack.max(error);
            residuals.push(residual as f32);
        }
        let scale = if reach > 0.0 { reach / f64::from(LARGEST_CODE) } else { 1.0 };
        Sketched { projected, centres, scale, excess, slack, residuals, squares }
    }

    fn write_codes(&self, layout: &Layout, to: &mut Vec<u8>) {
        let width = layout.width;
        let mut block = vec![0i16; width * LANES];
        for first in (0..layout.rows).step_by(LANES) {
            block.fill(0);
            for row in first..layout.rows.min(first + LANES) {
                let projected = &self.projected[row * width..(row + 1) * width];
                for (at, (value, centre)) in projected.iter().zip(&self.centres).enumerate() {
                    block[at * LANES + row - first] = code(*value, *centre, self.scale);
                }
            }
            to.extend(block.iter().flat_map(|code| code.to_le_bytes()));
        }
    }
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
