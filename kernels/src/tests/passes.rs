//! Wide depthwise convolutions and passes, with all instruction sets against plain code.

use proptest::prelude::*;

use super::{Random, bits, bordered, on_all};
use crate::{
    Activation, Builder, Convolution, Function, Samples,
    depthwise::WideDepthwise,
    layout::Map,
    network::{Layer, Place},
    passes::Pass,
};

fn place(buffer: usize, map: Map) -> Place {
    Place { buffer, map }
}

fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

/// Runs a pass over one map, or with a second one of the same pixels or a vector of factors.
fn pass(pass: Pass, from: Map, inputs: &[Vec<f32>], to: Map) -> Vec<f32> {
    let of = |data: &Vec<f32>| Map::dense(1, 1, data.len());
    let other = inputs.get(1).map(|data| place(1, of(data)));
    on_all(&Layer::Pass { pass, from: place(0, from), other, to: place(inputs.len(), to) }, inputs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn wide_depthwise_convolutions_are_the_sums_in_order(
        height in 1usize..12, width in 1usize..20, groups in 1usize..6, stride in 1usize..4, rows in 1usize..8, columns in 1usize..8,
        border in prop::array::uniform4(0usize..4), activation in prop::sample::select(vec![Activation::Identity, Activation::Relu]),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let channels = groups * 8;
        let from = Map { height, width, channels, border };
        let (h, w) = (height + border[0] + border[2], width + border[1] + border[3]);
        prop_assume!(h >= rows && w >= columns);
        let to = Map::dense((h - rows) / stride + 1, (w - columns) / stride + 1, channels);
        let (input, bias, weights) = (bordered(from, &mut random), random.many(channels), random.many(rows * columns * channels));
        let weight = |tap: usize, c: usize| weights[tap * channels + c];
        let kernel = WideDepthwise::new((&bias, [rows, columns]), stride, activation, weight).unwrap();
        let output = on_all(&Layer::WideDepthwise { kernel, from: place(0, from), to: place(1, to) }, std::slice::from_ref(&input));
        let mut expected = vec![0.0f32; to.len()];
        for y in 0..to.height {
            for x in 0..to.width {
                for (c, bias) in bias.iter().enumerate() {
                    let mut sum = *bias;
                    for tap in 0..rows * columns {
                        let at = (y * stride + tap / columns) * from.row() + (x * stride + tap % columns) * channels + c;
                        sum = input[at].mul_add(weight(tap, c), sum);
                    }
                    expected[to.at(y, x) + c] = if activation == Activation::Relu { relu(sum) } else { sum };
                }
            }
        }
        prop_assert_eq!(bits(&output), bits(&expected));
    }

    #[test]
    fn passes_compute_each_number_alone(
        height in 1usize..9, width in 1usize..9, groups in 1usize..5, border in prop::array::uniform4(0usize..3), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let map = Map::dense(height, width, groups * 8);
        let (a, b, factors) = (random.many(map.len()), random.many(map.len()), random.many(map.channels));
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| relu(a + b)).collect();
        prop_assert_eq!(bits(&pass(Pass::Sum(Activation::Relu), map, &[a.clone(), b.clone()], map)), bits(&sum));
        let linear = pass(Pass::Function(Function::Linear { factor: 1.7, term: -0.3 }), map, std::slice::from_ref(&a), map);
        prop_assert_eq!(bits(&linear), bits(&a.iter().map(|x| 1.7 * x + -0.3).collect::<Vec<_>>()));
        let clipped = pass(Pass::Function(Function::Clip { low: -0.2, high: 0.4 }), map, std::slice::from_ref(&a), map);
        prop_assert_eq!(bits(&clipped), bits(&a.iter().map(|x| x.clamp(-0.2, 0.4)).collect::<Vec<_>>()));
        let product: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
        prop_assert_eq!(bits(&pass(Pass::Product, map, &[a.clone(), b], map)), bits(&product));
        let scaled: Vec<f32> = a.iter().enumerate().map(|(at, x)| x * factors[at % map.channels]).collect();
        prop_assert_eq!(bits(&pass(Pass::Scale, map, &[a.clone(), factors], map)), bits(&scaled));
        let bordered = Map { border, ..map };
        let copy = pass(Pass::Copy, map, std::slice::from_ref(&a), bordered);
        let mut expected = vec![0.0; bordered.len()];
        for (at, x) in a.iter().enumerate() {
            let pixel = at / map.channels;
            expected[bordered.at(pixel / width, pixel % width) + at % map.channels] = *x;
        }
        prop_assert_eq!(bits(&copy), bits(&expected));
        let wide: Vec<f32> = a.iter().map(|x| x * 12.0).collect();
        let swish = pass(Pass::Function(Function::Swish), map, std::slice::from_ref(&wide), map);
        let hard = Function::HardSwish { alpha: 1.0 / 6.0, beta: 0.5 };
        let hard = pass(Pass::Function(hard), map, std::slice::from_ref(&wide), map);
        for ((x, swish), hard) in wide.iter().zip(swish).zip(hard) {
            let x = f64::from(*x);
            prop_assert!((f64::from(swish) - x / (1.0 + (-x).exp())).abs() < 1e-6 * x.abs().max(1.0));
            prop_assert!((f64::from(hard) - x * (x / 6.0 + 0.5).clamp(0.0, 1.0)).abs() < 1e-6 * x.abs().max(1.0));
        }
    }

    #[test]
    fn joined_maps_have_the_channels_that_count_and_zeros(
        height in 1usize..9, width in 1usize..9, channels in prop::array::uniform2(1usize..30), seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let maps = channels.map(|count| Map::dense(height, width, count.next_multiple_of(8)));
        let inputs = maps.map(|map| random.many(map.len()));
        let to = Map::dense(height, width, (channels[0] + channels[1]).next_multiple_of(8));
        let kind = Pass::Concat { first: channels[0], second: channels[1] };
        let output = pass(kind, maps[0], &inputs, to);
        for (pixel, found) in output.chunks(to.channels).enumerate() {
            let of = |which: usize| &inputs[which][pixel * maps[which].channels..][..channels[which]];
            let mut expected = [of(0), of(1)].concat();
            expected.resize(to.channels, 0.0);
            prop_assert_eq!(bits(found), bits(&expected));
        }
    }

    #[test]
    fn maxima_are_those_of_their_windows(
        height in 1usize..9, width in 1usize..9, size in 1usize..4, stride in 1usize..4, padding in 0usize..3, seed in any::<u64>(),
    ) {
        prop_assume!(padding < size && height.min(width) + 2 * padding >= size);
        let map = Map::dense(height, width, 8);
        let input = Random::new(seed).many(map.len());
        let side = |length: usize| (length + 2 * padding - size) / stride + 1;
        let to = Map::dense(side(height), side(width), 8);
        let kind = Pass::Maximum { size: [size; 2], stride, padding: [padding; 2] };
        let output = pass(kind, map, std::slice::from_ref(&input), to);
        for (at, found) in output.iter().enumerate() {
            let (y, x, c) = (at / 8 / to.width * stride, at / 8 % to.width * stride, at % 8);
            let inside = |at: usize, length: usize| (at..at + size).filter_map(move |p| p.checked_sub(padding).filter(|p| *p < length));
            let window = inside(y, height).flat_map(|y| inside(x, width).map(move |x| (y, x)));
            let largest = window.map(|(y, x)| input[map.at(y, x) + c]).fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(*found, largest);
        }
    }
}

