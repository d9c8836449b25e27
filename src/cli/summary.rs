//! What `pomona run` prints when it has finished: for people, or as JSON.

use crate::{
    dataset::{Classification, ClassifierSummary, Duplicates, Manifest, keys, training::TRAIN},
    pipeline::Summary,
    report::Reported,
};
use serde::Serialize;

use super::{browse, format, style::Style};

/// A run that has finished well.
#[derive(Debug)]
pub(crate) struct Finished<'a> {
    pub summary: &'a Summary,
    /// None when nothing had changed, or when the report could not be written.
    pub reported: Option<&'a Reported>,
    /// The output as the user wrote it.
    pub output: &'a str,
    /// Wall clock time, program start included.
    pub seconds: f64,
}

/// The summary for programs. docs/file-formats.md describes the fields.
#[derive(Serialize)]
pub(crate) struct Json<'a> {
    up_to_date: bool,
    output: &'a str,
    version: u64,
    run: String,
    images: u64,
    rejects: u64,
    /// Hidden files, and files that are plainly no images; none if only changed shards were listed.
    ignored: Option<u64>,
    labels: usize,
    inferred: u64,
    copied: u64,
    added: u64,
    changed: u64,
    removed: u64,
    shards: u64,
    shards_reused: u64,
    components: usize,
    explained_variance_ratio: f64,
    components_for_90_percent: usize,
    /// Share of the training images whose label is predicted out of fold; none without a classifier.
    accuracy: Option<f64>,
    /// What was found of the images that are there twice; none for versions of older releases.
    duplicates: Option<&'a Duplicates>,
    outliers: Option<u64>,
    seconds: f64,
    seconds_by_stage: serde_json::Map<String, serde_json::Value>,
    images_per_second: f64,
    /// Cost of the same work on AWS; none when nothing had changed.
    dollars_on_aws: Option<f64>,
    files: Files,
}

/// Where readers find the files of a version: locations below the output, one of them with a `*`.
#[derive(Serialize)]
struct Files {
    manifest: String,
    features: String,
    basis: String,
    pca: String,
    classifier: Option<String>,
    predictions: Option<String>,
    csv: Option<String>,
    rejects: String,
    duplicates: Option<String>,
    outliers: Option<String>,
    /// The report of this run.
    report: Option<String>,
    /// Its copy beside the folders; none if that is of a newer version.
    newest_report: Option<String>,
}

fn learned(manifest: &Manifest) -> Option<&ClassifierSummary> {
    manifest.classifier.as_ref().and_then(Classification::fitted)
}

impl Files {
    fn new(manifest: &Manifest, reported: Option<&Reported>, output: &str) -> Self {
        let at = |key: &str| format!("{}/{key}", output.trim_end_matches('/'));
        Files {
            manifest: at(&keys::version(manifest.version)),
            features: at(keys::features_folder(manifest.version).trim_end_matches('/')),
            basis: at(&manifest.basis.file.key),
            pca: at(keys::pca(manifest.version).trim_end_matches('/')),
            classifier: learned(manifest).map(|summary| at(&summary.file.key)),
            predictions: learned(manifest)
                .map(|_| at(keys::predictions_folder(manifest.version).trim_end_matches('/'))),
            csv: manifest.outputs.csv.as_ref().map(|csv| at(&csv.key)),
            rejects: at(&manifest.outputs.rejects.key),
            duplicates: manifest
                .duplicates
                .as_ref()
                .filter(|found| !found.files.is_empty())
                .map(|_| at(keys::duplicates_folder(manifest.version).trim_end_matches('/'))),
            outliers: manifest
                .outliers
                .as_ref()
                .map(|_| at(keys::outliers_folder(manifest.version).trim_end_matches('/'))),
            report: reported.map(|reported| at(&reported.report)),
            newest_report: reported.and_then(|reported| reported.newest_report.as_deref()).map(at),
        }
    }
}

impl Files {
    /// The report beside the folders, or that of the run.
    fn report_of_all(&self) -> Option<&str> {
        self.newest_report.as_deref().or(self.report.as_deref())
    }
}

/// What is odd about the labels, if anything.
fn labelling(manifest: &Manifest) -> String {
    let mut text = String::new();
    if let Some(unused) = manifest.labels_unused.filter(|unused| *unused > 0) {
        let lines = format::counted(unused, "image");
        text.push_str(&format!("The file of labels names {lines} that the input does not have\n"));
    }
    let settings = &manifest.settings;
    let asked = settings.label_depth.is_some() || settings.label_pattern.is_some() || settings.labels.is_some();
    if asked && manifest.images > 0 && manifest.labels.iter().all(|count| count.label.is_none()) {
        text.push_str("No image has a label: the label options match none of the paths\n");
    }
    text
}

