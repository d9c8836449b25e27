//! An open version: what answers need of it, in memory.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    Error, ErrorKind, Result,
    dataset::{Classification, Manifest},
    ids::ExtractorId,
    image::Reject,
    model::WorkerPool,
    search::Metric,
    versions::{
        find::{Finder, Hit, Query},
        neighbours::Neighbour,
        predict::{Likely, Predictor},
    },
};

/// Most probable classes of an answer.
const CLASSES: usize = 5;

/// A version with its basis and its classifier. The search index is opened by the first request that needs it.
#[derive(Debug)]
pub struct Opened {
    finder: Arc<Finder>,
    /// None if the version has no classifier.
    predictor: Option<Predictor>,
    workers: Arc<WorkerPool>,
}

/// What is on a photo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Predicted {
    /// Number of the version that answers.
    pub(super) version: u64,
    /// The most probable class.
    pub(super) label: Option<String>,
    pub(super) probability: Option<f64>,
    /// The most probable classes, the first of them included.
    pub(super) likely: Vec<Likely>,
    /// `unlike_anything_seen`, or nothing.
    pub(super) problem: Option<String>,
    /// The distance from the nearest class, divided by that of 99.9 % of the training images.
    pub(super) distance: Option<f64>,
    /// The first two scores: a place on the map.
    pub(super) place: [f32; 2],
    pub(super) neighbours: Vec<Neighbour>,
}

/// Images that are like a query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Similar {
    /// Number of the version that answers.
    pub(super) version: u64,
    pub(super) images: Vec<Hit>,
}

/// The features of a photo, and what computed them.
#[derive(Clone, Debug)]
pub(super) struct Features {
    extractor: ExtractorId,
    values: Vec<f32>,
}

/// A search without its query.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) count: usize,
    pub(super) metric: Metric,
    pub(super) label: Option<String>,
}

impl Opened {
    /// Reads basis and classifier of a version.
    pub(super) async fn open(finder: Finder, workers: Arc<WorkerPool>) -> Result<Self> {
        let has_classifier = finder.version().classifier.as_ref().and_then(Classification::fitted).is_some();
        let finder = Arc::new(finder);
        let classifier =
            async { if has_classifier { Predictor::of(Arc::clone(&finder)).await.map(Some) } else { Ok(None) } };
        let (predictor, _) = futures::try_join!(classifier, finder.basis())?;
        Ok(Opened { finder, predictor, workers })
    }

    /// The version.
    pub fn version(&self) -> &Manifest {
        self.finder.version()
    }

    /// The extractor and its threads.
    pub(super) fn workers(&self) -> &Arc<WorkerPool> {
        &self.workers
    }

    fn number(&self) -> u64 {
        self.version().version.0
    }

    /// The features of a photo. Fails with `Classifier.OtherModel` if the workers have another model than the version.
    pub(super) async fn features(&self, photo: bytes::Bytes) -> Result<std::result::Result<Features, Reject>> {
        self.finder.check(self.workers.extractor().info())?;
        let extractor = self.version().extractor.id.clone();
        let features = self.workers.features(photo).await?;
        Ok(features.map(|values| Features { extractor, values }))
    }

    /// The values of features. Fails with `Dataset.Busy`, so that clients try again, if they were computed for another version
    /// that has another model.
    fn own(&self, features: Features) -> Result<Vec<f32>> {
        if features.extractor == self.version().extractor.id {
            return Ok(features.values);
        }
        Err(Error::new(ErrorKind::DatasetBusy, "a version with another model has been published; send the photo again"))
    }

    /// What is on a photo. Fails with `Classifier.Missing`.
    pub(super) async fn predict(&self, features: Features, count: usize) -> Result<Predicted> {
        let features = self.own(features)?;
        let Some(predictor) = &self.predictor else {
            crate::versions::predict::fitted(self.version())?;
            return Err(Error::new(ErrorKind::ClassifierMissing, "the version has no classifier"));
        };
        let likely = predictor.likely(&features, CLASSES).await?;
        let scores = self.finder.scores_of(features.clone()).await?;
        let answers = predictor.answers(vec![(String::new(), Ok(features))], count).await?;
        let missing = || Error::new(ErrorKind::InternalBug, "a photo has no answer");
        let answer = answers.into_iter().next().ok_or_else(missing)?;
        let score = |component: usize| scores.get(component).copied().unwrap_or_default();
        Ok(Predicted {
            version: self.number(),
            label: answer.label,
            probability: answer.probability,
            likely,
            problem: answer.problem,
            distance: answer.distance,
            place: [score(0), score(1)],
            neighbours: answer.neighbours,
        })
    }

    /// The images that are nearest to features.
    pub(super) async fn search(&self, features: Features, wanted: &Wanted) -> Result<Similar> {
        self.nearest(self.own(features)?, wanted, None).await
    }

    /// The images that are nearest to one of the version. Fails with `Input.UnknownKey`.
    pub(super) async fn search_like(&self, path: &str, wanted: &Wanted) -> Result<Similar> {
        let features = self.finder.features(path).await?;
        let unknown =
            || Error::new(ErrorKind::InputUnknownKey, "the version has no features of this image").context("key", path);
        self.nearest(features.ok_or_else(unknown)?, wanted, Some(path)).await
    }

    async fn nearest(&self, features: Vec<f32>, wanted: &Wanted, except: Option<&str>) -> Result<Similar> {
        let query = Query {
            label: wanted.label.clone(),
            except: except.map(str::to_owned),
            ..Query::new(features, wanted.count, wanted.metric)
        };
        Ok(Similar { version: self.number(), images: self.finder.nearest(&query).await? })
    }
}
