//! What `pomona run` prints when it has ended: for people, or as JSON.

use pomona::{
    Result,
    dataset::{Manifest, keys},
    pipeline::Summary,
    report::Reported,
};
use serde::Serialize;

use crate::{args::RunOptions, format};

#[derive(Serialize)]
struct Json<'a> {
    up_to_date: bool,
    output: &'a str,
    version: u64,
    run: String,
    images: u64,
    rejects: u64,
    labels: usize,
    inferred: u64,
    copied: u64,
    added: u64,
    changed: u64,
    removed: u64,
    shards: usize,
    shards_reused: u64,
    components: usize,
    explained_variance_ratio: f64,
    components_for_90_percent: usize,
    seconds: f64,
    seconds_by_stage: serde_json::Map<String, serde_json::Value>,
    images_per_second: f64,
    /// What the run would have cost on AWS; none when nothing was done.
    dollars_on_aws: Option<f64>,
    files: Files,
}

/// Locations for readers.
#[derive(Serialize)]
struct Files {
    manifest: String,
    features: String,
    basis: String,
    pca: String,
    csv: Option<String>,
    rejects: String,
    report: Option<String>,
}

impl Files {
    fn new(manifest: &Manifest, reported: Option<&Reported>, output: &str) -> Self {
        let at = |key: &str| format!("{}/{key}", output.trim_end_matches('/'));
        Files {
            manifest: at(&keys::version(manifest.version)),
            features: at("shards/*/features.parquet"),
            basis: at(&manifest.basis.key),
            pca: at(keys::pca(manifest.version).trim_end_matches('/')),
            csv: manifest.outputs.csv.as_deref().map(at),
            rejects: at(&manifest.outputs.rejects),
            report: reported.map(|reported| at(&reported.report)),
        }
    }
}

pub(crate) fn print_json(summary: &Summary, reported: Option<&Reported>, output: &str, seconds: f64) -> Result<()> {
    let manifest = &summary.manifest;
    // An up-to-date run did nothing itself: the figures in the manifest are those of the run that made it.
    let figures = if summary.up_to_date { Default::default() } else { manifest.figures.clone() };
    let by_stage = summary.seconds.iter().map(|(stage, s)| (stage.clone(), (*s).into())).collect();
    let json = Json {
        up_to_date: summary.up_to_date,
        output,
        version: manifest.version.0,
        run: manifest.run.to_string(),
        images: manifest.images,
        rejects: manifest.rejects,
        labels: manifest.labels.len(),
        inferred: figures.inferred,
        copied: figures.copied,
        added: figures.added,
        changed: figures.changed,
        removed: figures.removed,
        shards: manifest.shards.len(),
        shards_reused: figures.shards_reused,
        components: manifest.basis.components,
        explained_variance_ratio: manifest.basis.explained_variance_ratio.iter().sum(),
        components_for_90_percent: manifest.basis.components_for_90_percent,
        seconds,
        seconds_by_stage: by_stage,
        images_per_second: figures.inferred as f64 / seconds,
        dollars_on_aws: reported.map(|reported| reported.dollars),
        files: Files::new(manifest, reported, output),
    };
    crate::print_json(&json)
}

/// The summary for people.
pub(crate) fn text(
    summary: &Summary,
    reported: Option<&Reported>,
    output: &str,
    seconds: f64,
    options: &RunOptions,
) -> String {
    let manifest = &summary.manifest;
    let mut text = format!(
        "Version {} of {output}: {} in {}, {}\n",
        manifest.version.0,
        format::counted(manifest.images, "image"),
        format::counted(manifest.labels.len() as u64, "label"),
        format::counted(manifest.rejects, "reject"),
    );
    if summary.up_to_date {
        text.push_str("Nothing has changed since it was made.\n");
        return text;
    }
    let files = Files::new(manifest, reported, output);
    text.push_str(&figures(manifest));
    text.push('\n');
    text.push_str(&timings(summary, reported, seconds));
    text.push('\n');
    text.push_str(&places(manifest, &files));
    text.push('\n');
    text.push_str(&next_steps(&files, output, options.result.partition_by_label));
    text
}

/// The PCA, and what the run did.
fn figures(manifest: &Manifest) -> String {
    let (basis, figures) = (&manifest.basis, &manifest.figures);
    let mut text = format!(
        "{} explain {} of the variance; 90 % needs {}\n",
        format::counted(basis.components as u64, "component"),
        format::percent(basis.explained_variance_ratio.iter().sum()),
        basis.components_for_90_percent,
    );
    let copied = manifest.images.saturating_sub(figures.inferred);
    text.push_str(&format!("{} through the model", format::counted(figures.inferred, "image")));
    if copied > 0 {
        text.push_str(&format!(", {} from earlier runs", format::count(copied)));
    }
    text.push('\n');
    if let Some(parent) = manifest.parent {
        text.push_str(&format!(
            "Since version {}: {} added, {} changed, {} removed\n",
            parent.0,
            format::count(figures.added),
            format::count(figures.changed),
            format::count(figures.removed),
        ));
    }
    text
}

/// Seconds by stage.
fn timings(summary: &Summary, reported: Option<&Reported>, seconds: f64) -> String {
    let inferred = summary.manifest.figures.inferred;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (stage, s) in &summary.seconds {
        let mut row = vec![stage.clone(), format!("{s:.2} s")];
        if stage == "featurize" && inferred > 0 && *s > 0.0 {
            row.push(format!("{:.1} images/s", inferred as f64 / s));
        }
        rows.push(row);
    }
    let mut total = vec!["total".to_owned(), format!("{seconds:.2} s")];
    total.extend(reported.map(|reported| format!("on AWS: {}", format::dollars(reported.dollars))));
    rows.push(total);
    format::table(&rows, 1)
}

/// Where the results are.
fn places(manifest: &Manifest, files: &Files) -> String {
    let mut places = vec![("features", &files.features), ("scores", &files.pca), ("basis", &files.basis)];
    places.extend(files.csv.as_ref().map(|csv| ("csv", csv)));
    if manifest.rejects > 0 {
        places.push(("rejects", &files.rejects));
    }
    places.push(("manifest", &files.manifest));
    places.extend(files.report.as_ref().map(|report| ("report", report)));
    let rows: Vec<_> = places.iter().map(|(name, place)| vec![(*name).to_owned(), (*place).clone()]).collect();
    format::table(&rows, 2)
}

/// How to read the scores.
fn next_steps(files: &Files, output: &str, partitioned: bool) -> String {
    let (glob, hive) = if partitioned { ("**/*.parquet", ", hive_partitioning = true") } else { ("*.parquet", "") };
    let folder = files.pca.replace('\'', "''");
    let rows = [
        vec!["pandas".to_owned(), format!("pd.read_parquet({:?})", files.pca)],
        vec!["DuckDB".to_owned(), format!("SELECT * FROM read_parquet('{folder}/{glob}'{hive})")],
        vec!["look".to_owned(), format!("pomona show {output}")],
    ];
    format::table(&rows, 2)
}
