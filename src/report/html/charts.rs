//! The charts of the page: explained variance, images per label.

use maud::{Markup, PreEscaped, html};

use super::{Content, colour, shown_label};
use crate::{
    Result,
    report::text::{count, counted, percent},
};

/// Labels in the filter and in the list of counts.
pub(super) const LABELS: usize = 200;
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
            figure .plot role="img" aria-label="Scree plot: the share of the variance of each component" { (PreEscaped(svg)) }
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
