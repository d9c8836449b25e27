//! The run on the page: duration by stage, cost, settings.

use maud::{Markup, html};

use super::{Content, shown};
use crate::{
    cost::receipt::StageRecords,
    dataset::{keys, timing::Timing},
    report::{
        findings::evenly,
        text::{bytes, count, counted, dollars, duration},
    },
};

/// Tasks of a stage in the timeline.
const TASKS: usize = 40;

/// Start and end of a task in seconds after `origin`.
fn span(timing: &Timing, origin: jiff::Timestamp) -> (f64, f64) {
    let start = timing.began.duration_since(origin).as_secs_f64();
    (start, start + timing.milliseconds as f64 / 1e3)
}

/// One row of the timeline. `end` is the length of the time axis in seconds.
fn bar(name: &str, (start, stop): (f64, f64), end: f64) -> Markup {
    let (left, width) = (start / end * 100.0, ((stop - start) / end * 100.0).max(0.3));
    html! {
        tr {
            td title=(name) { (name.chars().take(8).collect::<String>()) }
            td .number { (duration(stop - start)) }
            td .track { i style=(format!("margin-left:{left:.2}%;width:{:.2}%", width.min(100.0 - left))) {} }
        }
    }
}

pub(super) fn timeline(content: &Content<'_>) -> Markup {
    let timings = || content.records.iter().flat_map(|stage| stage.pieces.iter().map(|(_, timing)| timing));
    let Some(origin) = timings().map(|timing| timing.began).min() else { return html! {} };
    let end = timings().map(|timing| span(timing, origin)).map(|(_, end)| end).fold(1e-3, f64::max);
    let shown = |stage: &StageRecords| evenly(stage.pieces.len(), TASKS);
    html! {
        section #timeline {
            h2 { "Duration by stage" }
            p { (duration(end)) " from the start of the first task to the end of the last." }
            table .timeline {
                @for stage in content.records.iter().filter(|stage| !stage.pieces.is_empty()) {
                    tr .stage { th colspan="3" { (stage_title(stage)) } }
                    @for (name, timing) in shown(stage).into_iter().map(|i| &stage.pieces[i]) {
                        (bar(name, span(timing, origin), end))
                    }
                }
            }
        }
    }
}

fn stage_title(stage: &StageRecords) -> Markup {
    let tasks = stage.pieces.len();
    html! {
        (stage.stage)
        @if tasks > 1 { ": " (count(tasks as u64)) " tasks" }
        @if tasks > TASKS { ", " (TASKS) " of them shown" }
    }
}

pub(super) fn receipt(content: &Content<'_>) -> Markup {
    let receipt = content.receipt;
    let prices = &receipt.prices;
    html! {
        section #receipt {
            h2 { "Cost" }
            p {
                @if receipt.billed() {
                    "Billed usage of this run, from its own records. Start-up times and retries are not included."
                } @else {
                    "This run did not use Lambda. On AWS, the same work costs about:"
                }
            }
            (bill(content))
            p .quiet {
                "Prices of " (prices.region) ", looked up on " (prices.date) ", without free tier and taxes."
                @if !prices.borrowed.is_empty() {
                    " Not in the table for this region, so those of us-east-1: " (prices.borrowed.join(", ")) "."
                }
            }
        }
    }
}

fn bill(content: &Content<'_>) -> Markup {
    let receipt = content.receipt;
    let (usage, cost) = (&receipt.usage, &receipt.dollars);
    let emr = format!(
        "for comparison: all {} on EMR with {} machines, including the start of the cluster",
        counted(receipt.images, "image"),
        receipt.emr.nodes
    );
    let items = [
        ("Lambda compute, GB-seconds".to_owned(), format!("{:.1}", usage.gb_seconds), cost.compute),
        ("Lambda invocations".to_owned(), count(usage.invocations), cost.invocations),
        ("Step Functions transitions".to_owned(), count(usage.transitions), cost.transitions),
        ("S3 requests".to_owned(), count(usage.puts + usage.gets), cost.requests),
        ("log ingestion".to_owned(), bytes(usage.log_bytes), cost.logs),
        ("X-Ray traces".to_owned(), count(usage.traces), cost.traces),
        ("events".to_owned(), count(usage.events), cost.events),
    ];
    let below = [
        ("S3 storage per month".to_owned(), bytes(usage.stored_bytes), cost.storage_per_month),
        (emr, duration(receipt.emr.seconds), receipt.emr.dollars),
    ];
    let row = |(item, used, amount): &(String, String, f64)| {
        html! { td { (item) } td .number { (used) } td .number { (dollars(*amount)) } }
    };
    html! {
        div .wide { table {
            thead { tr { th { "item" } th .number { "usage" } th .number { "cost" } } }
            tbody {
                @for item in &items { tr { (row(item)) } }
                tr .sum { td { "total" } td {} td .number { (dollars(cost.total)) } }
                @for item in &below { tr { (row(item)) } }
            }
        } }
    }
}

pub(super) fn settings(content: &Content<'_>) -> Markup {
    let manifest = content.manifest;
    let (settings, figures, extractor) = (&manifest.settings, &manifest.figures, &manifest.extractor);
    let parent = manifest.parent.map_or("none (this is the first version)".to_owned(), |parent| {
        let (added, changed, removed) = (count(figures.added), count(figures.changed), count(figures.removed));
        format!("version {}; since then {added} added, {changed} changed, {removed} removed", parent.0)
    });
    let (shards, size) = (manifest.shards(), settings.shard_size());
    let rows = [
        ("input", manifest.input.clone()),
        ("run", manifest.run.to_string()),
        ("parent", parent),
        ("model", format!("{}, {} features", extractor.model, extractor.columns)),
        ("extractor", extractor.id.to_string()),
        ("scaling", if settings.standardizes() { "standardised" } else { "centred only" }.to_owned()),
        ("shards", format!("{shards} of about {size} images; {} reused", figures.shards_reused)),
        ("basis", manifest.basis.file.key.clone()),
        ("scores", keys::pca(manifest.version)),
        ("manifest", keys::version(manifest.version)),
        ("Pomona", manifest.pomona.clone()),
    ];
    html! {
        section #run {
            h2 { "Run and settings" }
            div .wide { table {
                @for (name, value) in rows { tr { th scope="row" { (name) } td { bdi { (shown(&value)) } } } }
            } }
        }
    }
}
