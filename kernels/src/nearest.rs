//! Squared distances of rows: fast ones in `f32`, which filter, and exact ones, which decide.
//!
//! The code is compiled twice, for any processor and for AVX2. Products are not fused and each sum has one order, so both
//! give the same bits.

/// Rows of a block of [`within`].
pub const LANES: usize = 32;
/// Columns after which [`within`] looks whether any row is still within the limit.
const STEP: usize = 16;
/// Interleaved partial sums of [`squared_quanta`].
const SUMS: usize = 8;
/// Squares that each of these sums takes: 32 numbers below 2^48 add up to less than 2^53, which is exact in `f64`.
const SQUARES: usize = 32;

compiled_twice!(
    /// The rows of a block whose squared distance from `row` is at most `limit`, as a bit mask. The block is
    /// `[row.len(), LANES]`: one entry per column. The sum of a row has the order of its columns.
    pub within, within_avx2, within_body, (row: &[f32], block: &[[f32; LANES]], limit: f32) -> u32
);
compiled_twice!(
    /// The squared distance of a point from a box, `[low; high]` for each coordinate: 0 inside. Stops with a part of the
    /// sum that exceeds `limit`.
    pub from_box, from_box_avx2, from_box_body, (point: &[f32], low: &[f32], high: &[f32], limit: f32) -> f32
);
compiled_twice!(
    /// The squared distance of two boxes: 0 if they overlap. Stops with a part of the sum that exceeds `limit`.
    pub between_boxes, between_boxes_avx2, between_boxes_body,
    (a: (&[f32], &[f32]), b: (&[f32], &[f32]), limit: f32) -> f32
);
compiled_twice!(
    /// The squared distance of two rows in quanta, exactly. Each number is a multiple of the quantum `1 / per_unit`, and
    /// smaller than 2^23 quanta. Rows have at most 65,536 columns.
    pub squared_quanta, squared_quanta_avx2, squared_quanta_body, (a: &[f32], b: &[f32], per_unit: f64) -> u64
);

#[inline(always)]
fn within_body(row: &[f32], block: &[[f32; LANES]], limit: f32) -> u32 {
    let mut sums = [0.0f32; LANES];
    for (row, block) in row.chunks(STEP).zip(block.chunks(STEP)) {
        for (x, column) in row.iter().zip(block) {
            for lane in 0..LANES {
                let difference = column[lane] - x;
                sums[lane] += difference * difference;
            }
        }
        // Integers, because a chain of comparisons of floats would not be vectorized.
        if sums.iter().fold(0, |any, sum| any | u32::from(*sum <= limit)) == 0 {
            return 0;
        }
    }
    let mut mask = 0;
    for (lane, sum) in sums.iter().enumerate() {
        mask |= u32::from(*sum <= limit) << lane;
    }
    mask
}

#[inline(always)]
fn from_box_body(point: &[f32], low: &[f32], high: &[f32], limit: f32) -> f32 {
    let mut sums = [0.0f32; STEP];
    let mut total = 0.0;
    for ((point, low), high) in point.chunks(STEP).zip(low.chunks(STEP)).zip(high.chunks(STEP)) {
        for (((sum, x), low), high) in sums.iter_mut().zip(point).zip(low).zip(high) {
            let gap = (low - x).max(x - high).max(0.0);
            *sum += gap * gap;
        }
        total = sums.iter().sum();
        if total > limit {
            break;
        }
    }
    total
}

#[inline(always)]
fn between_boxes_body(a: (&[f32], &[f32]), b: (&[f32], &[f32]), limit: f32) -> f32 {
    let mut sums = [0.0f32; STEP];
    let mut total = 0.0;
    let (lows, highs) = (a.0.chunks(STEP).zip(b.0.chunks(STEP)), a.1.chunks(STEP).zip(b.1.chunks(STEP)));
    for ((low_a, low_b), (high_a, high_b)) in lows.zip(highs) {
        let bounds = low_a.iter().zip(low_b).zip(high_a.iter().zip(high_b));
        for (sum, ((low_a, low_b), (high_a, high_b))) in sums.iter_mut().zip(bounds) {
            let gap = (low_a - high_b).max(low_b - high_a).max(0.0);
            *sum += gap * gap;
        }
        total = sums.iter().sum();
        if total > limit {
            break;
        }
    }
    total
}

