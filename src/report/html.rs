//! The page. maud escapes every text; paths and labels are anybody's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{
    Content, LISTED, REJECTS,
    findings::evenly,
    plots::{PALETTE, Scatter},
};
use crate::{
    Result,
    cost::receipt::StageRecords,
    dataset::timing::Timing,
    report::text::{bytes, count, counted, dollars, duration, label_name, percent},
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Labels in the filter and the list of counts.
const LABELS: usize = 200;
/// Pieces of a stage in the timeline.
const PIECES: usize = 40;
/// Components in the table.
const COMPONENTS: usize = 10;

/// The whole page.
pub(super) fn page(content: &Content<'_>) -> Result<String> {
    let manifest = content.manifest;
    let title = format!("Pomona: version {} of {}", manifest.version.0, counted(manifest.images, "image"));
    // Nothing is loaded from anywhere, and no script runs but ours.
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        STANDARD.encode(Sha256::digest(SCRIPT))
    );
    let sheet = format!(":root{{--sheet:url({})}}", content.sheet.address);
    let scatters = [0, 2].into_iter().filter_map(|first| content.scatter(first)).collect::<Vec<_>>();
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
                    (variance(content)?)
                    (map(content, &scatters)?)
                    (nearest(content))
                    (findings(content))
                    (rejects(content))
                    (labels(content))
                    (timeline(content))
                    (receipt(content))
                    (what_ran(content))
                }
                footer { p { "Made by Pomona " (manifest.pomona) ". This file needs no network." } }
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
    html! { (counted(manifest.images, "image")) " of " bdi { (manifest.input) } ", finished " (finished) " UTC" }
}

fn cards(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let figures = &manifest.figures;
    let explained: f64 = manifest.basis.explained_variance_ratio.iter().sum();
    let seconds = duration(manifest.seconds());
    let cost = dollars(content.receipt.dollars.total);
    let cards = [
        (count(manifest.images), "images with features".to_owned()),
        (count(figures.inferred), "of them through the model in this run".to_owned()),
        (count(manifest.labels.len() as u64), "labels".to_owned()),
        (count(manifest.rejects), "rejects".to_owned()),
        (percent(explained), format!("of the variance in {}", counted(manifest.basis.components as u64, "component"))),
        (seconds, "from start to end".to_owned()),
        (cost, if content.receipt.billed() { "for compute and requests" } else { "it would cost on AWS" }.to_owned()),
    ];
    html! {
        ul .cards {
            @for (value, what) in cards { li { strong { (value) } " " span { (what) } } }
        }
    }
}

fn variance(content: &Content<'_>) -> Result<Markup> {
    let basis = &content.manifest.basis;
    let svg = content.scree.svg()?;
    let together = basis.explained_variance_ratio.iter().scan(0.0, |sum, share| {
        *sum += share;
        Some(*sum)
    });
    let rows = basis.explained_variance.iter().zip(&basis.explained_variance_ratio).zip(together);
    let rows = rows.take(COMPONENTS).enumerate();
    Ok(html! {
        section #variance {
            h2 { "Explained variance" }
            p {
                (counted(basis.components as u64, "component")) " explain "
                (percent(basis.explained_variance_ratio.iter().sum())) ". 90 % needs "
                (basis.components_for_90_percent) ", 99 % needs " (basis.components_for_99_percent) ". "
                @if content.scree.shown() > basis.components { "Grey bars are components that were not kept. " }
                @if basis.constant_columns > 0 {
                    (basis.constant_columns) " of " (basis.columns) " features are constant and take no part."
                }
            }
            figure .plot role="img" aria-label="Scree plot" { (PreEscaped(svg)) }
            details {
                summary { "The first as a table" }
                table {
                    thead { tr { th { "component" } th { "variance" } th { "share" } th { "together" } } }
                    tbody {
                        @for (i, ((variance, share), together)) in rows {
                            tr { td { "pc_" (i) } td { (format!("{variance:.3}")) } td { (percent(*share)) } td { (percent(together)) } }
                        }
                    }
                }
            }
        }
    })
}

fn colour(label: usize) -> String {
    let (r, g, b) = PALETTE[label % PALETTE.len()];
    format!("rgb({r},{g},{b})")
}

fn map(content: &Content<'_>, scatters: &[Scatter]) -> Result<Markup> {
    let manifest = content.manifest;
    let mut plots = Vec::new();
    for plot in scatters {
        plots.push((plot, plot.svg()?));
    }
    let shown = content.points.len() as u64;
    Ok(html! {
        section #map {
            h2 { "The images in the space of the components" }
            p {
                "Each point is an image; alike images lie close. "
                @if shown < manifest.images { (count(shown)) " of " (count(manifest.images)) " are drawn, evenly spread over the keys. " }
                "Point at one to see it."
            }
            @if manifest.labels.len() > 1 {
                fieldset .filter {
                    legend { "Labels" }
                    button type="button" data-all="1" { "all" }
                    button type="button" data-all="" { "none" }
                    @for (i, label) in manifest.labels.iter().enumerate().take(LABELS) {
                        label {
                            input type="checkbox" checked data-label=(i);
                            i style=(format!("background:{}", colour(i))) {}
                            bdi { (label_name(label.label.as_deref())) }
                        }
                    }
                    @if manifest.labels.len() > PALETTE.len() { p { "Colours come again after " (PALETTE.len()) " labels." } }
                }
            }
            @for (plot, (svg, places)) in plots {
                figure .plot .scatter {
                    (PreEscaped(svg.trim_end().trim_end_matches("</svg>")))
                    @for ((place, point), row) in places.iter().zip(&plot.points).zip(&content.points) {
                        (point_of(content, *row, *place, point.2))
                    }
                    (PreEscaped("</svg>"))
                }
            }
        }
    })
}

