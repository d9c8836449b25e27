//! Dense convolutions on channels-last data, as matrix products.
//!
//! Each output is its bias plus its products, added one after the other in the order of the kernel's rows, columns and
//! input channels. The order does not depend on how many outputs are computed together.

use std::ops::Range;

use super::{
    builder::Activation,
    layout::{Ahead, Map, Packed, part},
    simd::{LANES, PANEL, Simd, Vectors},
};

/// Most pixels that are processed together.
const MOST_ROWS: usize = 12;
/// Vectors of weights ahead of the current one that are fetched: a whole model does not stay in the second-level cache, and
/// processors do not fetch beyond the end of a page themselves.
const AHEAD: usize = 64;
/// Numbers of input that stay in the second-level cache while all panels are processed.
const CHUNK: usize = 24 * 1_024;

/// How a dense convolution reads its input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taps {
    /// Rows of the kernel.
    pub(crate) rows: usize,
    /// Consecutive numbers of the input that a row of the kernel reads: columns times channels.
    pub(crate) run: usize,
    /// Pixels between two outputs, on both axes.
    pub(crate) stride: usize,
}

impl Taps {
    /// Whether a convolution processes all pixels of a map as one row: it is pointwise, without stride and border.
    pub(crate) fn is_row(self, from: Map) -> bool {
        self.rows == 1 && self.run == from.channels && self.stride == 1 && from.border == [0; 4]
    }
}

/// The dense convolution `output = activation(weights . input + bias + residual)`.
pub(crate) struct Dense<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) from: Map,
    pub(crate) taps: Taps,
    pub(crate) packed: &'a Packed,
    /// Output channels that are computed, from a multiple of [`PANEL`] on.
    pub(crate) channels: Range<usize>,
    /// The output, whose first channel is the first one that is computed.
    pub(crate) to: Map,
    /// [`Map::offsets`] of `to`.
    pub(crate) offsets: &'a [u32],
    /// Numbers that are added to the output, `[height, width, channels]` of `to`.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    /// Whether many numbers of the input can be zero, because it is the output of a ReLU. All weights are finite then.
    pub(crate) zeros: bool,
}

impl Dense<'_> {
    /// Runs the convolution.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn run<I: Vectors>(&self, output: &mut [f32]) {
        const { assert!(I::ROWS <= MOST_ROWS && I::Panel::LANES == PANEL && I::Half::LANES == LANES) };
        let Dense { input, from, taps, packed, ref channels, to, .. } = *self;
        let (outer, inner) = (channels.len(), packed.inner);
        assert!(inner == taps.rows * taps.run && to.channels >= outer);
        assert!(channels.end <= packed.outer && channels.start.is_multiple_of(PANEL) && outer.is_multiple_of(LANES));
        assert!(channels.end == packed.outer || outer.is_multiple_of(PANEL));
        assert!(self.residual.is_none_or(|r| r.len() == to.height * to.width * to.channels));
        assert!(
            self.offsets.len() >= to.height * to.width && to.at(to.height - 1, to.width - 1) + outer <= output.len()
        );
        let last = (to.height - 1) * taps.stride * from.row() + (to.width - 1) * taps.stride * from.channels;
        assert!(last + (taps.rows - 1) * from.row() + taps.run <= input.len());
        let is_row = taps.is_row(from);
        let (lines, pixels) = if is_row { (1, to.height * to.width) } else { (to.height, to.width) };
        // SAFETY: The caller guarantees the instructions. The lengths are checked above.
        unsafe {
            if packed.has_wide_blocks() {
                assert!(is_row && self.zeros && outer == packed.outer);
                self.without_zeros::<I>(output);
            } else if is_row {
                self.blocks::<I, true>(Taps { rows: 1, run: inner, stride: 1 }, 1, pixels, output);
            } else {
                self.blocks::<I, false>(taps, lines, pixels, output);
            }
        }
    }

    /// Computes some lines of pixels. `POINTWISE`: whether the weights of a panel are so many that they are fetched ahead.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`. The lengths are as [`Dense::run`] checks them.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn blocks<I: Vectors, const POINTWISE: bool>(
        &self,
        taps: Taps,
        lines: usize,
        pixels: usize,
        output: &mut [f32],
    ) {
        let Dense { input, from, packed, ref channels, to, .. } = *self;
        let (inner, step) = (packed.inner, taps.stride * from.channels);
        let chunk = (CHUNK / inner).next_multiple_of(I::ROWS).max(I::ROWS);
        for line in 0..lines {
            let line_input = &input[line * taps.stride * from.row()..];
            let mut start = 0;
            while start < pixels {
                let end = pixels.min(start + chunk);
                let mut weights = &packed.weights.slice()[inner * channels.start..];
                for o in (0..channels.len()).step_by(PANEL) {
                    let width = PANEL.min(channels.len() - o);
                    let (panel, rest) = weights.split_at(inner * width);
                    weights = rest;
                    let next = &weights[..weights.len().min(panel.len())];
                    let mut ahead = Ahead::new(next, (end - start).div_ceil(I::ROWS) * inner);
                    let mut pixel = start;
                    while pixel < end {
                        let rows = part(end - pixel, I::ROWS);
                        let block = Block {
                            ahead,
                            input: &line_input[pixel * step..],
                            step,
                            kernel_row: from.row(),
                            taps,
                            panel,
                            bias: &packed.bias.slice()[channels.start + o..channels.start + o + width],
                            to: Target { first: line * to.width + pixel, channel: o },
                        };
                        // SAFETY: The caller guarantees the instructions and the lengths.
                        unsafe {
                            if width == PANEL {
                                block.rows::<I, I::Panel, POINTWISE>(rows, self, output);
                            } else {
                                block.rows::<I, I::Half, POINTWISE>(rows, self, output);
                            }
                        }
                        ahead.skip(inner);
                        pixel += rows;
                    }
                }
                start = end;
            }
        }
    }
}

