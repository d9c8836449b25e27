//! JPEG files, decoded by libjpeg-turbo: the pixels of Pillow, OpenCV and TensorFlow, bit for bit.
//!
//! libjpeg-turbo decodes with its integer DCT ("islow") and smooth ("fancy") chroma upsampling, which are the defaults of all
//! three. CMYK is converted to RGB as Pillow does.

use pomona_kernels::jpeg::{self, Decoder, Failure};

use super::{Pixels, Reason, Reject, decode::Limits, spare, unsupported};

/// What is decoded, for the details of rejects.
pub(super) const VARIANTS: &str = "baseline and progressive JPEGs with Huffman coding and 8 bits per sample are read";
/// Most scans of a progressive JPEG. Cameras and programs write about 10.
const MAX_SCANS: u16 = 100;

/// Decodes a JPEG, at a fraction of its size if `target` is given: see [`super::decode_scaled`].
pub(super) fn decode(file: &[u8], limits: Limits, target: Option<(usize, usize)>) -> Result<Pixels, Reject> {
    if let Some(variant) = unsupported::jpeg_variant(file) {
        return Err(Reject::new(Reason::UnsupportedFormat, format!("{variant}: {VARIANTS}")));
    }
    let memory = u16::try_from(limits.memory >> 20).unwrap_or(u16::MAX).max(1);
    let decoder = Decoder::new(file, jpeg::Limits { scans: MAX_SCANS, memory }).map_err(reject)?;
    let header = decoder.header();
    limits.check(header.width as u64, header.height as u64)?;
    let reduction = target.map_or(1, |target| reduction((header.width, header.height), target));
    let (header, samples) = decoder.decode(reduction, spare::take).map_err(reject)?;
    let data = match header.channels {
        4 => samples.as_chunks::<4>().0.iter().flat_map(|cmyk| rgb(*cmyk)).collect(),
        _ => samples,
    };
    Ok(Pixels { width: header.width, height: header.height, data })
}

/// The largest reduction by 8, 4 or 2 that leaves twice the target on both sides, as `Image.draft` of Pillow; 1 for none.
fn reduction((width, height): (usize, usize), (to_width, to_height): (usize, usize)) -> u8 {
    let most = (width / (2 * to_width)).min(height / (2 * to_height));
    [8, 4, 2].into_iter().find(|by| most >= usize::from(*by)).unwrap_or(1)
}

/// Pillow's conversion. Files hold inverted CMYK, as Adobe's programs write it.
fn rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let product = |a: u8, b: u8| {
        let product = u32::from(a) * u32::from(b) + 128;
        ((product >> 8) + product) >> 8
    };
    [c, m, y].map(|ink| (u32::from(k) - product(255 - ink, k)) as u8)
}

fn reject(failure: Failure) -> Reject {
    let detail = failure.to_string();
    let reason = match failure {
        Failure::Truncated => Reason::Truncated,
        Failure::Refused(text) if text.contains("scans") || text.contains("Memory limit") => Reason::TooLarge,
        Failure::Refused(text) if text.starts_with("Unsupported") => Reason::UnsupportedFormat,
        Failure::Refused(_) => Reason::Corrupt,
    };
    Reject { reason, detail }
}