#[inline(always)]
fn squared_quanta_body(a: &[f32], b: &[f32], per_unit: f64) -> u64 {
    let mut total = 0;
    for (a, b) in a.chunks(SUMS * SQUARES).zip(b.chunks(SUMS * SQUARES)) {
        let mut sums = [0.0f64; SUMS];
        for (a, b) in a.chunks(SUMS).zip(b.chunks(SUMS)) {
            for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
                // Below 2^24 quanta, so the difference is exact in `f32`.
                let difference = f64::from(x - y) * per_unit;
                *sum += difference * difference;
            }
        }
        total += sums.iter().map(|sum| *sum as u64).sum::<u64>();
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exact_distances_equal_integers_and_both_compilations_agree(
            columns in 1usize..700,
            seed in any::<u64>(),
            range in prop::sample::select(vec![8i32, 1 << 20, 1]),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let largest = (1 << 23) - 1;
            let per_unit = f64::from(1u32 << 23) / f64::from(range);
            // Some rows are at opposite ends of the range.
            let ends = random.bool();
            let mut row = |end: i32| -> Vec<i32> {
                (0..columns).map(|_| if ends { end } else { random.i32(-largest..=largest) }).collect()
            };
            let (a, b) = (row(largest), row(-largest));
            let expected: u64 = a.iter().zip(&b).map(|(x, y)| u64::from(x.abs_diff(*y)).pow(2)).sum();
            let floats = |row: &[i32]| -> Vec<f32> { row.iter().map(|x| (f64::from(*x) / per_unit) as f32).collect() };
            let (a, b) = (floats(&a), floats(&b));
            prop_assert_eq!(squared_quanta(&a, &b, per_unit), expected);
            prop_assert_eq!(squared_quanta_body(&a, &b, per_unit), expected);
        }

        #[test]
        fn a_block_is_filtered_like_plain_sums(columns in 1usize..70, seed in any::<u64>(), limit in 0.0f32..40.0) {
            let mut random = fastrand::Rng::with_seed(seed);
            let row: Vec<f32> = (0..columns).map(|_| random.f32()).collect();
            let block: Vec<[f32; LANES]> = (0..columns).map(|_| std::array::from_fn(|_| random.f32() * 2.0)).collect();
            let mask = within(&row, &block, limit);
            prop_assert_eq!(mask, within_body(&row, &block, limit));
            for lane in 0..LANES {
                let sum = row.iter().zip(&block).fold(0.0f32, |sum, (x, column)| {
                    sum + (column[lane] - x) * (column[lane] - x)
                });
                prop_assert_eq!(mask >> lane & 1 == 1, sum <= limit);
            }
        }

        #[test]
        fn boxes_are_not_farther_than_their_points(columns in 1usize..70, seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut points = |shift: f32| -> [Vec<f32>; 3] {
                std::array::from_fn(|_| (0..columns).map(|_| random.f32() + shift).collect())
            };
            let (a, b) = (points(0.0), points(0.7));
            let bounds = |points: &[Vec<f32>; 3]| -> (Vec<f32>, Vec<f32>) {
                let of = |start: f32, pick: fn(f32, f32) -> f32| {
                    (0..columns).map(|c| points.iter().fold(start, |bound, p| pick(bound, p[c]))).collect()
                };
                (of(f32::INFINITY, f32::min), of(f32::NEG_INFINITY, f32::max))
            };
            let ((low_a, high_a), (low_b, high_b)) = (bounds(&a), bounds(&b));
            let between = between_boxes((&low_a, &high_a), (&low_b, &high_b), f32::INFINITY);
            prop_assert_eq!(between, between_boxes_body((&low_a, &high_a), (&low_b, &high_b), f32::INFINITY));
            for x in &a {
                let point = from_box(x, &low_b, &high_b, f32::INFINITY);
                prop_assert!(between <= point * 1.0001);
                prop_assert_eq!(point, from_box_body(x, &low_b, &high_b, f32::INFINITY));
                for y in &b {
                    let sum: f32 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
                    prop_assert!(point <= sum * 1.0001);
                }
                prop_assert_eq!(from_box(x, &low_a, &high_a, f32::INFINITY), 0.0);
            }
        }
    }
}
