//! Small square pictures of images, for people.

use image::{Rgb, RgbImage, imageops};

use super::{Limits, decode_scaled, resize};

/// Most pixels of an image that has a preview.
const PIXELS: u64 = 16_000_000;

/// An image, scaled to fit into a square of `side` x `side` pixels; the rest is white. None if it cannot be decoded, or is larger
/// than 16 million pixels.
pub(crate) fn preview(file: &[u8], side: usize) -> Option<RgbImage> {
    let image = decode_scaled(file, Limits { pixels: PIXELS, ..Limits::default() }, side, side).ok()?;
    let largest = image.width.max(image.height);
    let scaled = |length: usize| (length * side / largest).max(1);
    let (width, height) = (scaled(image.width), scaled(image.height));
    let small = resize(image, width, height);
    let small = RgbImage::from_raw(width as u32, height as u32, small.data)?;
    let mut square = RgbImage::from_pixel(side as u32, side as u32, Rgb([255; 3]));
    let middle = |length: u32| i64::from((side as u32 - length) / 2);
    imageops::replace(&mut square, &small, middle(small.width()), middle(small.height()));
    Some(square)
}
