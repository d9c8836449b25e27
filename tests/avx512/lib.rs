//! The files of the kernels alone, so that an interpreter need not compile all that the program depends on.
#![cfg(test)]
#![allow(dead_code)]

#[path = "../../src/kernels/conv.rs"]
mod conv;
#[path = "../../src/kernels/simd.rs"]
mod simd;

use conv::{Dense, Depthwise, Map, Packed, Taps};
use simd::{Avx2, Avx512, Scalar, Vectors};

struct Random(u64);

impl Random {
    /// Numbers in [-1, 1).
    fn many(&mut self, n: usize) -> Vec<f32> {
        let next = |_| {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        };
        (0..n).map(next).collect()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Output of `work` with AVX-512, which must be that of AVX2 and of plain code.
macro_rules! same {
    ($len:expr, |$output:ident| $object:expr, $run:ident($($arg:expr),*)) => {{
        let mut outputs = [(); 3].map(|()| vec![f32::NAN; $len]);
        let [avx512, avx2, scalar] = &mut outputs;
        // SAFETY: the interpreter has these instructions.
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
    let mut random = Random(1);
    let mut compared = 0;
    // Every number of pixels that a block can have, panels that are whole and halves, and kernels of one and nine taps.
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
            to,
            offsets: &offsets,
            residual: (width % 2 == 0).then_some(&residual),
            relu6: width % 3 == 0,
        };
        compared += same!(to.len(), |output| dense, run(output));
    }
    println!("{compared} numbers of dense convolutions");
    assert!(compared > 10_000);
}

#[test]
fn depthwise_convolutions_have_the_bits_of_plain_code() {
    let mut random = Random(2);
    for (width, groups, stride) in [(3, 1, 1), (9, 2, 1), (8, 3, 2), (12, 5, 1), (13, 4, 2)] {
        let channels = groups * 8;
        let from = Map::dense(5, width, channels);
        let to = Map::dense((5 - 3) / stride + 1, (width - 3) / stride + 1, channels);
        let (input, bias, weights) = (random.many(from.len()), random.many(channels), random.many(9 * channels));
        let kernel = Depthwise::new(&bias, stride, true, |tap, c| weights[tap * channels + c]).unwrap();
        assert!(same!(to.len(), |output| kernel, run(&input, from, output, to)) > 0);
    }
}

#[test]
fn means_have_the_bits_of_plain_code() {
    struct Mean<'a>(&'a [f32]);
    impl Mean<'_> {
        unsafe fn run<I: Vectors>(&self, output: &mut [f32]) {
            // SAFETY: says the caller.
            unsafe { conv::mean::<I>(self.0, 24, output) }
        }
    }
    let input = Random(3).many(24 * 49);
    assert_eq!(same!(24, |output| Mean(&input), run(output)), 24);
}

#[test]
fn numbers_that_are_none_and_zeros_come_out_alike() {
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
            to: map,
            offsets: &[0],
            residual: None,
            relu6: true,
        };
        assert_eq!(same!(16, |output| dense, run(output)), 16);
    }
}
