//! A sample of the scores, and previews of images. Both are bounded, so that the size of a report is.

use std::{collections::HashMap, io::Cursor};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use image::{ImageEncoder, RgbImage, codecs::jpeg::JpegEncoder, imageops};

use super::findings::evenly;
use crate::{
    Error, ErrorKind, Result,
    dataset::{FileRef, Manifest, blocking::run_blocking, contents, partition, tables},
    image::{Limits, decode_scaled, resize},
    store::Store,
};

/// Parts of the PCA table that are read, and rows of the sample.
const PARTS: usize = 32;
const ROWS: usize = 20_000;
/// Limits of previews: bytes of all files together, and pixels of one image.
const ALL_FILES_BYTES: u64 = 64 << 20;
const PIXELS: u64 = 16_000_000;
/// Concurrent reads; each file can be as large as the largest image.
const READS_AT_A_TIME: usize = 6;
/// Side of a preview in pixels, and previews per row of the sheet.
const PICTURE: u32 = 56;
const PICTURES_PER_ROW: usize = 20;
const JPEG_QUALITY: u8 = 78;

/// Rows of the PCA table.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) paths: Vec<String>,
    /// Index of the label in the manifest's list.
    pub(super) labels: Vec<usize>,
    /// `[rows, kept]`, row-major.
    pub(super) scores: Vec<f32>,
}

/// Reads rows of parts that are evenly spread over the table.
pub(super) async fn read(output: &dyn Store, manifest: &Manifest) -> Result<Sample> {
    let kept = manifest.basis.components;
    let numbers: HashMap<_, _> = manifest.labels.iter().enumerate().map(|(i, count)| (&count.label, i)).collect();
    // In a partitioned table, the label is in the name of the folder.
    let folders: HashMap<String, usize> = manifest
        .labels
        .iter()
        .enumerate()
        .map(|(i, count)| (format!("/label={}/", partition::folder_value(count.label.as_deref())), i))
        .collect();
    let parts: Vec<FileRef> =
        contents::parts(output, manifest).await?.into_iter().flat_map(|part| part.scores).collect();
    let parts = &parts;
    let chosen = evenly(parts.len(), PARTS);
    let of_each = ROWS.div_ceil(chosen.len().max(1));
    let reads = chosen.into_iter().map(|part| async move {
        let FileRef { key, .. } = &parts[part];
        tables::read_scores(parts[part].read(output).await?, kept, key).map(|rows| (key, rows))
    });
    let reads: Vec<_> = reads.collect();
    let mut read = stream::iter(reads).buffered(READS_AT_A_TIME);
    let mut sample = Sample::default();
    while let Some((key, rows)) = read.try_next().await? {
        let by_folder = folders.iter().find(|(folder, _)| key.contains(folder.as_str())).map(|(_, label)| *label);
        for row in evenly(rows.paths.len(), of_each) {
            sample.paths.push(rows.paths[row].clone());
            let own = numbers.get(&rows.labels[row]).copied().unwrap_or(0);
            sample.labels.push(by_folder.unwrap_or(own));
            sample.scores.extend(rows.scores.row(row));
        }
    }
    Ok(sample)
}

/// Previews of images, all in one JPEG.
#[derive(Clone, Debug, Default)]
pub(super) struct Sheet {
    /// A `data:` URL; empty without previews.
    pub(super) address: String,
    /// Number of the preview of a path.
    places: HashMap<String, usize>,
}

impl Sheet {
    /// The CSS background position that shows the preview of a path; `None` if it has none.
    pub(super) fn position(&self, path: &str) -> Option<String> {
        let place = self.places.get(path)?;
        let at = |n: usize| n * PICTURE as usize;
        Some(format!("-{}px -{}px", at(place % PICTURES_PER_ROW), at(place / PICTURES_PER_ROW)))
    }
}

/// Makes previews of the images in `paths`, up to the limits. Images that cannot be read have no preview.
pub(super) async fn pictures(input: &dyn Store, paths: Vec<String>) -> Result<Sheet> {
    let wanted = stream::iter(paths).map(|path| async move {
        // A missing preview is not an error: the image may be deleted by now, or be too large.
        let file = input.get(&path).await.ok()?;
        let bytes = file.len() as u64;
        let picture = run_blocking(move || Ok(shrink(&file))).await.ok().flatten()?;
        Some((path, picture, bytes))
    });
    let mut budget = ALL_FILES_BYTES;
    let mut sheet = Sheet::default();
    let mut made: Vec<RgbImage> = Vec::new();
    let mut reads = wanted.buffered(READS_AT_A_TIME).boxed();
    while let Some(read) = reads.next().await {
        let Some((path, picture, bytes)) = read else { continue };
        sheet.places.insert(path, made.len());
        made.push(picture);
        budget = budget.saturating_sub(bytes);
        if budget == 0 {
            break;
        }
    }
    drop(reads);
    if !made.is_empty() {
        sheet.address = run_blocking(move || join(&made)).await?;
    }
    Ok(sheet)
}

/// Scales an image to fit into a square, and fills the rest with white.
fn shrink(file: &[u8]) -> Option<RgbImage> {
    let side = PICTURE as usize;
    let image = decode_scaled(file, Limits { pixels: PIXELS, ..Limits::default() }, side, side).ok()?;
    let largest = image.width.max(image.height);
    let side = |length: usize| (length * PICTURE as usize / largest).max(1);
    let (width, height) = (side(image.width), side(image.height));
    let small = resize(image, width, height);
    let small = RgbImage::from_raw(width as u32, height as u32, small.data)?;
    let mut square = RgbImage::from_pixel(PICTURE, PICTURE, image::Rgb([255; 3]));
    let middle = |length: u32| i64::from((PICTURE - length) / 2);
    imageops::replace(&mut square, &small, middle(small.width()), middle(small.height()));
    Some(square)
}

/// Arranges the previews in rows; returns a `data:` URL.
fn join(pictures: &[RgbImage]) -> Result<String> {
    let (columns, rows) = (PICTURES_PER_ROW, pictures.len().div_ceil(PICTURES_PER_ROW));
    let mut sheet = RgbImage::from_pixel(columns as u32 * PICTURE, rows as u32 * PICTURE, image::Rgb([255; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        let at = |n: usize| n as i64 * i64::from(PICTURE);
        imageops::replace(&mut sheet, picture, at(i % columns), at(i / columns));
    }
    let mut file = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
    encoder
        .write_image(&sheet, sheet.width(), sheet.height(), image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "the previews of a report could not be encoded").source(e))?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(file.into_inner())))
}
