//! A small data set like Fruits-360, rendered by this module.
//!
//! There is one folder per variety of fruit, with views of the fruit while it rotates once: 100 x 100 JPEGs on white. Bytes
//! and modification times are the same on every machine, so results can be compared. Therefore the elementary functions
//! come from the crate `libm`, not from the system.

mod fruit;
mod render;

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use image::codecs::jpeg::JpegEncoder;

pub use fruit::{VARIETIES, Variety};
pub use render::SIDE;

/// Default number of views per variety.
pub const DEFAULT_VIEWS: u32 = 40;
/// 2024-01-01 00:00:00 UTC, the modification time of all demo images.
const MODIFIED: u64 = 1_704_067_200;
const JPEG_QUALITY: u8 = 90;

/// One view as a JPEG file. `view` of `views` is rotated by `view / views` of a full rotation.
///
/// Fails only if the encoder does.
pub fn jpeg(variety: &Variety, view: u32, views: u32) -> image::ImageResult<Vec<u8>> {
    let pixels = render::render(variety, view, views);
    let side = SIDE as u32;
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY).encode(
        &pixels,
        side,
        side,
        image::ExtendedColorType::Rgb8,
    )?;
    Ok(file)
}

/// Writes `folder/<variety>/<view>_100.jpg` for all varieties, and sets the modification times. Does not write files that
/// already have the right bytes.
///
/// `written` is called once per file, from several threads. Fails if a file or folder cannot be written.
pub fn write(folder: &Path, views: u32, threads: usize, written: &(dyn Fn() + Sync)) -> io::Result<()> {
    let jobs: Vec<(&Variety, u32)> =
        VARIETIES.iter().flat_map(|variety| (0..views).map(move |view| (variety, view))).collect();
    for variety in VARIETIES {
        fs::create_dir_all(folder.join(variety.name))?;
    }
    let render = &|(variety, view): &(&Variety, u32)| {
        let file = jpeg(variety, *view, views).map_err(io::Error::other)?;
        put(&folder.join(variety.name).join(format!("{view}_100.jpg")), &file)?;
        written();
        Ok(())
    };
    std::thread::scope(|scope| {
        let share = jobs.len().div_ceil(threads.max(1)).max(1);
        let threads: Vec<_> =
            jobs.chunks(share).map(|jobs| scope.spawn(move || jobs.iter().try_for_each(render))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
    })
}

/// Writes a file unless it has these bytes.
fn put(path: &Path, body: &[u8]) -> io::Result<()> {
    if !fs::read(path).is_ok_and(|old| old == body) {
        fs::write(path, body)?;
    }
    File::options().write(true).open(path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_images_have_the_same_bytes_every_time() {
        let mut sha = Sha256::new();
        for variety in VARIETIES {
            for view in [0, 7, 33] {
                sha.update(jpeg(variety, view, 40).unwrap());
            }
        }
        let hex: String = sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        // The golden Keras features in tests/golden were computed from these images: after a change, run `make golden`.
        assert_eq!(hex, "d700d59b7e8c0b5597e874e885f73c31431b017cd5c767c6abb9695dc264f0da");
    }

    #[test]
    fn no_two_images_are_equal() {
        let mut files: Vec<_> =
            VARIETIES.iter().flat_map(|v| (0..8).map(move |view| jpeg(v, view, 8).unwrap())).collect();
        let count = files.len();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), count);
    }
}
