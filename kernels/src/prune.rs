//! Channels of a network that are zero for every image, and so can be left out. Networks have some: training drives the weights
//! of a channel to zero, and no one removes it. MobileNetV2 has 8 among the 32 channels of its first block.

use crate::{Activation, Builder, assemble::Step, depthwise::Depthwise, layout::Packed, simd::LANES};

impl Builder {
    /// Removes channels that are zero for every image from each depthwise convolution between two dense ones, and from these.
    /// The sums keep their order, so the bits stay the same.
    pub(crate) fn prune(&mut self, readers: &[usize]) {
        let samples = self.samples.range();
        for at in 2..self.layers.len() {
            let [first, second, third] = &mut self.layers[at - 2..=at] else { continue };
            let (
                Step::Dense { packed, activation, from, residual: None, to: between, .. },
                Step::Depthwise { kernel, from: middle, to: narrow },
                Step::Dense { packed: last, zeros: true, taps, from: source, .. },
            ) = (first, second, third)
            else {
                continue;
            };
            let is_chain = between == middle && narrow == source && readers[*between] == 1 && readers[*narrow] == 1;
            if !is_chain || taps.rows != 1 || taps.run != kernel.packed.outer {
                continue;
            }
            let input = if *from == 0 { samples } else { (f64::NEG_INFINITY, f64::INFINITY) };
            let kept = kept(packed, *activation, kernel, input);
            if kept.len() == packed.outer {
                continue;
            }
            let all = |count: usize| (0..count).collect::<Vec<_>>();
            *packed = packed.select(&all(packed.inner), &kept);
            kernel.packed = kernel.packed.select(&all(kernel.packed.inner), &kept);
            *last = last.select(&kept, &all(last.outer));
            taps.run = kept.len();
            self.values[*between].channels = kept.len();
            self.values[*narrow].channels = kept.len();
        }
    }
}

/// The channels of a dense convolution and of the depthwise one that reads it which stay: all that can differ from zero in the
/// output of the latter, and as many others as make a multiple of [`LANES`].
fn kept(dense: &Packed, activation: Activation, kernel: &Depthwise, input: (f64, f64)) -> Vec<usize> {
    let can_differ: Vec<bool> = (0..dense.outer)
        .map(|channel| {
            let most = upper_bound(dense, channel, input);
            // A border of zeros is in the range, too.
            let most = match activation {
                Activation::Identity => return true,
                Activation::Relu => most.max(0.0),
                Activation::Relu6 => most.clamp(0.0, 6.0),
            };
            kernel.activation == Activation::Identity || upper_bound(&kernel.packed, channel, (0.0, most)) > 0.0
        })
        .collect();
    let needed = can_differ.iter().filter(|can| **can).count();
    let mut spare = needed.max(1).next_multiple_of(LANES) - needed;
    let keep = |channel: &usize| {
        can_differ[*channel] || {
            let fills = spare > 0;
            spare -= usize::from(fills);
            fills
        }
    };
    (0..dense.outer).filter(keep).collect()
}

/// What an output of a convolution does not exceed before its activation, for inputs in a range that contains zero, rounding
/// included. Infinity if a number is not finite.
fn upper_bound(packed: &Packed, output: usize, (least, most): (f64, f64)) -> f64 {
    let bias = f64::from(packed.bias.slice()[output]);
    let (mut high, mut size) = (bias, bias.abs());
    for input in 0..packed.inner {
        let weight = f64::from(packed.weight(input, output));
        if weight == 0.0 {
            continue;
        }
        let (a, b) = (weight * least, weight * most);
        (high, size) = (high + a.max(b), size + a.abs().max(b.abs()));
    }
    // Each of the sums is rounded once, to 24 bits; twice that is a safe bound.
    let error = size * packed.inner as f64 * f64::from(f32::EPSILON);
    if error.is_finite() { high + error } else { f64::INFINITY }
}
