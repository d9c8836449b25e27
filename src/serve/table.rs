//! The images of a version in memory, for the map and for searches by text: about 100 bytes per image and its path.

use std::{collections::BTreeMap, pin::pin};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::{
    Result,
    dataset::{
        Manifest, contents,
        labelling::Labelling,
        tables::{OutlierRow, PredictionRow},
    },
    store::Store,
    versions::findings::DuplicateGroup,
};

/// Tables that are read at the same time.
const CONCURRENCY: usize = 4;

/// Bits of [`Image::flags`].
pub(super) const SUSPECT: u8 = 1;
pub(super) const OUTLIER: u8 = 2;
pub(super) const DUPLICATE: u8 = 4;

/// Texts that many images share, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    pub(super) fn all(&self) -> &[String] {
        &self.names
    }

    pub(super) fn known(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(super) fn name(&self, number: Option<u32>) -> Option<&str> {
        self.names.get(number? as usize).map(String::as_str)
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) path: String,
    pub(super) label: Option<u32>,
    pub(super) split: Option<u32>,
    /// The first two scores.
    pub(super) place: [f32; 2],
    pub(super) flags: u8,
    pub(super) said: Option<Said>,
}

/// What the classifier says about a row, out of its fold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) predicted: u32,
    pub(super) probability: f32,
    pub(super) label_probability: Option<f32>,
}

/// The images of a version with features, in key order.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) images: Vec<Image>,
    pub(super) labels: Names,
    pub(super) splits: Names,
}

/// A row for clients.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    /// Number of the row: that of its point on the map.
    pub(super) row: usize,
    pub(super) path: &'a str,
    pub(super) label: Option<&'a str>,
    pub(super) split: Option<&'a str>,
    pub(super) predicted: Option<&'a str>,
    pub(super) probability: Option<f32>,
    pub(super) label_probability: Option<f32>,
    pub(super) suspect: bool,
    pub(super) outlier: bool,
    pub(super) duplicate: bool,
}

impl Table {
    /// Reads the scores and the predictions of a version. Fails with `Dataset.Corrupt`.
    pub(super) async fn read(output: &dyn Store, version: &Manifest) -> Result<Table> {
        let mut table = Table::default();
        table.read_scores(output, version).await?;
        let mut parts = pin!(contents::predictions(output, version).await?);
        while let Some(rows) = parts.try_next().await? {
            rows.iter().for_each(|row| table.add_prediction(row));
        }
        // Without predictions, only the rules say what the split is.
        if table.images.iter().any(|image| image.said.is_none()) {
            let labelling = Labelling::open(output, &version.settings).await?;
            for image in table.images.iter_mut().filter(|image| image.said.is_none()) {
                image.split = labelling.of(&image.path).split.map(|split| table.splits.number(split));
            }
        }
        Ok(table)
    }

    async fn read_scores(&mut self, output: &dyn Store, version: &Manifest) -> Result<()> {
        let kept = version.basis.components;
        let files = contents::parts(output, version).await?.into_iter().flat_map(|part| part.scores);
        let reads = files.map(|file| async move { contents::score_rows(output, version.version, kept, &file).await });
        let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(CONCURRENCY);
        while let Some(rows) = reads.try_next().await? {
            for ((path, label), scores) in rows.paths.iter().zip(&rows.labels).zip(rows.scores.outer_iter()) {
                let score = |component: usize| scores.get(component).copied().unwrap_or_default();
                let label = label.as_deref().map(|label| self.labels.number(label));
                let place = [score(0), score(1)];
                self.images.push(Image { path: path.clone(), label, split: None, place, flags: 0, said: None });
            }
        }
        // Folders of labels are in another order.
        self.images.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    fn add_prediction(&mut self, row: &PredictionRow) {
        let Some(at) = self.row(&row.path) else { return };
        let predicted = self.labels.number(&row.predicted);
        let split = row.split.as_deref().map(|split| self.splits.number(split));
        let image = &mut self.images[at];
        let (probability, label_probability) = (row.probability as f32, row.label_probability.map(|p| p as f32));
        image.said = Some(Said { predicted, probability, label_probability });
        image.split = split;
        image.flags |= if row.suspect { SUSPECT } else { 0 };
    }

    /// Marks the rows of duplicates and outliers.
    pub(super) fn mark(&mut self, duplicates: &[DuplicateGroup], outliers: &[OutlierRow]) {
        let twice = duplicates.iter().flat_map(|group| &group.paths).map(|path| (path, DUPLICATE));
        for (path, flag) in twice.chain(outliers.iter().map(|outlier| (&outlier.path, OUTLIER))) {
            if let Some(row) = self.row(path) {
                self.images[row].flags |= flag;
            }
        }
    }

    /// The row of an image.
    pub(super) fn row(&self, path: &str) -> Option<usize> {
        self.images.binary_search_by(|image| image.path.as_str().cmp(path)).ok()
    }

    /// A row for clients.
    pub(super) fn shown(&self, row: usize) -> Option<Shown<'_>> {
        let image = self.images.get(row)?;
        Some(Shown {
            row,
            path: &image.path,
            label: self.labels.name(image.label),
            split: self.splits.name(image.split),
            predicted: self.labels.name(image.said.map(|said| said.predicted)),
            probability: image.said.map(|said| said.probability),
            label_probability: image.said.and_then(|said| said.label_probability),
            suspect: image.flags & SUSPECT > 0,
            outlier: image.flags & OUTLIER > 0,
            duplicate: image.flags & DUPLICATE > 0,
        })
    }

    /// The suspects, the most suspect first; equal ones by key.
    pub(super) fn suspects(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.images.len()).filter(|row| self.images[*row].flags & SUSPECT > 0).collect();
        let probability = |row: &usize| self.images[*row].said.and_then(|said| said.label_probability).unwrap_or(1.0);
        rows.sort_by(|a, b| probability(a).total_cmp(&probability(b)));
        rows
    }
}
