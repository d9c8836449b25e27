//! The images that are drawn: all of a version up to a limit, beyond it a sample.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::findings::evenly;
use crate::{
    Result,
    dataset::{FileRef, Manifest, contents, tables::ScoreRows},
    store::Store,
};

/// Most images that are drawn. A version with more is sampled: evenly spread rows of evenly spread parts.
pub const POINTS: usize = 200_000;
/// Most parts that a sample is from.
pub const PARTS: usize = 256;
/// Concurrent reads of parts.
const READS_AT_A_TIME: usize = 6;
/// Components of the page for the neighbours of an image: at least and at most, and their values in between.
const LEAST_COLUMNS: usize = 8;
const MOST_COLUMNS: usize = 32;
const VALUES: usize = 800_000;

/// The numbers of the labels.
type Labels<'a> = HashMap<&'a Option<String>, usize>;

/// The images that are drawn, with their first scores.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    pub(super) paths: Vec<String>,
    /// Index of the label in the manifest's list.
    pub(super) labels: Vec<usize>,
    /// Components per row: the first ones of the kept.
    pub(super) columns: usize,
    /// `[rows, columns]`, row-major.
    scores: Vec<f32>,
}

impl Points {
    /// A score; 0 for components that the basis does not have.
    pub(super) fn score(&self, row: usize, component: usize) -> f64 {
        if component < self.columns { f64::from(self.scores[row * self.columns + component]) } else { 0.0 }
    }

    /// The smallest and the largest score of a component. Both 0 without images.
    pub(super) fn extent(&self, component: usize) -> (f64, f64) {
        let scores = (0..self.paths.len()).map(|row| self.score(row, component));
        let (low, high) = scores.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        if low > high { (0.0, 0.0) } else { (low, high) }
    }
}

/// Number of components per image on a page with this number of images.
pub(super) fn columns(images: usize, kept: usize) -> usize {
    (VALUES / images.max(1)).clamp(LEAST_COLUMNS, MOST_COLUMNS).min(kept)
}

/// Reads the rows to draw, part by part.
pub(super) async fn read(output: &dyn Store, manifest: &Manifest) -> Result<Points> {
    let kept = manifest.basis.components;
    let labels: Labels<'_> = manifest.labels.iter().map(|count| &count.label).zip(0..).collect();
    let images = usize::try_from(manifest.images).unwrap_or(usize::MAX);
    let parts: Vec<FileRef> =
        contents::parts(output, manifest).await?.into_iter().flat_map(|part| part.scores).collect();
    let chosen = if images > POINTS { evenly(parts.len(), PARTS) } else { (0..parts.len()).collect() };
    let of_each = if images > POINTS { POINTS / chosen.len().max(1) } else { usize::MAX };
    let reads: Vec<_> =
        chosen.into_iter().map(|part| contents::score_rows(output, manifest.version, kept, &parts[part])).collect();
    let mut read = stream::iter(reads).buffered(READS_AT_A_TIME);
    let mut points = Points { columns: columns(images.min(POINTS), kept), ..Points::default() };
    while let Some(rows) = read.try_next().await? {
        points.add(rows, of_each, &labels);
    }
    Ok(points)
}

impl Points {
    fn add(&mut self, mut rows: ScoreRows, count: usize, labels: &Labels<'_>) {
        for row in evenly(rows.paths.len(), count) {
            self.paths.push(std::mem::take(&mut rows.paths[row]));
            self.labels.push(labels.get(&rows.labels[row]).copied().unwrap_or(0));
            self.scores.extend(rows.scores.row(row).iter().take(self.columns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scores_of_a_page_are_bounded() {
        assert_eq!(columns(100, 200), 32);
        assert_eq!(columns(100, 10), 10);
        assert_eq!(columns(50_000, 200), 16);
        assert_eq!(columns(POINTS, 200), 8);
        assert_eq!(columns(0, 1), 1);
    }

    #[test]
    fn missing_components_are_zero() {
        let points =
            Points { paths: vec!["a".into(), "b".into()], labels: vec![0, 0], columns: 1, scores: vec![2.0, -1.0] };
        assert_eq!((points.extent(0), points.extent(1)), ((-1.0, 2.0), (0.0, 0.0)));
        assert_eq!(Points::default().extent(0), (0.0, 0.0));
    }
}
