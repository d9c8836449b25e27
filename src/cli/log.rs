//! `pomona log`

use jiff::Timestamp;
use pomona::{
    Result,
    dataset::{self, Manifest},
    store,
};
use serde::Serialize;

use crate::{args::LogArgs, format, print_json};

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
}

pub(crate) async fn log(args: LogArgs) -> Result<()> {
    let store = store::open(&args.output).await?;
    dataset::expect_output(store.as_ref()).await?;
    let lines: Vec<Line> = dataset::published(store.as_ref()).await?.iter().map(Line::new).collect();
    if args.json {
        return print_json(&lines);
    }
    let head =
        ["version", "finished", "images", "added", "changed", "removed", "reused", "rejects", "explained", "seconds"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(|line| {
        vec![
            line.version.to_string(),
            // To the second; the manifest has the rest.
            line.finished.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            format::count(line.images),
            format::count(line.added),
            format::count(line.changed),
            format::count(line.removed),
            format::count(line.reused),
            format::count(line.rejects),
            format::percent(line.explained),
            format!("{:.1}", line.seconds),
        ]
    }));
    print!("{}", format::table(&rows, 2));
    if lines.is_empty() {
        println!("  no run has finished here yet");
    }
    Ok(())
}
