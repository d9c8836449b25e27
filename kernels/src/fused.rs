//! A dense convolution fused with the depthwise one behind it. Both run on a strip of rows at a time, so that the large map
//! between them never leaves the second-level cache.

use super::{
    conv::{Dense, Depthwise, Map, Packed, Taps},
    simd::Vectors,
};

/// The two convolutions, and how they go in strips.
#[derive(Debug)]
pub(crate) struct Fused {
    pub(crate) packed: Packed,
    pub(crate) taps: Taps,
    pub(crate) relu6: bool,
    pub(crate) kernel: Depthwise,
    /// What lies between them, with the border that the second one pads with.
    pub(crate) between: Map,
    /// Output rows of a strip.
    rows: usize,
    offsets: Vec<u32>,
}

impl Fused {
    /// Numbers of a strip that still leave room in the cache for weights, input and output.
    const ROOM: usize = 64 * 1_024;

    pub(crate) fn new(packed: Packed, taps: Taps, relu6: bool, kernel: Depthwise, between: Map) -> Self {
        let stride = kernel.stride;
        let rows = ((Self::ROOM / between.row()).saturating_sub(3 - stride) / stride).max(1);
        let strip = Map { height: rows * stride + 3, border: [0, between.border[1], 0, between.border[3]], ..between };
        Fused { packed, taps, relu6, kernel, between, rows, offsets: strip.offsets() }
    }

    /// Whether going in strips is worth while.
    pub(crate) fn pays(between: Map) -> bool {
        between.len() > Self::ROOM
    }

    /// Numbers that one strip needs.
    pub(crate) fn buffer(&self) -> usize {
        (self.rows * self.kernel.stride + 3 - self.kernel.stride) * self.between.row()
    }

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
        // Rows of the strip that are there already: first the border above, then what two strips share.
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
                    to: Map { height: new, ..sides },
                    offsets: &self.offsets,
                    residual: None,
                    relu6: self.relu6,
                };
                // SAFETY: the caller guarantees the instructions of `I`.
                unsafe { dense.run::<I>(&mut strip[have * row..]) }
            }
            made += new;
            // Below the last row comes the border.
            strip[(have + new) * row..need * row].fill(0.0);
            let part = Map { height: rows, ..to };
            // SAFETY: the caller guarantees the instructions of `I`.
            unsafe { self.kernel.run::<I>(&strip[..need * row], sides, &mut output[y * to.row()..], part) }
            y += rows;
            have = 3 - stride;
            strip.copy_within((need - have) * row..need * row, 0);
        }
    }
}
