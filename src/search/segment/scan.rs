//! Bounds of the distances of all rows of a segment, and exact distances of some.

use pomona_kernels::scan::{LANES, squared_codes, squared_packed};

use super::{
    NONE, Segment,
    read::Kind,
    write::{code, quanta, residual},
};
use crate::{Error, ErrorKind, Result, model::FeatureRange, search::Metric};

/// Share by which bounds of squared distances are lowered for the rounding of `f32`; far more than that is.
const ROUNDING: f32 = 1e-5;

/// A query in quanta.
#[derive(Clone, Debug)]
pub struct Prepared {
    metric: Metric,
    numbers: Vec<i32>,
    /// Squared norm.
    square: u64,
    per_unit: f64,
}

/// Which rows can be answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Their label.
    pub label: Option<&'a str>,
    /// Their split.
    pub split: Option<&'a str>,
    /// A row that is no answer.
    pub except: Option<u32>,
}

/// For each row, a number that does not exceed that of its distance: see [`Prepared::limit`]. Infinity for rows that are no
/// answers.
pub type Scanned = Vec<f32>;

impl Prepared {
    /// Fails with `Input.Invalid` if a number is not a multiple of the quantum in the range.
    pub fn new(features: &[f32], range: FeatureRange, metric: Metric) -> Result<Self> {
        let per_unit = range.per_unit();
        let numbers: Option<Vec<i32>> = features.iter().map(|x| quanta(*x, per_unit)).collect();
        let numbers = numbers.ok_or_else(|| {
            Error::new(ErrorKind::InputInvalid, "the features of a query are not multiples of the quantum")
        })?;
        let square = numbers.iter().map(|x| u64::from(x.unsigned_abs()).pow(2)).sum();
        Ok(Prepared { metric, numbers, square, per_unit })
    }

    /// Numbers of the query.
    pub fn columns(&self) -> usize {
        self.numbers.len()
    }

    /// The distance of a packed row.
    pub fn distance(&self, packed: &[u8]) -> f64 {
        let (high, low) = packed.split_at(2 * self.numbers.len());
        let squared = squared_packed(&self.numbers, high, low);
        let of_row =
            if self.metric == Metric::Cosine { squared_packed(&vec![0; self.numbers.len()], high, low) } else { 0 };
        self.metric.distance(squared, self.square, of_row, self.per_unit)
    }

    /// The largest bound of rows that can be as near as this distance.
    pub fn limit(&self, distance: f64) -> f32 {
        match self.metric {
            // The bounds are of squares.
            Metric::Euclidean => ((distance * distance * (1.0 + 1e-6)) as f32).next_up(),
            Metric::Cosine => (distance as f32).next_up(),
        }
    }
}

impl Segment {
    /// Bounds of the distances of all rows. `docs/search.md` has the proof.
    pub fn scan(&self, query: &Prepared, filter: &Filter<'_>) -> Scanned {
        let mut bounds = vec![f32::INFINITY; self.rows()];
        let wanted = |kind: Kind, text: Option<&str>| match text {
            Some(text) => self.code_of(kind, text).map(Some),
            None => Some(None),
        };
        let (Some(label), Some(split)) = (wanted(Kind::Label, filter.label), wanted(Kind::Split, filter.split)) else {
            // No row has it.
            return bounds;
        };
        self.squares_bounds(query, &mut bounds);
        if query.metric == Metric::Cosine {
            self.cosine_bounds(query, &mut bounds);
        }
        for (wanted, codes) in [(label, &self.labels), (split, &self.splits)] {
            let Some(wanted) = wanted else { continue };
            debug_assert_ne!(wanted, NONE);
            bounds
                .iter_mut()
                .zip(codes)
                .filter(|(_, code)| **code != wanted)
                .for_each(|(bound, _)| *bound = f32::INFINITY);
        }
        if let Some(bound) = filter.except.and_then(|row| bounds.get_mut(row as usize)) {
            *bound = f32::INFINITY;
        }
        bounds
    }

    /// Bounds of squared distances in the space of the features.
    fn squares_bounds(&self, query: &Prepared, bounds: &mut [f32]) {
        let values = |_: usize, to: &mut dyn FnMut(usize, f64)| {
            query.numbers.iter().enumerate().for_each(|(column, x)| to(column, f64::from(*x) / query.per_unit));
        };
        let projected = self.directions.project(1, values);
        let (width, scale) = (projected.len(), self.scale());
        let codes: Vec<i16> = projected.iter().zip(&self.centres).map(|(x, centre)| code(*x, *centre, scale)).collect();
        let square = query.square as f64 / (query.per_unit * query.per_unit);
        let (own, error) = residual(square, &projected, self.excess());
        let largest = self.squares.iter().max().map_or(0.0, |square| (*square as f64).sqrt() / query.per_unit);
        // Rounding of the projections themselves, in f64.
        let exactness = 1e-11 * (largest + square.sqrt());
        // Half a code in each direction, for the row and for the query; and the rounding of the root in f32.
        let coarse = (scale * ((width as f64).sqrt() + 0.01) * (1.0 + 1e-6) + exactness) as f32;
        let slack = ((self.slack() + error + exactness) as f32).next_up();
        let (coarse, scale, own) = (coarse.next_up(), scale as f32, own as f32);
        let stretch = ((1.0 - self.excess()) as f32) * (1.0 - ROUNDING);
        let of_blocks = self.codes.chunks(2 * LANES * width.max(1)).map(|block| squared_codes(&codes, block));
        let none = std::iter::repeat_n([0; LANES], if width == 0 { bounds.len().div_ceil(LANES) } else { 0 });
        let blocks = of_blocks.chain(none).zip(bounds.chunks_mut(LANES)).zip(self.residuals.chunks(LANES));
        for ((sums, bounds), residuals) in blocks {
            for ((bound, sum), residual) in bounds.iter_mut().zip(&sums).zip(residuals) {
                let along = ((*sum as f32).sqrt() * scale - coarse).max(0.0);
                let across = ((residual - own).abs() - slack).max(0.0);
                *bound = (along * along + across * across) * stretch;
            }
        }
    }

    /// Turns bounds of squared distances into bounds of 1 - cosine.
    fn cosine_bounds(&self, query: &Prepared, bounds: &mut [f32]) {
        let own = (query.square as f64).sqrt() / query.per_unit;
        for (bound, square) in bounds.iter_mut().zip(&self.squares) {
            let norm = (*square as f64).sqrt() / query.per_unit;
            let lengths = 2.0 * norm * own;
            // |x - y|^2 = (|x| - |y|)^2 + 2 |x| |y| (1 - cos)
            let (difference, sum) = (norm - own, norm + own);
            let rest = f64::from(*bound) - difference * difference - 1e-14 * sum * sum;
            let cosine = if lengths > 0.0 { rest / lengths - 1e-12 } else { 1.0 };
            *bound = (cosine.max(0.0) * (1.0 - 1e-6)) as f32;
        }
    }
}
