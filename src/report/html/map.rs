//! The map: every image in the plane of two components. The script draws the points, and finds neighbours.

use maud::{Markup, PreEscaped, html};

use super::{Content, charts::LABELS, colour, shown_label};
use crate::{
    Result,
    report::{
        plots::{Corners, PALETTE, Scatter},
        points::POINTS,
        text::{count, counted, percent},
    },
};

/// Scatter plots of the first two pairs of components.
pub(super) fn map(content: &Content<'_>) -> Result<Markup> {
    let mut plots = Vec::new();
    for (plot, first) in [0, 2].into_iter().filter_map(|first| Some((content.scatter(first)?, first))) {
        plots.push(scatter(content, &plot, first)?);
    }
    Ok(html! {
        section #map {
            h2 { "Map of the images" }
            p { (drawn(content)) " Similar images are close to each other. Click or tap a point for its nearest neighbours." }
            noscript { p { "The points need JavaScript." } }
            @if content.manifest.labels.len() > 1 { (filter(content)) }
            form #find hidden {
                label { "Find by path " input type="search" name="text" autocomplete="off" spellcheck="false"; }
                " " button type="submit" { "Find" } " " span role="status" {}
            }
            @for plot in plots { (plot) }
            div #selected hidden tabindex="-1" role="region" aria-label="Selected image" {}
            p .quiet { (measured(content)) }
        }
    })
}

/// Whether all images are drawn.
fn drawn(content: &Content<'_>) -> Markup {
    let (shown, images) = (content.points.paths.len() as u64, content.manifest.images);
    html! {
        @if shown >= images {
            "All " (counted(images, "image")) " are drawn."
        } @else {
            "A sample of " (count(shown)) " of " (count(images)) " images is drawn, evenly spread over the keys: the page has "
            "room for " (count(POINTS as u64)) "."
        }
    }
}

/// What the distances of neighbours are.
fn measured(content: &Content<'_>) -> Markup {
    let (basis, columns) = (&content.manifest.basis, content.points.columns);
    let share: f64 = basis.explained_variance_ratio.iter().take(columns).sum();
    html! {
        "Neighbours are the drawn images with the smallest Euclidean distance of their scores in the first "
        (counted(columns as u64, "component")) " of " (count(basis.components as u64)) ", which explain " (percent(share))
        " of the variance. " code { "pomona search OUTPUT --like PATH" } " compares all features of all images."
    }
}

fn filter(content: &Content<'_>) -> Markup {
    let labels = &content.manifest.labels;
    html! {
        fieldset .filter {
            legend { "Labels" }
            button type="button" data-all="1" { "all" }
            button type="button" data-all="" { "none" }
            @for (i, label) in labels.iter().enumerate().take(LABELS) {
                label {
                    input type="checkbox" checked data-label=(i);
                    i style=(format!("background:{}", colour(i))) {}
                    bdi { (shown_label(label.label.as_deref())) }
                }
            }
            @if labels.len() > LABELS {
                label {
                    input type="checkbox" checked data-label="rest";
                    "the " (count((labels.len() - LABELS) as u64)) " other labels"
                }
            }
            @if labels.len() > PALETTE.len() { p { "Colours repeat after " (PALETTE.len()) " labels." } }
        }
    }
}

/// The axes as plotters draws them, below a canvas for the points.
fn scatter(content: &Content<'_>, plot: &Scatter, first: usize) -> Result<Markup> {
    let (svg, Corners { lowest, highest }) = plot.svg()?;
    let corners = format!("{} {} {} {}", lowest.0, lowest.1, highest.0, highest.1);
    let images = counted(content.points.paths.len() as u64, "image");
    let label = format!(
        "Map of {images} by the components {first} and {}. Arrow keys go to the next image in a direction, Escape ends the selection.",
        first + 1
    );
    Ok(html! {
        figure .plot .scatter data-first=(first) data-corners=(corners) {
            (PreEscaped(svg))
            canvas tabindex="0" role="application" aria-label=(label) {}
        }
    })
}
