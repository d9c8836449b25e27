//! JPEG files, decoded by libjpeg-turbo: the pixels of Pillow, OpenCV and TensorFlow, bit for bit.
//!
//! libjpeg-turbo decodes with its integer DCT ("islow") and smooth ("fancy") chroma upsampling, which are the defaults of all
//! three. CMYK is converted to RGB as Pillow does.

use pomona_kernels::jpeg::{self, Decoder, Failure};

use super::{Pixels, Reason, Reject, decode::Limits, unsupported};

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
    let failed = |failure: Failure| reject(&failure, file);
    let decoder = Decoder::new(file, jpeg::Limits { scans: MAX_SCANS, memory }).map_err(failed)?;
    let header = decoder.header();
    let checked = limits.check(header.width as u64, header.height as u64);
    let is_too_large = matches!(&checked, Err(reject) if reject.reason == Reason::TooLarge);
    // Without an end marker, the decoder fills the missing part with grey, and a file that ends in its header claims 0 x 0
    // pixels. Pillow rejects such files.
    if !is_too_large && !has_end(file) {
        return Err(Reject::new(Reason::Truncated, "the file ends before the JPEG end marker"));
    }
    checked?;
    let reduction = target.map_or(1, |target| reduction((header.width, header.height), target));
    let (header, samples) = decoder.decode(reduction).map_err(failed)?;
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

fn reject(failure: &Failure, file: &[u8]) -> Reject {
    let detail = failure.to_string();
    let reason = match detail.as_str() {
        _ if !has_end(file) => Reason::Truncated,
        text if text.starts_with("Premature end") => Reason::Truncated,
        text if text.contains("scans") || text.contains("Memory limit") => Reason::TooLarge,
        text if text.starts_with("Unsupported") => Reason::UnsupportedFormat,
        _ => Reason::Corrupt,
    };
    Reject { reason, detail }
}

/// Whether a JPEG has an end-of-image marker after its segments.
///
/// Without one, the decoder fills the missing part with grey and returns no error. Pillow rejects such files.
fn has_end(file: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Skips entropy-coded data, fill bytes, stuffed zeros and restart markers up to the next marker.
        let Some(skip) = file.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0xff)) else {
            return false;
        };
        at += skip + 1;
        match file.get(at) {
            None => return false,
            Some(0xd9) => return true,
            Some(0xff) => {}
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => match (file.get(at + 1), file.get(at + 2)) {
                (Some(high), Some(low)) => at += 1 + usize::from(u16::from_be_bytes([*high, *low])).max(2),
                _ => return false,
            },
        }
    }
}
