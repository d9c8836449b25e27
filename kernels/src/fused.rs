//! A dense convolution fused with the depthwise convolution that follows it, and with the pointwise one behind that, if there is
//! one and its input is large. All process a strip of rows at a time, so that what is between them stays in the caches. The first
//! two also process some channels at a time: the depthwise convolution then reads its input without gaps.

use std::ops::Range;

use super::{
    builder::Activation,
    conv::{Dense, Taps},
    depthwise::Depthwise,
    layout::{Map, Packed},
    simd::{PANEL, Vectors},
};

/// The convolutions, and the size of the strips.
#[derive(Debug)]
pub(crate) struct Fused {
    pub(crate) packed: Packed,
    pub(crate) taps: Taps,
    /// Activation of the dense convolution.
    pub(crate) activation: Activation,
    pub(crate) kernel: Depthwise,
    /// Some channels of the map between them, with the border that the depthwise convolution pads with.
    pub(crate) between: Map,
    /// The pointwise convolution behind the depthwise one.
    pub(crate) projection: Option<Projection>,
    /// Output rows of a strip.
    rows: usize,
    /// [`Map::offsets`] of a strip.
    offsets: Vec<u32>,
}

/// A pointwise convolution of a map without border.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) packed: Packed,
    pub(crate) activation: Activation,
    /// Whether the input is the output of a ReLU, and all weights are finite.
    pub(crate) zeros: bool,
    /// The input.
    pub(crate) from: Map,
    /// [`Map::offsets`] of the output.
    pub(crate) offsets: Vec<u32>,
}

/// A strip of output rows.
#[derive(Clone, Copy)]
struct Strip {
    /// The first of the rows, ...
    y: usize,
    /// ... and their number.
    rows: usize,
    /// Rows of the map between that they need; ...
    need: usize,
    /// ... those of them that are there: the border above at first, then the rows that two strips share; ...
    have: usize,
    /// ... and those that the dense convolution adds, of which ...
    new: usize,
    /// ... it has made so many before.
    made: usize,
}

impl Fused {
    /// Numbers of a strip. It stays in the second-level cache, with weights, input and output.
    const STRIP: usize = 64 * 1_024;
    /// Numbers of the strips of all channels and of the rows behind them, if there is a projection.
    pub(crate) const STRIPS: usize = 128 * 1_024;
    /// Numbers of the input of a projection that does not stay in the second-level cache.
    pub(crate) const LARGE: usize = 256 * 1_024;
    /// Channels that are processed together.
    const BLOCK: usize = 2 * PANEL;

    pub(crate) fn new(packed: Packed, taps: Taps, activation: Activation, kernel: Depthwise, between: Map) -> Self {
        let between = Map { channels: Self::BLOCK.min(packed.outer), ..between };
        let fused = Fused { packed, taps, activation, kernel, between, projection: None, rows: 0, offsets: Vec::new() };
        let rows = (Self::STRIP / between.row()).saturating_sub(fused.shared()) / fused.kernel.stride;
        fused.with_rows(rows)
    }

    /// Adds a projection. Strips have up to `numbers` numbers.
    pub(crate) fn with_projection(mut self, projection: Projection, numbers: usize) -> Self {
        let row = self.blocks().count() * self.between.row();
        let rows = numbers.saturating_sub(self.shared() * row) / (self.kernel.stride * row + projection.from.row());
        self.projection = Some(projection);
        self.with_rows(rows)
    }

    /// With about so many output rows in a strip.
    fn with_rows(self, rows: usize) -> Self {
        let (stride, [top, left, bottom, right]) = (self.kernel.stride, self.between.border);
        let rows = rows.clamp(1, (top + self.between.height + bottom - 3) / stride + 1);
        let strip = Map { height: rows * stride + 3, border: [0, left, 0, right], ..self.between };
        Fused { rows, offsets: strip.offsets(), ..self }
    }

    /// Rows of the map between that two strips share.
    fn shared(&self) -> usize {
        3 - self.kernel.stride
    }