impl<'a> Finished<'a> {
    pub(crate) fn json(&self) -> Json<'a> {
        let Finished { summary, reported, output, seconds } = *self;
        let manifest = &summary.manifest;
        let figures = &summary.figures;
        Json {
            up_to_date: summary.up_to_date,
            output,
            version: manifest.version.0,
            run: manifest.run.to_string(),
            images: manifest.images,
            rejects: manifest.rejects,
            ignored: manifest.ignored,
            labels: manifest.labels.len(),
            inferred: figures.inferred,
            copied: figures.copied,
            added: figures.added,
            changed: figures.changed,
            removed: figures.removed,
            shards: manifest.shards(),
            shards_reused: figures.shards_reused,
            components: manifest.basis.components,
            explained_variance_ratio: manifest.basis.explained_variance_ratio.iter().sum(),
            components_for_90_percent: manifest.basis.components_for_90_percent,
            accuracy: learned(manifest).map(|summary| summary.correct as f64 / summary.images.max(1) as f64),
            duplicates: manifest.duplicates.as_ref(),
            outliers: manifest.outliers.as_ref().filter(|found| found.threshold.is_some()).map(|found| found.rows),
            seconds,
            seconds_by_stage: summary.seconds.iter().map(|(stage, s)| (stage.clone(), (*s).into())).collect(),
            images_per_second: figures.inferred as f64 / seconds,
            dollars_on_aws: reported.map(|reported| reported.dollars),
            files: Files::new(manifest, reported, output),
        }
    }

    pub(crate) fn text(&self, style: Style) -> String {
        let manifest = &self.summary.manifest;
        let headline = format!(
            "Version {} of {}: {} in {}, {}",
            manifest.version.0,
            format::escape_invisible(self.output),
            format::counted(manifest.images, "image"),
            format::counted(manifest.labels.len() as u64, "label"),
            format::counted(manifest.rejects, "reject"),
        );
        let headline = style.bold(&headline) + "\n";
        if self.summary.up_to_date {
            let mut text = headline + "Up to date: the images have not changed since this version was made.\n";
            if self.summary.figures.inferred > 0 {
                let again = format::counted(self.summary.figures.inferred, "image");
                text.push_str(&format!(
                    "{again} inferred again, because the files of their shard were missing or damaged\n"
                ));
            }
            return text;
        }
        let files = Files::new(manifest, self.reported, self.output);
        let sections = [
            headline + &labelling(manifest),
            self.findings(&files, style),
            figures(manifest),
            self.timings(),
            places(manifest, &files),
            self.readers(&files),
        ];
        sections.join("\n")
    }

    /// The text for a terminal: with a link to the report.
    pub(crate) fn terminal_text(&self, style: Style) -> String {
        let files = Files::new(&self.summary.manifest, self.reported, self.output);
        let text = self.text(style);
        match files.report_of_all() {
            Some(report) => browse::with_link(&text, report),
            None => text,
        }
    }

    /// What people should look at: what was found in the images, and where to see it.
    fn findings(&self, files: &Files, style: Style) -> String {
        let manifest = &self.summary.manifest;
        let mut text = style.bold("Findings") + "\n";
        for (name, found, is_odd) in found(manifest) {
            let found = if is_odd { style.attention(&found) } else { found };
            text.push_str(&format!("  {name:<10}  {found}\n"));
        }
        let report =
            files.report_of_all().map(|report| format!("  report      {}\n", format::escape_invisible(report)));
        text.extend(report);
        text + &format!(
            "  lists       pomona list duplicates|suspects|outliers|rejects {}\n",
            format::escape_invisible(&format::shell(self.output))
        )
    }

    /// Seconds by stage, and what the same work costs on AWS.
    fn timings(&self) -> String {
        let inferred = self.summary.manifest.figures.inferred;
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (stage, s) in &self.summary.seconds {
            let mut row = vec![stage.clone(), format!("{s:.2} s")];
            if stage == "featurize" && inferred > 0 && *s > 0.0 {
                row.push(format!("{:.1} images/s", inferred as f64 / s));
            }
            rows.push(row);
        }
        rows.push(vec!["total".to_owned(), format!("{:.2} s", self.seconds)]);
        let mut text = format::table(&rows, 1);
        if let Some(reported) = self.reported {
            text.push_str(&format!("  Cost of the same work on AWS: {}\n", format::dollars(reported.dollars)));
        }
        text
    }

    /// Commands that read the scores.
    fn readers(&self, files: &Files) -> String {
        let partitioned = self.summary.manifest.settings.partitions();
        let (glob, hive) = if partitioned { ("**/*.parquet", ", hive_partitioning = true") } else { ("*.parquet", "") };
        let folder = files.pca.replace('\'', "''");
        let rows = [
            vec!["pandas".to_owned(), format!("pd.read_parquet({:?})", files.pca)],
            vec!["DuckDB".to_owned(), format!("SELECT * FROM read_parquet('{folder}/{glob}'{hive})")],
            vec!["shell".to_owned(), format!("pomona show {}", format::shell(self.output))],
        ];
        format::table(&rows, 2)
    }
}

