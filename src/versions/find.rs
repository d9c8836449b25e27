//! The images of a version that are nearest to a given one.
//!
//! A [`Finder`] asks the search index, if the version has one, and otherwise compares all rows of the tables. Both give the same
//! answer, bit for bit: distances are computed from exact integers.
//!
//! ```no_run
//! # async fn example() -> pomona::Result<()> {
//! use pomona::{dataset, search::Metric, store, versions::find::{Finder, Query}};
//!
//! let output = store::open("results").await?;
//! let version = dataset::version(output.as_ref(), None).await?;
//! let finder = Finder::new(output, version);
//! let features = finder.features("apple/1.jpg").await?.expect("an image of the version");
//! let query = Query { except: Some("apple/1.jpg".to_owned()), ..Query::new(features, 10, Metric::Cosine) };
//! for hit in finder.nearest(&query).await? {
//!     println!("{} {:.3}", hit.path, hit.distance);
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::OnceCell;

use super::{exhaustive, index::Index, nearest};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{Manifest, blocking::run_blocking, tables},
    model::ExtractorInfo,
    pca::Basis,
    search::Metric,
    store::Store,
};

/// What to search for.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// `[columns]`: features; for [`Finder::nearest_by_scores`], `[components]` scores.
    pub features: Vec<f32>,
    /// Most answers.
    pub count: usize,
    /// How distances are measured.
    pub metric: Metric,
    /// The label of all answers. None for any.
    pub label: Option<String>,
    /// The split of all answers, as in the table of features. None for any.
    pub split: Option<String>,
    /// A key that is no answer.
    pub except: Option<String>,
}

impl Query {
    /// A query for the `count` nearest images of all.
    pub fn new(features: Vec<f32>, count: usize, metric: Metric) -> Self {
        Query { features, count, metric, label: None, split: None, except: None }
    }

    /// Whether a row can be an answer.
    pub(super) fn wants(&self, path: &str, label: Option<&str>, split: Option<&str>) -> bool {
        self.except.as_deref() != Some(path)
            && self.label.as_deref().is_none_or(|wanted| label == Some(wanted))
            && self.split.as_deref().is_none_or(|wanted| split == Some(wanted))
    }
}

/// An image of the version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Its key, relative to the input.
    pub path: String,
    /// Its distance from the query: see [`Metric`].
    pub distance: f64,
    /// Its label.
    pub label: Option<String>,
}

/// Searches a version. Opens the index when it is needed, and keeps it open.
#[derive(Debug)]
pub struct Finder {
    output: Arc<dyn Store>,
    version: Manifest,
    /// Most bytes of an index that is copied.
    copied: u64,
    index: OnceCell<Option<Index>>,
    basis: OnceCell<Arc<Basis>>,
}

impl Finder {
    /// For the images of a version.
    pub fn new(output: Arc<dyn Store>, version: Manifest) -> Self {
        Finder { output, version, copied: 0, index: OnceCell::new(), basis: OnceCell::new() }
    }

    /// Copies an index of at most `bytes` bytes from a bucket to temporary files when it is opened. Searches then send no
    /// requests; without a copy, each reads its rows one by one.
    pub fn with_copy(self, bytes: u64) -> Self {
        Finder { copied: bytes, ..self }
    }

    /// The version.
    pub fn version(&self) -> &Manifest {
        &self.version
    }

    /// The output that has the version.
    pub(crate) fn output(&self) -> &dyn Store {
        self.output.as_ref()
    }

    /// Whether the version has an index. Otherwise, each search reads all features.
    pub fn has_index(&self) -> bool {
        self.version.index.is_some()
    }

    /// Fails with `Classifier.OtherModel` if the features of the version are not those of this extractor.
    pub fn check(&self, extractor: &ExtractorInfo) -> Result<()> {
        let message = "the data set has features of another model, or of another release of Pomona";
        same_model((&self.version.extractor, "data set"), extractor, message)
    }

