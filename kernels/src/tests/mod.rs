//! The kernels with all instruction sets of this processor against plain code, bit for bit.

use fastrand::Rng;
use proptest::prelude::*;

use crate::{
    Activation, Instructions,
    conv::Taps,
    depthwise::Depthwise,
    fused::{Fused, Projection},
    layout::{Aligned, Map, Packed},
    network::{Layer, Network, Place, Samples},
};

#[cfg(target_feature = "avx512f")]
mod avx512;
mod passes;
mod zeros;

/// Generates numbers between -1 and 1.
struct Random(Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Random(Rng::with_seed(seed))
    }

    fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.0.f32() * 2.0 - 1.0).collect()
    }
}

/// Random pixels of a map, with zeros in its border.
fn bordered(map: Map, random: &mut Random) -> Vec<f32> {
    let mut data = random.many(map.len());
    map.clear_border(&mut data);
    data
}

fn relu6(x: f32) -> f32 {
    if x > 0.0 { x.min(6.0) } else { 0.0 }
}

fn activation(relu: bool) -> Activation {
    if relu { Activation::Relu6 } else { Activation::Identity }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Runs one layer with all instruction sets of this processor, and asserts that they give the same bits.
fn on_all(layer: &Layer, inputs: &[Vec<f32>]) -> Vec<f32> {
    let mut buffers: Vec<Aligned> = inputs
        .iter()
        .map(|data| {
            let mut buffer = Aligned::zeros(data.len());
            buffer.slice_mut().copy_from_slice(data);
            buffer
        })
        .collect();
    buffers.push(Aligned::zeros(layer.to().map.len()));
    let network = |instructions| {
        Network::new(Vec::new(), Vec::new(), (Map::dense(1, 1, 3), Samples::default()), 0)
            .with_instructions(instructions)
    };
    let outputs: Vec<Vec<f32>> = Instructions::available()
        .into_iter()
        .map(|instructions| {
            let last = buffers.len() - 1;
            // Earlier content of the buffer must not appear in the output.
            buffers[last].slice_mut().fill(f32::NAN);
            network(instructions).step(layer, &mut buffers);
            buffers[last].slice().to_vec()
        })
        .collect();
    for output in &outputs {
        assert_eq!(bits(output), bits(&outputs[outputs.len() - 1]));
    }
    outputs[outputs.len() - 1].clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn dense_convolutions_are_the_sums_in_order(
        height in 1usize..9, width in 1usize..17, inner in 1usize..40, groups in 1usize..7,
        (rows, columns) in (1usize..4, 1usize..4), stride in 1usize..3, border in prop::array::uniform4(0usize..2), to_border in prop::array::uniform4(0usize..2),
        relu in any::<bool>(), with_residual in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let outer = groups * 8;
        let from = Map { height, width, channels: inner, border };
        let (h, w) = (height + border[0] + border[2], width + border[1] + border[3]);
        prop_assume!(h >= rows && w >= columns);
        let to = Map { height: (h - rows) / stride + 1, width: (w - columns) / stride + 1, channels: outer, border: to_border };
        let (input, bias) = (bordered(from, &mut random), random.many(outer));
        let weights = random.many(rows * columns * inner * outer);
        let residual = with_residual.then(|| random.many(to.height * to.width * outer));
        let layer = Layer::Dense {
            packed: Packed::new(rows * columns * inner, &bias, |k, o| weights[k * outer + o]).unwrap(),
            taps: Taps { rows, run: columns * inner, stride },
            activation: activation(relu),
            zeros: false,
            from: Place { buffer: 0, map: from },
            residual: with_residual.then_some(Place { buffer: 1, map: Map::dense(to.height, to.width, outer) }),
            to: Place { buffer: 1 + usize::from(with_residual), map: to },
            offsets: to.offsets(),
        };
        let inputs: Vec<_> = [Some(input.clone()), residual.clone()].into_iter().flatten().collect();
        let output = on_all(&layer, &inputs);
        let mut expected = vec![0.0f32; to.len()];
        for y in 0..to.height {
            for x in 0..to.width {
                for o in 0..outer {
                    let mut sum = bias[o];
                    for ky in 0..rows {
                        for k in 0..columns * inner {
                            let at = (y * stride + ky) * from.row() + x * stride * inner + k;
                            sum = input[at].mul_add(weights[(ky * columns * inner + k) * outer + o], sum);
                        }
                    }
                    if let Some(residual) = &residual {
                        sum += residual[(y * to.width + x) * outer + o];
                    }
                    expected[to.at(y, x) + o] = if relu { relu6(sum) } else { sum };
                }
            }
        }
        prop_assert_eq!(bits(&output), bits(&expected));
    }

    #[test]
    fn depthwise_convolutions_are_the_sums_in_order(
        height in 1usize..9, width in 1usize..17, groups in 1usize..7, stride in 1usize..3,
        border in prop::array::uniform4(0usize..2), relu in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let channels = groups * 8;
        let from = Map { height, width, channels, border };
        let (h, w) = (height + border[0] + border[2], width + border[1] + border[3]);
        prop_assume!(h >= 3 && w >= 3);
        let to = Map::dense((h - 3) / stride + 1, (w - 3) / stride + 1, channels);
        let (input, bias, weights) = (bordered(from, &mut random), random.many(channels), random.many(9 * channels));
        let layer = Layer::Depthwise {
            kernel: Depthwise::new(&bias, stride, activation(relu), |tap, c| weights[tap * channels + c]).unwrap(),
            from: Place { buffer: 0, map: from },
            to: Place { buffer: 1, map: to },
        };
        let output = on_all(&layer, std::slice::from_ref(&input));
        let mut expected = vec![0.0f32; to.len()];
        for y in 0..to.height {
            for x in 0..to.width {
                for c in 0..channels {
                    let mut sum = bias[c];
                    for tap in 0..9 {
                        let at = (y * stride + tap / 3) * from.row() + (x * stride + tap % 3) * channels + c;
                        sum = input[at].mul_add(weights[tap * channels + c], sum);
                    }
                    expected[to.at(y, x) + c] = if relu { relu6(sum) } else { sum };
                }
            }
        }
        prop_assert_eq!(bits(&output), bits(&expected));
    }

    /// Strip by strip, a fused layer gives the same bits as its two layers one after the other.
    #[test]
    fn a_fused_layer_gives_the_bits_of_its_two_layers(
        height in 3usize..40, width in 3usize..20, inner in 1usize..20, groups in 1usize..16, stride in 1usize..3,
        first in 1usize..3, wide in 1usize..40, seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (channels, width) = (groups * 8, width * wide);
        // A 3 x 3 convolution of stride 2, or a pointwise one.
        let (taps, from) = if first == 2 {
            let from = Map { height: height * 2, width: width * 2, channels: inner, border: [0, 0, 1, 1] };
            (Taps { rows: 3, run: 3 * inner, stride: 2 }, from)
        } else {
            (Taps { rows: 1, run: inner, stride: 1 }, Map::dense(height, width, inner))
        };
        let border = if stride == 1 { [1; 4] } else { [0, 0, 1, 1] };
        let between = Map { height, width, channels, border };
        let size = |n: usize| if stride == 1 { n } else { (n + 1 - 3) / 2 + 1 };
        let to = Map::dense(size(height), size(width), channels);
        let (input, weights) = (bordered(from, &mut random), random.many(taps.rows * taps.run * channels));
        let (bias, second_bias, second) = (random.many(channels), random.many(channels), random.many(9 * channels));
        let packed = || Packed::new(taps.rows * taps.run, &bias, |k, o| weights[k * channels + o]).unwrap();
        let kernel = || Depthwise::new(&second_bias, stride, Activation::Relu6, |tap, c| second[tap * channels + c]).unwrap();
        let fused = Box::new(Fused::new(packed(), taps, Activation::Relu6, kernel(), between));
        let scratch = vec![f32::NAN; fused.buffer_len()];
        let place = |buffer, map| Place { buffer, map };
        let together = Layer::Fused { fused, from: place(0, from), residual: None, strip: 1, to: place(2, to) };
        let output = on_all(&together, &[input.clone(), scratch]);
        let offsets = between.offsets();
        let (from, to) = (place(0, from), place(1, between));
        let activation = Activation::Relu6;
        let one = Layer::Dense { packed: packed(), taps, activation, zeros: false, from, residual: None, to, offsets };
        let middle = on_all(&one, std::slice::from_ref(&input));
        let map = Map::dense(size(height), size(width), channels);
        let two = Layer::Depthwise { kernel: kernel(), from: place(0, between), to: place(1, map) };
        prop_assert_eq!(bits(&output), bits(&on_all(&two, std::slice::from_ref(&middle))));
    }

    /// Strip by strip, three layers in one give the bits of one after the other.
    #[test]
    fn a_fused_projection_gives_the_bits_of_its_three_layers(
        (height, width, inner) in (3usize..24, 3usize..16, 1usize..20), (groups, outer) in (1usize..16, 1usize..8),
        stride in 1usize..3, numbers in 0usize..60_000, zeros in any::<bool>(), with_residual in any::<bool>(),
        to_border in prop::array::uniform4(0usize..2), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (channels, outer) = (groups * 8, outer * 8);
        let (from, taps) = (Map::dense(height, width, inner), Taps { rows: 1, run: inner, stride: 1 });
        let between = Map { height, width, channels, border: if stride == 1 { [1; 4] } else { [0, 0, 1, 1] } };
        let size = |n: usize| if stride == 1 { n } else { (n - 2) / 2 + 1 };
        let narrow = Map::dense(size(height), size(width), channels);
        let to = Map { channels: outer, border: to_border, ..narrow };
        let (input, weights) = (random.many(from.len()), random.many(inner * channels));
        let (bias, second_bias, second) = (random.many(channels), random.many(channels), random.many(9 * channels));
        let (last_bias, last) = (random.many(outer), random.many(channels * outer));
        let residual: Option<Vec<f32>> = with_residual.then(|| random.many(narrow.height * narrow.width * outer));
        let packed = || Packed::new(inner, &bias, |k, o| weights[k * channels + o]).unwrap();
        let kernel = || Depthwise::new(&second_bias, stride, Activation::Relu6, |tap, c| second[tap * channels + c]).unwrap();
        let projection = || Packed::new(channels, &last_bias, |k, o| last[k * outer + o]).unwrap();

        let activation = Activation::Relu6;
        let fused = || Fused::new(packed(), taps, activation, kernel(), between);
        let last_packed = if zeros { crate::zeros::packed(projection(), 6) } else { projection() };
        let third = Projection { packed: last_packed, activation, zeros, from: narrow, offsets: to.offsets() };
        let together = Box::new(fused().with_projection(third, numbers));
        let place = |buffer, map| Place { buffer, map };
        let scratch = vec![f32::NAN; together.buffer_len()];
        let last = 2 + usize::from(with_residual);
        let residual_place = with_residual.then(|| place(2, Map { border: [0; 4], ..to }));
        let layer =
            Layer::Fused { fused: together, from: place(0, from), residual: residual_place, strip: 1, to: place(last, to) };
        let inputs: Vec<_> = [input.clone(), scratch].into_iter().chain(residual.clone()).collect();
        let output = on_all(&layer, &inputs);

        let two = Box::new(fused());
        let scratch = vec![f32::NAN; two.buffer_len()];
        let layer = Layer::Fused { fused: two, from: place(0, from), residual: None, strip: 1, to: place(2, narrow) };
        let middle = on_all(&layer, &[input, scratch]);
        let layer = Layer::Dense {
            packed: projection(),
            taps: Taps { rows: 1, run: channels, stride: 1 },
            activation,
            zeros,
            from: place(0, narrow),
            residual: with_residual.then(|| place(1, Map { border: [0; 4], ..to })),
            to: place(last - 1, to),
            offsets: to.offsets(),
        };
        let inputs: Vec<_> = [middle].into_iter().chain(residual).collect();
        prop_assert_eq!(bits(&output), bits(&on_all(&layer, &inputs)));
    }

    #[test]
    fn means_are_the_sums_in_order(pixels in 1usize..60, groups in 1usize..7, seed in any::<u64>()) {
        let channels = groups * 8;
        let input = Random::new(seed).many(pixels * channels);
        let layer = Layer::Mean {
            from: Place { buffer: 0, map: Map::dense(1, pixels, channels) },
            to: Place { buffer: 1, map: Map::dense(1, 1, channels) },
        };
        let output = on_all(&layer, std::slice::from_ref(&input));
        let sum = |c: usize| input.chunks_exact(channels).fold(0.0f32, |sum, pixel| sum + pixel[c]);
        let expected: Vec<f32> = (0..channels).map(|c| sum(c) / pixels as f32).collect();
        prop_assert_eq!(bits(&output), bits(&expected));
    }
}

#[test]
fn nan_infinity_and_signed_zeros_give_the_same_bits() {
    let special = [f32::NAN, -f32::NAN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 6.0, 6.000_000_5];
    let identity = |k: usize, o: usize| f32::from(u8::from(k == o));
    for (value, zeros) in special.into_iter().flat_map(|value| [(value, false), (value, true)]) {
        let outer = if zeros { 32 } else { 8 };
        let packed = Packed::new(8, &vec![-0.0; outer], identity).unwrap();
        let layer = Layer::Dense {
            packed: if zeros { crate::zeros::packed(packed, 2) } else { packed },
            taps: Taps { rows: 1, run: 8, stride: 1 },
            activation: if zeros { Activation::Identity } else { Activation::Relu6 },
            zeros,
            from: Place { buffer: 0, map: Map::dense(1, 1, 8) },
            residual: None,
            to: Place { buffer: 1, map: Map::dense(1, 1, outer) },
            offsets: vec![0],
        };
        let mut input = vec![0.0; 8];
        input[3] = value;
        on_all(&layer, &[input]);
    }
}
