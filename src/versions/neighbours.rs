//! The images of a version that are most like given ones, by the cosine of their features. Every row is compared.

use std::{cmp::Ordering, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use ndarray::{Array2, Axis};
use serde::Serialize;

use crate::{
    Error, ErrorKind, Result,
    classify::scorer::Scorer,
    dataset::{FileRef, Manifest, ShardEntry, blocking::run_blocking, contents, tables},
    model::ExtractorInfo,
    store::Store,
};

/// Tables of features that are searched at a time.
const SEARCHED_AT_A_TIME: usize = 2;

/// An image of the version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Its key, relative to the input.
    pub path: String,
    /// Its label.
    pub label: Option<String>,
    /// The cosine of the two vectors of features, at most 1.
    pub similarity: f64,
}

/// What to search for.
#[derive(Clone, Debug)]
pub struct Query {
    /// `[columns]`
    pub features: Vec<f32>,
    /// A key that is no answer.
    pub except: Option<String>,
    /// The label of all answers. None for any label.
    pub label: Option<String>,
}

/// The nearest images of each query, the most similar first; equal ones by key. Fails with `Dataset.Corrupt`, and with
/// `Internal.Bug` if the queries have another number of columns.
pub async fn neighbours(
    output: &dyn Store,
    version: &Manifest,
    queries: Vec<Query>,
    count: usize,
) -> Result<Vec<Vec<Neighbour>>> {
    let columns = version.extractor.columns;
    let mut all: Vec<Vec<Neighbour>> = vec![Vec::new(); queries.len()];
    if queries.is_empty() || count == 0 {
        return Ok(all);
    }
    let search = Arc::new(Search::new(queries, columns, count)?);
    let shards = contents::shards(output, version).await?;
    let searches = shards.iter().filter_map(ShardEntry::features);
    let searches: Vec<_> =
        searches.map(|file| in_table(output, &version.extractor, Arc::clone(&search), file)).collect();
    let mut searches = stream::iter(searches).buffer_unordered(SEARCHED_AT_A_TIME);
    while let Some(found) = searches.try_next().await? {
        for (all, found) in all.iter_mut().zip(found) {
            all.extend(found);
            keep(all, count);
        }
    }
    Ok(all)
}

fn keep(found: &mut Vec<Neighbour>, count: usize) {
    found.sort_by(|a, b| b.similarity.partial_cmp(&a.similarity).unwrap_or(Ordering::Equal).then(a.path.cmp(&b.path)));
    found.truncate(count);
}

struct Search {
    queries: Vec<Query>,
    scorer: Scorer,
    lengths: Vec<f64>,
    count: usize,
}

impl Search {
    fn new(queries: Vec<Query>, columns: usize, count: usize) -> Result<Self> {
        let features: Vec<f64> = queries.iter().flat_map(|query| &query.features).map(|x| f64::from(*x)).collect();
        let features = Array2::from_shape_vec((queries.len(), columns), features)
            .map_err(|e| Error::new(ErrorKind::InternalBug, "queries have features of another model").source(e))?;
        let lengths = features.outer_iter().map(|row| length(row.iter().copied())).collect();
        Ok(Search { scorer: Scorer::new([features.view()].into_iter()), queries, lengths, count })
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

async fn in_table(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    search: Arc<Search>,
    file: FileRef,
) -> Result<Vec<Vec<Neighbour>>> {
    let (body, key, extractor) = (file.read(output).await?, file.key, extractor.clone());
    run_blocking(move || {
        let table = tables::read_features(body, &extractor, &key)?;
        let rows: Vec<usize> = (0..table.len()).collect();
        let mut found: Vec<Vec<Neighbour>> = vec![Vec::new(); search.queries.len()];
        search.scorer.each(table.features.view(), &rows, |row, products| {
            let (path, label) = (&table.paths[row], table.labels[row].as_deref());
            let of_row = length(table.features.index_axis(Axis(0), row).iter().map(|x| f64::from(*x)));
            for (((query, product), length), found) in
                search.queries.iter().zip(products).zip(&search.lengths).zip(&mut found)
            {
                let wanted = query.except.as_ref() != Some(path)
                    && query.label.as_deref().is_none_or(|wanted| label == Some(wanted));
                let lengths = length * of_row;
                let similarity = if lengths > 0.0 { (product / lengths).min(1.0) } else { 0.0 };
                let last = found.last().filter(|_| found.len() >= search.count).map(|last| last.similarity);
                if wanted && last.is_none_or(|last| similarity >= last) {
                    found.push(Neighbour { path: path.clone(), label: label.map(str::to_owned), similarity });
                    keep(found, search.count);
                }
            }
        });
        Ok(found)
    })
    .await
}
