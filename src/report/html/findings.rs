//! The findings on the page: nearest neighbours, outliers, duplicates and rejects.

use maud::{Markup, html};

use super::{Content, picture, shown, shown_label};
use crate::{
    dataset::{Duplicates, Searched, tables::DuplicateRow},
    report::{
        MEMBERS, REJECTS,
        text::{count, counted},
    },
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
    let Some((summary, threshold)) = content.found.outliers.as_ref().and_then(|found| Some((found, found.threshold?)))
    else {
        return html! {};
    };
    html! {
        section #outliers {
            h2 { "Outliers" }
            p {
                (counted(summary.rows, "image")) " with a Mahalanobis distance above "
                (format!("{:.1}", threshold)) " from the mean of all images. The threshold is the median of the "
                "distances plus five times their scaled median absolute deviation. All "
                (count(content.manifest.images)) " images were measured."
            }
            ul .pictures {
                @for row in &content.found.farthest {
                    li {
                        (picture(content, &row.path))
                        bdi .label { (shown_label(row.label.as_deref())) }
                        small { (format!("{:.1}", row.distance)) }
                    }
                }
            }
        }
    }
}

pub(super) fn duplicates(content: &Content<'_>) -> Markup {
    let Some(summary) = &content.found.duplicates else { return html! {} };
    html! {
        section #duplicates {
            h2 { "Duplicates" }
            p { (searched(summary)) }
            @if summary.groups > 0 {
                p {
                    (counted(summary.groups, "group")) " of " (counted(summary.rows, "image")) "; "
                    (counted(summary.copies, "image")) " with the bytes of another. " strong {
                        (count(summary.across_labels)) " across labels, " (count(summary.across_splits)) " across splits."
                    } " " code { "pomona list duplicates" } " lists all of them."
                }
            }
            @for group in &content.found.groups { (group_of(content, group)) }
        }
    }
}

fn searched(summary: &Duplicates) -> Markup {
    let images = counted(summary.images, "image");
    match summary.searched {
        Searched::NearDuplicates => html! {
            "All pairs among " (images) " were compared: images with the same bytes, and images whose features are at most "
            (summary.distance) " apart."
        },
        Searched::SameBytes => html! {
            "Only images with the same bytes were searched: " (images) " are too many for near-duplicates."
        },
        Searched::Nothing => html! { "Duplicates were not searched: " (images) " are too many." },
    }
}

fn group_of(content: &Content<'_>, group: &[DuplicateRow]) -> Markup {
    let farthest = group.iter().map(|row| row.distance).fold(0.0, f64::max);
    let same_bytes = group.iter().all(|row| row.same_bytes);
    html! {
        ul .pictures .group {
            @for row in group.iter().take(MEMBERS) {
                li {
                    (picture(content, &row.path))
                    bdi .label { (shown_label(row.label.as_deref())) }
                    @if let Some(split) = &row.split { small { (shown(split)) } }
                }
            }
            li { small {
                (counted(group.len() as u64, "image")) ", "
                @if same_bytes { "same bytes" } @else { "up to " (format!("{farthest:.2}")) " apart" }
            } }
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
