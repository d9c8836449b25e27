//! Keys, relative to the output.

use super::{RunId, Version};
use crate::shard::ShardId;

pub const VERSIONS: &str = "versions/";
pub const SHARDS: &str = "shards/";

pub fn version(version: Version) -> String {
    format!("{VERSIONS}{version}.json")
}
pub fn claim(version: Version) -> String {
    format!("{VERSIONS}{version}.claim")
}
pub fn features(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/features.parquet")
}
pub fn moments(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/moments.parquet")
}
/// Written last: a shard that has it is finished.
pub fn shard(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/shard.json")
}
/// Rows of a shard whose run was stopped half-way.
pub fn partial(shard: &ShardId) -> String {
    format!("partials/{shard}.parquet")
}
pub fn totals(id: &str) -> String {
    format!("moments/{id}.parquet")
}
pub fn basis(id: &str) -> String {
    format!("basis/{id}.parquet")
}
pub fn pca(version: Version) -> String {
    format!("pca/v={version}/")
}
pub fn part(version: Version, label_folder: Option<&str>, part: u64) -> String {
    match label_folder {
        Some(label) => format!("{}label={label}/part-{part:05}.parquet", pca(version)),
        None => format!("{}part-{part:05}.parquet", pca(version)),
    }
}
/// Not beside the parts: pandas and Athena take every file of that folder for Parquet.
pub fn csv(version: Version) -> String {
    format!("csv/v={version}/result.csv")
}
pub fn success(version: Version) -> String {
    format!("{}_SUCCESS", pca(version))
}
pub fn rejects(version: Version) -> String {
    format!("rejects/v={version}.parquet")
}
pub const RUNS: &str = "runs/";
pub fn run(run: &RunId, name: &str) -> String {
    format!("{RUNS}{run}/{name}")
}
/// There while a run goes on.
pub fn started(run: &RunId) -> String {
    format!("{RUNS}{run}/{STARTED}")
}
pub const STARTED: &str = "started.json";
pub fn featurized(run: &RunId, shard: &ShardId) -> String {
    format!("runs/{run}/featurized/{shard}.json")
}
pub fn merged(run: &RunId, group: u64) -> String {
    format!("runs/{run}/merged/{group:05}.parquet")
}
pub fn merge_record(run: &RunId, group: u64) -> String {
    format!("runs/{run}/merged/{group:05}.json")
}
pub fn projected(run: &RunId, part: u64) -> String {
    format!("runs/{run}/projected/{part:05}.json")
}
pub fn csv_part(run: &RunId, part: u64) -> String {
    format!("runs/{run}/csv/{part:05}.csv")
}
