//! The findings on the page: duplicates, suspects, outliers and rejects, of all images. What was not searched says so.

use maud::{Markup, html};

use super::{Content, Media, picture, shown, shown_label};
use crate::{
    dataset::{Classification, Duplicates, Searched},
    report::{
        LISTED, Learned, REJECTS,
        findings::Group,
        lists::List,
        text::{count, counted, percent},
    },
};

const OLDER: &str = "Not searched: the version is of an older release.";

pub(super) fn duplicates(content: &Content<'_>, media: &Media) -> Markup {
    let found = &content.found;
    html! {
        section #duplicates {
            h2 { "Duplicates" }
            @match &found.duplicates {
                None => p { (OLDER) },
                Some(summary) => {
                    p { (searched(summary)) }
                    @if summary.searched != Searched::Nothing { (groups(summary, content, media)) }
                }
            }
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
            "All " (images) " were compared by their bytes. Near-duplicates were not searched: there are too many images."
        },
        Searched::Nothing => html! {
            "Not searched: " (images) " are too many. " code { "--duplicate-images" } " allows more."
        },
    }
}

fn groups(summary: &Duplicates, content: &Content<'_>, media: &Media) -> Markup {
    html! {
        @if summary.groups == 0 { p { "None." } } @else {
            p {
                strong {
                    (counted(summary.across_labels, "group")) " across labels, " (count(summary.across_splits))
                    " across splits"
                }
                " of " (counted(summary.groups, "group")) " with " (counted(summary.rows, "image")) "; "
                (counted(summary.copies, "image")) " with the bytes of another."
                @if content.found.groups.len() as u64 != summary.groups {
                    " The first " (content.found.groups.len()) " groups, those across labels and splits before the others:"
                }
            }
            div .groups { @for group in &content.found.groups { (group_of(group, media)) } }
            (download("duplicates", &media.lists.duplicates, "pomona list duplicates --csv"))
        }
    }
}

fn group_of(group: &Group, media: &Media) -> Markup {
    let more = group.images - group.first.len() as u64;
    html! {
        div .group {
            p {
                (counted(group.images, "image")) ", "
                @if group.same_bytes { "same bytes" } @else { "up to " (format!("{:.2}", group.farthest)) " apart" }
                @if group.across_labels() { " " mark { "different labels" } }
                @if group.across_splits() { " " mark { "different splits" } }
            }
            ul .pictures {
                @for row in &group.first {
                    li {
                        (picture(media, &row.path))
                        bdi .label { (shown_label(row.label.as_deref())) }
                        @if let Some(split) = &row.split { small { bdi { (shown(split)) } } }
                        small .name { bdi { (shown(file_name(&row.path))) } }
                    }
                }
                @if more > 0 { li { small { "and " (count(more)) " more" } } }
            }
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

pub(super) fn suspects(content: &Content<'_>, media: &Media) -> Markup {
    html! {
        section #suspects {
            h2 { "Suspect labels" }
            @match &content.learned {
                None => p { "Not searched: " (no_classifier(content)) "." },
                Some(learned) if learned.suspects == 0 => p {
                    "None: no label has a probability below 5 % by a model that has not seen the image."
                },
                Some(learned) => (suspects_of(learned, media)),
            }
        }
    }
}

fn no_classifier(content: &Content<'_>) -> &'static str {
    match &content.manifest.classifier {
        Some(Classification::None { reason }) => reason.text(),
        _ => "the version has no classifier",
    }
}

fn suspects_of(learned: &Learned, media: &Media) -> Markup {
    html! {
        p {
            (counted(learned.suspects, "label")) " with a probability below 5 % by a model that has not seen the image; the most "
            "suspect first. " code { "pomona list suspects" } " also names the nearest images of both classes."
        }
        ul .pictures {
            @for row in learned.first.iter().take(LISTED) {
                li {
                    (picture(media, &row.path))
                    bdi .label { (shown(row.label.as_deref().unwrap_or_default())) }
                    small { "rather " bdi { (shown(&row.predicted)) } ", " (percent(row.probability)) }
                    small .name { bdi { (shown(file_name(&row.path))) } }
                }
            }
        }
        (download("suspects", &media.lists.suspects, "pomona list suspects --json"))
    }
}

pub(super) fn outliers(content: &Content<'_>, media: &Media) -> Markup {
    let found = &content.found;
    html! {
        section #outliers {
            h2 { "Outliers" }
            @match found.outliers.as_ref().map(|summary| (summary.rows, summary.threshold)) {
                None => p { (OLDER) },
                Some((_, None)) => p {
                    "Not searched: " (counted(content.manifest.images, "image")) " are too many. "
                    code { "--duplicate-images" } " allows more."
                },
                Some((rows, Some(threshold))) => {
                    p {
                        @if rows == 0 { "None" } @else { (counted(rows, "image")) }
                        " with a Mahalanobis distance above " (format!("{threshold:.1}"))
                        " from the mean of all images. The threshold is the median of the distances plus five times their "
                        "scaled median absolute deviation. All " (counted(content.manifest.images, "image")) " were measured."
                    }
                    @if rows > 0 { (farthest(content, media)) }
                }
            }
        }
    }
}

fn farthest(content: &Content<'_>, media: &Media) -> Markup {
    html! {
        ul .pictures {
            @for row in &content.found.farthest {
                li {
                    (picture(media, &row.path))
                    bdi .label { (shown_label(row.label.as_deref())) }
                    small { "distance " (format!("{:.1}", row.distance)) }
                    small .name { bdi { (shown(file_name(&row.path))) } }
                }
            }
        }
        (download("outliers", &media.lists.outliers, "pomona list outliers --csv"))
    }
}

pub(super) fn rejects(content: &Content<'_>, media: &Media) -> Markup {
    let all = content.rejects.len();
    html! {
        section #rejects {
            h2 { "Rejects" }
            @if all == 0 { p { "None: all images have features." } } @else {
                p {
                    (counted(all as u64, "image")) " without features."
                    @if all > REJECTS { " The first " (REJECTS) " are:" }
                }
                (table_of_rejects(content, media))
                (download("rejects", &media.lists.rejects, "pomona list rejects --csv"))
            }
        }
    }
}

fn table_of_rejects(content: &Content<'_>, media: &Media) -> Markup {
    html! {
        div .wide .short tabindex="0" role="region" aria-label="Table of rejects" { table {
            thead { tr { th { "preview" } th { "image" } th { "reason" } th { "detail" } } }
            tbody {
                @for [path, reason, detail] in content.rejects.iter().take(REJECTS) {
                    tr {
                        td { (picture(media, path)) } td { bdi { (shown(path)) } }
                        td { code { (reason) } } td { bdi { (shown(detail)) } }
                    }
                }
            }
        } }
    }
}

/// The button that saves a list, and how much of it the page has. The script shows the button.
fn download(name: &str, list: &List, command: &str) -> Markup {
    html! {
        p .download {
            button type="button" data-list=(name) hidden { "Download " (name) " as CSV" }
            " " span .quiet {
                @if list.is_complete() {
                    "The page has all " (counted(list.all, "row")) "."
                } @else {
                    "The page has the first " (count(list.rows.len() as u64)) " of " (counted(list.all, "row")) "; "
                    code { (command) } " prints all."
                }
            }
        }
    }
}
