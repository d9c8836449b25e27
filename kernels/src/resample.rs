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

/// Rows that are resized together: their samples fill a register of AVX2.
const ROWS: usize = 8;
/// The samples of one place in each row.
type Samples = [u8; ROWS];

/// Resizes the rows of an image horizontally, three samples per pixel. `from` are the samples of one row.
pub fn across(rows: &[u8], from: usize, axis: &Axis, out: &mut [u8]) {
    let to = 3 * axis.spans.len();
    let (mut lines, mut resized) = (vec![[0; ROWS]; from], vec![[0; ROWS]; to]);
    for (rows, out) in rows.chunks(ROWS * from).zip(out.chunks_mut(ROWS * to)) {
        interleave(rows, &mut lines);
        across_rows(&lines, axis, &mut resized);
        separate(&resized, out);
    }
}

/// Resizes [`ROWS`] rows.
fn across_rows(lines: &[Samples], axis: &Axis, to: &mut [Samples]) {
    match crate::Instructions::chosen() {
        // SAFETY: `chosen` returns instructions that the processor has.
        #[cfg(target_arch = "x86_64")]
        crate::Instructions::Avx2 | crate::Instructions::Avx512 => unsafe { across_avx2(lines, axis, to) },
        #[cfg(target_arch = "aarch64")]
        crate::Instructions::Neon => across_neon(lines, axis, to),
        _ => across_plain(lines, axis, to),
    }
}

compiled_twice!(
    /// Puts the samples of up to [`ROWS`] rows, which follow one another, beside those of the others.
    interleave, interleave_avx2, interleave_body, (rows: &[u8], lines: &mut [Samples])
);

compiled_twice!(
    /// The reverse of [`interleave`].
    separate, separate_avx2, separate_body, (lines: &[Samples], rows: &mut [u8])
);

compiled_twice!(
    /// Computes one output row from the consecutive source rows of `weights`. Each row has the length of `sums`, which is a
    /// buffer, and of `to`.
    pub down, down_avx2, down_body, (rows: &[u8], weights: &[i32], sums: &mut [i32], to: &mut [u8])
);

compiled_twice!(
    /// Adds the samples of a row, times a weight, to sums.
    pub add_row, add_row_avx2, add_row_body, (row: &[u8], weight: u32, sums: &mut [u32])
);

#[inline(always)]
fn add_row_body(row: &[u8], weight: u32, sums: &mut [u32]) {
    for (sum, sample) in sums.iter_mut().zip(row) {
        *sum += u32::from(*sample) * weight;
    }
}

#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn across_plain(lines: &[Samples], axis: &Axis, to: &mut [Samples]) {
    for ((first, weights), to) in axis.iter().zip(to.as_chunks_mut::<3>().0) {
        let mut sums = [[HALF; ROWS]; 3];
        for (pixel, weight) in lines[first * 3..].as_chunks::<3>().0.iter().zip(weights) {
            for (sum, sample) in sums.as_flattened_mut().iter_mut().zip(pixel.as_flattened()) {
                *sum += i32::from(*sample) * weight;
            }
        }
        *to = sums.map(|sums| sums.map(round));
    }
}

/// With intrinsics, because the compiler makes vectors of weights instead of rows.
///
/// # Safety
///
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn across_avx2(lines: &[Samples], axis: &Axis, to: &mut [Samples]) {
    use std::arch::x86_64::*;
    for ((first, weights), to) in axis.iter().zip(to.as_chunks_mut::<3>().0) {
        let mut sums = [_mm256_set1_epi32(HALF); 3];
        for (pixel, weight) in lines[first * 3..].as_chunks::<3>().0.iter().zip(weights) {
            let weight = _mm256_set1_epi32(*weight);
            for (sum, samples) in sums.iter_mut().zip(pixel) {
                let samples = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(*samples)));
                *sum = _mm256_add_epi32(*sum, _mm256_mullo_epi32(samples, weight));
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            let rounded = _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(sum);
            // Both steps saturate, which clamps to 0..=255.
            let words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            *to = _mm_cvtsi128_si64(_mm_packus_epi16(words, words)).to_le_bytes();
        }
    }
}

/// As [`across_avx2`].
#[cfg(target_arch = "aarch64")]
fn across_neon(lines: &[Samples], axis: &Axis, to: &mut [Samples]) {
    use std::arch::aarch64::*;
    for ((first, weights), to) in axis.iter().zip(to.as_chunks_mut::<3>().0) {
        // SAFETY: every processor of this architecture has NEON. Samples are read and written as the eight bytes that they are.
        unsafe {
            let mut sums = [[vdupq_n_s32(HALF); 2]; 3];
            for (pixel, weight) in lines[first * 3..].as_chunks::<3>().0.iter().zip(weights) {
                for (sums, samples) in sums.iter_mut().zip(pixel) {
                    let words = vmovl_u8(vld1_u8(samples.as_ptr()));
                    let [low, high] = [vmovl_u16(vget_low_u16(words)), vmovl_high_u16(words)];
                    sums[0] = vmlaq_n_s32(sums[0], vreinterpretq_s32_u32(low), *weight);
                    sums[1] = vmlaq_n_s32(sums[1], vreinterpretq_s32_u32(high), *weight);
                }
            }
            for (to, sums) in to.iter_mut().zip(sums) {
                let [low, high] = sums.map(|sum| vqmovun_s32(vshrq_n_s32::<{ PRECISION_BITS as i32 }>(sum)));
                vst1_u8(to.as_mut_ptr(), vqmovn_u16(vcombine_u16(low, high)));
            }
        }
    }
}

