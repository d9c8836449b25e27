//! The outliers of a version, a part of the stage `publish`.
//!
//! Reads all scores. An outlier is an image whose Mahalanobis distance from the mean exceeds the median of all distances
//! by five median absolute deviations, which are scaled to be standard deviations where distances are normal. The table is
//! a function of the scores and their variances. All distances are in memory, so there are none for versions with too many
//! images to search duplicates among them.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Result,
    dataset::{
        BasisSummary, FileRef, Outliers, Part, Searched,
        blocking::run_blocking,
        contents, keys,
        settings::Settings,
        tables::{self, OutlierRow, ScoreRows},
    },
    ids::{ExtractorId, Version},
    store::Store,
};

/// The distance of an outlier exceeds the median by this many scaled median absolute deviations.
const OUTLYING: f64 = 5.0;
/// Ratio of standard deviation and median absolute deviation of a normal distribution.
const MAD_TO_DEVIATION: f64 = 1.4826;
/// Files of scores that are read at a time.
const AT_A_TIME: usize = 8;

/// The version whose outliers are searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scored<'a> {
    pub(crate) version: Version,
    pub(crate) extractor: &'a ExtractorId,
    pub(crate) basis: &'a BasisSummary,
    pub(crate) settings: &'a Settings,
    /// All parts of the scores.
    pub(crate) parts: &'a [Part],
}

/// Finds the outliers. Returns the summary, and keys and contents of the files that it names. Fails with
/// `Dataset.Corrupt`.
pub(crate) async fn outliers(output: &dyn Store, of: Scored<'_>) -> Result<(Outliers, Vec<(String, Bytes)>)> {
    let images = of.parts.iter().map(|part| part.rows).sum();
    if Searched::among(images, of.settings.duplicate_images()) == Searched::Nothing {
        return Ok((Outliers { threshold: None, rows: 0, files: Vec::new() }, Vec::new()));
    }
    let files: Vec<&FileRef> = of.parts.iter().flat_map(|part| &part.scores).collect();
    let mut all: Vec<f64> = Vec::with_capacity(images as usize);
    let mut lengths = Vec::with_capacity(files.len());
    let read = |file| contents::score_rows(output, of.version, of.basis.components, file);
    let reads: Vec<_> = files.iter().map(|file| async { distances(read(file).await?, of.basis).await }).collect();
    let mut reads = stream::iter(reads).buffered(AT_A_TIME);
    while let Some(distances) = reads.try_next().await? {
        lengths.push(distances.len());
        all.extend(distances);
    }
    let threshold = threshold(&all);
    let mut rows: Vec<OutlierRow> = Vec::new();
    let mut start = 0;
    for (file, length) in files.into_iter().zip(lengths) {
        let distances = &all[start..start + length];
        start += length;
        if !distances.iter().any(|distance| *distance > threshold) {
            continue;
        }
        let scores = read(file).await?;
        for (row, distance) in distances.iter().enumerate().filter(|(_, distance)| **distance > threshold) {
            rows.push(OutlierRow {
                path: scores.paths[row].clone(),
                label: scores.labels[row].clone(),
                distance: *distance,
            });
        }
    }
    rows.sort_by(|a, b| b.distance.total_cmp(&a.distance).then_with(|| a.path.cmp(&b.path)));
    let (extractor, basis) = (of.extractor.as_str(), of.basis.id.as_str());
    let written: Vec<(String, Bytes)> = tables::parts(&rows)
        .map(|(part, rows)| {
            let body = tables::write_outliers(rows, extractor, basis, of.settings.compression())?;
            Ok((keys::outliers(of.version, part), body))
        })
        .collect::<Result<_>>()?;
    let files = written.iter().map(|(key, body)| FileRef::of(key.clone(), body)).collect();
    Ok((Outliers { threshold: Some(threshold), rows: rows.len() as u64, files }, written))
}

/// The distances of rows from the mean.
async fn distances(rows: ScoreRows, basis: &BasisSummary) -> Result<Vec<f64>> {
    let weights: Vec<f64> = basis.explained_variance.iter().map(|v| if *v > 0.0 { 1.0 / v } else { 0.0 }).collect();
    run_blocking(move || {
        let distance = |scores: ndarray::ArrayView1<'_, f32>| {
            let squares = scores.iter().zip(&weights).map(|(x, weight)| f64::from(*x) * f64::from(*x) * weight);
            squares.sum::<f64>().sqrt()
        };
        Ok(rows.scores.outer_iter().map(distance).collect())
    })
    .await
}

/// The distance that outliers exceed.
fn threshold(distances: &[f64]) -> f64 {
    let centre = median(distances.to_vec());
    let deviation = MAD_TO_DEVIATION * median(distances.iter().map(|distance| (distance - centre).abs()).collect());
    centre + OUTLYING * deviation
}

/// The upper median; 0 without values.
fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_five_deviations_above_the_median() {
        assert_eq!(threshold(&[]), 0.0);
        assert_eq!(threshold(&[2.0]), 2.0);
        let distances: Vec<f64> = (0..101).map(f64::from).collect();
        assert_eq!(threshold(&distances), 50.0 + 5.0 * 1.4826 * 25.0);
    }
}
