//! Features of photos.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pomona::{
    image::Reject,
    model::{Extractor, ExtractorKind, FeatureRange, ModelOptions, Runtime, WorkerPool},
};
use pyo3::{prelude::*, types::PyBytes};

use crate::{json, raised, waiting::wait};

/// Features as the bytes of `f32`, or why there are none: the reason of the table of rejects, and what is wrong.
type Answer<'py> = (Option<Bound<'py, PyBytes>>, Option<(String, String)>);

/// A model and the threads that run it.
#[pyclass(frozen)]
pub(crate) struct Model {
    pub(crate) workers: Arc<WorkerPool>,
}

impl Model {
    /// An extractor on threads: as many as processors without a number.
    pub(crate) fn of(extractor: Extractor, threads: Option<usize>) -> pomona::Result<Self> {
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        Ok(Model { workers: Arc::new(WorkerPool::new(Arc::new(extractor), threads)?) })
    }
}

#[pymethods]
impl Model {
    /// The built-in model, the extractor of this name, or the model of an ONNX file.
    #[new]
    #[pyo3(signature = (model=None, threads=None, extractor=None))]
    fn new(py: Python<'_>, model: Option<PathBuf>, threads: Option<usize>, extractor: Option<&str>) -> PyResult<Self> {
        let load = || {
            let range = FeatureRange::default();
            let extractor = match &model {
                Some(path) => Extractor::open(path, range, Runtime::Auto, ModelOptions::default())?,
                None => {
                    let kind = extractor.map_or(Ok(ExtractorKind::Network), ExtractorKind::of_name)?;
                    Extractor::builtin(kind, None, range)?
                }
            };
            Model::of(extractor, threads)
        };
        py.detach(load).map_err(|e| raised(py, &e))
    }

    /// Numbers of a row of features.
    #[getter]
    fn columns(&self) -> usize {
        self.workers.extractor().columns()
    }

    /// What decides the bits of the features, as JSON.
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        json(py, self.workers.extractor().info())
    }

    /// For each photo its features as `f32`, or the reason why it has none and what is wrong with it.
    fn features<'py>(&self, py: Python<'py>, photos: Vec<Vec<u8>>) -> PyResult<Vec<Answer<'py>>> {
        let photos: Vec<Bytes> = photos.into_iter().map(Bytes::from).collect();
        let workers = Arc::clone(&self.workers);
        let answers = wait(py, async move { features(&workers, photos).await })?;
        let row = |features: Vec<f32>| {
            let bytes: Vec<u8> = features.into_iter().flat_map(f32::to_le_bytes).collect();
            PyBytes::new(py, &bytes)
        };
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Ok(features) => (Some(row(features)), None),
                Err(reject) => (None, Some((reject.reason.to_string(), reject.detail))),
            })
            .collect())
    }
}

/// The features of photos, in their order.
pub(crate) async fn features(
    workers: &WorkerPool,
    photos: Vec<Bytes>,
) -> pomona::Result<Vec<Result<Vec<f32>, Reject>>> {
    let each = stream::iter(photos).map(|photo| workers.features(photo));
    each.buffered(2 * workers.threads()).try_collect().await
}
