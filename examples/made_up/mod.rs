//! Made-up features that look like those of real pictures.

use ndarray::Array2;
use pomona::image::THUMBNAIL;

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

/// The row of which this one is a copy that was saved again: one far away.
fn original(number: usize) -> Option<usize> {
    (number % 100 == 99).then(|| number / 2 / 100 * 100 + 1)
}

/// The thumbnail of a row: waves of a thing, which each view shifts. Copies differ by what JPEG changes.
#[allow(dead_code)] // not every example needs it
pub(crate) fn thumbnail(number: usize, kind: Kind) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(number as u64 + 2_000_000_011);
    let on_grid = |level: f64| ((level.clamp(0.0, 255.0) * 16.0).round() / 16.0) as f32;
    if kind == Kind::Noise {
        return (0..THUMBNAIL).map(|_| on_grid(random.f64() * 255.0)).collect();
    }
    if let Some(original) = original(number) {
        let original = thumbnail(original, kind);
        return original.into_iter().map(|level| on_grid(f64::from(level) + (random.f64() - 0.5) * 0.8)).collect();
    }
    let mut thing = fastrand::Rng::with_seed((number / VIEWS) as u64 + 7);
    let waves: Vec<[f64; 4]> = (0..6)
        .map(|_| {
            let [across, down] = [(); 2].map(|()| (thing.f64() - 0.5) * 0.8);
            [across, down, thing.f64() * 6.3 + random.f64() * 1.5, 30.0 * thing.f64()]
        })
        .collect();
    let level = |at: usize| {
        let place = [at % 20, at / 20].map(|place| place as f64);
        let heights = waves
            .iter()
            .map(|[across, down, shift, height]| height * (across * place[0] + down * place[1] + shift).cos());
        on_grid(128.0 + heights.sum::<f64>())
    };
    (0..THUMBNAIL).map(level).collect()
}

/// A row of the data: things differ by a combination of factors and by features of their own, views by smaller ones.
pub(crate) fn row(number: usize, kind: Kind, factors: &Array2<f32>) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(number as u64 + 1_000_000_007);
    if kind == Kind::Noise {
        return (0..COLUMNS).map(|_| on_grid(random.f64() * 6.0)).collect();
    }
    // Half of the copies are as far from their originals as JPEGs of small pictures.
    if let Some(original) = original(number) {
        let original = row(original, kind, factors);
        let change = if number % 200 == 199 { 0.4 } else { 0.02 } * random.f64();
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
