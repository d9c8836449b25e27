//! The mean of a map.

use super::simd::{LANES, Simd, Vectors};

/// The mean of each channel over all pixels, added in their order.
///
/// # Safety
///
/// The processor has the instructions of `I`.
#[cfg_attr(optimized, inline(always))]
pub(crate) unsafe fn mean<I: Vectors>(input: &[f32], channels: usize, output: &mut [f32]) {
    assert!(channels.is_multiple_of(LANES) && output.len() == channels && input.len().is_multiple_of(channels));
    let count = (input.len() / channels) as f32;
    for channel in (0..channels).step_by(LANES) {
        // SAFETY: The caller guarantees the instructions. The number of channels is a multiple of the lanes, and each pixel has
        // all channels.
        unsafe {
            let mut sum = I::Half::load([0.0; LANES].as_ptr());
            for pixel in input.chunks_exact(channels) {
                sum = I::Half::add(sum, I::Half::load(pixel.as_ptr().add(channel)));
            }
            I::Half::store(output.as_mut_ptr().add(channel), I::Half::div(sum, I::Half::splat(&count)));
        }
    }
}
