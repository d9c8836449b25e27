//! Layers that are one pass over a map: functions of each number, factors of channels, sums, maxima, and copies with a border.
//!
//! They are plain code: each output depends on few numbers, in one order, and the compiler makes vectors of the loops. Nothing is
//! contracted or reordered, so the bits are the same with all instruction sets.

use super::{builder::Activation, layout::Map};

/// A function of each number alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// An [`Activation`].
    Activation(Activation),
    /// `min(max(alpha x + beta, 0), 1)`
    HardSigmoid {
        /// The slope.
        alpha: f32,
        /// The value at 0.
        beta: f32,
    },
    /// `x min(max(alpha x + beta, 0), 1)`; HardSwish with 1/6 and 1/2.
    HardSwish {
        /// The slope of the factor.
        alpha: f32,
        /// The factor at 0.
        beta: f32,
    },
    /// `factor x + term`
    Linear {
        /// Multiplies each number.
        factor: f32,
        /// Is added to the product.
        term: f32,
    },
    /// `min(max(x, low), high)`
    Clip {
        /// The least value.
        low: f32,
        /// The largest value.
        high: f32,
    },
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x / (1 + exp(-x))`
    Swish,
}

/// What a pass computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pass {
    Function(Function),
    /// The map times a vector of factors of its channels.
    Scale,
    /// The sum of two maps, and its activation.
    Sum(Activation),
    /// The product of two maps, number by number.
    Product,
    /// The first channels of two maps, one behind the other, and then zeros.
    Concat {
        first: usize,
        second: usize,
    },
    /// The map with another border.
    Copy,
    /// The largest number of each channel in windows of this many rows and columns.
    Maximum {
        size: [usize; 2],
        stride: usize,
        padding: [usize; 2],
    },
}

impl Pass {
    /// Computes `output`, a map `to`, of maps without a border. `other` is the second input, where there is one.
    #[inline(always)]
    pub(crate) fn run(self, input: &[f32], from: Map, other: &[f32], output: &mut [f32], to: Map) {
        match self {
            Pass::Function(function) => function.run(input, output),
            Pass::Scale => {
                for (pixel, out) in input.chunks_exact(to.channels).zip(output.chunks_exact_mut(to.channels)) {
                    for ((out, x), factor) in out.iter_mut().zip(pixel).zip(other) {
                        *out = x * factor;
                    }
                }
            }
            Pass::Sum(activation) => {
                for ((out, a), b) in output.iter_mut().zip(input).zip(other) {
                    *out = activation.of(a + b);
                }
            }
            Pass::Product => {
                for ((out, a), b) in output.iter_mut().zip(input).zip(other) {
                    *out = a * b;
                }
            }
            Pass::Concat { first, second } => {
                let of_other = other.len() / (from.height * from.width);
                let inputs = input.chunks_exact(from.channels).zip(other.chunks_exact(of_other));
                for (out, (a, b)) in output.chunks_exact_mut(to.channels).zip(inputs) {
                    out[..first].copy_from_slice(&a[..first]);
                    out[first..first + second].copy_from_slice(&b[..second]);
                    out[first + second..].fill(0.0);
                }
            }
            Pass::Copy => {
                to.clear_border(output);
                let width = from.width * from.channels;
                for (y, line) in input.chunks_exact(width).enumerate() {
                    let start = to.at(y, 0);
                    output[start..start + width].copy_from_slice(line);
                }
            }
            Pass::Maximum { size, stride, padding } => maximum(input, from, (size, stride, padding), output, to),
        }
    }
}

/// Pixels outside of the map count for nothing.
#[inline(always)]
fn maximum(
    input: &[f32],
    from: Map,
    (size, stride, padding): ([usize; 2], usize, [usize; 2]),
    output: &mut [f32],
    to: Map,
) {
    let inside = |at: usize, tap: usize, pad: usize, length: usize| {
        (at * stride + tap).checked_sub(pad).filter(|position| *position < length)
    };
    let channels = to.channels;
    for (at, out) in output.chunks_exact_mut(channels).enumerate() {
        out.fill(f32::NEG_INFINITY);
        let (y, x) = (at / to.width, at % to.width);
        for y in (0..size[0]).filter_map(|tap| inside(y, tap, padding[0], from.height)) {
            for x in (0..size[1]).filter_map(|tap| inside(x, tap, padding[1], from.width)) {
                let start = from.at(y, x);
                for (out, x) in out.iter_mut().zip(&input[start..start + channels]) {
                    *out = if *x > *out { *x } else { *out };
                }
            }
        }
    }
}

impl Activation {
    /// The activation of a number, as the vectors compute it.
    #[inline(always)]
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            Activation::Identity => x,
            Activation::Relu => {
                if x > 0.0 {
                    x
                } else {
                    0.0
                }
            }
            Activation::Relu6 => {
                if x > 0.0 {
                    if x < 6.0 { x } else { 6.0 }
                } else {
                    0.0
                }
            }
        }
    }
}

impl Function {
    /// Computes all numbers. The loops are apart, so that each is one of vectors.
    #[inline(always)]
    fn run(self, input: &[f32], output: &mut [f32]) {
        match self {
            Function::Activation(activation) => each(input, output, |x| activation.of(x)),
            Function::HardSigmoid { alpha, beta } => each(input, output, |x| unit(alpha * x + beta)),
            Function::HardSwish { alpha, beta } => each(input, output, |x| x * unit(alpha * x + beta)),
            Function::Linear { factor, term } => each(input, output, |x| factor * x + term),
            Function::Clip { low, high } => each(input, output, |x| between(x, low, high)),
            Function::Sigmoid => each(input, output, sigmoid),
            Function::Swish => each(input, output, |x| x * sigmoid(x)),
        }
    }
}

#[inline(always)]
fn each(input: &[f32], output: &mut [f32], function: impl Fn(f32) -> f32) {
    for (out, x) in output.iter_mut().zip(input) {
        *out = function(*x);
    }
}

/// `x`, from 0 to 1.
#[inline(always)]
fn unit(x: f32) -> f32 {
    between(x, 0.0, 1.0)
}

#[inline(always)]
fn between(x: f32, low: f32, high: f32) -> f32 {
    if x > low { if x < high { x } else { high } } else { low }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exponential(-x))
}

/// The exponential function, to a few units of the last place; limited to exponents that a normal number has.
///
/// `x = n ln 2 + r`, and the exponential of `r`, at most ln 2 / 2, is a polynomial: Taylor's, of degree 7, whose error is below
/// that of the sums. ln 2 is in two parts, of which products with `n` are exact.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    /// Added to a number, it leaves the nearest whole one in the last bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < 88.0 { x } else { 88.0 };
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut sum = 1.0 / 5_040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + factor;
    }
    // 2^n: the bits of `n + 127` in the place of the exponent.
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    sum * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        let mut worst = 0.0f64;
        for at in -87_000..88_000 {
            let x = at as f32 / 1_000.0 + 0.000_37;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exponential(x)) - expected).abs() / expected);
        }
        assert!(worst < 3e-7, "{worst:e}");
        assert_eq!(exponential(0.0), 1.0);
        assert!(sigmoid(f32::INFINITY) == 1.0 && sigmoid(f32::NEG_INFINITY) < 1e-37);
    }
}
