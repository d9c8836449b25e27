//! Made-up features that look like those of real pictures.

use ndarray::Array2;

/// Numbers of a row.
pub(crate) const COLUMNS: usize = 1_280;
/// Views of one thing.
pub(crate) const VIEWS: usize = 40;
/// Directions in which things differ, and in which views of one thing do.
const FACTORS: usize = 60;

/// How rows are made.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Clusters of views of one thing; every 100th row is another one that was saved again.
    Views,
    /// Uniform in [0, 6], the worst case.
    #[allow(dead_code)] // not every example needs it
    Noise,
}

fn on_grid(x: f64) -> f32 {
    ((x.clamp(0.0, 5.999) * f64::from(1u32 << 20)).round() / f64::from(1u32 << 20)) as f32
}

/// Directions that all rows share: `[FACTORS, COLUMNS]`.
pub(crate) fn factors() -> Array2<f32> {
    let mut random = fastrand::Rng::with_seed(3);
    Array2::from_shape_simple_fn((FACTORS, COLUMNS), || (random.f32() + random.f32() + random.f32() - 1.5) * 2.0)
}

/// A row of the data: things differ by a combination of factors and by features of their own, views by smaller ones.
pub(crate) fn row(number: usize, kind: Kind, factors: &Array2<f32>) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(number as u64 + 1_000_000_007);
    if kind == Kind::Noise {
        return (0..COLUMNS).map(|_| on_grid(random.f64() * 6.0)).collect();
    }
    // A copy is a row far away, which was saved again.
    if number % 100 == 99 {
        let original = row(number / 2 / 100 * 100 + 1, kind, factors);
        let change = 0.02 * random.f64();
        return original.into_iter().map(|x| on_grid(f64::from(x) + (random.f64() - 0.5) * change)).collect();
    }
    let mut thing = fastrand::Rng::with_seed((number / VIEWS) as u64);
    let mut values: Vec<f64> = (0..COLUMNS).map(|_| 0.45 + (thing.f64() - 0.5) * 0.5).collect();
    for (i, factor) in factors.outer_iter().enumerate() {
        let size = 1.0 / (1.0 + i as f64 / 6.0);
        let weight = (thing.f64() - 0.5) * 0.9 * size + (random.f64() - 0.5) * 0.25 * size;
        values.iter_mut().zip(factor).for_each(|(value, x)| *value += weight * f64::from(*x));
    }
    values.into_iter().map(|value| on_grid(value + (random.f64() - 0.5) * 0.35)).collect()
}
