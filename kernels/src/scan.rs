//! The inner loops of the search: distances of codes, which exclude rows, and exact distances of packed rows, which decide.
//!
//! All numbers are integers, so every processor gives the same results.

/// Rows of a block of codes.
pub const LANES: usize = 32;
/// Largest absolute value of a code.
pub const LARGEST_CODE: i16 = 2_047;
/// Most codes of a row: their squared differences add up to less than 2^31.
pub const MOST_CODES: usize = 64;

compiled_twice!(
    /// The squared distances of the rows of a block from `query`, in codes. The block is `[query.len(), LANES]`: `i16` in
    /// little-endian order.
    pub squared_codes, squared_codes_avx2, squared_codes_body, (query: &[i16], block: &[u8]) -> [i32; LANES]
);
compiled_twice!(
    /// The squared distance of a packed row from `query`, whose numbers are below 2^23 in absolute value. A number of the row is
    /// `256 * high + low`: `high` are `i16` in little-endian order, `low` are `u8`. Rows have at most 65,536 numbers.
    pub squared_packed, squared_packed_avx2, squared_packed_body, (query: &[i32], high: &[u8], low: &[u8]) -> u64
);

#[inline(always)]
fn squared_codes_body(query: &[i16], block: &[u8]) -> [i32; LANES] {
    let mut sums = [0i32; LANES];
    for (q, codes) in query.iter().zip(block.chunks_exact(2 * LANES)) {
        for (sum, code) in sums.iter_mut().zip(codes.chunks_exact(2)) {
            let difference = i32::from(i16::from_le_bytes([code[0], code[1]])) - i32::from(*q);
            *sum = sum.wrapping_add(difference.wrapping_mul(difference));
        }
    }
    sums
}

#[inline(always)]
fn squared_packed_body(query: &[i32], high: &[u8], low: &[u8]) -> u64 {
    let mut sum = 0u64;
    for ((q, high), low) in query.iter().zip(high.chunks_exact(2)).zip(low) {
        let number = (i32::from(i16::from_le_bytes([high[0], high[1]])) << 8) | i32::from(*low);
        let difference = i64::from(number.wrapping_sub(*q));
        sum = sum.wrapping_add((difference * difference) as u64);
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn distances_of_codes_are_those_of_plain_sums(width in 1usize..=MOST_CODES, seed in any::<u64>(), ends in any::<bool>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut code = |end: i16| if ends { end } else { random.i16(-LARGEST_CODE..=LARGEST_CODE) };
            let query: Vec<i16> = (0..width).map(|_| code(LARGEST_CODE)).collect();
            let block: Vec<[i16; LANES]> = (0..width).map(|_| std::array::from_fn(|_| code(-LARGEST_CODE))).collect();
            let bytes: Vec<u8> = block.as_flattened().iter().flat_map(|code| code.to_le_bytes()).collect();
            let sums = squared_codes(&query, &bytes);
            prop_assert_eq!(sums, squared_codes_body(&query, &bytes));
            for lane in 0..LANES {
                let of_lane = query.iter().zip(&block).map(|(q, codes)| i64::from(codes[lane] - q).pow(2));
                prop_assert_eq!(i64::from(sums[lane]), of_lane.sum::<i64>());
            }
        }

        #[test]
        fn distances_of_packed_rows_are_exact(columns in 1usize..700, seed in any::<u64>(), ends in any::<bool>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let largest = (1 << 23) - 1;
            let mut row = |end: i32| -> Vec<i32> {
                (0..columns).map(|_| if ends { end } else { random.i32(-largest..=largest) }).collect()
            };
            let (a, b) = (row(largest), row(-largest));
            let high: Vec<u8> = b.iter().flat_map(|x| ((x >> 8) as i16).to_le_bytes()).collect();
            let low: Vec<u8> = b.iter().map(|x| *x as u8).collect();
            let expected: u64 = a.iter().zip(&b).map(|(x, y)| u64::from(x.abs_diff(*y)).pow(2)).sum();
            prop_assert_eq!(squared_packed(&a, &high, &low), expected);
            prop_assert_eq!(squared_packed_body(&a, &high, &low), expected);
        }
    }
}
