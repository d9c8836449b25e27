//! The charts of the page: explained variance, scatter plots with their filter, images per label.

use maud::{Markup, PreEscaped, html};

use super::{Content, colour, shown, shown_label};
use crate::{
    Result,
    report::{
        plots::{PALETTE, Scatter},
        text::{count, counted, percent},
    },
};

/// Labels in the filter and in the list of counts.
const LABELS: usize = 200;
/// Components in the table.
const COMPONENTS: usize = 10;

pub(super) fn variance(content: &Content<'_>) -> Result<Markup> {
    let basis = &content.manifest.basis;
    let svg = content.scree.svg()?;
    Ok(html! {
        section #variance {
            h2 { "Explained variance" }
            p {
                (counted(basis.components as u64, "component")) " explain "
                (percent(basis.explained_variance_ratio.iter().sum())) " of the variance. 90 % needs "
                (counted(basis.components_for_90_percent as u64, "component")) ", 99 % needs "
                (count(basis.components_for_99_percent as u64)) ". "
                @if content.scree.shown() > basis.components { "Grey bars are components that were not kept. " }
                @if basis.constant_columns > 0 {
                    (basis.constant_columns) " of " (basis.columns) " features are constant and have no influence."
                }
            }
            figure .plot role="img" aria-label="Scree plot" { (PreEscaped(svg)) }
            details {
                summary { "Table of the first components" }
                (components(content))
            }
        }
    })
}

fn components(content: &Content<'_>) -> Markup {
    let basis = &content.manifest.basis;
    let cumulative = basis.explained_variance_ratio.iter().scan(0.0, |sum, share| {
        *sum += share;
        Some(*sum)
    });
    let rows = basis.explained_variance.iter().zip(&basis.explained_variance_ratio).zip(cumulative);
    html! {
        table {
            thead { tr { th { "component" } th { "variance" } th { "share" } th { "cumulative" } } }
            tbody {
                @for (i, ((variance, share), cumulative)) in rows.take(COMPONENTS).enumerate() {
                    tr {
                        td { "pc_" (i) } td { (format!("{variance:.3}")) }
                        td { (percent(*share)) } td { (percent(cumulative)) }
                    }
                }
            }
        }
    }
}

/// Scatter plots of the first two pairs of components.
pub(super) fn map(content: &Content<'_>) -> Result<Markup> {
    let images = content.manifest.images;
    let mut plots = Vec::new();
    for plot in [0, 2].into_iter().filter_map(|first| content.scatter(first)) {
        plots.push(scatter(content, &plot)?);
    }
    let shown = content.points.len() as u64;
    Ok(html! {
        section #map {
            h2 { "Scatter plot of the components" }
            p {
                "Each point is an image; similar images are close to each other. "
                @if shown < images { (count(shown)) " of " (count(images)) " images are drawn, evenly spread over the keys. " }
                "Move the pointer over a point to see its image."
            }
            @if content.manifest.labels.len() > 1 { (filter(content)) }
            @for plot in plots { (plot) }
        }
    })
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
            @if labels.len() > PALETTE.len() { p { "Colours repeat after " (PALETTE.len()) " labels." } }
        }
    }
}

/// The axes as plotters draws them; the points are added here, because they carry data.
fn scatter(content: &Content<'_>, plot: &Scatter) -> Result<Markup> {
    let (svg, places) = plot.svg()?;
    Ok(html! {
        figure .plot .scatter {
            (PreEscaped(svg.trim_end().trim_end_matches("</svg>")))
            @for ((place, point), row) in places.iter().zip(&plot.points).zip(&content.points) {
                (point_of(content, *row, *place, point.2))
            }
            (PreEscaped("</svg>"))
        }
    })
}

fn point_of(content: &Content<'_>, row: usize, (x, y): (i32, i32), label: usize) -> Markup {
    let path = &content.sample.paths[row];
    let picture = content.sheet.position(path).unwrap_or_default();
    html! {
        circle .point cx=(x) cy=(y) r="4" fill=(colour(label)) data-label=(label) data-path=(shown(path))
            data-name=(shown(content.label_of(row))) data-picture=(picture) {}
    }
}

pub(super) fn labels(content: &Content<'_>) -> Markup {
    let labels = &content.manifest.labels;
    let most = labels.iter().map(|label| label.images).max().unwrap_or(1).max(1);
    let bar =
        |i: usize, images: u64| format!("width:{:.1}%;background:{}", images as f64 * 100.0 / most as f64, colour(i));
    html! {
        section #labels {
            h2 { "Images per label" }
            table .bars {
                @for (i, label) in labels.iter().enumerate().take(LABELS) {
                    tr {
                        th scope="row" { bdi { (shown_label(label.label.as_deref())) } }
                        td .number { (count(label.images)) }
                        td { i style=(bar(i, label.images)) {} }
                    }
                }
            }
            @if labels.len() > LABELS { p { "and " (count((labels.len() - LABELS) as u64)) " more" } }
        }
    }
}
