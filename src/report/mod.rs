//! The report of a run: one HTML file that needs no network, two plots as PNG, and the receipt.
//!
//! The size of the report is bounded: it reads a sample of the rows, shows some of them, and says so. No other result
//! depends on a report.

mod findings;
mod html;
mod learned;
mod plots;
mod sample;
mod stage;
pub mod text;

pub use stage::{ReportInput, Reported, report};

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::try_join;
use serde::Serialize;

use crate::{
    Result,
    cost::receipt::{Receipt, StageRecords},
    dataset::{self, Checksum, Manifest, blocking::run_blocking, keys, tables},
    report::text::{label_name, percent},
    store::Store,
};
use findings::{Found, Scores, evenly};
use learned::Learned;
use plots::{Scatter, Scree};
use sample::{Sample, Sheet};

/// Points of a scatter plot.
const POINTS: usize = 300;
/// Images whose nearest neighbours are shown, and the number of neighbours.
const ASKED: usize = 6;
const NEAREST: usize = 6;
/// Outliers and groups of duplicates on the page, and images of a group.
const LISTED: usize = 12;
const MEMBERS: usize = 4;
/// Rejects on the page.
const REJECTS: usize = 60;

/// Keys of a report, relative to the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Key of `report.html`.
    pub report: String,
    /// Key of `receipt.json`.
    pub receipt: String,
}

/// The data of the page.
struct Content<'a> {
    manifest: &'a Manifest,
    records: &'a [StageRecords],
    receipt: &'a Receipt,
    sample: Sample,
    /// Rows of the sample that are points of the plots.
    points: Vec<usize>,
    found: Found,
    /// Some rows, and the nearest neighbours of each with their distances.
    nearest: Vec<(usize, Vec<(usize, f64)>)>,
    /// None without a classifier.
    learned: Option<Learned>,
    sheet: Sheet,
    /// Path, reason and detail.
    rejects: Vec<[String; 3]>,
    scree: Scree,
}

/// Writes `report.html`, `scree.png`, `scatter.png` and `receipt.json` to `runs/<run>/`.
///
/// Reads the basis, the rejects table and a sample of the scores from `output`, and images from `input` for previews. An
/// image that cannot be read has no preview; any other failure is an error.
pub async fn write(
    input: &dyn Store,
    output: &dyn Store,
    manifest: &Manifest,
    records: &[StageRecords],
    receipt: &Receipt,
) -> Result<Written> {
    let key = |name: &str| keys::run(&manifest.run, name);
    let written = Written { report: key("report.html"), receipt: key("receipt.json") };
    let mut content = gather(output, manifest, records, receipt).await?;
    let (scree, scatter) = (content.scree.clone(), content.scatter(0));
    let plots = run_blocking(move || Ok((scree.png()?, scatter.map(|plot| plot.png()).transpose()?)));
    let (sheet, plots) = try_join!(sample::pictures(input, content.pictured()), plots)?;
    content.sheet = sheet;
    let page = html::page(&content)?;
    let mut files = vec![("report.html", Bytes::from(page)), ("scree.png", plots.0.into())];
    files.extend(plots.1.map(|scatter| ("scatter.png", Bytes::from(scatter))));
    let checksums = files.iter().map(|(name, file)| ((*name).to_owned(), Checksum::of(file))).collect();
    for (name, file) in files {
        output.put(&key(name), file).await?;
    }
    output.put(&written.receipt, dataset::to_record(&Receipt { files: checksums, ..receipt.clone() })?).await?;
    Ok(written)
}

/// Reads the data of the page, without the previews.
async fn gather<'a>(
    output: &dyn Store,
    manifest: &'a Manifest,
    records: &'a [StageRecords],
    receipt: &'a Receipt,
) -> Result<Content<'a>> {
    let basis = &manifest.basis;
    let file = basis.file.read(output).await?;
    let spectrum = tables::read_basis(file, basis.columns, &basis.file.key)?.spectrum;
    let shares = spectrum.iter().map(|variance| variance / basis.total_variance).collect();
    let scree = Scree { shares, kept: basis.components, for_mark: basis.components_for_90_percent };

    let sample = sample::read(output, manifest).await?;
    let kept = basis.components;
    let (sample, nearest) = run_blocking(move || {
        let scores = Scores { values: &sample.scores, kept };
        let asked = evenly(scores.rows(), ASKED);
        let nearest = asked.into_iter().map(|row| (row, scores.nearest(row, NEAREST))).collect();
        Ok((sample, nearest))
    })
    .await?;
    let file = &manifest.outputs.rejects;
    let rejects = tables::read_rejects(file.read(output).await?, &file.key)?;

    Ok(Content {
        points: evenly(sample.paths.len(), POINTS),
        manifest,
        records,
        receipt,
        sample,
        found: findings::read(output, manifest).await?,
        nearest,
        learned: learned::read(output, manifest).await?,
        sheet: Sheet::default(),
        rejects,
        scree,
    })
}

impl Content<'_> {
    /// Name of the label of a row of the sample.
    fn label_of(&self, row: usize) -> &str {
        let label = self.manifest.labels.get(self.sample.labels[row]);
        label_name(label.and_then(|count| count.label.as_deref()))
    }

    /// Paths of all images on the page, without repetitions; those of the findings are first.
    fn pictured(&self) -> Vec<String> {
        let outliers = self.found.farthest.iter().map(|row| row.path.as_str());
        let groups = self.found.groups.iter().flat_map(|group| group.iter().take(MEMBERS)).map(|row| row.path.as_str());
        let nearest = self.nearest.iter().flat_map(|(row, near)| {
            let near = near.iter().map(|(row, _)| *row);
            [*row].into_iter().chain(near)
        });
        let rows = nearest.chain(self.points.iter().copied());
        let rejects = self.rejects.iter().take(REJECTS).map(|[path, ..]| path.as_str());
        let suspects = self.learned.iter().flat_map(|learned| &learned.first).map(|row| row.path.as_str());
        let paths = groups
            .chain(suspects)
            .chain(outliers)
            .chain(rows.map(|row| self.sample.paths[row].as_str()))
            .chain(rejects);
        let mut seen = BTreeSet::new();
        paths.filter(|path| seen.insert(*path)).map(str::to_owned).collect()
    }

    /// The scatter plot of the components `first` and `first + 1`; `None` if there are too few.
    fn scatter(&self, first: usize) -> Option<Scatter> {
        let (kept, scores) = (self.manifest.basis.components, &self.sample.scores);
        if first + 1 >= kept.max(2) || self.points.is_empty() {
            return None;
        }
        // With one component, the second coordinate is 0.
        let score = |row: usize, component: usize| {
            if component < kept { f64::from(scores[row * kept + component]) } else { 0.0 }
        };
        let share = |component: usize| {
            let share = self.manifest.basis.explained_variance_ratio.get(component).copied().unwrap_or(0.0);
            format!("pc_{component} ({} of the variance)", percent(share))
        };
        let label = |row: &usize| (self.sample.labels[*row], self.label_of(*row).to_owned());
        Some(Scatter {
            axes: [share(first), share(first + 1)],
            labels: self.points.iter().map(label).collect(),
            points: self
                .points
                .iter()
                .map(|row| (score(*row, first), score(*row, first + 1), self.sample.labels[*row]))
                .collect(),
        })
    }
}
