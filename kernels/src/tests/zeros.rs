//! Products with zero that are left out, and channels that are: the bits are those of the sums over everything.

use proptest::prelude::*;

use super::{Random, activation, bits, on_all, relu6};
use crate::{
    Activation, Builder, Convolution, Network, Samples,
    conv::Taps,
    layout::{Map, Packed},
    network::{Layer, Place},
    zeros::packed,
};

/// A pointwise convolution of a map, some of whose numbers are zero.
struct Pointwise {
    from: Map,
    outer: usize,
    relu: bool,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    /// Panels of weights of a block.
    panels: usize,
}

impl Pointwise {
    /// Runs it with all instruction sets, and compares with the sums over all channels in order.
    fn check(&self, to_border: [usize; 4]) {
        let Pointwise { from, outer, .. } = *self;
        let to = Map { channels: outer, border: to_border, ..from };
        let layer = Layer::Dense {
            packed: packed(
                Packed::new(from.channels, &self.bias, |k, o| self.weights[k * outer + o]).unwrap(),
                self.panels,
            ),
            taps: Taps { rows: 1, run: from.channels, stride: 1 },
            activation: activation(self.relu),
            zeros: true,
            from: Place { buffer: 0, map: from },
            residual: self.residual.is_some().then_some(Place { buffer: 1, map: Map { channels: outer, ..from } }),
            to: Place { buffer: 1 + usize::from(self.residual.is_some()), map: to },
            offsets: to.offsets(),
        };
        let inputs: Vec<_> = [Some(self.input.clone()), self.residual.clone()].into_iter().flatten().collect();
        let output = on_all(&layer, &inputs);
        let mut expected = vec![0.0f32; to.len()];
        for (pixel, input) in self.input.chunks_exact(from.channels).enumerate() {
            for o in 0..outer {
                let sum = input
                    .iter()
                    .enumerate()
                    .fold(self.bias[o], |sum, (k, x)| x.mul_add(self.weights[k * outer + o], sum));
                let sum = sum + 0.0 + self.residual.as_ref().map_or(-0.0, |residual| residual[pixel * outer + o]);
                expected[to.at(pixel / from.width, pixel % from.width) + o] = if self.relu { relu6(sum) } else { sum };
            }
        }
        assert_eq!(bits(&output), bits(&expected));
    }
}