#[test]
fn a_value_with_two_readers_is_copied_for_the_one_that_pads_it() {
    let (weight, bias): (Vec<f32>, _) = ((0..8 * 8 * 9).map(|at| (at % 7) as f32 / 7.0 - 0.4).collect(), [0.1; 8]);
    let plain = Convolution {
        weight: &weight[..24],
        shape: [8, 3, 1, 1],
        bias: &bias,
        stride: 1,
        padding: [0; 4],
        groups: 1,
        activation: Activation::Relu,
    };
    let padded = Convolution { weight: &weight, shape: [8, 8, 3, 3], padding: [1; 4], ..plain };
    let samples =
        Samples { table: std::array::from_fn(|c| std::array::from_fn(|s| (s * (c + 1)) as f32 / 255.0)), bgr: true };
    let run = |shared: bool| {
        let (builder, image) = Builder::new(5, 4);
        let mut builder = builder.with_samples(samples.clone());
        let x = builder.convolution(image, &plain, None)?;
        if shared {
            builder.share(x);
        }
        let y = builder.convolution(x, &padded, None)?;
        let sum = builder.sum(x, y, Activation::Identity)?;
        let (vector, sum_of_x) = (builder.mean(sum)?, builder.maximum(x, [5, 4], 1, [0; 4])?);
        let factors = builder.function(sum_of_x, Function::Sigmoid)?;
        let output = builder.scale(vector, factors)?;
        Ok::<_, crate::Unsupported>(builder.build_first(output, 5)?.run(&(0..60).map(|at| at * 4).collect::<Vec<u8>>()))
    };
    assert!(run(false).unwrap_err().to_string().contains("another layer pads"));
    let output = run(true).unwrap();
    // The same in plain loops.
    let mut x = [[[0.0f32; 8]; 4]; 5];
    for (at, pixel) in x.iter_mut().flatten().enumerate() {
        for (o, out) in pixel.iter_mut().enumerate() {
            let of = |c: usize| samples.table[c][(at * 3 + 2 - c) * 4];
            *out = relu((0..3).fold(bias[o], |sum, c| of(c).mul_add(weight[o * 3 + c], sum)));
        }
    }
    let mut expected = [0.0f32; 8];
    let mut largest = [f32::NEG_INFINITY; 8];
    for (y, row) in x.iter().enumerate() {
        for (column, pixel) in row.iter().enumerate() {
            for (o, value) in pixel.iter().enumerate() {
                let mut sum = bias[o];
                for tap in 0..9 {
                    for c in 0..8 {
                        let line = (y + tap / 3).checked_sub(1).and_then(|y| x.get(y));
                        let there = (column + tap % 3).checked_sub(1).and_then(|at| line?.get(at));
                        sum = there.map_or(0.0, |there| there[c]).mul_add(weight[(o * 8 + c) * 9 + tap], sum);
                    }
                }
                expected[o] += value + relu(sum);
                largest[o] = largest[o].max(*value);
            }
        }
    }
    for (o, found) in output.iter().enumerate() {
        let value = expected[o] / 20.0 / (1.0 + (-largest[o]).exp());
        assert!((found - value).abs() < 1e-5, "{found} {value}");
    }
    assert_eq!(output.len(), 5);
}
