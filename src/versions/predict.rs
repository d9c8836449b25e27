//! Predictions for images that are in no version, and the labels of a version that are probably wrong.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use ndarray::Array2;
use serde::Serialize;

use super::{
    find::{self, Finder},
    neighbours::{Neighbour, Query, neighbours, neighbours_by},
};
use crate::{
    Error, ErrorKind, Result,
    classify::Classifier,
    compiled_once,
    dataset::{
        self, Classification, ClassifierSummary, Manifest,
        blocking::run_blocking,
        contents,
        tables::{self, PredictionRow},
    },
    image::Reject,
    model::ExtractorInfo,
    store::Store,
};

/// Records of shards that are read at a time.
const CONCURRENCY: usize = 4;

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Likely {
    /// The label.
    pub label: String,
    /// Its probability.
    pub probability: f64,
}

/// What the classifier says about a photo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The photo, as it was named.
    pub path: String,
    /// The most probable class. None if the photo has no features.
    pub label: Option<String>,
    /// Its probability.
    pub probability: Option<f64>,
    /// The next class.
    pub second: Option<Likely>,
    /// `unlike_anything_seen` if the photo is farther from all classes than 99.9 % of the training images; or the reason why
    /// it has no features, as in the table of rejects.
    pub problem: Option<String>,
    /// What is wrong with it.
    pub detail: Option<String>,
    /// The distance from the nearest class, divided by that of 99.9 % of the training images.
    pub distance: Option<f64>,
    /// The most similar images of the data set.
    pub neighbours: Vec<Neighbour>,
}

/// The name of the problem of a photo that resembles no class.
pub const UNLIKE: &str = "unlike_anything_seen";

/// The features of a photo, or the reason why it has none.
pub type Photo = (String, std::result::Result<Vec<f32>, Reject>);

/// The classifier of a version.
#[derive(Debug)]
pub struct Predictor {
    finder: Arc<Finder>,
    classifier: Arc<Classifier>,
}

/// The summary of a version's classifier. Fails with `Classifier.Missing` if it has none.
pub fn fitted(version: &Manifest) -> Result<&ClassifierSummary> {
    if let Some(summary) = version.classifier.as_ref().and_then(Classification::fitted) {
        return Ok(summary);
    }
    let why = match &version.classifier {
        Some(Classification::None { reason }) => reason.text(),
        _ => "a release of Pomona without classifiers made it",
    };
    let message = format!("the version has no classifier: {why}");
    Err(Error::new(ErrorKind::ClassifierMissing, message).context("version", version.version))
}

impl Predictor {
    /// Opens the classifier of a version. Fails with `Classifier.Missing`.
    #[compiled_once]
    pub async fn open(output: Arc<dyn Store>, version: Manifest) -> Result<Self> {
        Predictor::of(Arc::new(Finder::new(output, version))).await
    }

    /// Opens the classifier of the version that `finder` searches, and has it find the neighbours: both use one index. Fails
    /// with `Classifier.Missing`.
    #[compiled_once]
    pub async fn of(finder: Arc<Finder>) -> Result<Self> {
        fitted(finder.version())?;
        let classifier = contents::classifier(finder.output(), finder.version()).await?;
        let missing = || Error::new(ErrorKind::ClassifierMissing, "the version has no classifier");
        let classifier = Arc::new(classifier.ok_or_else(missing)?);
        Ok(Predictor { finder, classifier })
    }

    /// Fails with `Classifier.OtherModel` if the classifier was not fitted to features of this extractor.
    pub fn check(&self, extractor: &ExtractorInfo) -> Result<()> {
        let message = "the classifier was fitted to features of another model, or of another release of Pomona";
        find::same_model((&self.finder.version().extractor, "fitted to"), extractor, message)
    }

    /// The `most` most probable classes for features, the most probable first. Fails with `Input.Invalid` if they are those of
    /// another model.
    #[compiled_once]
    pub async fn likely(&self, features: &[f32], most: usize) -> Result<Vec<Likely>> {
        let row = Array2::from_shape_vec((1, features.len()), features.to_vec()).unwrap_or_default();
        if row.ncols() != self.classifier.columns() {
            return Err(Error::new(ErrorKind::InputInvalid, "these are features of another model"));
        }
        let classifier = Arc::clone(&self.classifier);
        let ranked = run_blocking(move || Ok(classifier.likely(row.view(), most))).await?;
        let named = ranked.into_iter().flatten().map(|ranked| Likely {
            label: self.classifier.classes.get(ranked.class).map(|class| class.label.clone()).unwrap_or_default(),
            probability: ranked.probability,
        });
        Ok(named.collect())
    }