/// Numbers of which this share is zero, in the output of a ReLU6, or, once in a while, -0.
fn rectified(count: usize, share: f32, random: &mut Random) -> Vec<f32> {
    let zero = |random: &mut Random| if random.0.f32() < 0.01 { -0.0 } else { 0.0 };
    (0..count).map(|_| if random.0.f32() < share { zero(random) } else { random.0.f32() * 6.0 }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn products_with_zero_are_left_out_without_a_trace(
        height in 1usize..6, width in 1usize..12, inner in 1usize..12, outer in 3usize..26, share in 0.0f32..1.0,
        to_border in prop::array::uniform4(0usize..2), relu in any::<bool>(), with_residual in any::<bool>(),
        panels in 2usize..8, seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (inner, outer, pixels) = (inner * 8, outer * 8, height * width);
        let mut bias = random.many(outer);
        // Sums that stay zero, and sums that stay -0 unless a product is added.
        (bias[1], bias[2]) = (0.0, -0.0);
        let mut weights = random.many(inner * outer);
        weights.iter_mut().skip(2).step_by(outer).for_each(|weight| *weight = -weight.abs() * 1e-44);
        Pointwise {
            from: Map::dense(height, width, inner),
            outer,
            relu,
            input: rectified(pixels * inner, share, &mut random),
            weights,
            bias,
            residual: with_residual.then(|| random.many(pixels * outer)),
            panels,
        }
        .check(to_border);
    }

    #[test]
    fn channels_that_are_always_zero_are_left_out_without_a_trace(
        size in 5usize..12, groups in 1usize..5, outer in 1usize..5, dead in 0usize..30, stride in 1usize..3,
        large in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let channels = groups * 8;
        let samples = Samples { table: [std::array::from_fn(|x| x as f32 * if large { 1e30 } else { 1e-2 }); 3], bgr: false };
        let block = Block::new(channels, outer * 8, stride, dead.min(channels), &mut random);
        let image: Vec<u8> = (0..size * size * 3).map(|_| random.0.u8(..)).collect();
        let (network, plain) = (block.network(size, &samples, true), block.network(size, &samples, false));
        prop_assert_eq!(bits(&network.run(&image)), bits(&plain.run(&image)));
        let left_out = if large { 0 } else { dead.min(channels - 8) / 8 * 8 };
        prop_assert!(network.buffer_numbers() <= plain.buffer_numbers());
        prop_assert!(left_out == 0 || network.buffer_numbers() < plain.buffer_numbers());
    }
}

#[test]
fn maps_that_have_zeros_in_one_part_only_and_take_several_lists() {
    let (mut random, from, outer) = (Random::new(7), Map::dense(16, 17, 520), 40);
    let count = from.len();
    for few_first in [false, true] {
        let mut input = rectified(count / 2, if few_first { 0.05 } else { 0.7 }, &mut random);
        input.extend(rectified(count - count / 2, if few_first { 0.7 } else { 0.05 }, &mut random));
        let (weights, bias) = (random.many(from.channels * outer), random.many(outer));
        Pointwise { from, outer, relu: false, input, weights, bias, residual: None, panels: 6 }.check([0; 4]);
    }
}

/// The first block of a network: a dense convolution, a depthwise one, and a pointwise one.
struct Block {
    weights: [Vec<f32>; 3],
    biases: [Vec<f32>; 3],
    channels: usize,
    outer: usize,
    stride: usize,
}

impl Block {
    /// Random numbers, with some channels that are always zero for samples up to 2.55, each for another reason.
    fn new(channels: usize, outer: usize, stride: usize, dead: usize, random: &mut Random) -> Self {
        let mut first = random.many(channels * 27);
        let mut depthwise = random.many(channels * 9);
        let mut biases = [random.many(channels), random.many(channels), random.many(outer)];
        let mut order: Vec<usize> = (0..channels).collect();
        random.0.shuffle(&mut order);
        for (at, channel) in order.into_iter().enumerate() {
            let (weights, second) = (&mut first[channel * 27..][..27], &mut depthwise[channel * 9..][..9]);
            match (at < dead, at % 3) {
                // Always positive after the depthwise convolution.
                (false, 0) => biases[1][channel] = 100.0,
                // Just above zero where all inputs are 6, and zero at the border.
                (false, _) => {
                    second.fill(0.05);
                    (biases[0][channel], biases[1][channel]) = (100.0, -2.6);
                }
                // The first convolution gives zero, and a bias below it follows.
                (true, 0) => {
                    weights.iter_mut().for_each(|weight| *weight *= 1e-21);
                    (biases[0][channel], biases[1][channel]) = (-1.0, -0.5);
                }
                // The depthwise convolution has negative weights only.
                (true, 1) => {
                    second.iter_mut().for_each(|weight| *weight = -weight.abs());
                    biases[1][channel] = -0.1;
                }
                // Its sums stay below the bias.
                (true, _) => biases[1][channel] = -55.0,
            }
        }
        Block { weights: [first, depthwise, random.many(channels * outer)], biases, channels, outer, stride }
    }

    fn network(&self, size: usize, samples: &Samples, is_pruned: bool) -> Network {
        let &Block { channels, outer, stride, .. } = self;
        let (builder, image) = Builder::new(size, size);
        let mut builder = builder.with_samples(samples.clone());
        let convolution = |at: usize, shape, stride, groups| Convolution {
            weight: &self.weights[at],
            shape,
            bias: &self.biases[at],
            stride,
            padding: if at < 2 { [1; 4] } else { [0; 4] },
            groups,
            activation: if at < 2 { Activation::Relu6 } else { Activation::Identity },
        };
        let first = builder.convolution(image, &convolution(0, [channels, 3, 3, 3], 1, 1), None).unwrap();
        let second = builder.convolution(first, &convolution(1, [channels, 1, 3, 3], stride, channels), None).unwrap();
        let third = builder.convolution(second, &convolution(2, [outer, channels, 1, 1], 1, 1), None).unwrap();
        let output = builder.mean(third).unwrap();
        if is_pruned { builder.build(output).unwrap() } else { builder.build_whole(output).unwrap() }
    }
}