#[inline(always)]
fn interleave_body(rows: &[u8], lines: &mut [Samples]) {
    let len = lines.len();
    let whole = if rows.len() == ROWS * len { len - len % ROWS } else { 0 };
    for (at, lines) in (0..whole).step_by(ROWS).zip(lines.chunks_exact_mut(ROWS)) {
        let block = std::array::from_fn(|row| read(&rows[row * len + at..]));
        for (line, samples) in lines.iter_mut().zip(transposed(block)) {
            *line = samples.to_le_bytes();
        }
    }
    for (row, samples) in rows.chunks_exact(len).enumerate() {
        for (line, sample) in lines[whole..].iter_mut().zip(&samples[whole..]) {
            line[row] = *sample;
        }
    }
}

#[inline(always)]
fn separate_body(lines: &[Samples], rows: &mut [u8]) {
    let len = lines.len();
    let whole = if rows.len() == ROWS * len { len - len % ROWS } else { 0 };
    for (at, lines) in (0..whole).step_by(ROWS).zip(lines.chunks_exact(ROWS)) {
        let block = transposed(std::array::from_fn(|line| u64::from_le_bytes(lines[line])));
        for (row, samples) in block.into_iter().enumerate() {
            rows[row * len + at..][..ROWS].copy_from_slice(&samples.to_le_bytes());
        }
    }
    for (row, samples) in rows.chunks_exact_mut(len).enumerate() {
        for (line, sample) in lines[whole..].iter().zip(&mut samples[whole..]) {
            *sample = line[row];
        }
    }
}

#[inline(always)]
fn read(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The transpose of 8 x 8 bytes: halves, quarters and eighths are exchanged between rows (Warren, Hacker's Delight, 7-3).
#[inline(always)]
fn transposed(mut rows: [u64; ROWS]) -> [u64; ROWS] {
    for (step, mask) in [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for row in (0..ROWS).filter(|row| row & step == 0) {
            let exchanged = (rows[row] >> (8 * step) ^ rows[row + step]) & mask;
            rows[row] ^= exchanged << (8 * step);
            rows[row + step] ^= exchanged;
        }
    }
    rows
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

    /// One sample after the other.
    fn one_by_one(row: &[u8], axis: &Axis) -> Vec<u8> {
        let sum = |first: usize, weights: &[i32], channel: usize| {
            weights
                .iter()
                .enumerate()
                .map(|(i, weight)| i32::from(row[(first + i) * 3 + channel]) * weight)
                .sum::<i32>()
        };
        axis.iter()
            .flat_map(|(first, weights)| [0, 1, 2].map(|channel| round(sum(first, weights, channel) + HALF)))
            .collect()
    }

    proptest! {
        #[test]
        fn rows_that_are_resized_together_have_the_bytes_of_each_alone(
            samples in prop::collection::vec(any::<u8>(), 3 * 37 * 19),
            // Five of them add up to at most 1.9, within the 2 that a sum can hold.
            weights in prop::collection::vec(-1_600_000i32..1_600_000, 6 * 5),
            spans in prop::collection::vec((0usize..32, 0usize..=5), 6),
            rows in 0usize..=19,
        ) {
            let (axis, samples) = (Axis { spans, weights, stride: 5 }, &samples[..3 * 37 * rows]);
            let mut resized = vec![0; 18 * rows];
            across(samples, 3 * 37, &axis, &mut resized);
            let expected: Vec<u8> = samples.chunks_exact(3 * 37).flat_map(|row| one_by_one(row, &axis)).collect();
            prop_assert_eq!(resized, expected);
        }

        #[test]
        fn both_compilations_give_the_same_bytes(
            samples in prop::collection::vec(any::<u8>(), 24 * 20),
            weights in prop::collection::vec(-1_600_000i32..1_600_000, 6 * 5),
            spans in prop::collection::vec((0usize..15, 0usize..=5), 6),
        ) {
            let lines: Vec<Samples> = samples.chunks_exact(ROWS).map(|line| line.try_into().unwrap()).collect();
            let axis = Axis { spans, weights, stride: 5 };
            let (mut chosen, mut plain) = ([[0; ROWS]; 18], [[0; ROWS]; 18]);
            across_rows(&lines, &axis, &mut chosen);
            across_plain(&lines, &axis, &mut plain);
            prop_assert_eq!(chosen, plain);
            let (mut chosen, mut plain) = (vec![[0; ROWS]; 60], vec![[0; ROWS]; 60]);
            interleave(&samples, &mut chosen);
            interleave_body(&samples, &mut plain);
            prop_assert_eq!(&chosen, &plain);
            let (mut rows, mut same) = (vec![0; 480], vec![0; 480]);
            separate(&chosen, &mut rows);
            separate_body(&chosen, &mut same);
            prop_assert_eq!(&rows, &same);
            prop_assert_eq!(&rows, &samples);
            let (mut sums, mut chosen, mut plain) = ([0; 24], [0; 24], [0; 24]);
            down(&samples, &axis.weights[..5], &mut sums, &mut chosen);
            down_body(&samples, &axis.weights[..5], &mut sums, &mut plain);
            prop_assert_eq!(chosen, plain);
            let (mut chosen, mut plain) = ([7; 480], [7; 480]);
            add_row(&samples, 20, &mut chosen);
            add_row_body(&samples, 20, &mut plain);
            prop_assert_eq!(chosen, plain);
            prop_assert!(chosen.iter().zip(&samples).all(|(sum, sample)| *sum == 7 + 20 * u32::from(*sample)));
        }
    }
}