fn point_of(content: &Content<'_>, row: usize, (x, y): (i32, i32), label: usize) -> Markup {
    let path = &content.sample.paths[row];
    let picture = content.sheet.position(path).unwrap_or_default();
    html! {
        circle .point cx=(x) cy=(y) r="4" fill=(colour(label)) data-label=(label) data-path=(path)
            data-name=(label_of(content, row)) data-picture=(picture) {}
    }
}

pub(super) fn label_of<'a>(content: &'a Content<'_>, row: usize) -> &'a str {
    let label = content.manifest.labels.get(content.sample.labels[row]);
    label_name(label.and_then(|count| count.label.as_deref()))
}

/// A picture, or an empty frame where there is none.
fn picture(content: &Content<'_>, path: &str) -> Markup {
    match content.sheet.position(path) {
        Some(position) => html! { span .pic title=(path) style=(format!("background-position:{position}")) {} },
        None => html! { span .pic .none title=(path) { "no picture" } },
    }
}

fn captioned(content: &Content<'_>, row: usize, note: &str) -> Markup {
    html! {
        li {
            (picture(content, &content.sample.paths[row]))
            bdi .label { (label_of(content, row)) }
            small { (note) }
        }
    }
}

fn looked_at(content: &Content<'_>, rows: usize) -> Markup {
    html! { "Looked at " (count(rows as u64)) " of " (count(content.manifest.images)) " images." }
}

fn nearest(content: &Content<'_>) -> Markup {
    html! {
        section #nearest {
            h2 { "Nearest images" }
            p { "Some images, and those that lie nearest to each by the distance of their scores. " (looked_at(content, content.sample.paths.len())) }
            @for (row, near) in &content.nearest {
                ul .pictures .asked {
                    (captioned(content, *row, ""))
                    @for (other, distance) in near { (captioned(content, *other, &format!("{distance:.1}"))) }
                }
            }
        }
    }
}

fn findings(content: &Content<'_>) -> Markup {
    let (outliers, duplicates) = (&content.outliers, &content.duplicates);
    html! {
        section #outliers {
            h2 { "Outliers" }
            p {
                (counted(outliers.rows.len() as u64, "image")) " farther than " (format!("{:.1}", outliers.threshold))
                " standard deviations from the centre of all (five median deviations beyond the median). "
                (looked_at(content, content.sample.paths.len()))
            }
            ul .pictures {
                @for (row, distance) in outliers.rows.iter().take(LISTED) {
                    (captioned(content, *row, &format!("{distance:.1}")))
                }
            }
        }
        section #duplicates {
            h2 { "Near-duplicates" }
            p {
                (counted(duplicates.pairs.len() as u64, "pair")) " closer than " (format!("{:.2}", duplicates.threshold))
                " (5 % of the usual distance of two images). " (looked_at(content, duplicates.looked_at))
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

fn rejects(content: &Content<'_>) -> Markup {
    let all = content.rejects.len();
    html! {
        section #rejects {
            h2 { "Rejects" }
            @if all == 0 { p { "None." } } @else {
                p {
                    (counted(all as u64, "image")) " could not be used; the table " code { (content.manifest.outputs.rejects) }
                    " has all of them."
                    @if all > REJECTS { " The first " (REJECTS) " are:" }
                }
                div .wide { table {
                    thead { tr { th { "" } th { "image" } th { "reason" } th { "what was found" } } }
                    tbody {
                        @for [path, reason, detail] in content.rejects.iter().take(REJECTS) {
                            tr { td { (picture(content, path)) } td { bdi { (path) } } td { code { (reason) } } td { bdi { (detail) } } }
                        }
                    }
                } }
            }
        }
    }
}

fn labels(content: &Content<'_>) -> Markup {
    let labels = &content.manifest.labels;
    let most = labels.iter().map(|label| label.images).max().unwrap_or(1).max(1);
    html! {
        section #labels {
            h2 { "Images per label" }
            table .bars {
                @for (i, label) in labels.iter().enumerate().take(LABELS) {
                    tr {
                        th scope="row" { bdi { (label_name(label.label.as_deref())) } }
                        td .number { (count(label.images)) }
                        td { i style=(format!("width:{:.1}%;background:{}", label.images as f64 * 100.0 / most as f64, colour(i))) {} }
                    }
                }
            }
            @if labels.len() > LABELS { p { "and " (count((labels.len() - LABELS) as u64)) " more" } }
        }
    }
}

