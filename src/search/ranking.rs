//! The nearest rows of a query: which rows have to be read, given bounds of the distances of all.

use super::segment::{Prepared, Scanned};

/// Rows that are read first, and for each answer.
const FIRST: usize = 32;
const PER_ANSWER: usize = 2;

/// A row of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowOf {
    /// Number of the segment, in key order.
    pub segment: u32,
    /// The row in it.
    pub row: u32,
}

/// A row and its distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The row.
    pub row: RowOf,
    /// Its distance.
    pub distance: f64,
}

/// Finds the nearest rows. Rows are read in the order of their bounds, until no other row can be among the nearest: the result
/// is that of reading all.
#[derive(Debug)]
pub struct Ranking<'q> {
    query: &'q Prepared,
    count: usize,
    scanned: Vec<Scanned>,
    /// Rows that may be answers, the last one first; None before the first ones are read.
    waiting: Option<Vec<(f32, RowOf)>>,
    /// The nearest rows so far, sorted.
    best: Vec<Ranked>,
}

impl<'q> Ranking<'q> {
    /// The `count` nearest rows of segments with these bounds.
    pub fn new(query: &'q Prepared, count: usize, scanned: Vec<Scanned>) -> Self {
        Ranking { query, count, scanned, waiting: None, best: Vec::new() }
    }

    /// The next rows to read, at most `most` unless they are the first ones. None if the answers are complete. Each of them
    /// is to be [ranked](Ranking::rank).
    pub fn next(&mut self, most: usize) -> Option<Vec<RowOf>> {
        if self.count == 0 {
            return None;
        }
        let Some(waiting) = &mut self.waiting else {
            let first = self.first();
            self.waiting = Some(Vec::new());
            // Afterwards, only rows within the limit of these are looked at.
            let rows: Vec<RowOf> = first.iter().map(|(_, row)| *row).collect();
            for row in &rows {
                self.scanned[row.segment as usize][row.row as usize] = f32::INFINITY;
            }
            return (!rows.is_empty()).then_some(rows);
        };
        if waiting.is_empty() && !self.scanned.is_empty() {
            let limit = limit(self.query, &self.best, self.count);
            *waiting = within(&std::mem::take(&mut self.scanned), limit);
        }
        let limit = limit(self.query, &self.best, self.count);
        let mut rows = Vec::new();
        while rows.len() < most
            && let Some((_, row)) = waiting.pop_if(|(bound, _)| *bound <= limit)
        {
            rows.push(row);
        }
        (!rows.is_empty()).then_some(rows)
    }

    /// Notes the distance of a row.
    pub fn rank(&mut self, row: RowOf, distance: f64) {
        let ranked = Ranked { row, distance };
        let at = self.best.partition_point(|other| (other.distance, other.row) < (distance, row));
        if at < self.count {
            self.best.insert(at, ranked);
            self.best.truncate(self.count);
        }
    }

    /// The nearest rows, the nearest first; equal ones in key order.
    pub fn finish(self) -> Vec<Ranked> {
        self.best
    }

    /// The rows with the smallest bounds.
    fn first(&self) -> Vec<(f32, RowOf)> {
        let most = (self.count.saturating_mul(PER_ANSWER)).max(FIRST);
        let mut first: Vec<(f32, RowOf)> = Vec::new();
        let mut limit = f32::INFINITY;
        for (scanned, segment) in self.scanned.iter().zip(0..) {
            for (bound, row) in scanned.iter().zip(0..) {
                if *bound >= limit {
                    continue;
                }
                first.push((*bound, RowOf { segment, row }));
                // Seldom, so that a row costs little.
                if first.len() >= most.saturating_mul(4) {
                    first.select_nth_unstable_by(most, |a, b| a.0.total_cmp(&b.0));
                    first.truncate(most);
                    limit = first.iter().fold(0.0, |largest, (bound, _)| largest.max(*bound));
                }
            }
        }
        first.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        first.truncate(most);
        first
    }
}

/// The largest bound of rows that can be among the nearest. Rows that are no answers are beyond it.
fn limit(query: &Prepared, best: &[Ranked], count: usize) -> f32 {
    match best.last() {
        Some(last) if best.len() >= count => query.limit(last.distance),
        _ => f32::MAX,
    }
}

/// All rows with at most this bound, the largest first.
fn within(scanned: &[Scanned], limit: f32) -> Vec<(f32, RowOf)> {
    let mut rows = Vec::new();
    for (scanned, segment) in scanned.iter().zip(0..) {
        let near = scanned.iter().zip(0..).filter(|(bound, _)| **bound <= limit);
        rows.extend(near.map(|(bound, row)| (*bound, RowOf { segment, row })));
    }
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    rows
}
