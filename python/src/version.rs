//! A version of a data set.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use pomona::{
    Error, ErrorKind, Result,
    dataset::{self, FileRef, Manifest, contents},
    model::{Extractor, Runtime},
    search::Metric,
    store::{self, Store},
    versions::{
        find::{Finder, Query},
        predict::Predictor,
    },
};
use pyo3::{prelude::*, types::PyBytes};
use tokio::sync::OnceCell;

use crate::{
    json,
    model::{Model, features},
    raised,
    waiting::wait,
};

/// A version of a data set, with its search index and classifier, which are opened when they are needed.
#[pyclass(frozen)]
pub(crate) struct Version(Arc<Opened>);

struct Opened {
    output: Arc<dyn Store>,
    manifest: Manifest,
    finder: Arc<Finder>,
    predictor: OnceCell<Predictor>,
}

impl Opened {
    async fn predictor(&self) -> Result<&Predictor> {
        self.predictor.get_or_try_init(|| Predictor::of(Arc::clone(&self.finder))).await
    }
}

#[pymethods]
impl Version {
    /// The newest version of an output, or that with a number.
    #[new]
    #[pyo3(signature = (output, version=None))]
    fn new(py: Python<'_>, output: String, version: Option<u64>) -> PyResult<Self> {
        let opened = wait(py, async move {
            let output = store::open(&output).await?;
            dataset::expect_output(output.as_ref()).await?;
            let manifest = dataset::version(output.as_ref(), version).await?;
            let finder = Arc::new(Finder::new(Arc::clone(&output), manifest.clone()));
            Ok(Opened { output, manifest, finder, predictor: OnceCell::new() })
        })?;
        Ok(Version(Arc::new(opened)))
    }

    /// The manifest as JSON.
    fn manifest(&self, py: Python<'_>) -> PyResult<String> {
        json(py, &self.0.manifest)
    }

    /// Key and content of the Parquet files of a table, in key order. Their checksums are right.
    fn table<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Vec<(String, Bound<'py, PyBytes>)>> {
        let table = contents::Table::of_name(name).map_err(|e| raised(py, &e))?;
        let opened = Arc::clone(&self.0);
        let files = wait(py, async move {
            let files = contents::tables(opened.output.as_ref(), &opened.manifest, table).await?;
            let contents = read(opened.output.as_ref(), &files).await?;
            Ok(files.into_iter().map(|file| file.key).zip(contents).collect::<Vec<_>>())
        })?;
        Ok(files.into_iter().map(|(key, file)| (key, PyBytes::new(py, &file))).collect())
    }

    /// The content of the Parquet file of the basis.
    fn basis<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let opened = Arc::clone(&self.0);
        let file = wait(py, async move { opened.manifest.basis.file.read(opened.output.as_ref()).await })?;
        Ok(PyBytes::new(py, &file))
    }

    /// What computes features like those of the version: a model of the user's, or the file that the output keeps for them.
    #[pyo3(signature = (model=None))]
    fn model(&self, py: Python<'_>, model: Option<PathBuf>) -> PyResult<Model> {
        let opened = Arc::clone(&self.0);
        wait(py, async move {
            let info = &opened.manifest.extractor;
            let kept = match model {
                Some(_) => None,
                None => dataset::extractor_file(opened.output.as_ref(), &info.recipe()).await?,
            };
            Model::of(Extractor::like(info, model.as_deref(), kept, Runtime::Auto)?, None)
        })
    }

    /// What is on photos, as a JSON list.
    fn predict(
        &self,
        py: Python<'_>,
        model: &Model,
        names: Vec<String>,
        photos: Vec<Vec<u8>>,
        neighbours: usize,
    ) -> PyResult<String> {
        let (opened, workers) = (Arc::clone(&self.0), Arc::clone(&model.workers));
        let answers = wait(py, async move {
            let predictor = opened.predictor().await?;
            predictor.check(workers.extractor().info())?;
            let features = features(&workers, photos.into_iter().map(Bytes::from).collect()).await?;
            predictor.answers(names.into_iter().zip(features).collect(), neighbours).await
        })?;
        json(py, &answers)
    }

    /// The images nearest to features, or to an image of the version, as a JSON list.
    #[pyo3(signature = (features, like, count, metric, label, scores))]
    #[expect(clippy::too_many_arguments, reason = "the arguments of a method of Python")]
    fn search(
        &self,
        py: Python<'_>,
        features: Option<Vec<f32>>,
        like: Option<String>,
        count: usize,
        metric: &str,
        label: Option<String>,
        scores: bool,
    ) -> PyResult<String> {
        let metric = match metric {
            "cosine" => Metric::Cosine,
            "euclidean" => Metric::Euclidean,
            _ => {
                let error = Error::new(ErrorKind::InputInvalid, "a metric is \"cosine\" or \"euclidean\"");
                return Err(raised(py, &error.context("metric", metric)));
            }
        };
        let opened = Arc::clone(&self.0);
        let hits = wait(py, async move {
            let finder = &opened.finder;
            let features = match (features, &like) {
                (Some(features), _) => features,
                (None, Some(path)) => finder.features_of(path).await?,
                (None, None) => return Err(Error::new(ErrorKind::InputInvalid, "there is nothing to search for")),
            };
            let query = Query { label, except: like, ..Query::new(features, count, metric) };
            if !scores {
                return finder.nearest(&query).await;
            }
            let scores = finder.scores_of(query.features.clone()).await?;
            finder.nearest_by_scores(&Query { features: scores, ..query }).await
        })?;
        json(py, &hits)
    }
}

async fn read(output: &dyn Store, files: &[FileRef]) -> Result<Vec<Bytes>> {
    use futures::{StreamExt, TryStreamExt, stream};

    /// Files that are read at a time.
    const AT_A_TIME: usize = 8;
    let reads: Vec<_> = files.iter().map(|file| file.read(output)).collect();
    stream::iter(reads).buffered(AT_A_TIME).try_collect().await
}
