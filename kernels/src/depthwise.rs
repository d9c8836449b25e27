//! Depthwise convolutions: 3 x 3, and of any other size, 5 x 5 and 7 x 7 in most networks.

use std::ops::Range;

use super::{
    builder::Activation,
    conv::activate,
    layout::{Aligned, Map, Packed},
    simd::{LANES, PANEL, Simd, Vectors},
};

/// A depthwise convolution and its activation. Each output is its bias plus its products, in the order of rows and columns.
#[derive(Debug)]
pub(crate) struct WideDepthwise {
    /// `[taps, width]` for each group of [`PANEL`] channels. The last group may have [`LANES`].
    weights: Aligned,
    bias: Aligned,
    /// Rows and columns.
    size: [usize; 2],
    stride: usize,
    pub(crate) activation: Activation,
}

impl WideDepthwise {
    /// Packs `weight(tap, channel)`, taps row by row. None unless the number of channels is a multiple of [`LANES`].
    pub(crate) fn new(
        (bias, size): (&[f32], [usize; 2]),
        stride: usize,
        activation: Activation,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Option<Self> {
        let packed = Packed::new(size[0] * size[1], bias, weight)?;
        Some(WideDepthwise { weights: packed.weights, bias: packed.bias, size, stride, activation })
    }

    /// Runs the convolution. `from` has the border that the convolution pads with; `to` has none.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn run<I: Vectors>(&self, input: &[f32], from: Map, output: &mut [f32], to: Map) {
        let (channels, [rows, columns]) = (self.bias.slice().len(), self.size);
        assert!(from.channels == channels && to.channels == channels && to.border == [0; 4]);
        assert!(output.len() >= to.len() && channels.is_multiple_of(LANES));
        let row = from.row();
        assert!(((to.height - 1) * self.stride + rows) * row <= input.len());
        assert!(((to.width - 1) * self.stride + columns) * channels <= row);
        for y in 0..to.height {
            let top = &input[y * self.stride * row..];
            let line = &mut output[y * to.row()..(y + 1) * to.row()];
            let mut weights = self.weights.slice();
            for channel in (0..channels).step_by(PANEL) {
                let width = PANEL.min(channels - channel);
                let (group, rest) = weights.split_at(rows * columns * width);
                weights = rest;
                let bias = &self.bias.slice()[channel..channel + width];
                let group = Group { top: &top[channel..], row, weights: group, bias };
                let target = &mut line[channel..];
                // SAFETY: The caller guarantees the instructions. The lengths are checked above.
                unsafe {
                    match width == PANEL {
                        true => self.line::<I::Panel>(&group, target, to),
                        false => self.line::<I::Half>(&group, target, to),
                    }
                }
            }
        }
    }

    /// Computes one row of outputs for one group of channels.
    ///
    /// # Safety
    ///
    /// As for [`WideDepthwise::pixels`], for all pixels of the row.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn line<S: Simd>(&self, group: &Group<'_>, target: &mut [f32], to: Map) {
        let mut x = 0;
        while x < to.width {
            // SAFETY: The caller guarantees the instructions and the lengths.
            x += unsafe {
                match to.width - x {
                    1 => self.pixels::<S, 1>(group, x, target, to.channels),
                    2 | 3 => self.pixels::<S, 2>(group, x, target, to.channels),
                    _ => self.pixels::<S, 4>(group, x, target, to.channels),
                }
            };
        }
    }

    /// Computes `P` neighbouring outputs from column `x` on. Returns `P`.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `S`. The input has the windows of these outputs, and the target the outputs.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn pixels<S: Simd, const P: usize>(
        &self,
        group: &Group<'_>,
        x: usize,
        target: &mut [f32],
        channels: usize,
    ) -> usize {
        let ([rows, columns], step) = (self.size, self.stride * channels);
        let last = (x + P - 1) * step + (rows - 1) * group.row + (columns - 1) * channels + S::LANES;
        assert!(last <= group.top.len() && (x + P - 1) * channels + S::LANES <= target.len());
        assert!(group.weights.len() == rows * columns * S::LANES && group.bias.len() == S::LANES);
        // SAFETY: The caller guarantees the instructions. All reads and writes are within the lengths checked above.
        unsafe {
            let mut sums = [S::load(group.bias.as_ptr()); P];
            let mut weight = group.weights.as_ptr();
            for ky in 0..rows {
                let mut tap = group.top.as_ptr().add(x * step + ky * group.row);
                for _ in 0..columns {
                    let factor = S::load(weight);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::load(tap.add(p * step)), factor, *sum);
                    }
                    weight = weight.add(S::LANES);
                    tap = tap.add(channels);
                }
            }
            for (p, sum) in sums.iter().enumerate() {
                S::store(target.as_mut_ptr().add((x + p) * channels), activate::<S>(self.activation, *sum));
            }
        }
        P
    }
}

/// A group of channels.
struct Group<'a> {
    /// The input from the row's first window on, from the first channel on.
    top: &'a [f32],
    /// Numbers of a row of the input.
    row: usize,
    weights: &'a [f32],
    bias: &'a [f32],
}

/// A depthwise 3 x 3 convolution and its activation.
#[derive(Debug)]
pub(crate) struct Depthwise {
    /// `[9, width]` for each group of [`PANEL`] channels. The last group may have [`LANES`].
    pub(crate) packed: Packed,
    /// Pixels between two outputs, 1 or 2.
    pub(crate) stride: usize,
    pub(crate) activation: Activation,
}

