//! From the bytes of a file to the pixels that the model sees.
//!
//! The steps are those of the Keras pipelines that Pomona replaces (Pillow 7 or later): [`decode()`] to 8-bit RGB,
//! then [`resize()`] to the model's size. Images are used as they are stored: an EXIF orientation is not applied.

mod decode;
mod reject;
mod resize;

pub use decode::{Limits, MAX_FILE_BYTES, decode};
pub use reject::{Reason, Reject};
pub use resize::resize;

/// Changes whenever the same file could give other pixels; part of the extractor's id.
pub const REVISION: u32 = 1;

/// 8-bit RGB, rows from the top, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    pub data: Vec<u8>,
}
