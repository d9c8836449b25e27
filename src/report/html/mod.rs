//! The page of a run as HTML: one function per section.
//!
//! maud escapes every text. Paths and labels come from users and may contain markup, and characters that a reader does not
//! see: print them with [`shown`] or [`shown_label`].

mod charts;
mod classes;
mod findings;
mod map;
mod run;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{
    Content, Media,
    pictures::{Sheet, Size},
    plots::PALETTE,
};
use crate::{
    Result,
    dataset::{Searched, newest},
    error::escape_invisible,
    report::text::{count, counted, label_name, percent},
};

const STYLE: &str = include_str!("../style.css");
const SCRIPT: &str = include_str!("../script.js");

/// The whole page.
pub(super) fn page(content: &Content<'_>, media: &Media) -> Result<String> {
    let (manifest, name) = (content.manifest, name_of(&content.manifest.input));
    let title = format!("{}: version {} of {}", name, manifest.version.0, counted(manifest.images, "image"));
    // The page loads nothing, and the browser runs no script but this one.
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        STANDARD.encode(Sha256::digest(SCRIPT))
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name=(newest::META) content=(manifest.version.0);
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (shown(&title)) }
                style { (PreEscaped(STYLE)) }
                @for sheet in [&media.large, &media.small] { (sheet_style(sheet)) }
            }
            body {
                header {
                    h1 { bdi { (shown(&name)) } }
                    p { (head_line(content)) }
                }
                main {
                    (cards(content))
                    (findings::duplicates(content, media))
                    (findings::suspects(content, media))
                    (findings::outliers(content, media))
                    (findings::rejects(content, media))
                    (classes::classifier(content))
                    (map::map(content)?)
                    (charts::variance(content)?)
                    (charts::labels(content))
                    (run::timeline(content))
                    (run::receipt(content))
                    (run::settings(content))
                }
                footer { p { "Written by Pomona " (manifest.pomona) ". This page loads nothing from the network." } }
                div #card hidden { span .pic {} div { bdi .path {} bdi .label {} } }
                (data(content, media))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// The data for the script. Base64 and numbers contain no markup.
fn data(content: &Content<'_>, media: &Media) -> Markup {
    html! {
        script #about type="application/json" data-version=(content.manifest.version.0) {
            (PreEscaped(&media.embedded.about))
        }
        script #points type="application/octet-stream" { (PreEscaped(&media.embedded.points)) }
        script #texts type="application/octet-stream" { (PreEscaped(&media.embedded.texts)) }
    }
}

fn sheet_style(sheet: &Sheet) -> Markup {
    if sheet.address.is_empty() {
        return html! {};
    }
    html! { style { (PreEscaped(format!(":root{{--{}:url({})}}", class_of(sheet.size()), sheet.address))) } }
}

/// The name of the data set: the last part of the location of its images. `images` alone says nothing, so the part before
/// it is added.
fn name_of(input: &str) -> String {
    let path = input.split_once("://").map_or(input, |(_, path)| path);
    let mut parts = path.split(['/', '\\']).filter(|part| !part.is_empty()).rev();
    match (parts.next(), parts.next()) {
        (Some("images"), Some(parent)) => format!("{parent}/images"),
        (Some(name), _) => name.to_owned(),
        (None, _) => "Images".to_owned(),
    }
}

fn head_line(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let finished = manifest.finished.strftime("%Y-%m-%d %H:%M");
    html! {
        "Version " (manifest.version.0) ": " (counted(manifest.images, "image")) " from " bdi { (shown(&manifest.input)) }
        ", finished " (finished) " UTC"
    }
}

/// The results in numbers. What was not searched has no number.
fn cards(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let found = content.found.duplicates.as_ref().filter(|found| found.searched != Searched::Nothing);
    let across = |of: fn(&crate::dataset::Duplicates) -> u64| found.map(|found| count(of(found)));
    let outliers = content.found.outliers.as_ref().filter(|found| found.threshold.is_some());
    let learned = content.learned.as_ref();
    let cards = [
        (Some(count(manifest.images)), "images", "map"),
        (Some(count(manifest.labels.len() as u64)), "labels", "labels"),
        (across(|found| found.groups), "groups of duplicates", "duplicates"),
        (across(|found| found.across_labels), "of them across labels", "duplicates"),
        (across(|found| found.across_splits), "of them across splits", "duplicates"),
        (learned.map(|learned| count(learned.suspects)), "suspect labels", "suspects"),
        (outliers.map(|found| count(found.rows)), "outliers", "outliers"),
        (Some(count(manifest.rejects)), "rejects", "rejects"),
        (learned.map(|learned| percent(learned.evaluation.accuracy)), "predicted as labelled", "classifier"),
    ];
    html! {
        ul .cards {
            @for (value, what, section) in cards {
                li {
                    @match value {
                        Some(value) => a href=(format!("#{section}")) { strong { (value) } " " span { (what) } },
                        None => { strong { "–" } " " span { (what) ": not searched" } }
                    }
                }
            }
        }
    }
}

/// The colour of a label in plots and lists, as CSS.
fn colour(label: usize) -> String {
    let (r, g, b) = PALETTE[label % PALETTE.len()];
    format!("rgb({r},{g},{b})")
}

/// A name as readers see it: maud escapes markup, this escapes invisible characters.
fn shown(name: &str) -> Cow<'_, str> {
    escape_invisible(name)
}

/// The name of a label as readers see it.
fn shown_label(label: Option<&str>) -> Cow<'_, str> {
    shown(label_name(label))
}

fn class_of(size: Size) -> &'static str {
    match size {
        Size::Large => "large",
        Size::Small => "small",
    }
}

/// The large preview of an image of a finding, or an empty frame. Its name is beside it, or in its title.
fn picture(media: &Media, path: &str) -> Markup {
    let (name, place) = (shown(path), media.large.place(path).or_else(|| media.small.place(path)));
    match place {
        Some(place) => {
            let kind = format!("pic {}", class_of(place.size));
            html! { span class=(kind) role="img" aria-label=(name) title=(name) style=(format!("background-position:{}", place.position)) {} }
        }
        None => html! { span .pic .none title=(name) { "no preview" } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_has_the_name_of_its_folder() {
        for (input, name) in [
            ("/home/me/fruits-360", "fruits-360"),
            ("/home/me/demo/images/", "demo/images"),
            ("s3://bucket/", "bucket"),
            ("s3://bucket/photos/2026/", "2026"),
            ("s3://bucket/images/", "bucket/images"),
            ("images", "images"),
            ("/", "Images"),
        ] {
            assert_eq!(name_of(input), name, "{input}");
        }
    }
}
