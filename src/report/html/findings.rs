//! The findings on the page: nearest neighbours, outliers, near-duplicates and rejects.

use maud::{Markup, html};

use super::{Content, picture, shown};
use crate::report::{
    LISTED, REJECTS,
    text::{count, counted},
};

pub(super) fn nearest(content: &Content<'_>) -> Markup {
    html! {
        section #nearest {
            h2 { "Nearest neighbours" }
            p {
                "Each row has an image and its nearest neighbours, with the Euclidean distances of their scores. "
                (sampled(content, content.sample.paths.len()))
            }
            @for (row, near) in &content.nearest {
                ul .pictures .asked {
                    (captioned(content, *row, ""))
                    @for (other, distance) in near { (captioned(content, *other, &format!("{distance:.1}"))) }
                }
            }
        }
    }
}

pub(super) fn outliers(content: &Content<'_>) -> Markup {
    let outliers = &content.outliers;
    html! {
        section #outliers {
            h2 { "Outliers" }
            p {
                (counted(outliers.rows.len() as u64, "image")) " with a Mahalanobis distance above "
                (format!("{:.1}", outliers.threshold)) " from the mean of all images. The threshold is the median of the "
                "distances plus five times their scaled median absolute deviation. "
                (sampled(content, content.sample.paths.len()))
            }
            ul .pictures {
                @for (row, distance) in outliers.rows.iter().take(LISTED) {
                    (captioned(content, *row, &format!("{distance:.1}")))
                }
            }
        }
    }
}

pub(super) fn duplicates(content: &Content<'_>) -> Markup {
    let duplicates = &content.duplicates;
    html! {
        section #duplicates {
            h2 { "Near-duplicates" }
            p {
                (counted(duplicates.pairs.len() as u64, "pair")) " of images with a distance below "
                (format!("{:.2}", duplicates.threshold)) " (5 % of the median distance of two images). "
                (sampled(content, duplicates.rows))
            }
            ul .pictures .pairs {
                @for (a, b, distance) in duplicates.pairs.iter().take(LISTED) {
                    li {
                        (picture(content, &content.sample.paths[*a])) (picture(content, &content.sample.paths[*b]))
                        small { (format!("{distance:.2}")) }
                    }
                }
            }
        }
    }
}

pub(super) fn rejects(content: &Content<'_>) -> Markup {
    let all = content.rejects.len();
    html! {
        section #rejects {
            h2 { "Rejects" }
            @if all == 0 { p { "None." } } @else {
                p {
                    (counted(all as u64, "image")) " without features; the table " code { (content.manifest.outputs.rejects.key) }
                    " lists all of them."
                    @if all > REJECTS { " The first " (REJECTS) " are:" }
                }
                (table_of_rejects(content))
            }
        }
    }
}

fn table_of_rejects(content: &Content<'_>) -> Markup {
    html! {
        div .wide { table {
            thead { tr { th { "" } th { "image" } th { "reason" } th { "detail" } } }
            tbody {
                @for [path, reason, detail] in content.rejects.iter().take(REJECTS) {
                    tr {
                        td { (picture(content, path)) } td { bdi { (shown(path)) } }
                        td { code { (reason) } } td { bdi { (shown(detail)) } }
                    }
                }
            }
        } }
    }
}

/// A preview with the label of the image and a note.
fn captioned(content: &Content<'_>, row: usize, note: &str) -> Markup {
    html! {
        li {
            (picture(content, &content.sample.paths[row]))
            bdi .label { (shown(content.label_of(row))) }
            small { (note) }
        }
    }
}

/// How many images a finding was computed from.
fn sampled(content: &Content<'_>, rows: usize) -> Markup {
    html! { "Computed from " (count(rows as u64)) " of " (count(content.manifest.images)) " images." }
}
