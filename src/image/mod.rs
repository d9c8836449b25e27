//! Decoding and resizing: from the bytes of a file to the pixels that the model reads.
//!
//! The steps are those of the Keras pipelines that Pomona replaces (Pillow 7 to 12): [`decode()`] to 8-bit RGB, then
//! [`resize()`] to the model's size. An EXIF orientation is ignored. A file without usable pixels is a [`Reject`].
//!
//! ```
//! use pomona::image::{self, Limits, Reason};
//!
//! # let mut file = Vec::new();
//! # let drawing = ::image::RgbImage::from_pixel(40, 30, ::image::Rgb([200, 0, 0]));
//! # drawing.write_to(&mut std::io::Cursor::new(&mut file), ::image::ImageFormat::Png).unwrap();
//! let pixels = image::decode(&file, Limits::default()).unwrap();
//! assert_eq!((pixels.width, pixels.height), (40, 30));
//! let small = image::resize(pixels, 4, 3);
//! assert_eq!(small.data, [200, 0, 0].repeat(4 * 3));
//! assert_eq!(image::decode(b"not an image", Limits::default()).unwrap_err().reason, Reason::NotAnImage);
//! ```

mod decode;
mod jpeg;
#[cfg(feature = "report")]
mod preview;
mod reject;
mod resize;
mod spare;
mod thumbnail;
mod unsupported;

pub use decode::{Limits, MAX_FILE_BYTES, decode, decode_scaled};
#[cfg(feature = "report")]
pub(crate) use preview::preview;
pub(crate) use reject::guarded;
pub use reject::{Reason, Reject};
pub use resize::{Filter, resize, resize_with};
pub use thumbnail::{THUMBNAIL, thumbnail};

/// Revision of decoding, resizing and thumbnails, part of the extractor's id. Increase it if any file gives other pixels or
/// another thumbnail.
pub const REVISION: u32 = 3;

/// An 8-bit RGB image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Pixels of a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `[height, width, 3]` samples, row-major from the top left.
    pub data: Vec<u8>,
}
