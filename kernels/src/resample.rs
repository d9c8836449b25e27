//! The inner loops of resizing: weighted sums of 8-bit samples, in integers and so with the same bits everywhere.

/// Fraction bits of a weight. The other 10 bits of an `i32` sum hold the 8-bit sample, the sign, and sums of weights up to
/// 2.
pub const PRECISION_BITS: u32 = 32 - 8 - 2;
/// One half, for rounding.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The source pixels of each output pixel along one axis, and their weights.
#[derive(Debug)]
pub struct Axis {
    /// First source pixel and number of weights, for each output pixel.
    pub spans: Vec<(usize, usize)>,
    /// `[outputs, stride]`: weights with [`PRECISION_BITS`] fraction bits.
    pub weights: Vec<i32>,
    /// Length of a row of `weights`, with unused entries at its end.
    pub stride: usize,
}

impl Axis {
    /// First source pixel and weights of each output pixel.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let rows = self.weights.chunks_exact(self.stride);
        self.spans.iter().zip(rows).map(|(&(first, len), row)| (first, &row[..len]))
    }
}

/// Resizes one row horizontally, three samples per pixel. `row` has one more byte after its pixels, of any value.
pub fn across(row: &[u8], axis: &Axis, to: &mut [u8]) {
    match crate::Instructions::chosen() {
        // SAFETY: `chosen` returns instructions that the processor has.
        #[cfg(target_arch = "x86_64")]
        crate::Instructions::Avx2 | crate::Instructions::Avx512 => unsafe { across_avx2(row, axis, to) },
        _ => across_plain(row, axis, to),
    }
}

compiled_twice!(
    /// Computes one output row from the consecutive source rows of `weights`. Each row has the length of `sums`, which is a
    /// buffer, and of `to`.
    pub down, down_avx2, down_body, (rows: &[u8], weights: &[i32], sums: &mut [i32], to: &mut [u8])
);

#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn across_plain(row: &[u8], axis: &Axis, to: &mut [u8]) {
    for ((first, weights), to) in axis.iter().zip(to.chunks_exact_mut(3)) {
        // Four samples fill a register. The fourth is that of the next pixel and is not used.
        let mut sums = [HALF; 4];
        let samples = &row[first * 3..][..weights.len() * 3 + 1];
        for (i, weight) in weights.iter().enumerate() {
            // SAFETY: the slice has three bytes for each weight, and one more.
            let four = unsafe { samples.as_ptr().add(i * 3).cast::<[u8; 4]>().read_unaligned() };
            for (sum, sample) in sums.iter_mut().zip(four) {
                *sum += i32::from(sample) * weight;
            }
        }
        to.copy_from_slice(&sums.map(round)[..3]);
    }
}

/// With intrinsics, because the compiler does not see that four samples fill a register, and takes three times as long.
///
/// # Safety
///
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn across_avx2(row: &[u8], axis: &Axis, to: &mut [u8]) {
    use std::arch::x86_64::*;
    for ((first, weights), to) in axis.iter().zip(to.chunks_exact_mut(3)) {
        let samples = &row[first * 3..][..weights.len() * 3 + 1];
        let mut sums = _mm_set1_epi32(HALF);
        for (i, weight) in weights.iter().enumerate() {
            // SAFETY: the slice has three bytes for each weight, and one more.
            let four = unsafe { samples.as_ptr().add(i * 3).cast::<i32>().read_unaligned() };
            let four = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
            sums = _mm_add_epi32(sums, _mm_mullo_epi32(four, _mm_set1_epi32(*weight)));
        }
        let rounded = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(sums);
        // Both steps saturate, which clamps to 0..=255.
        let words = _mm_packs_epi32(rounded, rounded);
        let bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
        to.copy_from_slice(&bytes[..3]);
    }
}

#[inline(always)]
fn down_body(rows: &[u8], weights: &[i32], sums: &mut [i32], to: &mut [u8]) {
    sums.fill(HALF);
    for (row, weight) in rows.chunks_exact(sums.len()).zip(weights) {
        for (sum, sample) in sums.iter_mut().zip(row) {
            *sum += i32::from(*sample) * weight;
        }
    }
    for (to, sum) in to.iter_mut().zip(sums) {
        *to = round(*sum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_compilations_give_the_same_bytes(
            samples in prop::collection::vec(any::<u8>(), 3 * 40 + 1),
            // Five of them add up to at most 1.9, within the 2 that a sum can hold.
            weights in prop::collection::vec(-1_600_000i32..1_600_000, 6 * 5),
            spans in prop::collection::vec((0usize..35, 0usize..=5), 6),
        ) {
            let axis = Axis { spans, weights, stride: 5 };
            let (mut chosen, mut plain) = ([0; 18], [0; 18]);
            across(&samples, &axis, &mut chosen);
            across_plain(&samples, &axis, &mut plain);
            prop_assert_eq!(chosen, plain);
            let (mut sums, mut chosen, mut plain) = ([0; 24], [0; 24], [0; 24]);
            down(&samples, &axis.weights[..5], &mut sums, &mut chosen);
            down_body(&samples, &axis.weights[..5], &mut sums, &mut plain);
            prop_assert_eq!(chosen, plain);
        }
    }
}
