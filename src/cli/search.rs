//! `pomona search`

use std::sync::Arc;

use crate::{
    Error, ErrorKind, Result, dataset,
    versions::find::{Finder, Hit, Query},
};

use super::{
    args::{Format, SearchArgs, SpaceArg},
    format,
    local_model::{self, LocalModel},
    open,
    out::{note, out},
    pictures::{self, Protocol},
    predict, print_json, run,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 100;
/// Longest label.
const LABEL: usize = 40;

pub(crate) async fn search(args: SearchArgs) -> Result<()> {
    let (output, version) = open::version(&args.output, args.version).await?;
    let images = version.images;
    let finder = Finder::new(Arc::clone(&output), version);
    let features = match (&args.like, &args.photo) {
        (Some(path), _) => finder.features_of(path).await?,
        (None, Some(photo)) => features(&args, photo, &finder).await?,
        (None, None) => return Err(Error::new(ErrorKind::InputInvalid, "there is no photo to search for")),
    };
    let query = Query {
        label: args.label.clone(),
        except: args.like.clone(),
        ..Query::new(features, args.count, args.metric.metric())
    };
    let hits = match args.space {
        SpaceArg::Features => {
            if !finder.has_index() {
                note(
                    "note: this version has no search index, so all features are read; `pomona run` without --no-index makes one",
                );
            }
            finder.nearest(&query).await?
        }
        SpaceArg::Scores => {
            let scores = finder.scores_of(query.features.clone()).await?;
            finder.nearest_by_scores(&Query { features: scores, ..query }).await?
        }
    };
    match args.format.format() {
        Format::Json => print_json(&hits),
        Format::Text => {
            if let Some(protocol) = Protocol::wanted(args.pictures) {
                out(&pictures::strips(protocol, &finder.version().input, &output, &hits).await)?;
            }
            out(&text(&hits, images, args.label.as_deref()))
        }
    }
}

/// The features of a photo.
async fn features(args: &SearchArgs, photo: &str, finder: &Finder) -> Result<Vec<f32>> {
    let info = &finder.version().extractor;
    let (model, kept) = match local_model::optional(args.model.as_deref()).await? {
        None => (None, dataset::extractor_file(finder.output(), &info.recipe()).await?),
        model => (model, None),
    };
    let workers = run::workers_for(model.as_ref().map(LocalModel::path), args.engine, Some(1), (info, kept))?;
    finder.check(workers.extractor().info())?;
    let (name, features) = predict::features_of(&workers, photo).await?;
    features.map_err(|reject| {
        Error::new(ErrorKind::InputInvalid, "the photo cannot be read as an image")
            .context("photo", name)
            .context("reason", format!("{}: {}", reject.reason, reject.detail))
    })
}

fn text(hits: &[Hit], images: u64, label: Option<&str>) -> String {
    if hits.is_empty() {
        let of_label = label.map_or_else(String::new, |label| format!(" with label {}", format::shorten(label, LABEL)));
        return format!("Nothing found among {}{of_label}\n", format::counted(images, "image"));
    }
    let rows = hits.iter().map(|hit| {
        let label = format::shorten(hit.label.as_deref().unwrap_or("-"), LABEL);
        vec![format!("{:.4}", hit.distance), format::shorten(&hit.path, KEY), label]
    });
    format::table(&rows.collect::<Vec<_>>(), 3)
}
