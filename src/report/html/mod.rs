//! The page of a run as HTML: one function per section.
//!
//! maud escapes every text. Paths and labels come from users and may contain markup, and characters that a reader does not
//! see: print them with [`shown`] or [`shown_label`].

mod charts;
mod classes;
mod findings;
mod run;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{Content, plots::PALETTE};
use crate::{
    Result,
    error::escape_invisible,
    report::text::{count, counted, dollars, duration, label_name, percent},
};

const STYLE: &str = include_str!("../style.css");
const SCRIPT: &str = include_str!("../script.js");

/// The whole page.
pub(super) fn page(content: &Content<'_>) -> Result<String> {
    let manifest = content.manifest;
    let title = format!("Pomona: version {} of {}", manifest.version.0, counted(manifest.images, "image"));
    // The page loads nothing, and the browser runs no script but this one.
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        STANDARD.encode(Sha256::digest(SCRIPT))
    );
    let sheet = format!(":root{{--sheet:url({})}}", content.sheet.address);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
                @if !content.sheet.address.is_empty() { style { (PreEscaped(sheet)) } }
            }
            body {
                header {
                    h1 { "Version " (manifest.version.0) }
                    p { (head_line(content)) }
                }
                main {
                    (cards(content))
                    (charts::variance(content)?)
                    (charts::map(content)?)
                    (classes::classifier(content))
                    (findings::nearest(content))
                    (findings::outliers(content))
                    (findings::duplicates(content))
                    (findings::rejects(content))
                    (charts::labels(content))
                    (run::timeline(content))
                    (run::receipt(content))
                    (run::settings(content))
                }
                footer { p { "Written by Pomona " (manifest.pomona) ". This page loads nothing from the network." } }
                div #card hidden { span .pic {} div { bdi .path {} bdi .label {} } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

fn head_line(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let finished = manifest.finished.strftime("%Y-%m-%d %H:%M");
    html! { (counted(manifest.images, "image")) " from " bdi { (shown(&manifest.input)) } ", finished " (finished) " UTC" }
}

fn cards(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let explained: f64 = manifest.basis.explained_variance_ratio.iter().sum();
    let components = counted(manifest.basis.components as u64, "component");
    let cost = if content.receipt.billed() { "for compute and requests" } else { "estimated cost on AWS" };
    let cards = [
        (count(manifest.images), "images with features".to_owned()),
        (count(manifest.figures.inferred), "through the model in this run".to_owned()),
        (count(manifest.labels.len() as u64), "labels".to_owned()),
        (count(manifest.rejects), "rejects".to_owned()),
        (percent(explained), format!("of the variance in {components}")),
        (duration(manifest.seconds()), "total time".to_owned()),
        (dollars(content.receipt.dollars.total), cost.to_owned()),
    ];
    html! {
        ul .cards {
            @for (value, what) in cards { li { strong { (value) } " " span { (what) } } }
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

/// A preview of an image, or an empty frame.
fn picture(content: &Content<'_>, path: &str) -> Markup {
    let name = shown(path);
    match content.sheet.position(path) {
        Some(position) => html! { span .pic title=(name) style=(format!("background-position:{position}")) {} },
        None => html! { span .pic .none title=(name) { "no preview" } },
    }
}
