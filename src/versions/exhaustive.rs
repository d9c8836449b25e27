//! Searches that compare every row of the tables: of versions without an index, and by scores.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use ndarray::ArrayView1;

use super::find::{Hit, Query};
use crate::{
    Error, ErrorKind, Result,
    dataset::{FileRef, Manifest, ShardEntry, blocking::run_blocking, contents, tables},
    model::{ExtractorInfo, FeatureRange},
    search::{Metric, squared_quanta},
    store::Store,
};

/// Tables that are searched at a time.
const SEARCHED_AT_A_TIME: usize = 2;

/// The nearest images of each query.
pub(super) async fn nearest(output: &dyn Store, version: &Manifest, queries: &[Query]) -> Result<Vec<Vec<Hit>>> {
    let extractor = &version.extractor;
    let mut all = vec![Vec::new(); queries.len()];
    if queries.iter().any(|query| query.features.len() != extractor.columns) {
        return Err(Error::new(ErrorKind::InputInvalid, "the features of a query are those of another model"));
    }
    if queries.iter().all(|query| query.count == 0) {
        return Ok(all);
    }
    let of_queries: Arc<[Query]> = queries.into();
    let shards = contents::shards(output, version).await?;
    let searches = shards.iter().filter_map(ShardEntry::features);
    let searches: Vec<_> = searches.map(|file| in_features(output, extractor, Arc::clone(&of_queries), file)).collect();
    let mut searches = stream::iter(searches).buffer_unordered(SEARCHED_AT_A_TIME);
    while let Some(found) = searches.try_next().await? {
        for ((all, found), query) in all.iter_mut().zip(found).zip(queries) {
            all.extend(found);
            keep(all, query.count);
        }
    }
    Ok(all)
}

/// The nearest ones, sorted.
fn keep(found: &mut Vec<Hit>, count: usize) {
    found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then_with(|| a.path.cmp(&b.path)));
    found.truncate(count);
}

/// Notes a row unless others are nearer.
fn note(found: &mut Vec<Hit>, query: &Query, (path, label): (&str, Option<&str>), distance: f64) {
    let last = found.last().filter(|_| found.len() >= query.count);
    if query.count > 0 && last.is_none_or(|last| distance <= last.distance) {
        found.push(Hit { path: path.to_owned(), distance, label: label.map(str::to_owned) });
        keep(found, query.count);
    }
}

/// The squared norm of a row in quanta.
fn square(row: &[f32], range: FeatureRange) -> u64 {
    squared_quanta(row, &vec![0.0; row.len()], range)
}

async fn in_features(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    queries: Arc<[Query]>,
    file: FileRef,
) -> Result<Vec<Vec<Hit>>> {
    let (body, key, extractor) = (file.read(output).await?, file.key, extractor.clone());
    run_blocking(move || {
        let table = tables::read_labelled_features(body, &extractor, &key)?;
        let range = extractor.feature_range;
        let of_queries: Vec<u64> = queries.iter().map(|query| square(&query.features, range)).collect();
        let mut found: Vec<Vec<Hit>> = vec![Vec::new(); queries.len()];
        for (number, row) in table.features.outer_iter().enumerate() {
            let row = row.to_vec();
            let (path, label) = (table.paths[number].as_str(), table.labels[number].as_deref());
            let of_row = square(&row, range);
            for ((query, norm), found) in queries.iter().zip(&of_queries).zip(&mut found) {
                if query.wants(path, label, table.splits[number].as_deref()) {
                    let squared = squared_quanta(&row, &query.features, range);
                    let distance = query.metric.distance(squared, *norm, of_row, range.per_unit());
                    note(found, query, (path, label), distance);
                }
            }
        }
        Ok(found)
    })
    .await
}

/// The features of an image; None for other keys.
pub(super) async fn features(output: &dyn Store, version: &Manifest, path: &str) -> Result<Option<Vec<f32>>> {
    let shards = contents::shards(output, version).await?;
    let inside = |shard: &&ShardEntry| shard.first.as_str() <= path && path <= shard.last.as_str();
    let Some(file) = shards.iter().find(inside).and_then(ShardEntry::features) else { return Ok(None) };
    let table = contents::labelled_features(output, &version.extractor, &file).await?;
    let row = table.paths.binary_search_by(|other| other.as_str().cmp(path)).ok();
    Ok(row.map(|row| table.features.row(row).to_vec()))
}

/// The images with the nearest scores. Scores are `f32`; sums are in `f64`, in the order of the components.
pub(super) async fn nearest_by_scores(output: &dyn Store, version: &Manifest, query: &Query) -> Result<Vec<Hit>> {
    let kept = version.basis.components;
    if query.features.len() != kept {
        let message = "the scores of a query are those of another basis";
        return Err(Error::new(ErrorKind::InputInvalid, message).context("components", query.features.len()));
    }
    if query.split.is_some() {
        return Err(Error::new(ErrorKind::InputInvalid, "the table of scores has no splits"));
    }
    let files = contents::parts(output, version).await?.into_iter().flat_map(|part| part.scores);
    let reads: Vec<_> = files
        .map(|file| async move {
            let (rows, query) = (contents::score_rows(output, version.version, kept, &file).await?, query.clone());
            run_blocking(move || in_scores(&rows, &query)).await
        })
        .collect();
    let mut reads = stream::iter(reads).buffer_unordered(SEARCHED_AT_A_TIME);
    let mut all = Vec::new();
    while let Some(found) = reads.try_next().await? {
        all.extend(found);
        keep(&mut all, query.count);
    }
    Ok(all)
}

fn in_scores(rows: &tables::ScoreRows, query: &Query) -> Result<Vec<Hit>> {
    let mut found = Vec::new();
    for (number, row) in rows.scores.outer_iter().enumerate() {
        let path = rows.paths[number].as_str();
        let label = rows.labels[number].as_deref();
        if query.wants(path, label, None) {
            note(&mut found, query, (path, label), distance(row, &query.features, query.metric));
        }
    }
    Ok(found)
}

fn distance(row: ArrayView1<'_, f32>, query: &[f32], metric: Metric) -> f64 {
    let (mut squared, mut product, mut norms) = (0.0, 0.0, (0.0, 0.0));
    for (x, y) in row.iter().zip(query) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        squared += (x - y) * (x - y);
        product += x * y;
        norms = (norms.0 + x * x, norms.1 + y * y);
    }
    let lengths = norms.0.sqrt() * norms.1.sqrt();
    match metric {
        Metric::Euclidean => squared.sqrt(),
        Metric::Cosine if lengths == 0.0 => 1.0,
        Metric::Cosine if squared == 0.0 => 0.0,
        Metric::Cosine => (1.0 - product / lengths).clamp(0.0, 2.0),
    }
}