/// The PCA, and the work of the run.
fn figures(manifest: &Manifest) -> String {
    let (basis, figures) = (&manifest.basis, &manifest.figures);
    let mut text = format!(
        "{} explain {} of the variance; 90 % needs {}\n",
        format::counted(basis.components as u64, "component"),
        format::percent(basis.explained_variance_ratio.iter().sum()),
        basis.components_for_90_percent,
    );
    text.push_str(&classifier(manifest));
    text.push_str(&format!("{} inferred", format::counted(figures.inferred, "image")));
    let reused = manifest.images.saturating_sub(figures.inferred);
    if reused > 0 {
        text.push_str(&format!(", {} reused from earlier runs", format::count(reused)));
    }
    text.push('\n');
    if let Some(ignored) = manifest.ignored.filter(|ignored| *ignored > 0) {
        let files = format::counted(ignored, "file");
        text.push_str(&format!("{files} ignored: hidden, or by the name no image (.csv, .json, .txt, ...)\n"));
    }
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

/// What the classifier has learned, or why there is none.
fn classifier(manifest: &Manifest) -> String {
    let summary = match &manifest.classifier {
        None => return String::new(),
        Some(Classification::None { reason }) => return format!("No classifier: {}\n", reason.text()),
        Some(Classification::Fitted(summary)) => summary,
    };
    let share = |correct: u64, images: u64| format::percent(correct as f64 / images.max(1) as f64);
    let mut text = format!(
        "Classifier of {} classes: {} right out of fold",
        format::count(summary.classes),
        share(summary.correct, summary.images)
    );
    for split in summary.splits.iter().filter(|split| split.split.as_deref().is_some_and(|name| name != TRAIN)) {
        let name = format::shorten(split.split.as_deref().unwrap_or_default(), 40);
        text.push_str(&match split.known {
            0 => format!(", no label of {name} is a class"),
            _ => format!(", {} of {name}", share(split.correct, split.images)),
        });
    }
    text + "\n"
}

/// What was found in the images: its name, a line about it, and whether people should look at it.
fn found(manifest: &Manifest) -> Vec<(&'static str, String, bool)> {
    let mut rows = Vec::new();
    if let Some(found) = &manifest.duplicates {
        rows.push(("duplicates", format::duplicates(found), found.groups > 0));
    }
    if let Some(summary) = learned(manifest) {
        let suspects: u64 = summary.splits.iter().map(|split| split.suspects).sum();
        rows.push(("suspects", format::counted(suspects, "suspect label"), suspects > 0));
    }
    if let Some(found) = &manifest.outliers {
        rows.push(("outliers", format::outliers(found), found.rows > 0));
    }
    rows.push(("rejects", format::counted(manifest.rejects, "reject"), manifest.rejects > 0));
    rows
}

/// Where the results are.
fn places(manifest: &Manifest, files: &Files) -> String {
    let mut places = vec![("features", &files.features), ("scores", &files.pca), ("basis", &files.basis)];
    places.extend(files.predictions.as_ref().map(|predictions| ("predictions", predictions)));
    places.extend(files.csv.as_ref().map(|csv| ("csv", csv)));
    if manifest.rejects > 0 {
        places.push(("rejects", &files.rejects));
    }
    places.extend(files.duplicates.as_ref().map(|duplicates| ("duplicates", duplicates)));
    places.push(("manifest", &files.manifest));
    let rows: Vec<_> = places.iter().map(|(name, place)| vec![(*name).to_owned(), (*place).clone()]).collect();
    format::table(&rows, 2)
}