/// The outputs of some pixels for the channels of one panel.
struct Block<'a> {
    /// The input from the first pixel's first tap on.
    input: &'a [f32],
    /// Numbers between the first taps of neighbouring pixels.
    step: usize,
    /// Numbers between the first taps of neighbouring kernel rows.
    kernel_row: usize,
    taps: Taps,
    panel: &'a [f32],
    bias: &'a [f32],
    /// Of the next panel, if the convolution is pointwise.
    ahead: Ahead,
    to: Target,
}

/// Where the outputs of some pixels for one panel go.
pub(crate) struct Target {
    /// Index of the first pixel in the whole map.
    pub(crate) first: usize,
    /// First output channel of the panel.
    pub(crate) channel: usize,
}

impl Target {
    /// Adds the residual to the sums of `M` pixels, and writes them after their activation.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `S`. Residual, output and offsets have these pixels and channels.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn write<S: Simd, const M: usize>(
        &self,
        mut sums: [S::V; M],
        dense: &Dense<'_>,
        output: &mut [f32],
    ) {
        let &Target { first, channel } = self;
        // SAFETY: The caller guarantees the instructions and the lengths.
        unsafe {
            if dense.zeros {
                // A product with zero makes +0 of -0; where such products are left out, this does.
                for sum in &mut sums {
                    *sum = S::add(*sum, S::splat(&0.0));
                }
            }
            // The sums are copied to memory, because the loop below indexes them and would keep them there otherwise.
            let mut done = [[0.0f32; PANEL]; M];
            for (sum, done) in sums.iter().zip(&mut done) {
                S::store(done.as_mut_ptr(), *sum);
            }
            let offsets = dense.offsets.as_ptr().add(first);
            let target = output.as_mut_ptr().add(channel);
            let residual = dense.residual.map(|residual| residual.as_ptr().add(first * dense.to.channels + channel));
            for (m, done) in done.iter().enumerate() {
                let mut value = S::load(done.as_ptr());
                if let Some(residual) = residual {
                    value = S::add(value, S::load(residual.add(m * dense.to.channels)));
                }
                S::store(target.add(*offsets.add(m) as usize), activate::<S>(dense.activation, value));
            }
        }
    }
}

impl Block<'_> {
    /// Runs the block, which has `rows` pixels.
    ///
    /// # Safety
    ///
    /// As for [`Block::run`].
    #[cfg_attr(optimized, inline(always))]
    unsafe fn rows<I: Vectors, S: Simd, const POINTWISE: bool>(
        &self,
        rows: usize,
        dense: &Dense<'_>,
        output: &mut [f32],
    ) {
        macro_rules! run {
            ($($m:literal)*) => {
                match rows {
                    $(
                        // Instruction sets with fewer registers have no code for larger blocks.
                        // SAFETY: The caller guarantees the instructions and the number of pixels.
                        $m if $m <= I::ROWS => unsafe { self.run::<I, S, $m, POINTWISE>(dense, output) },
                    )*
                    _ => unreachable!("a block has at most {} pixels", I::ROWS),
                }
            };
        }
        run!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// Runs the block, which has `M` pixels.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `S`. Input, residual and output contain `M` pixels from `first` on.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn run<I: Vectors, S: Simd, const M: usize, const POINTWISE: bool>(
        &self,
        dense: &Dense<'_>,
        output: &mut [f32],
    ) {
        let Block { input, step, kernel_row, taps, panel, bias, mut ahead, ref to } = *self;
        debug_assert!((M - 1) * step + (taps.rows - 1) * kernel_row + taps.run <= input.len());
        debug_assert!(panel.len() == taps.rows * taps.run * S::LANES && bias.len() == S::LANES);
        // SAFETY: The caller guarantees the instructions. The panel has rows * run vectors, each read once. `Dense::run` has
        // checked the lengths of input, residual, output and offsets, which are those of the output's map.
        unsafe {
            let mut sums = [S::load(bias.as_ptr()); M];
            let mut weight = panel.as_ptr();
            for row in 0..taps.rows {
                let mut tap = input.as_ptr().add(row * kernel_row);
                for _ in 0..taps.run {
                    let factor = S::load(weight);
                    S::prefetch(weight.wrapping_add(AHEAD * S::LANES));
                    if POINTWISE && I::FETCHES_FAR {
                        S::prefetch_far(ahead.next());
                    }
                    for (m, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::splat(tap.add(m * step)), factor, *sum);
                    }
                    weight = weight.add(S::LANES);
                    tap = tap.add(1);
                }
            }
            to.write::<S, M>(sums, dense, output);
        }
    }
}

/// The activation of a vector.
///
/// # Safety
///
/// The processor has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(activation: Activation, v: S::V) -> S::V {
    // SAFETY: The caller guarantees the instructions.
    unsafe {
        match activation {
            Activation::Identity => v,
            Activation::Relu => S::relu(v),
            Activation::Relu6 => S::relu6(v),
        }
    }
}
