//! What is served, for clients.

use serde::Serialize;

use super::{api::Limits, opened::Opened};
use crate::dataset::{Classification, LabelCount};

#[derive(Serialize)]
pub(super) struct About<'a> {
    /// Release of the program that answers.
    pomona: &'static str,
    version: u64,
    /// When the version was published.
    published: String,
    images: u64,
    rejects: u64,
    labels: &'a [LabelCount],
    classifier: Option<Classes>,
    model: Model<'a>,
    /// Whether searches use an index. Without one, each reads all features.
    index: bool,
    limits: Limits,
}

#[derive(Serialize)]
struct Classes {
    classes: u64,
    /// Training images, and those among them that a model which has not seen them gets right.
    images: u64,
    correct: u64,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    extractor: &'a str,
    features: usize,
    components: usize,
}

/// Describes an open version.
pub(super) fn about(opened: &Opened, limits: Limits) -> About<'_> {
    let version = opened.version();
    let fitted = version.classifier.as_ref().and_then(Classification::fitted);
    About {
        pomona: env!("CARGO_PKG_VERSION"),
        version: version.version.0,
        published: version.finished.to_string(),
        images: version.images,
        rejects: version.rejects,
        labels: &version.labels,
        classifier: fitted.map(|fitted| Classes {
            classes: fitted.classes,
            images: fitted.images,
            correct: fitted.correct,
        }),
        model: Model {
            name: &version.extractor.model,
            extractor: version.extractor.id.as_str(),
            features: version.extractor.columns,
            components: version.basis.components,
        },
        index: version.index.is_some(),
        limits,
    }
}
