//! Sizes and times of the tables of features and of sums, by compression; one line per measurement.
//!
//!     cargo run --release --example table_sizes -- FEATURES.PARQUET...
//!
//! The files are `shards/<id>/features.parquet` of an output of the built-in model, of either format. Their rows are one
//! table here. Times are the smallest of nine, of one thread, in memory.
#![allow(clippy::unwrap_used)] // a benchmark may panic

use std::time::Instant;

use ndarray::{Axis, concatenate};
use pomona::{
    dataset::tables::{
        Compression, FeatureRows, read_features, read_sums, write_features, write_group_sums, write_total_sums,
    },
    model::{Decoding, FeatureRange, embedded_info},
    pca::moments::{ShardMoments, TotalMoments},
};
use sha2::{Digest, Sha256};

/// The result and the milliseconds of the fastest of nine calls.
fn time<T>(mut call: impl FnMut() -> T) -> (T, f64) {
    let mut best: Option<(T, f64)> = None;
    for _ in 0..9 {
        let started = Instant::now();
        let result = call();
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        if best.as_ref().is_none_or(|(_, least)| milliseconds < *least) {
            best = Some((result, milliseconds));
        }
    }
    best.unwrap()
}

/// The rows of all files, in the order of their paths. Rows of format 1 get hashes of their paths as content.
fn rows(files: impl Iterator<Item = String>) -> FeatureRows {
    let info = embedded_info(FeatureRange::default(), Decoding::Full);
    let mut parts: Vec<FeatureRows> = files
        .map(|name| read_features(std::fs::read(&name).unwrap().into(), &info, &name).unwrap())
        .filter(|rows| !rows.is_empty())
        .collect();
    parts.sort_by(|a, b| a.paths.cmp(&b.paths));
    let features: Vec<_> = parts.iter().map(|rows| rows.features.view()).collect();
    let mut all = FeatureRows { features: concatenate(Axis(0), &features).unwrap(), ..FeatureRows::default() };
    for part in parts {
        let digest = |path: &String| Sha256::digest(path).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let hashes = part.paths.iter().zip(part.contents).map(|(path, content)| content.or_else(|| Some(digest(path))));
        all.contents.extend(hashes);
        all.paths.extend(part.paths);
        all.labels.extend(part.labels);
        all.splits.extend(part.splits);
        all.modified.extend(part.modified);
        all.lengths.extend(part.lengths);
        all.etags.extend(part.etags);
    }
    all
}

fn main() {
    let rows = rows(std::env::args().skip(1));
    let (count, info) = (rows.len(), embedded_info(FeatureRange::default(), Decoding::Full));
    let per_thousand = 1e3 / count as f64;
    println!("{count} images; features per 1,000 images, sums per file");
    for compression in [Compression::Snappy, Compression::Zstd] {
        let mut copies = vec![rows.clone(); 9];
        let (file, write) = time(|| write_features(copies.pop().unwrap(), "x", compression).unwrap());
        let (_, read) = time(|| read_features(file.clone(), &info, "k").unwrap());
        let (bytes, write, read) = (file.len() as f64 / 1e6 * per_thousand, write * per_thousand, read * per_thousand);
        println!("features {compression:?}: {bytes:.2} MB, write {write:.1} ms, read {read:.1} ms");
    }
    let mut sums = TotalMoments::zero(info.columns);
    let (shard, summed) =
        time(|| ShardMoments::from_features(rows.features.view(), info.feature_range.per_unit()).unwrap());
    sums.add(&shard).unwrap();
    println!("sums from features: {:.0} ms per 1,000 images", summed * per_thousand);
    type Writer = fn(&TotalMoments, &str) -> pomona::Result<bytes::Bytes>;
    for (name, writer) in [("int64", write_group_sums as Writer), ("decimal", write_total_sums)] {
        let (file, write) = time(|| writer(&sums, "x").unwrap());
        let (_, read) = time(|| read_sums(file.clone(), info.columns, "k").unwrap());
        println!("sums {name}: {:.2} MB, write {write:.1} ms, read {read:.1} ms", file.len() as f64 / 1e6);
    }
}
