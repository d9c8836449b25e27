//! Scores of one shard: one part of the PCA table.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::try_join;
use serde::{Deserialize, Serialize};

use super::Site;
use crate::{
    Error, ErrorKind, Result,
    compute::compute,
    dataset::{self, RunId, Version, keys},
    effort::{Effort, Timer},
    extractor::ExtractorId,
    partition,
    shard::ShardId,
    tables::{self, ScoreRows},
};

/// One line of `project.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartWork {
    pub run: RunId,
    /// Number of the part, from 0, in key order.
    pub part: u64,
    pub shard: ShardId,
    pub version: Version,
    pub basis: String,
    pub extractor: ExtractorId,
    pub columns: usize,
    pub partition_by_label: bool,
    pub csv: bool,
}

/// What was written; also kept as `runs/<run>/projected/<part>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projected {
    pub part: u64,
    pub rows: u64,
    pub keys: Vec<String>,
    #[serde(default)]
    pub effort: Effort,
}

/// Projects the features of one shard.
pub async fn project(site: &Site, work: PartWork) -> Result<Projected> {
    let timer = Timer::start();
    let output = site.output.as_ref();
    let (basis_key, features_key) = (keys::basis(&work.basis), keys::features(&work.shard));
    let (basis, features) = try_join!(output.get(&basis_key), output.get(&features_key))?;
    let job = work.clone();
    let (rows, files) = compute(move || {
        let basis = tables::read_basis(basis, job.columns, &basis_key)?;
        let features = tables::read_features(features, job.columns, &features_key)?;
        let scores = basis.project(&features.features);
        let rows = ScoreRows { paths: features.paths, labels: features.labels, scores };
        Ok((rows.paths.len() as u64, files(&job, &rows, basis.kept())?))
    })
    .await?;
    let mut keys_written = Vec::new();
    for (key, body) in files {
        output.put(&key, body).await?;
        if key.ends_with(".parquet") {
            keys_written.push(key);
        }
    }
    let projected = Projected { part: work.part, rows, keys: keys_written, effort: timer.read() };
    output.put(&keys::projected(&work.run, work.part), dataset::to_json(&projected)?).await?;
    Ok(projected)
}

/// Keys and bodies of the files of one part.
fn files(work: &PartWork, rows: &ScoreRows, kept: usize) -> Result<Vec<(String, Bytes)>> {
    let write = |rows: ScoreRows, with_label| {
        tables::write_scores(rows, kept, with_label, work.extractor.as_str(), &work.basis)
    };
    let mut files = Vec::new();
    if work.csv {
        files.push((keys::csv_part(&work.run, work.part), csv_rows(rows, kept)?));
    }
    if work.partition_by_label {
        for (label, rows) in by_label(rows, kept) {
            let folder = partition::folder_value(label.as_deref());
            files.push((keys::part(work.version, Some(&folder), work.part), write(rows, false)?));
        }
    } else {
        files.push((keys::part(work.version, None, work.part), write(rows.clone(), true)?));
    }
    Ok(files)
}

fn by_label(rows: &ScoreRows, kept: usize) -> BTreeMap<Option<String>, ScoreRows> {
    let mut groups: BTreeMap<Option<String>, ScoreRows> = BTreeMap::new();
    for (i, (path, label)) in rows.paths.iter().zip(&rows.labels).enumerate() {
        let group = groups.entry(label.clone()).or_default();
        group.paths.push(path.clone());
        group.labels.push(label.clone());
        group.scores.extend(&rows.scores[i * kept..(i + 1) * kept]);
    }
    groups
}

/// Rows of `result.csv`, without its header. Numbers are the shortest that read back to the same `f32`.
fn csv_rows(rows: &ScoreRows, kept: usize) -> Result<Bytes> {
    let bug = |e: csv::Error| Error::new(ErrorKind::InternalBug, "the CSV could not be written").source(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    for ((path, label), scores) in rows.paths.iter().zip(&rows.labels).zip(rows.scores.chunks_exact(kept)) {
        let numbers = scores.iter().map(f32::to_string);
        let fields = [path.clone(), label.clone().unwrap_or_default()].into_iter().chain(numbers);
        writer.write_record(fields).map_err(bug)?;
    }
    let text = writer.into_inner().map_err(|e| bug(e.into_error().into()))?;
    Ok(text.into())
}

/// The first line of `result.csv`.
pub(super) fn csv_header(kept: usize) -> Bytes {
    let numbers = (0..kept).map(|i| format!("pc_{i}"));
    let names: Vec<String> = ["path", "label"].map(str::to_owned).into_iter().chain(numbers).collect();
    (names.join(",") + "\n").into()
}
