//! Times the search for duplicates on made-up features:
//! `duplicates_time FOLDER [ROWS] [views|noise] [--groups FILE]`.
//!
//! Writes shards of features to FOLDER, unless they are there, and searches them as a run does. `views` are clusters of 40
//! views of one thing, as far apart as views of real fruit, and every 100th row is another one that was saved again, half of
//! them so that only their thumbnails are near;
//! `noise` is uniform in [0, 6], the worst case. `--groups` writes the paths of each group as JSON. Prints one JSON
//! line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod made_up;

use std::time::Instant;

use made_up::{COLUMNS, Kind, VIEWS, factors, row, thumbnail};
use ndarray::Array2;
use pomona::{
    dataset::{
        Checksum, ShardEntry, keys,
        settings::Settings,
        tables::{self, Compression, FeatureRows},
    },
    ids::{ShardId, Version},
    image::THUMBNAIL,
    model::{Decoding, FeatureRange, embedded_info},
    stages::{DuplicatesOf, duplicates},
    store::{self, Store},
};
use rayon::prelude::*;

const SHARD: usize = 1_024;
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().expect("a folder");
    let rows: usize = args.get(1).map_or(10_000, |rows| rows.parse().expect("a number"));
    let kind = if args.iter().any(|arg| arg == "noise") { Kind::Noise } else { Kind::Views };
    let output = store::open(folder).await.unwrap();
    let shards = shards(output.as_ref(), rows, kind).await;
    let extractor = embedded_info(FeatureRange::default(), Decoding::default());
    let settings = Settings::default();
    let started = Instant::now();
    let of =
        DuplicatesOf { version: Version(1), shards: &shards, extractor: &extractor, settings: &settings, base: None };
    let (found, files) = duplicates(output.as_ref(), of).await.unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let peak = peak_mb();
    let groups: Vec<Vec<String>> = files
        .iter()
        .flat_map(|(key, body)| tables::read_duplicates(body.clone(), key).unwrap())
        .collect::<Vec<_>>()
        .chunk_by(|a, b| a.group == b.group)
        .map(|group| group.iter().map(|row| row.path.clone()).collect())
        .collect();
    if let Some(at) = args.iter().position(|arg| arg == "--groups") {
        std::fs::write(args.get(at + 1).expect("a file"), serde_json::to_string(&groups).unwrap()).unwrap();
    }
    let line = serde_json::json!({
        "rows": rows, "kind": if kind == Kind::Noise { "noise" } else { "views" }, "seconds": seconds, "peak_mb": peak,
        "distance": found.distance, "levels": found.levels, "groups": found.groups, "images": found.rows, "copies": found.copies,
    });
    println!("{line}");
}

/// Most memory of this process so far, MB. Linux only.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1_024)
}

/// Writes the shards that are not there, 1,024 rows each.
async fn shards(output: &dyn Store, rows: usize, kind: Kind) -> Vec<ShardEntry> {
    let factors = factors();
    let mut shards = Vec::new();
    for first in (0..rows).step_by(SHARD) {
        let last = (first + SHARD).min(rows);
        let name = format!("{}{first:012x}{last:012x}", if kind == Kind::Noise { "a" } else { "b" });
        let id = ShardId::from(name.as_str());
        let key = keys::features(&id);
        let body = match store::get_opt(output, &key).await.unwrap() {
            Some(body) => body,
            None => {
                let values: Vec<f32> =
                    (first..last).into_par_iter().flat_map_iter(|number| row(number, kind, &factors)).collect();
                let body = encode(first..last, values, kind);
                output.put(&key, body.clone()).await.unwrap();
                body
            }
        };
        let path = |number: usize| format!("{number:09}.jpg");
        shards.push(ShardEntry {
            id,
            rows: (last - first) as u64,
            rejects: 0,
            first: path(first),
            last: path(last - 1),
            features: Some(Checksum::of(&body)),
            record: None,
        });
    }
    shards
}

fn encode(numbers: std::ops::Range<usize>, values: Vec<f32>, kind: Kind) -> bytes::Bytes {
    let count = numbers.len();
    let levels: Vec<f32> = numbers.clone().into_par_iter().flat_map_iter(|number| thumbnail(number, kind)).collect();
    let rows = FeatureRows {
        paths: numbers.clone().map(|number| format!("{number:09}.jpg")).collect(),
        labels: numbers.clone().map(|number| Some(format!("thing {}", number / VIEWS))).collect(),
        splits: vec![None; count],
        modified: vec![0; count],
        lengths: vec![0; count],
        etags: vec![String::new(); count],
        contents: numbers.map(|number| Some(Checksum::of(&number.to_le_bytes()).sha256)).collect(),
        features: Array2::from_shape_vec((count, COLUMNS), values).unwrap(),
        thumbnails: Array2::from_shape_vec((count, THUMBNAIL), levels).unwrap(),
        keypoints: Vec::new(),
    };
    tables::write_features(rows, "made-up", Compression::Snappy).unwrap()
}
