//! Tests of sums against plain integers.

use ndarray::ArrayView2;
use proptest::prelude::*;

use super::*;
use crate::Result;

const PER_UNIT: f64 = (1u64 << 20) as f64;

fn feature() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0i32), -((1i32 << 23) - 1)..(1 << 23), Just((1 << 23) - 1), Just(1),]
        .prop_map(|units| (f64::from(units) / PER_UNIT) as f32)
}

fn moments(features: &[f32], columns: usize) -> Result<ShardMoments> {
    let rows = ArrayView2::from_shape((features.len() / columns, columns), features).unwrap();
    ShardMoments::from_features(rows, PER_UNIT)
}

fn naive(features: &[f32], columns: usize) -> TotalMoments {
    let (mut rows, mut sums, mut products) = (0, vec![0i128; columns], vec![0i128; triangle(columns)]);
    for row in features.chunks(columns) {
        let units: Vec<i128> = row.iter().map(|x| (f64::from(*x) * PER_UNIT) as i128).collect();
        rows += 1;
        for i in 0..columns {
            sums[i] += units[i];
            for j in i..columns {
                products[position(columns, i, j)] += units[i] * units[j];
            }
        }
    }
    TotalMoments::from_parts(rows, sums, products).unwrap()
}

fn total(features: &[f32], columns: usize, rows_per_shard: usize) -> TotalMoments {
    let mut total = TotalMoments::zero(columns);
    for shard in features.chunks(rows_per_shard * columns) {
        total.add(&moments(shard, columns).unwrap()).unwrap();
    }
    total
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn sums_are_exact_for_every_split(
        columns in 1usize..12,
        values in prop::collection::vec(feature(), 0..4_000),
        size in 1usize..400,
    ) {
        let values = &values[..values.len() / columns * columns];
        prop_assert_eq!(total(values, columns, size), naive(values, columns));
        // The rows of a shard summed in two parts.
        let (first, second) = values.split_at((size * columns).min(values.len()));
        let mut halves = moments(first, columns).unwrap();
        let second = ArrayView2::from_shape((second.len() / columns, columns), second).unwrap();
        halves.add_features(second, PER_UNIT).unwrap();
        prop_assert_eq!(halves, moments(values, columns).unwrap());
    }

    #[test]
    fn order_does_not_matter_and_subtracting_undoes_adding(
        values in prop::collection::vec(feature(), 60..1_200),
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        gone in 0usize..12,
    ) {
        let values = &values[..values.len() / 60 * 60];
        let shards: Vec<_> =
            values.chunks(values.len() / 12).map(|s| moments(s, 5).unwrap()).collect();
        let (mut forward, mut shuffled, mut without) =
            (TotalMoments::zero(5), TotalMoments::zero(5), TotalMoments::zero(5));
        for i in 0..12 {
            forward.add(&shards[i]).unwrap();
            shuffled.add(&shards[order[i]]).unwrap();
            if i != gone {
                without.add(&shards[i]).unwrap();
            }
        }
        prop_assert_eq!(&forward, &shuffled);
        let mut of_shard = TotalMoments::zero(5);
        of_shard.add(&shards[gone]).unwrap();
        prop_assert_eq!(&of_shard.complement(&forward).unwrap(), &without);
        forward.subtract(&shards[gone]).unwrap();
        prop_assert_eq!(forward, without);
    }
}

/// A sum near one of the limits of 64 bits, or anywhere.
fn sum() -> impl Strategy<Value = i128> {
    let limit = i128::from(i64::MAX);
    prop_oneof![-2i128..3, limit - 2..limit + 3, -limit - 3..-limit + 2, -(1i128 << 100)..1 << 100]
}

/// Two columns: their sums, and their sums of products.
fn parts() -> impl Strategy<Value = (u64, [i128; 5])> {
    (0..1u64 << 40, prop::array::uniform5(sum()))
}

fn of((rows, sums): (u64, [i128; 5])) -> TotalMoments {
    TotalMoments::from_parts(rows, sums[..2].to_vec(), sums[2..].to_vec()).unwrap()
}

fn values(moments: &TotalMoments) -> Vec<i128> {
    moments.sums().iter().chain(moments.products().iter()).collect()
}

proptest! {
    #[test]
    fn the_width_of_sums_has_no_effect(a in parts(), b in parts()) {
        let (first, second) = (of(a), of(b));
        let added: Vec<i128> = a.1.iter().zip(&b.1).map(|(a, b)| a + b).collect();
        let mut both = first.clone();
        both.add(&second).unwrap();
        prop_assert_eq!(values(&both), added);
        prop_assert_eq!(both.rows(), a.0 + b.0);
        prop_assert_eq!(&first.clone().complement(&both).unwrap(), &second);
        let mut rest = both.clone();
        rest.subtract(&second).unwrap();
        // These may be wide sums that would fit into narrow ones.
        prop_assert_eq!(&rest, &first);
        prop_assert_eq!(&second.clone().complement(&both).unwrap(), &rest);
        prop_assert_eq!(rest == second, values(&first) == values(&second) && a.0 == b.0);
        let fit = a.1[2..].iter().all(|sum| i64::try_from(*sum).is_ok());
        prop_assert_eq!(matches!(first.products(), Sums::Narrow(_)), fit);
    }
}

#[test]
fn a_sum_beyond_128_bits_is_an_error() {
    let mut most = TotalMoments::from_parts(1, vec![0i64], vec![i128::MAX]).unwrap();
    let one = TotalMoments::from_parts(1, vec![0i64], vec![1i64]).unwrap();
    assert!(most.clone().add(&one).is_err());
    most.subtract(&one).unwrap();
    most.add(&one).unwrap();
    assert_eq!(most.product(0, 0), i128::MAX);
}

#[test]
fn wide_features_cross_panels_and_blocks_exactly() {
    let columns = 300;
    let values: Vec<f32> = (0..columns * 301)
        .map(|i: usize| ((i.wrapping_mul(2_654_435_761) % (1 << 23)) as f64 / PER_UNIT) as f32)
        .collect();
    assert_eq!(total(&values, columns, 301), naive(&values, columns));
}

#[test]
fn the_largest_values_fill_but_do_not_overflow_a_shard() {
    let largest = (f64::from((1 << 23) - 1) / PER_UNIT) as f32;
    let full = moments(&vec![largest; MAX_SHARD_ROWS], 1).unwrap();
    let units = i128::from((1 << 23) - 1);
    assert_eq!(i128::from(full.products()[0]), units * units * MAX_SHARD_ROWS as i128);
    assert!(moments(&vec![0.0; MAX_SHARD_ROWS + 1], 1).is_err());
}

#[test]
fn a_value_that_is_not_a_multiple_of_the_quantum_is_an_error() {
    for bad in [f32::NAN, f32::INFINITY, 8.0, -8.0, 0.3] {
        assert!(moments(&[0.5, bad], 1).is_err(), "{bad}");
    }
}

#[test]
fn subtracting_more_rows_than_were_added_fails() {
    let shard = moments(&[1.0], 1).unwrap();
    assert!(TotalMoments::zero(1).subtract(&shard).is_err());
    assert!(TotalMoments::zero(2).add(&shard).is_err());
    let mut one = TotalMoments::zero(1);
    one.add(&shard).unwrap();
    assert!(one.clone().complement(&TotalMoments::zero(1)).is_err());
    assert!(one.complement(&TotalMoments::zero(2)).is_err());
}