    /// The channels of the map between that are processed together.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (outer, block) = (self.packed.outer, self.between.channels);
        (0..outer).step_by(block).map(move |first| first..outer.min(first + block))
    }

    /// Numbers of a strip of the map between.
    fn strip_len(&self) -> usize {
        (self.rows * self.kernel.stride + self.shared()) * self.between.row()
    }

    /// Numbers of the buffer for a strip.
    pub(crate) fn buffer_len(&self) -> usize {
        match &self.projection {
            None => self.strip_len(),
            Some(projection) => self.blocks().count() * self.strip_len() + self.rows * projection.from.row(),
        }
    }

    /// The strips of an output of so many rows.
    fn strips(&self, height: usize) -> impl Iterator<Item = Strip> {
        let (stride, shared) = (self.kernel.stride, self.shared());
        let (mut made, mut have) = (0, self.between.border[0]);
        (0..height).step_by(self.rows).map(move |y| {
            let rows = self.rows.min(height - y);
            let need = rows * stride + shared;
            let new = (need - have).min(self.between.height - made);
            let strip = Strip { y, rows, need, have, new, made };
            (made, have) = (made + new, shared);
            strip
        })
    }

    /// Runs the convolutions; `buffer` has [`Fused::buffer_len`] numbers. The residual is added to what the projection gives.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn run<I: Vectors>(
        &self,
        (input, from): (&[f32], Map),
        residual: Option<&[f32]>,
        buffer: &mut [f32],
        output: &mut [f32],
        to: Map,
    ) {
        let (row, len) = (self.between.row(), self.strip_len());
        let (strips, behind) = match self.projection {
            None => (buffer, &mut [][..]),
            Some(_) => buffer.split_at_mut(self.blocks().count() * len),
        };
        for strip in strips.chunks_exact_mut(len) {
            Map { height: len / row, ..self.sides() }.clear_border(strip);
        }
        let Some(projection) = &self.projection else {
            for channels in self.blocks() {
                for strip in self.strips(to.height) {
                    let output = &mut output[strip.y * to.row()..];
                    // SAFETY: The caller guarantees the instructions of `I`.
                    unsafe { self.rows::<I>((input, from), strips, (strip, channels.clone()), output, to) }
                }
            }
            return;
        };
        let width = projection.from.width * to.channels;
        for strip in self.strips(to.height) {
            for (channels, strips) in self.blocks().zip(strips.chunks_exact_mut(len)) {
                // SAFETY: The caller guarantees the instructions of `I`.
                unsafe { self.rows::<I>((input, from), strips, (strip, channels), behind, projection.from) }
            }
            let from = Map { height: strip.rows, ..projection.from };
            let dense = Dense {
                input: &behind[..from.len()],
                from,
                taps: Taps { rows: 1, run: from.channels, stride: 1 },
                packed: &projection.packed,
                channels: 0..projection.packed.outer,
                to: Map { height: strip.rows, ..to },
                offsets: &projection.offsets,
                residual: residual.map(|residual| &residual[strip.y * width..(strip.y + strip.rows) * width]),
                activation: projection.activation,
                zeros: projection.zeros,
            };
            // SAFETY: The caller guarantees the instructions of `I`.
            unsafe { dense.run::<I>(&mut output[strip.y * to.row()..]) }
        }
    }

    /// The map between, with the border on its sides only.
    fn sides(&self) -> Map {
        let [_, left, _, right] = self.between.border;
        Map { border: [0, left, 0, right], ..self.between }
    }

    /// Runs the first two convolutions for some channels of a strip. `output` is a map `to` from the first row of the strip on.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn rows<I: Vectors>(
        &self,
        (input, from): (&[f32], Map),
        between: &mut [f32],
        (strip, channels): (Strip, Range<usize>),
        output: &mut [f32],
        to: Map,
    ) {
        let Strip { y, rows, need, have, new, made } = strip;
        let (row, sides) = (self.between.row(), self.sides());
        if y == 0 {
            between[..have * row].fill(0.0);
        }
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
            unsafe { dense.run::<I>(&mut between[have * row..]) }
        }
        // The border below the last row.
        between[(have + new) * row..need * row].fill(0.0);
        // SAFETY: The caller guarantees the instructions of `I`.
        unsafe {
            self.kernel.run::<I>((&between[..need * row], sides), channels, output, Map { height: rows, ..to });
        }
        between.copy_within((need - self.shared()) * row..need * row, 0);
    }
}