impl Depthwise {
    /// Packs `weight(tap, channel)`, taps row by row. None unless the number of channels (the length of `bias`) is a multiple
    /// of [`LANES`] and the stride is 1 or 2.
    pub(crate) fn new(
        bias: &[f32],
        stride: usize,
        activation: Activation,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Option<Self> {
        let packed = Packed::new(9, bias, weight)?;
        (1..=2).contains(&stride).then_some(Depthwise { packed, stride, activation })
    }

    /// Computes some channels, from a multiple of [`PANEL`] on. `from` has the border that the convolution pads with, and these
    /// channels only; `to` has all channels and no border.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn run<I: Vectors>(
        &self,
        (input, from): (&[f32], Map),
        channels: Range<usize>,
        output: &mut [f32],
        to: Map,
    ) {
        assert!(channels.end <= self.packed.outer && channels.start.is_multiple_of(PANEL));
        assert!(from.channels >= channels.len() && to.channels >= channels.end && to.border == [0; 4]);
        assert!(channels.len().is_multiple_of(LANES) && output.len() >= to.len());
        let row = from.row();
        let lines = input.len() / row;
        assert!((to.height - 1) * self.stride + 3 <= lines);
        assert!(((to.width - 1) * self.stride + 3) * from.channels <= row);
        for channel in channels.clone().step_by(PANEL) {
            let width = PANEL.min(channels.end - channel);
            let group = &self.packed.weights.slice()[9 * channel..9 * (channel + width)];
            let bias = &self.packed.bias.slice()[channel..channel + width];
            let steps = Steps { row: (row, to.row()), pixel: (from.channels, to.channels), width: to.width };
            let mut y = 0;
            while y < to.height {
                let top = &input[y * self.stride * row + channel - channels.start..];
                let output = &mut output[y * to.row() + channel..];
                // SAFETY: The caller guarantees the instructions. The lengths are checked above.
                y += unsafe {
                    match (self.stride, width == PANEL, I::DEPTHWISE_ROWS.min(to.height - y)) {
                        (1, true, 2) => self.lines::<I::Panel, 1, 2>(top, output, steps, group, bias),
                        (1, true, _) => self.lines::<I::Panel, 1, 1>(top, output, steps, group, bias),
                        (1, false, _) => self.lines::<I::Half, 1, 1>(top, output, steps, group, bias),
                        (_, true, 2) => self.lines::<I::Panel, 2, 2>(top, output, steps, group, bias),
                        (_, true, _) => self.lines::<I::Panel, 2, 1>(top, output, steps, group, bias),
                        (_, false, _) => self.lines::<I::Half, 2, 1>(top, output, steps, group, bias),
                    }
                };
            }
        }
    }

    /// Computes `R` rows of outputs for one group of channels. Returns `R`.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `S`.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn lines<S: Simd, const STRIDE: usize, const R: usize>(
        &self,
        top: &[f32],
        output: &mut [f32],
        steps: Steps,
        group: &[f32],
        bias: &[f32],
    ) -> usize {
        assert!(group.len() == 9 * S::LANES && bias.len() == S::LANES);
        let mut x = 0;
        while x < steps.width {
            let from = &top[x * STRIDE * steps.pixel.0..];
            let target = &mut output[x * steps.pixel.1..];
            // SAFETY: The caller guarantees the instructions.
            x += unsafe {
                match steps.width - x {
                    1 => self.pixels::<S, STRIDE, R, 1>(from, target, steps, group, bias),
                    2 | 3 => self.pixels::<S, STRIDE, R, 2>(from, target, steps, group, bias),
                    _ => self.pixels::<S, STRIDE, R, 4>(from, target, steps, group, bias),
                }
            };
        }
        R
    }

    /// Computes `P` neighbouring outputs of `R` rows. Inputs that they share are read once. Returns `P`.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `S`.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn pixels<S: Simd, const STRIDE: usize, const R: usize, const P: usize>(
        &self,
        from: &[f32],
        target: &mut [f32],
        steps: Steps,
        group: &[f32],
        bias: &[f32],
    ) -> usize {
        let Steps { row: (row, to_row), pixel: (pixel, to_pixel), .. } = steps;
        assert!(target.len() >= (R - 1) * to_row + (P - 1) * to_pixel + S::LANES);
        assert!(from.len() >= ((R - 1) * STRIDE + 2) * row + ((P - 1) * STRIDE + 2) * pixel + S::LANES);
        // SAFETY: The caller guarantees the instructions. All reads and writes are within the lengths checked above.
        unsafe {
            let mut sums = [[S::load(bias.as_ptr()); P]; R];
            for y in 0..(R - 1) * STRIDE + 3 {
                let line = from.as_ptr().add(y * row);
                for column in 0..(P - 1) * STRIDE + 3 {
                    let x = S::load(line.add(column * pixel));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (p, sum) in sums.iter_mut().enumerate() {
                            if (r * STRIDE..r * STRIDE + 3).contains(&y)
                                && (p * STRIDE..p * STRIDE + 3).contains(&column)
                            {
                                let tap = (y - r * STRIDE) * 3 + column - p * STRIDE;
                                let factor = S::load(group.as_ptr().add(tap * S::LANES));
                                *sum = S::fma(x, factor, *sum);
                            }
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    let target = target.as_mut_ptr().add(r * to_row + p * to_pixel);
                    S::store(target, activate::<S>(self.activation, *sum));
                }
            }
        }
        P
    }
}

/// How a depthwise convolution goes over its maps: numbers between their rows and between their pixels, of the input and of the
/// output.
#[derive(Clone, Copy)]
struct Steps {
    row: (usize, usize),
    pixel: (usize, usize),
    /// Pixels of a row of the output.
    width: usize,
}
