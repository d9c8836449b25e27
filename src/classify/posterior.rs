//! Probabilities from scores, and their calibration.
//!
//! LDA's own probabilities are too sure of themselves, the more so the more columns there are. Dividing the scores by a
//! *temperature* mends that without changing which class is first.

/// Number of temperatures.
pub(super) const COUNT: usize = 17;
/// The temperatures that calibration compares: `2^(i / 2)`, from 1/2 to 128.
pub const TEMPERATURES: [f64; COUNT] = {
    let mut all = [0.0; COUNT];
    let (mut i, mut even) = (0, 0.5);
    while i < COUNT {
        all[i] = if i % 2 == 0 { even } else { even * std::f64::consts::SQRT_2 };
        if i % 2 == 1 {
            even *= 2.0;
        }
        i += 1;
    }
    all
};
/// Units of a log loss: 2^-32. Sums of whole units are exact, in any order.
pub(super) const LOSS_UNITS: f64 = (1u64 << 32) as f64;
/// Differences of scores, divided by the highest temperature, beyond which a class has no weight in a sum.
const NEGLIGIBLE: f64 = -45.0;

/// The place of the largest number; the first of equal ones.
pub(super) fn largest(scores: &[f64]) -> usize {
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    best
}

/// The log loss of the class `own` at each of the [`TEMPERATURES`], in [`LOSS_UNITS`].
pub(super) fn losses(scores: &[f64], best: usize, own: usize) -> [i64; COUNT] {
    let top = scores[best];
    let mut sums = [0.0; COUNT];
    for score in scores {
        // Halving a temperature squares the exponential, so two exponentials suffice for all temperatures.
        for hottest in [COUNT - 1, COUNT - 2] {
            let exponent = (score - top) / TEMPERATURES[hottest];
            if exponent < NEGLIGIBLE {
                continue;
            }
            let mut power = libm::exp(exponent);
            for at in (0..=hottest).rev().step_by(2) {
                sums[at] += power;
                power *= power;
            }
        }
    }
    std::array::from_fn(|at| {
        let loss = libm::log(sums[at]) - (scores[own] - top) / TEMPERATURES[at];
        (loss * LOSS_UNITS).round().min(9e18) as i64
    })
}

/// The probabilities of the classes at a temperature. Their sum is 1.
pub(super) fn probabilities(scores: &[f64], temperature: f64) -> Vec<f64> {
    let top = scores[largest(scores)];
    let powers: Vec<f64> = scores.iter().map(|score| libm::exp((score - top) / temperature)).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