    /// The nearest images, the nearest first; equally near ones by key. Fails with `Dataset.Corrupt`, and with `Input.Invalid` if
    /// the query has features of another extractor.
    #[compiled_once]
    pub async fn nearest(&self, query: &Query) -> Result<Vec<Hit>> {
        let found = self.nearest_of_each(std::slice::from_ref(query)).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// The answers of [`Finder::nearest`] for each query. Without an index, all features are read once.
    #[compiled_once]
    pub async fn nearest_of_each(&self, queries: &[Query]) -> Result<Vec<Vec<Hit>>> {
        let output = self.output.as_ref();
        answers(output, &self.version, self.index().await?, queries).await
    }

    /// The features of an image of the version; None for other keys.
    #[compiled_once]
    pub async fn features(&self, path: &str) -> Result<Option<Vec<f32>>> {
        match self.index().await? {
            Some(index) => index.features(self.output.as_ref(), path).await,
            None => exhaustive::features(self.output.as_ref(), &self.version, path).await,
        }
    }

    /// The features of an image of the version. Fails with `Input.UnknownKey`, which names the nearest keys, for other keys.
    #[compiled_once]
    pub async fn features_of(&self, path: &str) -> Result<Vec<f32>> {
        if let Some(features) = self.features(path).await? {
            return Ok(features);
        }
        let error =
            Error::new(ErrorKind::InputUnknownKey, "the version has no features of this image").context("key", path);
        let nearest = nearest::keys(self.output.as_ref(), path).await?;
        Err(if nearest.is_empty() { error } else { error.context("nearest keys", nearest.join(", ")) })
    }

    /// The basis of the version, which is read once. Fails with `Dataset.Corrupt`.
    #[compiled_once]
    pub async fn basis(&self) -> Result<Arc<Basis>> {
        let columns = self.version.extractor.columns;
        let read = || async {
            self.version.basis.file.decode(self.output.as_ref(), columns, tables::read_basis).await.map(Arc::new)
        };
        self.basis.get_or_try_init(read).await.cloned()
    }

    /// The scores of features. Fails with `Dataset.Corrupt`.
    #[compiled_once]
    pub async fn scores_of(&self, features: Vec<f32>) -> Result<Vec<f32>> {
        let (columns, basis) = (self.version.extractor.columns, self.basis().await?);
        run_blocking(move || {
            let row = ndarray::Array2::from_shape_vec((1, columns), features)
                .map_err(|e| Error::new(ErrorKind::InputInvalid, "these are features of another model").source(e))?;
            Ok(basis.project(row.view()).into_iter().collect())
        })
        .await
    }

    /// The images whose scores are nearest to those of the query. Reads all scores.
    #[compiled_once]
    pub async fn nearest_by_scores(&self, query: &Query) -> Result<Vec<Hit>> {
        exhaustive::nearest_by_scores(self.output.as_ref(), &self.version, query).await
    }

    async fn index(&self) -> Result<Option<&Index>> {
        let open = || Index::open(self.output.as_ref(), &self.version, self.copied);
        self.index.get_or_try_init(open).await.map(Option::as_ref)
    }
}

/// Fails with `Classifier.OtherModel` if the needed extractor, which the error names so, is not this one.
pub(super) fn same_model(
    (needed, name): (&ExtractorInfo, &'static str),
    extractor: &ExtractorInfo,
    message: &'static str,
) -> Result<()> {
    if needed.id == extractor.id {
        return Ok(());
    }
    let shown = |info: &ExtractorInfo| format!("{} ({})", info.model, info.id);
    Err(Error::new(ErrorKind::ClassifierOtherModel, message)
        .context(name, shown(needed))
        .context("model", shown(extractor)))
}

/// The answers for queries, by the index or without one.
pub(super) async fn answers(
    output: &dyn Store,
    version: &Manifest,
    index: Option<&Index>,
    queries: &[Query],
) -> Result<Vec<Vec<Hit>>> {
    let Some(index) = index else { return exhaustive::nearest(output, version, queries).await };
    let mut found = Vec::with_capacity(queries.len());
    for query in queries {
        found.push(index.search(output, query).await?);
    }
    Ok(found)
}
