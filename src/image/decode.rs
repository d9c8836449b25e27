//! Decoding to 8-bit RGB, as `PIL.Image.open(file).convert("RGB")`.
//!
//! Alpha is dropped, not blended. Grey is repeated. 16-bit samples keep their high byte. CMYK is converted to RGB. The
//! first frame of an animation is used. The format is detected from the first bytes of the file, not from its name.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, error::LimitErrorKind};

use super::{Pixels, Reason, Reject, jpeg, unsupported};

/// Largest image file, bytes. Larger objects are rejected without being read.
pub const MAX_FILE_BYTES: u64 = 128 << 20;

/// What is decoded, for the details of rejects.
pub(super) const FORMATS: &str = "JPEG, PNG, GIF, BMP, WebP and TIFF are read";

/// Limits on one image, which keep memory bounded whatever a file claims.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most pixels, width times height.
    pub pixels: u64,
    /// Largest width and largest height, pixels. The resize weights of an axis grow with it.
    pub side: u32,
    /// Most memory for the decoded samples and the decoder's buffers, bytes.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { pixels: 64_000_000, side: 65_535, memory: 512 << 20 }
    }
}

impl Limits {
    /// Fails with `TooLarge` or `Corrupt` for images that are not decoded.
    pub(super) fn check(&self, width: u64, height: u64) -> Result<(), Reject> {
        if width == 0 || height == 0 {
            return Err(Reject::new(Reason::Corrupt, format!("{width} x {height} pixels")));
        }
        if width.max(height) > u64::from(self.side) || width.saturating_mul(height) > self.pixels {
            let detail = format!("{width} x {height} pixels; at most {} are taken", self.pixels);
            return Err(Reject::new(Reason::TooLarge, detail));
        }
        Ok(())
    }
}

/// Decodes a whole file to 8-bit RGB, within `limits`.
///
/// Fails with the reason `Empty`, `NotAnImage`, `UnsupportedFormat`, `Truncated`, `Corrupt` or `TooLarge`.
pub fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Reject> {
    decode_for(file, limits, None)
}

/// Decodes a file like [`decode`], and a large JPEG at a half, a quarter or an eighth of its size, as `Image.draft` of
/// Pillow: the smallest of them that is at least twice `width` x `height`. That is several times faster and changes the
/// pixels a little.
pub fn decode_scaled(file: &[u8], limits: Limits, width: usize, height: usize) -> Result<Pixels, Reject> {
    decode_for(file, limits, Some((width, height)))
}

fn decode_for(file: &[u8], limits: Limits, target: Option<(usize, usize)>) -> Result<Pixels, Reject> {
    match format_of(file)? {
        ImageFormat::Jpeg => jpeg::decode(file, limits, target),
        format => decode_as(file, format, limits),
    }
}

fn decode_as(file: &[u8], format: ImageFormat, limits: Limits) -> Result<Pixels, Reject> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(limits.memory);
    (bounds.max_image_width, bounds.max_image_height) = (Some(limits.side), Some(limits.side));
    reader.limits(bounds);
    let reject = |error| reject(error, file, format);
    let decoder = reader.into_decoder().map_err(reject)?;
    let (width, height) = decoder.dimensions();
    limits.check(width.into(), height.into())?;
    if decoder.total_bytes() > limits.memory {
        let detail = format!("{width} x {height} pixels of {} bytes in all", decoder.total_bytes());
        return Err(Reject::new(Reason::TooLarge, detail));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(reject)?;
    Ok(Pixels { width: width as usize, height: height as usize, data: to_rgb(image) })
}

fn format_of(file: &[u8]) -> Result<ImageFormat, Reject> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    if file.is_empty() {
        return Err(Reject::new(Reason::Empty, "the file has no bytes"));
    }
    match image::guess_format(file) {
        Ok(format @ (Jpeg | Png | Gif | Bmp | WebP | Tiff)) => Ok(format),
        known => {
            let other = known.ok().map(|format| format!("{format:?}"));
            Err(match unsupported::format(file).map(str::to_owned).or(other) {
                Some(name) => Reject::new(Reason::UnsupportedFormat, format!("{name}: {FORMATS}")),
                None => {
                    let start: String = file.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                    Reject::new(Reason::NotAnImage, format!("no known image format starts with {start}"))
                }
            })
        }
    }
}

fn reject(error: ImageError, file: &[u8], format: ImageFormat) -> Reject {
    if format == ImageFormat::Tiff
        && !matches!(error, ImageError::Limits(_))
        && let Some(variant) = unsupported::tiff_variant(file)
    {
        return Reject::new(Reason::UnsupportedFormat, format!("{variant}: {FORMATS}"));
    }
    let detail = error.to_string();
    let ended = |e: &std::io::Error| e.kind() == std::io::ErrorKind::UnexpectedEof;
    let reason = match &error {
        ImageError::Limits(limit) => match limit.kind() {
            LimitErrorKind::Unsupported { .. } => Reason::UnsupportedFormat,
            _ => Reason::TooLarge,
        },
        ImageError::Unsupported(_) => Reason::UnsupportedFormat,
        ImageError::IoError(e) if ended(e) => Reason::Truncated,
        _ if is_caused_by_end(&error) => Reason::Truncated,
        _ => Reason::Corrupt,
    };
    Reject { reason, detail }
}

