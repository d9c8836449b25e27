//! The images of a version that are most like given ones, by the cosine of their features.

use serde::Serialize;

use super::{
    find::{self, Finder, Hit},
    index::Index,
};
use crate::{Result, compiled_once, dataset::Manifest, search::Metric, store::Store};

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

impl Query {
    fn of(self, count: usize) -> find::Query {
        let Query { features, except, label } = self;
        find::Query { except, label, ..find::Query::new(features, count, Metric::Cosine) }
    }
}

impl From<Hit> for Neighbour {
    fn from(Hit { path, distance, label }: Hit) -> Self {
        Neighbour { path, label, similarity: 1.0 - distance }
    }
}

/// The nearest images of each query, the most similar first; equal ones by key. Fails with `Dataset.Corrupt`, and with
/// `Input.Invalid` if the queries have another number of columns.
#[compiled_once]
pub async fn neighbours(
    output: &dyn Store,
    version: &Manifest,
    queries: Vec<Query>,
    count: usize,
) -> Result<Vec<Vec<Neighbour>>> {
    if queries.is_empty() || count == 0 {
        return Ok(vec![Vec::new(); queries.len()]);
    }
    let queries: Vec<_> = queries.into_iter().map(|query| query.of(count)).collect();
    let index = Index::open(output, version, 0).await?;
    find::answers(output, version, index.as_ref(), &queries).await.map(similar)
}

/// [`neighbours`] by an open index.
pub(super) async fn neighbours_by(finder: &Finder, queries: Vec<Query>, count: usize) -> Result<Vec<Vec<Neighbour>>> {
    if queries.is_empty() || count == 0 {
        return Ok(vec![Vec::new(); queries.len()]);
    }
    let queries: Vec<_> = queries.into_iter().map(|query| query.of(count)).collect();
    finder.nearest_of_each(&queries).await.map(similar)
}

fn similar(found: Vec<Vec<Hit>>) -> Vec<Vec<Neighbour>> {
    found.into_iter().map(|hits| hits.into_iter().map(Neighbour::from).collect()).collect()
}
