//! Depthwise convolutions of any size: 5 x 5 and 7 x 7 in most networks. 3 x 3 has code of its own.

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
    #[inline(always)]
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
    #[inline(always)]
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
    #[inline(always)]
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
