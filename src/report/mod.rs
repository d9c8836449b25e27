//! The report of a run: one HTML file that needs no network, two plots as PNG, and the receipt.
//!
//! The findings are those of the tables of the version, which cover all images. The page draws every image up to
//! [`POINTS`], and beyond that a sample; it shows some pictures, and says so. So its size is bounded: 2 MB for 100,000
//! images with ordinary names, and 5 MB in any case but that of very long names. No other result depends on a report.

mod embedded;
mod findings;
mod html;
mod learned;
mod lists;
mod pictures;
mod plots;
mod points;
mod stage;
pub mod text;

pub use lists::ROWS;
pub use points::{PARTS, POINTS};
pub use stage::{ReportInput, Reported, report};

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::try_join;
use serde::Serialize;

use crate::{
    Result, compiled_once,
    cost::receipt::{Receipt, StageRecords},
    dataset::{self, Checksum, Manifest, blocking::run_blocking, keys, tables},
    report::text::{label_name, percent},
    store::Store,
};
use embedded::{Embedded, Legend};
use findings::{Found, evenly};
use learned::Learned;
use lists::Lists;
use pictures::Sheet;
use plots::{Range, Scatter, Scree};
use points::Points;

/// Points of the scatter plot that is a PNG.
const DOTS: usize = 2_000;
/// Images on the map that have a preview.
const PREVIEWS: usize = 300;
/// Suspects, outliers and groups of duplicates on the page, and images of a group.
const LISTED: usize = 12;
const MEMBERS: usize = 4;
/// Rejects on the page, and how many of them may have a preview.
const REJECTS: usize = 60;
const REJECTS_WITH_PREVIEW: usize = 24;

/// What [`write()`] has written: keys, relative to the output, and the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Key of `report.html`.
    pub report: String,
    /// Key of `receipt.json`.
    pub receipt: String,
    /// The content of `report.html`.
    #[serde(skip)]
    pub page: Bytes,
}

/// The data of the page.
struct Content<'a> {
    manifest: &'a Manifest,
    records: &'a [StageRecords],
    receipt: &'a Receipt,
    points: Points,
    found: Found,
    /// None without a classifier.
    learned: Option<Learned>,
    /// Path, reason and detail.
    rejects: Vec<[String; 3]>,
    scree: Scree,
}

/// What is made of the data for the page.
struct Media {
    /// Previews of the findings, and of images on the map.
    large: Sheet,
    small: Sheet,
    lists: Lists,
    embedded: Embedded,
}

/// Writes `report.html`, `scree.png`, `scatter.png` and `receipt.json` to `runs/<run>/`.
///
/// Reads the basis, the scores and the tables of findings from `output`, and images from `input` for previews. An image
/// that cannot be read has no preview; any other failure is an error.
#[compiled_once]
pub async fn write(
    input: &dyn Store,
    output: &dyn Store,
    manifest: &Manifest,
    records: &[StageRecords],
    receipt: &Receipt,
) -> Result<Written> {
    let key = |name: &str| keys::run(&manifest.run, name);
    let content = gather(output, manifest, records, receipt).await?;
    let (scree, scatter) = (content.scree.clone(), content.scatter(0));
    let plots = run_blocking(move || Ok((scree.png()?, scatter.map(|plot| plot.png()).transpose()?)));
    let (large, small) = content.pictured();
    let ([large, small], plots) = try_join!(pictures::make(input, large, small), plots)?;
    let page = Bytes::from(html::page(&content, &content.media(large, small)?)?);
    let mut files = vec![("report.html", page.clone()), ("scree.png", plots.0.into())];
    files.extend(plots.1.map(|scatter| ("scatter.png", Bytes::from(scatter))));
    let checksums = files.iter().map(|(name, file)| ((*name).to_owned(), Checksum::of(file))).collect();
    for (name, file) in files {
        output.put(&key(name), file).await?;
    }
    let written = Written { report: key("report.html"), receipt: key("receipt.json"), page };
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
    let file = &manifest.outputs.rejects;
    Ok(Content {
        manifest,
        records,
        receipt,
        points: points::read(output, manifest).await?,
        found: findings::read(output, manifest).await?,
        learned: learned::read(output, manifest).await?,
        rejects: tables::read_rejects(file.read(output).await?, &file.key)?,
        scree: Scree { shares, kept: basis.components, for_mark: basis.components_for_90_percent },
    })
}

impl Content<'_> {
    /// Paths of the images that have a large and a small preview, without repetitions.
    fn pictured(&self) -> (Vec<String>, Vec<String>) {
        let groups = self.found.groups.iter().flat_map(|group| &group.first).map(|row| row.path.as_str());
        let suspects = self.learned.iter().flat_map(|learned| learned.first.iter().take(LISTED));
        let outliers = self.found.farthest.iter().map(|row| row.path.as_str());
        let rejects = self.rejects.iter().take(REJECTS_WITH_PREVIEW).map(|[path, ..]| path.as_str());
        let findings = groups.chain(suspects.map(|row| row.path.as_str())).chain(outliers).chain(rejects);
        let mut seen = BTreeSet::new();
        let large = findings.filter(|path| seen.insert(*path)).map(str::to_owned).collect();
        let rows = evenly(self.points.paths.len(), PREVIEWS).into_iter().map(|row| self.points.paths[row].as_str());
        (large, rows.filter(|path| seen.insert(*path)).map(str::to_owned).collect())
    }

    fn media(&self, large: Sheet, small: Sheet) -> Result<Media> {
        let labels = &self.manifest.labels;
        let legend = Legend {
            labels: labels.iter().map(|count| label_name(count.label.as_deref()).to_owned()).collect(),
            colours: plots::PALETTE.iter().map(|(r, g, b)| format!("rgb({r},{g},{b})")).collect(),
        };
        let suspects = self.learned.as_ref().map(|learned| lists::suspects(&learned.first, learned.suspects));
        let lists = Lists {
            duplicates: self.found.listed_duplicates.clone(),
            suspects: suspects.unwrap_or_default(),
            outliers: self.found.listed_outliers.clone(),
            rejects: lists::rejects(&self.rejects),
        };
        let embedded = embedded::encode(&self.points, &legend, [&large, &small], &lists)?;
        Ok(Media { large, small, lists, embedded })
    }

    /// The scatter plot of the components `first` and `first + 1`; `None` if there are too few.
    fn scatter(&self, first: usize) -> Option<Scatter> {
        let points = &self.points;
        if first + 1 >= self.manifest.basis.components.max(2) || points.paths.is_empty() {
            return None;
        }
        let share = |component: usize| {
            let share = self.manifest.basis.explained_variance_ratio.get(component).copied().unwrap_or(0.0);
            format!("pc_{component} ({} of the variance)", percent(share))
        };
        let name = |label: usize| {
            let count = self.manifest.labels.get(label);
            label_name(count.and_then(|count| count.label.as_deref())).to_owned()
        };
        let dots = evenly(points.paths.len(), DOTS);
        let dot = |row: &usize| (points.score(*row, first), points.score(*row, first + 1), points.labels[*row]);
        Some(Scatter {
            axes: [share(first), share(first + 1)],
            labels: dots.iter().map(|row| (points.labels[*row], name(points.labels[*row]))).collect(),
            ranges: [first, first + 1].map(|component| Range::from(points.extent(component))),
            points: dots.iter().map(dot).collect(),
        })
    }
}