    /// The answers for photos, in their order, with up to `count` neighbours each.
    #[compiled_once]
    pub async fn answers(&self, photos: Vec<Photo>, count: usize) -> Result<Vec<Answer>> {
        let columns = self.finder.version().extractor.columns;
        let mut values = Vec::new();
        for features in photos.iter().filter_map(|(_, features)| features.as_ref().ok()) {
            values.extend_from_slice(features);
        }
        let rows = values.len() / columns.max(1);
        let features = Array2::from_shape_vec((rows, columns), values)
            .map_err(|e| Error::new(ErrorKind::InternalBug, "photos have features of another model").source(e))?;
        let queries = features.outer_iter().map(|row| Query { features: row.to_vec(), except: None, label: None });
        let near = neighbours_by(&self.finder, queries.collect(), count).await?;
        let classifier = Arc::clone(&self.classifier);
        let said =
            run_blocking(move || Ok((classifier.predict(features.view()), classifier.distances(features.view()))));
        let (predictions, distances) = said.await?;
        let mut said = predictions.into_iter().zip(distances).zip(near);
        let name =
            |class: usize| self.classifier.classes.get(class).map(|class| class.label.clone()).unwrap_or_default();
        let answers = photos.into_iter().map(|(path, features)| {
            let mut answer = Answer {
                path,
                label: None,
                probability: None,
                second: None,
                problem: None,
                detail: None,
                distance: None,
                neighbours: Vec::new(),
            };
            match features {
                Err(reject) => {
                    answer.problem = Some(reject.reason.name().to_owned());
                    answer.detail = Some(reject.detail);
                }
                Ok(_) => {
                    let Some(((prediction, distance), near)) = said.next() else { return answer };
                    answer.label = Some(name(prediction.first.class));
                    answer.probability = Some(prediction.first.probability);
                    answer.second = prediction
                        .second
                        .map(|second| Likely { label: name(second.class), probability: second.probability });
                    answer.problem = (distance > self.classifier.familiar).then(|| UNLIKE.to_owned());
                    answer.distance = (self.classifier.familiar > 0.0).then(|| distance / self.classifier.familiar);
                    answer.neighbours = near;
                }
            }
            answer
        });
        Ok(answers.collect())
    }
}

/// An image whose label is probably wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// Its key, relative to the input.
    pub path: String,
    /// Its label.
    pub label: String,
    /// What the model without its fold predicts.
    pub predicted: String,
    /// The probability of that class.
    pub probability: f64,
    /// The probability of the label.
    pub label_probability: f64,
    /// The most similar images with the same label.
    pub nearest_of_label: Vec<Neighbour>,
    /// The most similar images with the predicted label.
    pub nearest_of_predicted: Vec<Neighbour>,
}

/// The suspects of a version, the most suspect first, with `near` images of both classes for the first `detailed` ones.
///
/// Fails with `Classifier.Missing`, and with `Dataset.Corrupt`.
#[compiled_once]
pub async fn suspects(output: &dyn Store, version: &Manifest, detailed: usize, near: usize) -> Result<Vec<Suspect>> {
    fitted(version)?;
    let rows = contents::suspects(output, version, usize::MAX).await?;
    let first = &rows[..detailed.min(rows.len())];
    let features = features_of(output, version, first).await?;
    let mut queries = Vec::with_capacity(2 * first.len());
    for row in first {
        let missing = || {
            Error::new(ErrorKind::DatasetCorrupt, "an image has a prediction but no features")
                .context("path", &row.path)
        };
        let features = features.get(&row.path).ok_or_else(missing)?;
        for label in [row.label.clone(), Some(row.predicted.clone())] {
            queries.push(Query { features: features.clone(), except: Some(row.path.clone()), label });
        }
    }
    let mut found = neighbours(output, version, queries, near).await?.into_iter();
    let suspects = rows.into_iter().map(|row| Suspect {
        nearest_of_label: found.next().unwrap_or_default(),
        nearest_of_predicted: found.next().unwrap_or_default(),
        label: row.label.unwrap_or_default(),
        path: row.path,
        predicted: row.predicted,
        probability: row.probability,
        label_probability: row.label_probability.unwrap_or_default(),
    });
    Ok(suspects.collect())
}

/// The features of some images of a version.
async fn features_of(
    output: &dyn Store,
    version: &Manifest,
    images: &[PredictionRow],
) -> Result<HashMap<String, Vec<f32>>> {
    let wanted = Arc::new(images.iter().map(|image| image.path.clone()).collect::<std::collections::BTreeSet<_>>());
    let shards = contents::shards(output, version).await?;
    let inside = |shard: &dataset::ShardEntry| wanted.range(shard.first.clone()..=shard.last.clone()).next().is_some();
    let tables = shards.iter().filter(|shard| inside(shard)).filter_map(dataset::ShardEntry::features);
    let reads: Vec<_> = tables
        .map(|file| {
            let wanted = Arc::clone(&wanted);
            async move {
                let (body, extractor) = (file.read(output).await?, version.extractor.clone());
                run_blocking(move || {
                    let rows = tables::read_labelled_features(body, &extractor, &file.key)?;
                    let rows = rows.paths.into_iter().zip(rows.features.outer_iter());
                    let found = rows.filter(|(path, _)| wanted.contains(path));
                    Ok(found.map(|(path, row)| (path, row.to_vec())).collect::<Vec<_>>())
                })
                .await
            }
        })
        .collect();
    let read: Vec<Vec<(String, Vec<f32>)>> = stream::iter(reads).buffer_unordered(CONCURRENCY).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}
