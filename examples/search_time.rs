//! Times the search on made-up features: `search_time OUTPUT [ROWS] [--queries N] [--rows-file FILE]`.
//!
//! Writes the index and the manifest of a version with this many images to OUTPUT, unless they are there, and searches the
//! images that are nearest to some of them, with an open index. The rows are those of `duplicates_time` (`views`). FILE gets all
//! rows as `f32`, for other programs. Prints one JSON line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod made_up;

use std::{io::Write, ops::Range, sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;
use made_up::{COLUMNS, Kind, VIEWS, factors, row};
use ndarray::{Array2, ArrayView2};
use pomona::{
    dataset::{
        self, BasisSummary, Checksum, FORMAT, FileRef, GroupEntry, Manifest, Moments, Outputs, RunFigures, SearchIndex,
        keys, settings::Settings,
    },
    ids::{GroupId, ShardId, Version},
    model::{Decoding, FeatureRange, embedded_info},
    search::{
        Metric,
        segment::{SegmentSample, SegmentWriter, ShardRows, Subject},
    },
    store::{self, Store},
    versions::find::{Finder, Query},
};
use rayon::prelude::*;

/// Images of a group.
const GROUP: usize = 32_768;
/// Images of a shard.
const SHARD: usize = 1_024;
/// Answers of a query.
const COUNT: usize = 10;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let rows: usize = args.get(1).map_or(100_000, |rows| rows.parse().expect("a number"));
    let queries: usize = value("--queries").map_or(100, |queries| queries.parse().expect("a number"));
    let output = store::open(&args[0]).await.unwrap();
    let started = Instant::now();
    if dataset::open_output(output.as_ref()).await.is_err()
        || dataset::current(output.as_ref()).await.unwrap().is_none()
    {
        write(output.as_ref(), rows, value("--rows-file").map(String::as_str)).await;
    }
    let writing = started.elapsed().as_secs_f64();
    let version = dataset::version(output.as_ref(), None).await.unwrap();
    let started = Instant::now();
    let finder = Finder::new(Arc::clone(&output), version);
    let factors = factors();
    let first = Query::new(row(0, Kind::Views, &factors), COUNT, Metric::Euclidean);
    finder.nearest(&first).await.unwrap();
    let opening = started.elapsed().as_secs_f64();
    let mut line = serde_json::json!({"rows": rows, "writing_seconds": writing, "opening_ms": opening * 1e3});
    for (metric, name) in [(Metric::Euclidean, "euclidean"), (Metric::Cosine, "cosine")] {
        let (mut times, mut answers) = (Vec::new(), Vec::new());
        for query in 0..queries {
            let number = query * (rows / queries) + 7;
            let query = Query::new(row(number, Kind::Views, &factors), COUNT, metric);
            let started = Instant::now();
            let hits = finder.nearest(&query).await.unwrap();
            times.push(started.elapsed().as_secs_f64() * 1e3);
            answers.push(hits.iter().map(|hit| hit.path[..9].parse::<u64>().unwrap()).collect::<Vec<_>>());
        }
        times.sort_by(f64::total_cmp);
        line[name] = serde_json::json!({
            "p50_ms": times[times.len() / 2], "p99_ms": times[times.len() * 99 / 100], "answers": answers,
        });
    }
    line["peak_mb"] = peak_mb().into();
    println!("{line}");
}

/// Most memory of this process so far, MB. Linux only.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1_024)
}

fn path(number: usize) -> String {
    format!("{number:09}.jpg")
}

/// Writes the segments and the manifest.
async fn write(output: &dyn Store, rows: usize, file: Option<&str>) {
    let factors = factors();
    let mut file = file.map(|file| std::io::BufWriter::new(std::fs::File::create(file).unwrap()));
    let (mut groups, mut segments) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(GROUP) {
        let last = (first + GROUP).min(rows);
        let id = GroupId::from(format!("{first:016x}{last:016x}"));
        let extractor = embedded_info(FeatureRange::default(), Decoding::default());
        let subject =
            Subject { group: id.clone(), extractor: extractor.id, columns: COLUMNS, range: extractor.feature_range };
        let shards = || (first..last).step_by(SHARD).map(|start| start..(start + SHARD).min(last));
        let values_of = |numbers: Range<usize>| -> Vec<f32> {
            numbers.into_par_iter().flat_map_iter(|number| row(number, Kind::Views, &factors)).collect()
        };
        let mut sample = SegmentSample::new(subject).unwrap();
        for numbers in shards() {
            let values = values_of(numbers.clone());
            let features = ArrayView2::from_shape((numbers.len(), COLUMNS), &values).unwrap();
            sample.push(&numbers.map(path).collect::<Vec<_>>(), features).unwrap();
        }
        let mut writer = SegmentWriter::new(sample, None).unwrap();
        let mut body = SegmentWriter::head();
        for numbers in shards() {
            let start = numbers.start;
            let values = values_of(numbers.clone());
            if let Some(file) = &mut file {
                file.write_all(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
            }
            let features = Array2::from_shape_vec((numbers.len(), COLUMNS), values).unwrap();
            let paths: Vec<String> = numbers.clone().map(path).collect();
            let labels: Vec<_> = numbers.clone().map(|number| Some(format!("thing {}", number / VIEWS))).collect();
            let (splits, shard) = (vec![None; labels.len()], ShardId::from(format!("{start:032x}")));
            let rows =
                ShardRows { shard: &shard, paths: &paths, labels: &labels, splits: &splits, features: features.view() };
            body.extend(writer.push(rows).unwrap());
        }
        body.extend(writer.finish().unwrap());
        let body = Bytes::from(body);
        segments.push(Some(Checksum::of(&body)));
        output.put(&keys::index(&id), body).await.unwrap();
        groups.push(GroupEntry {
            id,
            shards: 1,
            rows: (last - first) as u64,
            rejects: 0,
            first: path(first),
            last: path(last - 1),
            record: Checksum::of(b""),
            sums: None,
        });
    }
    dataset::open_output(output).await.unwrap();
    dataset::commit(output, manifest(rows, groups, SearchIndex { segments })).await.unwrap();
}

/// The manifest of a version that has nothing but an index.
fn manifest(rows: usize, groups: Vec<GroupEntry>, index: SearchIndex) -> Manifest {
    let none = || FileRef::of(String::new(), &Bytes::new());
    Manifest {
        format: FORMAT,
        version: Version(1),
        parent: None,
        run: "search-time".to_owned().try_into().unwrap(),
        created: Timestamp::UNIX_EPOCH,
        finished: Timestamp::UNIX_EPOCH,
        pomona: String::new(),
        input: String::new(),
        input_identity: None,
        settings: Settings::default(),
        extractor: embedded_info(FeatureRange::default(), Decoding::default()),
        images: rows as u64,
        rejects: 0,
        ignored: None,
        labels_unused: None,
        labels: Vec::new(),
        basis: BasisSummary {
            id: "b".into(),
            file: none(),
            components: 0,
            explained_variance: Vec::new(),
            explained_variance_ratio: Vec::new(),
            total_variance: 0.0,
            columns: COLUMNS,
            constant_columns: 0,
            components_for_90_percent: 0,
            components_for_99_percent: 0,
        },
        moments: Moments { id: "m".into(), file: none() },
        classifier: None,
        duplicates: None,
        outliers: None,
        index: Some(index),
        outputs: Outputs { features: None, scores: Vec::new(), csv: None, rejects: none() },
        groups,
        figures: RunFigures::default(),
        released: None,
    }
}