/// When a piece of work began and ended, in seconds since the run did.
fn span(timing: &Timing, origin: jiff::Timestamp) -> (f64, f64) {
    let start = timing.began.duration_since(origin).as_secs_f64();
    (start, start + timing.milliseconds as f64 / 1e3)
}

fn timeline(content: &Content<'_>) -> Markup {
    let timings = || content.records.iter().flat_map(|stage| stage.pieces.iter().map(|(_, timing)| timing));
    let Some(origin) = timings().map(|timing| timing.began).min() else { return html! {} };
    let end = timings().map(|timing| span(timing, origin)).map(|(_, end)| end).fold(1e-3, f64::max);
    let bar = |name: &str, timing: &Timing| {
        let (start, stop) = span(timing, origin);
        let (left, width) = (start / end * 100.0, ((stop - start) / end * 100.0).max(0.3));
        let note = duration(stop - start);
        html! {
            tr {
                td title=(name) { (name.chars().take(8).collect::<String>()) }
                td .number { (note) }
                td .track { i style=(format!("margin-left:{left:.2}%;width:{:.2}%", width.min(100.0 - left))) {} }
            }
        }
    };
    let shown = |stage: &StageRecords| evenly(stage.pieces.len(), PIECES);
    html! {
        section #timeline {
            h2 { "Where the time went" }
            p { (duration(end)) " from the first piece of work to the end of the last." }
            table .timeline {
                @for stage in content.records.iter().filter(|stage| !stage.pieces.is_empty()) {
                    tr .stage {
                        th colspan="3" {
                            (stage.stage)
                            @if stage.pieces.len() > 1 { " in " (count(stage.pieces.len() as u64)) " pieces" }
                            @if stage.pieces.len() > PIECES { ", " (PIECES) " of them shown" }
                        }
                    }
                    @for i in shown(stage) { (bar(&stage.pieces[i].0, &stage.pieces[i].1)) }
                }
            }
        }
    }
}

fn receipt(content: &Content<'_>) -> Markup {
    let receipt = content.receipt;
    let (usage, cost, prices) = (&receipt.usage, &receipt.dollars, &receipt.prices);
    let rows = [
        ("Lambda, GB-seconds", format!("{:.1}", usage.gb_seconds), cost.compute),
        ("Lambda, invocations", count(usage.invocations), cost.invocations),
        ("Step Functions, transitions", count(usage.transitions), cost.transitions),
        ("S3, requests", count(usage.puts + usage.gets), cost.requests),
    ];
    html! {
        section #receipt {
            h2 { "Receipt" }
            p {
                @if receipt.billed() {
                    "What this run was billed by its own records; start-up times and retries are left out."
                } @else {
                    "This run used a machine of your own. On AWS the same work would be about:"
                }
            }
            div .wide { table {
                thead { tr { th { "item" } th .number { "used" } th .number { "dollars" } } }
                tbody {
                    @for (item, used, amount) in rows { tr { td { (item) } td .number { (used) } td .number { (dollars(amount)) } } }
                    tr .sum { td { "together" } td {} td .number { (dollars(cost.total)) } }
                    tr { td { "stored per month" } td .number { (bytes(usage.stored_bytes)) } td .number { (dollars(cost.storage_per_month)) } }
                    tr { td { "all " (counted(receipt.images, "image")) " on an EMR cluster of " (receipt.emr.nodes) " machines, start included" } td .number { (duration(receipt.emr.seconds)) } td .number { (dollars(receipt.emr.dollars)) } }
                }
            } }
            p .quiet {
                "Prices of " (prices.region) ", looked up on " (prices.date) ", without free tier and taxes."
                @if !prices.borrowed.is_empty() { " Those of us-east-1 stand in for: " (prices.borrowed.join(", ")) "." }
            }
        }
    }
}

fn what_ran(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let (settings, figures, extractor) = (&manifest.settings, &manifest.figures, &manifest.extractor);
    let parent = manifest.parent.map_or("none: this is the first".to_owned(), |parent| {
        format!(
            "version {}; since then {} added, {} changed, {} removed",
            parent.0,
            count(figures.added),
            count(figures.changed),
            count(figures.removed)
        )
    });
    let rows = [
        ("input", manifest.input.clone()),
        ("run", manifest.run.to_string()),
        ("before", parent),
        ("model", format!("{}, {} features", extractor.model, extractor.columns)),
        ("extractor", extractor.id.to_string()),
        ("scaling", if settings.standardize { "standardised" } else { "centred only" }.to_owned()),
        (
            "shards",
            format!(
                "{} of about {} images; {} reused",
                manifest.shards.len(),
                settings.shard_size,
                figures.shards_reused
            ),
        ),
        ("basis", manifest.basis.key.clone()),
        ("scores", format!("pca/v={}/", manifest.version)),
        ("manifest", format!("versions/{}.json", manifest.version)),
        ("Pomona", manifest.pomona.clone()),
    ];
    html! {
        section #run {
            h2 { "What ran" }
            div .wide { table {
                @for (name, value) in rows { tr { th scope="row" { (name) } td { bdi { (value) } } } }
            } }
        }
    }
}
