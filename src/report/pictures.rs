//! Previews of images: large ones of the findings, and small ones of images on the map. Each size is one JPEG. Both are
//! bounded, so that the size of a report is.

use std::{collections::HashMap, io::Cursor};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt, stream};
use image::{ImageEncoder, RgbImage, codecs::jpeg::JpegEncoder, imageops};
use rayon::join;
use serde::Serialize;

use crate::{Error, ErrorKind, Result, dataset::blocking::run_blocking, image::preview, store::Store};

/// Most bytes of all files together.
const ALL_FILES_BYTES: u64 = 64 << 20;
/// Concurrent reads; each file can be as large as the largest image.
const READS_AT_A_TIME: usize = 6;
/// Previews per row of a sheet.
const PICTURES_PER_ROW: usize = 20;
const JPEG_QUALITY: u8 = 80;

/// The size of a preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Size {
    /// Of a finding.
    Large,
    /// Of an image on the map.
    Small,
}

impl Size {
    /// Side in pixels; `style.css` has the same numbers.
    pub(super) fn side(self) -> usize {
        match self {
            Size::Large => 128,
            Size::Small => 64,
        }
    }
}

/// Where a preview is: the sheet, and the CSS background position in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) size: Size,
    pub(super) position: String,
}

/// Previews of one size, all in one JPEG.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    size: Size,
    /// A `data:` URL; empty without previews.
    pub(super) address: String,
    /// Paths in the order of their previews.
    paths: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Sheet {
    fn new(size: Size) -> Self {
        Sheet { size, address: String::new(), paths: Vec::new(), numbers: HashMap::new() }
    }

    /// The size of its previews.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// The place of the preview of a path; `None` if it has none.
    pub(super) fn place(&self, path: &str) -> Option<Place> {
        self.numbers.get(path).map(|number| self.nth(*number))
    }

    /// All previews.
    pub(super) fn places(&self) -> impl Iterator<Item = (&str, Place)> {
        self.paths.iter().zip(0..).map(|(path, number)| (path.as_str(), self.nth(number)))
    }

    fn nth(&self, number: usize) -> Place {
        let at = |n: usize| n * self.size.side();
        let (x, y) = (at(number % PICTURES_PER_ROW), at(number / PICTURES_PER_ROW));
        Place { size: self.size, position: format!("-{x}px -{y}px") }
    }
}

/// Makes previews of the images with these paths, up to the limits. Images that cannot be read have no preview.
pub(super) async fn make(input: &dyn Store, large: Vec<String>, small: Vec<String>) -> Result<[Sheet; 2]> {
    let sized = |paths: Vec<String>, size| paths.into_iter().map(move |path| (path, size));
    let wanted = stream::iter(sized(large, Size::Large).chain(sized(small, Size::Small)));
    let reads = wanted.map(|(path, size)| async move {
        // A missing preview is not an error: the image may be deleted by now, or be too large.
        let file = input.get(&path).await.ok()?;
        let bytes = file.len() as u64;
        let picture = run_blocking(move || Ok(preview(&file, size.side()))).await.ok().flatten()?;
        Some((path, size, picture, bytes))
    });
    let mut budget = ALL_FILES_BYTES;
    let mut sheets = [Size::Large, Size::Small].map(|size| (Sheet::new(size), Vec::new()));
    let mut reads = reads.buffered(READS_AT_A_TIME).boxed();
    while let Some(read) = reads.next().await {
        let Some((path, size, picture, bytes)) = read else { continue };
        let (sheet, made) = &mut sheets[usize::from(size == Size::Small)];
        sheet.numbers.insert(path.clone(), made.len());
        sheet.paths.push(path);
        made.push(picture);
        budget = budget.saturating_sub(bytes);
        if budget == 0 {
            break;
        }
    }
    drop(reads);
    run_blocking(move || {
        let [(large, of_large), (small, of_small)] = sheets;
        let (large, small) = join(|| joined(large, &of_large), || joined(small, &of_small));
        Ok([large?, small?])
    })
    .await
}

/// Arranges the previews of a sheet in rows.
fn joined(mut sheet: Sheet, pictures: &[RgbImage]) -> Result<Sheet> {
    if pictures.is_empty() {
        return Ok(sheet);
    }
    let (columns, rows) = (PICTURES_PER_ROW.min(pictures.len()), pictures.len().div_ceil(PICTURES_PER_ROW));
    let side = sheet.size.side();
    let mut all = RgbImage::from_pixel((columns * side) as u32, (rows * side) as u32, image::Rgb([255; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        let at = |n: usize| (n * side) as i64;
        imageops::replace(&mut all, picture, at(i % PICTURES_PER_ROW), at(i / PICTURES_PER_ROW));
    }
    let mut file = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
    encoder
        .write_image(&all, all.width(), all.height(), image::ExtendedColorType::Rgb8)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "the previews of a report could not be encoded").source(e))?;
    sheet.address = format!("data:image/jpeg;base64,{}", STANDARD.encode(file.into_inner()));
    Ok(sheet)
}
