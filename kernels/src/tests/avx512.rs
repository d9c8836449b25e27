//! The kernels with AVX-512 against plain code. `make test-avx512` runs these tests in the interpreter Miri, so that no
//! processor with AVX-512 is needed. The shapes are few and small, because Miri is slow.

use super::{Random, bits, on_all};
use crate::{
    Activation, Instructions,
    conv::{Dense, Taps},
    depthwise::Depthwise,
    fused::Fused,
    layout::{Map, Packed},
    mean,
    network::{Layer, Place},
    simd::{Avx2, Avx512, Scalar, Vectors},
};

/// Runs a kernel with AVX-512, AVX2 and plain code, and asserts that all give the same bits. Returns the length of the
/// output.
macro_rules! same {
    ($len:expr, |$output:ident| $object:expr, $run:ident($($arg:expr),*)) => {{
        let mut outputs = [(); 3].map(|()| vec![f32::NAN; $len]);
        let [avx512, avx2, scalar] = &mut outputs;
        // SAFETY: this file is only compiled for processors with AVX-512F, which have AVX2 and FMA too.
        unsafe {
            { let $output = avx512; $object.$run::<Avx512>($($arg),*); }
            { let $output = avx2; $object.$run::<Avx2>($($arg),*); }
            { let $output = scalar; $object.$run::<Scalar>($($arg),*); }
        }
        let outputs = outputs.map(|output| bits(&output));
        assert_eq!(outputs[0], outputs[2]);
        assert_eq!(outputs[1], outputs[2]);
        outputs[0].len()
    }};
}

#[test]
fn dense_convolutions_have_the_bits_of_plain_code() {
    let mut random = Random::new(1);
    let mut compared = 0;
    // All numbers of pixels of a block, whole and half panels, and kernels of 1 and 9 taps.
    for (width, groups, kernel, stride) in (1..28)
        .zip([1, 2, 3, 4, 5].into_iter().cycle())
        .flat_map(|(width, groups)| [(width, groups, 1, 1), (width + 2, groups, 3, 1 + width % 2)])
    {
        let (inner, outer) = (1 + width % 5, groups * 8);
        let from = Map::dense(kernel, width, inner);
        let to = Map::dense(1, (width - kernel) / stride + 1, outer);
        let weights = random.many(kernel * kernel * inner * outer);
        let (input, bias, residual) = (random.many(from.len()), random.many(outer), random.many(to.len()));
        let packed = Packed::new(kernel * kernel * inner, &bias, |k, o| weights[k * outer + o]).unwrap();
        let offsets = to.offsets();
        let dense = Dense {
            input: &input,
            from,
            taps: Taps { rows: kernel, run: kernel * inner, stride },
            packed: &packed,
            channels: 0..packed.outer,
            to,
            offsets: &offsets,
            residual: (width % 2 == 0).then_some(&residual),
            activation: super::activation(width % 3 == 0),
            zeros: false,
        };
        compared += same!(to.len(), |output| dense, run(output));
    }
    assert!(compared > 10_000);
}

#[test]
fn depthwise_convolutions_have_the_bits_of_plain_code() {
    let mut random = Random::new(2);
    for (width, groups, stride) in [(3, 1, 1), (9, 2, 1), (8, 3, 2), (12, 5, 1), (13, 4, 2)] {
        let channels = groups * 8;
        let from = Map::dense(5, width, channels);
        let to = Map::dense((5 - 3) / stride + 1, (width - 3) / stride + 1, channels);
        let (input, bias, weights) = (random.many(from.len()), random.many(channels), random.many(9 * channels));
        let kernel = Depthwise::new(&bias, stride, Activation::Relu6, |tap, c| weights[tap * channels + c]).unwrap();
        assert!(same!(to.len(), |output| kernel, run((&input, from), 0..channels, output, to)) > 0);
    }
}

#[test]
fn means_have_the_bits_of_plain_code() {
    struct Mean<'a>(&'a [f32]);
    impl Mean<'_> {
        unsafe fn run<I: Vectors>(&self, output: &mut [f32]) {
            // SAFETY: The caller guarantees the instructions of `I`.
            unsafe { mean::mean::<I>(self.0, 24, output) }
        }
    }
    let input = Random::new(3).many(24 * 49);
    assert_eq!(same!(24, |output| Mean(&input), run(output)), 24);
}

/// By way of the network, which selects the instructions at run time.
#[test]
fn fused_layers_have_the_bits_of_plain_code() {
    assert!(Instructions::available().contains(&Instructions::Avx512));
    let mut random = Random::new(4);
    // More channels than are processed together.
    let (inner, channels) = (3, 56);
    let from = Map::dense(6, 7, inner);
    let between = Map { height: 6, width: 7, channels, border: [1; 4] };
    let to = Map::dense(6, 7, channels);
    let (bias, weights) = (random.many(channels), random.many(inner * channels));
    let (second_bias, second) = (random.many(channels), random.many(9 * channels));
    let packed = Packed::new(inner, &bias, |k, o| weights[k * channels + o]).unwrap();
    let kernel = Depthwise::new(&second_bias, 1, Activation::Relu6, |tap, c| second[tap * channels + c]).unwrap();
    let taps = Taps { rows: 1, run: inner, stride: 1 };
    let fused = Box::new(Fused::new(packed, taps, Activation::Relu6, kernel, between));
    let scratch = vec![f32::NAN; fused.buffer_len()];
    let place = |buffer, map| Place { buffer, map };
    let layer = Layer::Fused { fused, from: place(0, from), residual: None, strip: 1, to: place(2, to) };
    assert_eq!(on_all(&layer, &[random.many(from.len()), scratch]).len(), to.len());
}

#[test]
fn nan_infinity_and_signed_zeros_have_the_bits_of_plain_code() {
    let special = [f32::NAN, -f32::NAN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 6.0, 6.000_000_5];
    let packed = Packed::new(16, &[-0.0; 16], |k, o| f32::from(u8::from(k == o))).unwrap();
    for value in special {
        let mut input = vec![0.0; 16];
        input[11] = value;
        let map = Map::dense(1, 1, 16);
        let taps = Taps { rows: 1, run: 16, stride: 1 };
        let dense = Dense {
            input: &input,
            from: map,
            taps,
            packed: &packed,
            channels: 0..packed.outer,
            to: map,
            offsets: &[0],
            residual: None,
            activation: Activation::Relu6,
            zeros: false,
        };
        assert_eq!(same!(16, |output| dense, run(output)), 16);
    }
}
