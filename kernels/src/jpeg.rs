//! JPEG decoding by libjpeg-turbo: the pixels of Pillow, OpenCV and TensorFlow, bit for bit.
//!
//! The integer DCT ("islow") and smooth ("fancy") chroma upsampling are the defaults of libjpeg-turbo and of all three. The
//! crate `turbojpeg` is not used, because it does not tell damage across which libjpeg decodes from failures.

use std::{
    ffi::{CStr, c_int},
    fmt,
};

use turbojpeg_sys as sys;

/// Limits on the work of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most scans of a progressive file. Each is a pass over all coefficients, so that a small file could take minutes.
    pub scans: u16,
    /// Most memory of the decoder, MiB.
    pub memory: u16,
}

/// Starts of the warnings of libjpeg after which the pixels are complete. No other message starts like this.
const WARNINGS: [&str; 5] = [
    "Corrupt JPEG data: ",
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code",
    "Inconsistent progression sequence",
    "Warning: unknown JFIF revision number",
];

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

/// Why a file cannot be decoded, in the words of libjpeg-turbo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// A decoder of one file.
#[derive(Debug)]
pub struct Decoder<'a> {
    handle: Handle,
    file: &'a [u8],
    header: Header,
}

#[derive(Debug)]
struct Handle(sys::tjhandle);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle comes from `tj3Init` and is not used again.
        unsafe { sys::tj3Destroy(self.0) }
    }
}

impl Handle {
    fn failure(&self) -> Failure {
        // SAFETY: the handle is valid or null, which stands for the last error of the thread. The text ends with a zero and
        // is copied before the next call.
        let text = unsafe { CStr::from_ptr(sys::tj3GetErrorStr(self.0)) };
        Failure(text.to_string_lossy().into_owned())
    }

    /// The outcome of a call. Damage across which libjpeg has decoded is no failure, as in Pillow.
    ///
    /// The error code does not tell: after a warning it stays one, also if the call fails later. But the text is then that
    /// of the failure.
    fn check(&self, returned: c_int) -> Result<(), Failure> {
        if returned == 0 {
            return Ok(());
        }
        let failure = self.failure();
        if WARNINGS.iter().any(|warning| failure.0.starts_with(warning)) { Ok(()) } else { Err(failure) }
    }

    fn set(&self, parameter: sys::TJPARAM, value: u16) -> Result<(), Failure> {
        // SAFETY: the handle is valid.
        self.check(unsafe { sys::tj3Set(self.0, parameter as c_int, value.into()) })
    }

    fn get(&self, parameter: sys::TJPARAM) -> c_int {
        // SAFETY: the handle is valid.
        unsafe { sys::tj3Get(self.0, parameter as c_int) }
    }
}

impl<'a> Decoder<'a> {
    /// Reads the header of a file.
    pub fn new(file: &'a [u8], limits: Limits) -> Result<Self, Failure> {
        // SAFETY: this function has no preconditions.
        let handle = Handle(unsafe { sys::tj3Init(sys::TJINIT_TJINIT_DECOMPRESS as c_int) });
        if handle.0.is_null() {
            return Err(handle.failure());
        }
        handle.set(sys::TJPARAM_TJPARAM_SCANLIMIT, limits.scans)?;
        handle.set(sys::TJPARAM_TJPARAM_MAXMEMORY, limits.memory)?;
        // SAFETY: the handle is valid, and the file has as many bytes.
        handle.check(unsafe { sys::tj3DecompressHeader(handle.0, file.as_ptr(), file.len() as sys::size_t) })?;
        // The scale of the output does not apply to a lossless file, whose pixels would not fit.
        if handle.get(sys::TJPARAM_TJPARAM_LOSSLESS) != 0 {
            return Err(Failure("Unsupported: a lossless JPEG".to_owned()));
        }
        if handle.get(sys::TJPARAM_TJPARAM_PRECISION) != 8 {
            return Err(Failure("Unsupported: a JPEG with other than 8 bits".to_owned()));
        }
        let size = |parameter| usize::try_from(handle.get(parameter)).unwrap_or(0);
        let colors = handle.get(sys::TJPARAM_TJPARAM_COLORSPACE);
        let is_cmyk = [sys::TJCS_TJCS_CMYK, sys::TJCS_TJCS_YCCK].iter().any(|cmyk| *cmyk as c_int == colors);
        let (width, height) = (size(sys::TJPARAM_TJPARAM_JPEGWIDTH), size(sys::TJPARAM_TJPARAM_JPEGHEIGHT));
        let header = Header { width, height, channels: if is_cmyk { 4 } else { 3 } };
        Ok(Decoder { handle, file, header })
    }

    /// The header of the file.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Decodes the file at 1/`reduction` of its size, which is rounded up. `reduction` is 1, 2, 4 or 8.
    ///
    /// The samples are `[height, width, channels]`, row-major from the top left, with the width and the height of the
    /// returned header.
    pub fn decode(self, reduction: u8) -> Result<(Header, Vec<u8>), Failure> {
        if !matches!(reduction, 1 | 2 | 4 | 8) {
            return Err(Failure(format!("a reduction by {reduction}")));
        }
        let Decoder { handle, file, header } = self;
        let factor = sys::tjscalingfactor { num: 1, denom: reduction.into() };
        // SAFETY: the handle is valid.
        handle.check(unsafe { sys::tj3SetScalingFactor(handle.0, factor) })?;
        let scaled = |side: usize| side.div_ceil(reduction.into());
        let header = Header { width: scaled(header.width), height: scaled(header.height), ..header };
        let pitch = header.width * header.channels;
        let format = if header.channels == 4 { sys::TJPF_TJPF_CMYK } else { sys::TJPF_TJPF_RGB };
        let mut samples = vec![0; pitch * header.height];
        let row = c_int::try_from(pitch).map_err(|_| Failure("the rows are too long".to_owned()))?;
        let length = file.len() as sys::size_t;
        // SAFETY: the handle is valid and the file has as many bytes. It is the file whose header gave the size, so there are
        // `height` rows of `pitch` bytes to write.
        let returned =
            unsafe { sys::tj3Decompress8(handle.0, file.as_ptr(), length, samples.as_mut_ptr(), row, format) };
        handle.check(returned)?;
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
        let failure = Decoder::new(&header(0xc0), LIMITS).unwrap().decode(1).unwrap_err();
        assert!(failure.to_string().contains("not defined"), "{failure}");
    }
}
