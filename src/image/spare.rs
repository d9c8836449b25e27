//! Memory of large images that a thread uses again. Without it, the system would clear new pages for each photo.

use std::cell::RefCell;

/// Smaller images are left to the allocator, which keeps their memory.
const LEAST: usize = 512 << 10;
/// The memory of larger images is given back, bytes.
const MOST: usize = 32 << 20;
/// Images of a thread: a decoded one, and its rows after the horizontal pass.
const KEPT: usize = 2;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// This number of bytes, of any content.
pub(super) fn take(length: usize) -> Vec<u8> {
    let fits = |spare: &&mut Vec<u8>| spare.capacity() >= length;
    let found = SPARE.with_borrow_mut(|spare| {
        let least = spare.iter_mut().filter(fits).min_by_key(|spare| spare.capacity());
        least.filter(|_| length >= LEAST).map(std::mem::take)
    });
    match found {
        Some(mut bytes) => {
            bytes.resize(length, 0);
            bytes
        }
        None => vec![0; length],
    }
}

/// Keeps the memory of an image that is no longer needed.
pub(super) fn give(bytes: Vec<u8>) {
    if (LEAST..=MOST).contains(&bytes.capacity()) {
        SPARE.with_borrow_mut(|spare| {
            spare.push(bytes);
            spare.sort_by_key(|spare| std::cmp::Reverse(spare.capacity()));
            spare.truncate(KEPT);
        });
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};

    use super::*;
    use crate::image::{Limits, decode, resize};

    fn photo(width: u32, seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let photo = RgbImage::from_fn(width, 500, |_, _| Rgb([random.u8(..), random.u8(..), random.u8(..)]));
        let mut file = Vec::new();
        JpegEncoder::new(&mut file).encode_image(&photo).unwrap();
        file
    }

    #[test]
    fn nothing_is_left_of_the_image_before() {
        let features = |file: Vec<u8>| resize(decode(&file, Limits::default()).unwrap(), 224, 300);
        let alone = |seed: u64| std::thread::spawn(move || features(photo(400 + seed as u32, seed))).join().unwrap();
        for seed in [9, 1, 5] {
            assert!(features(photo(400 + seed as u32, seed)) == alone(seed), "{seed}");
            assert!(SPARE.with_borrow(|spare| !spare.is_empty()));
        }
        let file = photo(420, 3);
        assert!(decode(&file[..file.len() / 2], Limits::default()).is_err());
    }

    #[test]
    fn the_largest_two_are_used_again() {
        let (a, b, small, large) = (vec![1; LEAST], vec![2; 2 * LEAST], vec![3; LEAST - 1], vec![4; MOST + 1]);
        let (first, second) = (a.as_ptr(), b.as_ptr());
        [small, a, large, b].into_iter().for_each(give);
        let taken = take(LEAST + 1);
        assert_eq!((taken.as_ptr(), taken.len()), (second, LEAST + 1));
        let other = take(LEAST);
        assert_eq!((other.as_ptr(), other.len()), (first, LEAST));
        assert_eq!(take(LEAST), vec![0; LEAST]);
        give(taken);
        // A longer image in the same memory.
        assert_eq!(take(2 * LEAST).len(), 2 * LEAST);
    }
}
