//! JPEG decoding by libjpeg-turbo: the pixels of Pillow, OpenCV and TensorFlow, bit for bit.
//!
//! The integer DCT ("islow") and smooth ("fancy") chroma upsampling are the defaults of libjpeg-turbo and of all three.
//! `jpeg.c` calls libjpeg, and says why it is not the TurboJPEG API.

use std::{
    ffi::{CStr, c_char, c_int, c_long},
    fmt,
    ptr::NonNull,
};

// Links libjpeg-turbo.
use turbojpeg_sys as _;

/// Limits on the work of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most scans of a progressive file. Each is a pass over all coefficients, so that a small file could take minutes.
    pub scans: u16,
    /// Most memory of the decoder, MiB.
    pub memory: u16,
}

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pixels of a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Samples of a decoded pixel: 4 for CMYK and YCCK, which are decoded to CMYK; otherwise 3, for RGB.
    pub channels: usize,
}

/// Why a file cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The file ends before the image does.
    Truncated,
    /// Anything else, in the words of libjpeg-turbo.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Truncated => "the file ends before the image does",
            Failure::Refused(text) => text,
        })
    }
}

impl std::error::Error for Failure {}

fn refused(text: &str) -> Failure {
    Failure::Refused(text.to_owned())
}

/// `struct pomona_jpeg` of `jpeg.c`.
#[repr(C)]
struct Raw {
    opaque: [u8; 0],
}

/// `struct pomona_jpeg_header` of `jpeg.c`.
#[repr(C)]
#[derive(Default)]
struct RawHeader {
    width: u32,
    height: u32,
    channels: u32,
    bits: u32,
    is_lossless: u32,
}

const DONE: c_int = 0;
const TRUNCATED: c_int = 1;

unsafe extern "C" {
    fn pomona_jpeg_new(most_scans: c_int, most_memory: c_long) -> *mut Raw;
    fn pomona_jpeg_free(decoder: *mut Raw);
    fn pomona_jpeg_message(decoder: *const Raw) -> *const c_char;
    fn pomona_jpeg_read_header(decoder: *mut Raw, file: *const u8, length: usize, header: *mut RawHeader) -> c_int;
    fn pomona_jpeg_decode(decoder: *mut Raw, reduction: u32, samples: *mut u8, row: usize, height: usize) -> c_int;
}

/// A decoder of one file.
#[derive(Debug)]
pub struct Decoder<'a> {
    handle: Handle,
    header: Header,
    /// libjpeg reads on in the file.
    file: std::marker::PhantomData<&'a [u8]>,
}

#[derive(Debug)]
struct Handle(NonNull<Raw>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle comes from `pomona_jpeg_new` and is not used again.
        unsafe { pomona_jpeg_free(self.0.as_ptr()) }
    }
}

impl Handle {
    fn check(&self, returned: c_int) -> Result<(), Failure> {
        match returned {
            DONE => Ok(()),
            TRUNCATED => Err(Failure::Truncated),
            _ => {
                // SAFETY: the handle is valid. The text ends with a zero and is copied before the next call.
                let text = unsafe { CStr::from_ptr(pomona_jpeg_message(self.0.as_ptr())) };
                Err(Failure::Refused(text.to_string_lossy().into_owned()))
            }
        }
    }
}

impl<'a> Decoder<'a> {
    /// Reads the header of a file.
    pub fn new(file: &'a [u8], limits: Limits) -> Result<Self, Failure> {
        let memory = c_long::from(limits.memory) << 20;
        // SAFETY: this function has no preconditions.
        let handle = unsafe { pomona_jpeg_new(limits.scans.into(), memory) };
        let handle = Handle(NonNull::new(handle).ok_or_else(|| refused("no memory for a decoder"))?);
        let mut header = RawHeader::default();
        // SAFETY: the handle is valid. The file has as many bytes, and the lifetime of the decoder keeps it.
        let returned =
            unsafe { pomona_jpeg_read_header(handle.0.as_ptr(), file.as_ptr(), file.len(), &raw mut header) };
        handle.check(returned)?;
        // The scale of the output does not apply to a lossless file, whose pixels would not fit.
        if header.is_lossless != 0 {
            return Err(refused("Unsupported: a lossless JPEG"));
        }
        if header.bits != 8 {
            return Err(refused("Unsupported: a JPEG with other than 8 bits"));
        }
        if header.channels == 0 {
            return Err(refused("the colors are neither grey, RGB, YCbCr, CMYK nor YCCK"));
        }
        let [width, height, channels] = [header.width, header.height, header.channels].map(|number| number as usize);
        Ok(Decoder { handle, header: Header { width, height, channels }, file: std::marker::PhantomData })
    }

    /// The header of the file.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Decodes the file at 1/`reduction` of its size, which is rounded up. `reduction` is 1, 2, 4 or 8.
    ///
    /// The samples are `[height, width, channels]`, row-major from the top left, with the width and the height of the
    /// returned header. `memory` returns a number of bytes of any content, which become the samples.
    ///
    /// # Panics
    ///
    /// If `memory` returns another number.
    pub fn decode(self, reduction: u8, memory: fn(usize) -> Vec<u8>) -> Result<(Header, Vec<u8>), Failure> {
        if !matches!(reduction, 1 | 2 | 4 | 8) {
            return Err(Failure::Refused(format!("a reduction by {reduction}")));
        }
        let scaled = |side: usize| side.div_ceil(reduction.into());
        let header = Header { width: scaled(self.header.width), height: scaled(self.header.height), ..self.header };
        let row = header.width * header.channels;
        let mut samples = memory(row * header.height);
        assert_eq!(samples.len(), row * header.height, "the memory has another length");
        // SAFETY: the handle is valid and its file still there. `samples` has `height` rows of `row` bytes, and the function
        // checks that libjpeg writes as many.
        let returned = unsafe {
            pomona_jpeg_decode(self.handle.0.as_ptr(), reduction.into(), samples.as_mut_ptr(), row, header.height)
        };
        self.handle.check(returned)?;
        Ok((header, samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { scans: 100, memory: 512 };

    /// A JPEG header with this frame marker, behind a byte that is no marker.
    fn header(frame: u8) -> Vec<u8> {
        let frame = [0xff, frame, 0, 17, 8, 0, 64, 0, 64, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
        let scan = [0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 1, 0, 0];
        [&[0xff, 0xd8, 0xff, 0xe1, 0, 4, 0, 0, 0][..], &frame, &scan, &[0; 64], &[0xff, 0xd9]].concat()
    }

    #[test]
    fn a_lossless_file_is_refused_before_its_pixels_are_written() {
        let failure = Decoder::new(&header(0xc3), LIMITS).unwrap_err();
        assert!(failure.to_string().contains("lossless"), "{failure}");
        assert_eq!(
            Decoder::new(&header(0xc0), LIMITS).unwrap().header(),
            Header { width: 64, height: 64, channels: 3 }
        );
    }

    #[test]
    fn a_failure_after_a_warning_is_a_failure() {
        // The byte between the segments is a warning; the missing tables are a failure.
        let failure = Decoder::new(&header(0xc0), LIMITS).unwrap().decode(1, |length| vec![0; length]).unwrap_err();
        assert!(failure.to_string().contains("not defined"), "{failure}");
    }
}