/// Whether the end of the file is a cause of the error. Some decoders wrap it in an error of their own.
fn is_caused_by_end(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof) {
            return true;
        }
        let text = e.to_string();
        if text.contains("nexpected end of") || text.contains("nexpected EOF") || text.contains("failed to fill") {
            return true;
        }
        cause = e.source();
    }
    false
}

fn to_rgb(image: DynamicImage) -> Vec<u8> {
    let high = |sample: &u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma16(image) => image.as_raw().iter().flat_map(|v| [high(v); 3]).collect(),
        DynamicImage::ImageLumaA16(image) => image.as_raw().chunks_exact(2).flat_map(|p| [high(&p[0]); 3]).collect(),
        DynamicImage::ImageRgb16(image) => image.as_raw().iter().map(high).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.as_raw().chunks_exact(4).flat_map(|p| [high(&p[0]), high(&p[1]), high(&p[2])]).collect()
        }
        other => other.into_rgb8().into_raw(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg() -> Vec<u8> {
        let image = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 90]));
        let mut file = Vec::new();
        image.write_to(&mut Cursor::new(&mut file), ImageFormat::Jpeg).unwrap();
        file
    }

    fn reason(file: &[u8]) -> Reason {
        decode(file, Limits::default()).unwrap_err().reason
    }

    #[test]
    fn each_kind_of_unusable_file_has_its_reason() {
        let file = jpeg();
        assert_eq!(decode(&file, Limits::default()).unwrap().data.len(), 40 * 30 * 3);
        assert_eq!(reason(b""), Reason::Empty);
        assert_eq!(reason(b"hello, I am a text file"), Reason::NotAnImage);
        assert_eq!(reason(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"), Reason::UnsupportedFormat);
        assert_eq!(reason(&file[..file.len() / 2]), Reason::Truncated);
        assert_eq!(reason(&file[..20]), Reason::Truncated);
        assert_eq!(reason(&file[..file.len() - 2]), Reason::Truncated);
        let small = Limits { pixels: 1_000, ..Limits::default() };
        assert_eq!(decode(&file, small).unwrap_err().reason, Reason::TooLarge);
    }

    #[test]
    fn variants_that_are_not_decoded_are_named() {
        let file = jpeg();
        let frame = file.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut file = file.clone();
            file[at] = byte;
            decode(&file, Limits::default()).unwrap_err()
        };
        for (reject, name) in [
            (changed(frame + 1, 0xc3), "lossless JPEG: "),
            (changed(frame + 1, 0xc9), "arithmetic-coded JPEG: "),
            (changed(frame + 1, 0xcb), "arithmetic-coded JPEG: "),
            (changed(frame + 4, 12), "12-bit JPEG: "),
        ] {
            assert_eq!(
                (reject.reason, reject.detail),
                (Reason::UnsupportedFormat, format!("{name}{}", jpeg::VARIANTS))
            );
        }
        for start in [&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], b"II+\0\x08\0\0\0", b"8BPS\0\x01"] {
            let reject = decode(start, Limits::default()).unwrap_err();
            assert!(reject.reason == Reason::UnsupportedFormat && reject.detail.ends_with(FORMATS), "{reject:?}");
        }
        let raw = decode(b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0\0\0", Limits::default()).unwrap_err();
        assert_eq!(raw.reason, Reason::UnsupportedFormat, "{raw:?}");
    }

    #[test]
    fn a_small_file_that_claims_to_be_huge_is_too_large() {
        let mut png = Vec::new();
        image::GrayImage::new(4, 4).write_to(&mut Cursor::new(&mut png), ImageFormat::Png).unwrap();
        png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        // The header's checksum is wrong now, so Corrupt is correct too.
        assert!(matches!(reason(&png), Reason::TooLarge | Reason::Corrupt));
        let mut bmp = Vec::new();
        image::RgbImage::new(4, 4).write_to(&mut Cursor::new(&mut bmp), ImageFormat::Bmp).unwrap();
        bmp[18..22].copy_from_slice(&30_000i32.to_le_bytes());
        bmp[22..26].copy_from_slice(&30_000i32.to_le_bytes());
        assert_eq!(reason(&bmp), Reason::TooLarge);
    }

    #[test]
    fn truncation_is_seen_in_every_format() {
        let image = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, x as u8, (y * 7) as u8]));
        for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Tiff] {
            let mut file = Vec::new();
            image.write_to(&mut Cursor::new(&mut file), format).unwrap();
            assert!(decode(&file, Limits::default()).is_ok(), "{format:?}");
            let reason = reason(&file[..file.len() * 2 / 3]);
            assert!(matches!(reason, Reason::Truncated | Reason::Corrupt), "{format:?}: {reason}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_files_are_decoded_or_rejected_but_never_panic(
            cut in 0usize..2_000, at in 0usize..2_000, value in 0u8..=255, which in 0usize..6,
        ) {
            let formats = [
                ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif,
                ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Tiff,
            ];
            let image = image::RgbImage::from_fn(20, 12, |x, y| image::Rgb([(x * y) as u8, 3, y as u8]));
            let mut file = Vec::new();
            image.write_to(&mut Cursor::new(&mut file), formats[which]).unwrap();
            let len = file.len();
            file[at % len] = value;
            file.truncate(len - cut % len / 2);
            let _ = decode(&file, Limits { pixels: 1 << 20, side: 4_096, memory: 64 << 20 });
        }
    }
}
