//! `pomona log`

use crate::{
    Result,
    dataset::{self, Manifest},
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::{Format, LogArgs},
    format, open,
    out::out,
    print_json,
};

/// A version in one line.
#[derive(Serialize)]
struct Line {
    version: u64,
    parent: Option<u64>,
    finished: Timestamp,
    seconds: f64,
    images: u64,
    added: u64,
    changed: u64,
    removed: u64,
    reused: u64,
    inferred: u64,
    rejects: u64,
    components: usize,
    explained: f64,
}

impl Line {
    fn new(manifest: &Manifest) -> Self {
        let figures = &manifest.figures;
        Line {
            version: manifest.version.0,
            parent: manifest.parent.map(|parent| parent.0),
            finished: manifest.finished,
            seconds: manifest.seconds(),
            images: manifest.images,
            added: figures.added,
            changed: figures.changed,
            removed: figures.removed,
            reused: manifest.images.saturating_sub(figures.inferred),
            inferred: figures.inferred,
            rejects: manifest.rejects,
            components: manifest.basis.components,
            explained: manifest.basis.explained_variance_ratio.iter().sum(),
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.version.to_string(),
            format::time(self.finished),
            format::count(self.images),
            format::count(self.added),
            format::count(self.changed),
            format::count(self.removed),
            format::count(self.reused),
            format::count(self.rejects),
            format::percent(self.explained),
            format!("{:.1}", self.seconds),
        ]
    }
}

pub(crate) async fn log(args: LogArgs) -> Result<()> {
    let store = open::output(&args.output).await?;
    let lines: Vec<Line> = dataset::published(store.as_ref()).await?.iter().map(Line::new).collect();
    if args.format.format() == Format::Json {
        return print_json(&lines);
    }
    let head =
        ["version", "finished", "images", "added", "changed", "removed", "reused", "rejects", "explained", "seconds"];
    let mut rows = vec![format::row(head)];
    rows.extend(lines.iter().map(Line::row));
    let mut text = format::table(&rows, 2);
    if lines.is_empty() {
        text.push_str("  no versions yet; `pomona run` makes the first one\n");
    }
    out(&text)
}
