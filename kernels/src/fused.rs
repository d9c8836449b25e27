//! A dense convolution fused with the depthwise convolution that follows it. Both process some channels of a strip of rows at a
//! time, so that what is between them stays in the caches, and the depthwise convolution reads it without gaps.

use super::{
    builder::Activation,
    conv::{Dense, Depthwise, Taps},
    layout::{Map, Packed},
    simd::{PANEL, Vectors},
};

/// The two convolutions, and the size of the strips.
#[derive(Debug)]
pub(crate) struct Fused {
    pub(crate) packed: Packed,
    pub(crate) taps: Taps,
    /// Activation of the dense convolution.
    pub(crate) activation: Activation,
    pub(crate) kernel: Depthwise,
    /// Some channels of the map between them, with the border that the depthwise convolution pads with.
    pub(crate) between: Map,
    /// Output rows of a strip.
    rows: usize,
    /// [`Map::offsets`] of a strip.
    offsets: Vec<u32>,
}

impl Fused {
    /// Numbers of a strip. It stays in the second-level cache, with weights, input and output.
    const STRIP: usize = 64 * 1_024;
    /// Channels that are processed together.
    const BLOCK: usize = 2 * PANEL;

    pub(crate) fn new(packed: Packed, taps: Taps, activation: Activation, kernel: Depthwise, between: Map) -> Self {
        let (stride, [top, left, bottom, right]) = (kernel.stride, between.border);
        let block = Self::BLOCK.min(packed.outer);
        let between = Map { channels: block, ..between };
        let height = (top + between.height + bottom - 3) / stride + 1;
        let rows = ((Self::STRIP / between.row()).saturating_sub(3 - stride) / stride).clamp(1, height);
        let strip = Map { height: rows * stride + 3, border: [0, left, 0, right], ..between };
        Fused { packed, taps, activation, kernel, between, rows, offsets: strip.offsets() }
    }

    /// Numbers of the buffer for a strip.
    pub(crate) fn buffer_len(&self) -> usize {
        (self.rows * self.kernel.stride + 3 - self.kernel.stride) * self.between.row()
    }

    /// Runs both convolutions; `strip` has [`Fused::buffer_len`] numbers.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`.
    #[inline(always)]
    pub(crate) unsafe fn run<I: Vectors>(
        &self,
        input: &[f32],
        from: Map,
        strip: &mut [f32],
        output: &mut [f32],
        to: Map,
    ) {
        let (between, stride, row) = (self.between, self.kernel.stride, self.between.row());
        let sides = Map { border: [0, between.border[1], 0, between.border[3]], ..between };
        Map { height: strip.len() / row, ..sides }.clear_border(strip);
        for channel in (0..self.packed.outer).step_by(between.channels) {
            let channels = channel..self.packed.outer.min(channel + between.channels);
            // Rows of the strip that are computed already: the border above at first, then the rows that two strips share.
            let mut have = between.border[0];
            strip[..have * row].fill(0.0);
            let (mut made, mut y) = (0, 0);
            while y < to.height {
                let rows = self.rows.min(to.height - y);
                let need = rows * stride + 3 - stride;
                let new = (need - have).min(between.height - made);
                if new > 0 {
                    let dense = Dense {
                        input: &input[made * self.taps.stride * from.row()..],
                        from,
                        taps: self.taps,
                        packed: &self.packed,
                        channels: channels.clone(),
                        to: Map { height: new, ..sides },
                        offsets: &self.offsets,
                        residual: None,
                        activation: self.activation,
                        zeros: false,
                    };
                    // SAFETY: The caller guarantees the instructions of `I`.
                    unsafe { dense.run::<I>(&mut strip[have * row..]) }
                }
                made += new;
                // The border below the last row.
                strip[(have + new) * row..need * row].fill(0.0);
                let part = Map { height: rows, ..to };
                // SAFETY: The caller guarantees the instructions of `I`.
                unsafe {
                    let output = &mut output[y * to.row()..];
                    self.kernel.run::<I>((&strip[..need * row], sides), channels.clone(), output, part);
                }
                y += rows;
                have = 3 - stride;
                strip.copy_within((need - have) * row..need * row, 0);
            }
        }
    }
}
