use ndarray::{Array2, s};
use proptest::prelude::*;

use super::*;
use crate::model::FeatureRange;

/// Groups by comparing every pair.
fn brute_force(rows: &Array2<f32>, limit: Limit) -> Vec<Vec<u32>> {
    let mut components = Components::new(rows.nrows() as u32);
    for a in 0..rows.nrows() {
        for b in a + 1..rows.nrows() {
            // Plain integers: no code is shared with the search.
            let quanta = |x: f32| (f64::from(x) * limit.range().per_unit()) as i64;
            let squared: i64 = rows.row(a).iter().zip(rows.row(b)).map(|(x, y)| (quanta(*x) - quanta(*y)).pow(2)).sum();
            if limit.includes(squared as u64) {
                components.connect(a as u32, b as u32);
            }
        }
    }
    components.groups()
}

/// Groups by the search, deciding `step` candidates at a time.
fn searched(rows: &Array2<f32>, limit: Limit, step: usize) -> Vec<Vec<u32>> {
    let sketcher = Sketcher::fit(rows.slice(s![..rows.nrows().min(300), ..]));
    let mut sketches = Sketches::default();
    sketcher.sketch(rows.view(), &mut sketches);
    let mut search = PairSearch::new(&sketcher, sketches, Components::new(rows.nrows() as u32), limit);
    loop {
        let candidates = search.candidates(step);
        if candidates.is_empty() {
            return search.into_components().groups();
        }
        for (a, b) in candidates {
            let [x, y] = [a, b].map(|row| rows.row(row as usize));
            if limit.includes(squared_quanta(x.as_slice().unwrap(), y.as_slice().unwrap(), limit.range())) {
                search.connect(a, b);
            }
        }
    }
}

/// Rows like those of real data: views in clusters, copies with small and with no differences; or noise.
fn rows(random: &mut fastrand::Rng, count: usize, columns: usize, spread: f64, views: f64) -> Array2<f32> {
    let on_grid = |x: f64| ((x.clamp(0.0, 6.0) * f64::from(1u32 << 20)).round() / f64::from(1u32 << 20)) as f32;
    let mut all = Array2::zeros((count, columns));
    let mut centre = vec![3.0; columns];
    for row in 0..count {
        if row % 7 == 0 {
            centre.fill_with(|| 3.0 + (random.f64() - 0.5) * spread);
        }
        let copied = if row > 0 && random.u8(..) < 40 { Some(random.usize(..row)) } else { None };
        let change = if random.bool() { 0.0 } else { views / 8.0 };
        for column in 0..columns {
            let value = match copied {
                Some(of) => f64::from(all[[of, column]]) + (random.f64() - 0.5) * change,
                None => centre[column] + (random.f64() - 0.5) * views,
            };
            all[[row, column]] = on_grid(value);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn groups_equal_those_of_all_pairs(
        seed in any::<u64>(), count in 1usize..700, columns in 1usize..130,
        (spread, views) in prop::sample::select(vec![(6.0, 0.5), (1.0, 0.2), (6.0, 6.0), (0.0, 0.1), (0.0, 0.0)]),
        share in 0.0f64..1.5, step in prop::sample::select(vec![1, 50, 1_000_000]),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let rows = rows(&mut random, count, columns, spread, views);
        let limit = Limit::new(share * views * (columns as f64 / 6.0).sqrt(), FeatureRange::default());
        prop_assert_eq!(searched(&rows, limit, step), brute_force(&rows, limit));
    }

    /// The limit itself is included, and a single quantum more is not.
    #[test]
    fn the_limit_is_exact(columns in 1usize..300, at in any::<prop::sample::Index>(), quanta in 1u32..1 << 23) {
        let range = FeatureRange::default();
        let mut rows = Array2::<f32>::zeros((2, columns));
        rows[[1, at.index(columns)]] = (f64::from(quanta) / range.per_unit()) as f32;
        let exact = Limit::new(f64::from(quanta) / range.per_unit(), range);
        prop_assert_eq!(searched(&rows, exact, 9), vec![vec![0, 1]]);
        let below = Limit::new((f64::from(quanta) - 0.5) / range.per_unit(), range);
        prop_assert_eq!(searched(&rows, below, 9), Vec::<Vec<u32>>::new());
        prop_assert_eq!(exact.distance_of(u64::from(quanta).pow(2)), f64::from(quanta) / range.per_unit());
    }
}

/// A burst of photos: all pairs are near. They are one group, without deciding all pairs.
#[test]
fn a_thousand_views_of_one_thing_are_one_group() {
    let mut random = fastrand::Rng::with_seed(1);
    let rows = rows(&mut random, 5_000, 40, 0.0, 0.01);
    let limit = Limit::new(1.0, FeatureRange::default());
    assert_eq!(searched(&rows, limit, 10_000), [(0..5_000).collect::<Vec<u32>>()]);
}

/// Rows at the edge of the limit and far from the origin, where sketches have their largest errors.
#[test]
fn pairs_at_the_limit_survive_the_filter() {
    let mut random = fastrand::Rng::with_seed(2);
    let range = FeatureRange::try_from(1 << 20).unwrap();
    let columns = 1_280;
    let mut rows = Array2::<f32>::from_shape_simple_fn((400, columns), || random.u32(1 << 22..1 << 23) as f32 / 8.0);
    for row in (1..400).step_by(2) {
        let before = rows.row(row - 1).to_owned();
        rows.row_mut(row).assign(&before);
        rows[[row, row]] += 0.125;
    }
    let limit = Limit::new(0.125, range);
    assert_eq!(searched(&rows, limit, 100), brute_force(&rows, limit));
    assert_eq!(brute_force(&rows, limit).len(), 200);
}
