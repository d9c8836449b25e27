//! Layouts in memory: maps with a border, packed weights, and numbers at the start of a cache line.

use std::ops::Range;

use super::simd::{LANES, PANEL};

/// Weights of `outer` outputs over `inner` inputs, in blocks of outputs, each `[inner, outputs of the block]`. A block is a panel
/// of [`PANEL`] outputs, of which the last has [`LANES`] if [`PANEL`] does not divide `outer`; or several panels, see
/// [`Packed::widened`].
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) weights: Aligned,
    pub(crate) bias: Aligned,
    pub(crate) inner: usize,
    pub(crate) outer: usize,
    /// Most panels of a block.
    panels: usize,
}

impl Packed {
    /// Packs `weight(k, o)`, the factor of input `k` for output `o`, panel by panel. None unless the number of outputs (the
    /// length of `bias`) is a multiple of [`LANES`].
    pub(crate) fn new(inner: usize, bias: &[f32], weight: impl Fn(usize, usize) -> f32) -> Option<Self> {
        let outer = bias.len();
        if inner == 0 || outer == 0 || !outer.is_multiple_of(LANES) {
            return None;
        }
        let mut weights = Aligned::zeros(inner * outer);
        let mut at = 0;
        let all = weights.slice_mut();
        for start in (0..outer).step_by(PANEL) {
            for k in 0..inner {
                for o in start..(start + PANEL).min(outer) {
                    all[at] = weight(k, o);
                    at += 1;
                }
            }
        }
        let mut aligned = Aligned::zeros(outer);
        aligned.slice_mut().copy_from_slice(bias);
        Some(Packed { weights, bias: aligned, inner, outer, panels: 1 })
    }

    /// The same weights in blocks of up to `panels` panels: what an input contributes to all outputs of a block is in one place.
    /// Each block has whole panels; what the last one lacks is zero.
    pub(crate) fn widened(mut self, panels: usize) -> Self {
        self.panels = panels;
        let mut wide = Aligned::zeros(self.inner * self.outer.next_multiple_of(PANEL));
        for block in self.blocks() {
            for start in block.clone().step_by(PANEL) {
                let width = PANEL.min(block.end - start);
                let from = self.weights.slice()[self.inner * start..].chunks_exact(width);
                let to = &mut wide.slice_mut()[self.inner * block.start + start - block.start..];
                for (from, to) in from.zip(to.chunks_mut(block.len().next_multiple_of(PANEL))).take(self.inner) {
                    to[..width].copy_from_slice(from);
                }
            }
        }
        Packed { weights: wide, ..self }
    }

    /// Whether a block can have more than one panel.
    pub(crate) fn has_wide_blocks(&self) -> bool {
        self.panels > 1
    }

    /// The outputs of each block. The last two blocks have about the same size.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (outer, most) = (self.outer, self.panels);
        let mut start = 0;
        std::iter::from_fn(move || {
            let first = start;
            start += PANEL * part((outer - first.min(outer)).div_ceil(PANEL), most);
            (first < outer).then(|| first..outer.min(start))
        })
    }

    /// The factor of input `k` for output `o`, if no block has more than one panel.
    pub(crate) fn weight(&self, k: usize, o: usize) -> f32 {
        debug_assert!(!self.has_wide_blocks());
        let start = o / PANEL * PANEL;
        let width = PANEL.min(self.outer - start);
        self.weights.slice()[start * self.inner + k * width + o - start]
    }

    /// The weights of some inputs for some outputs, whose number is a multiple of [`LANES`].
    pub(crate) fn select(&self, inputs: &[usize], outputs: &[usize]) -> Self {
        let bias: Vec<f32> = outputs.iter().map(|o| self.bias.slice()[*o]).collect();
        let packed = Packed::new(inputs.len(), &bias, |k, o| self.weight(inputs[k], outputs[o]));
        packed.unwrap_or_else(|| unreachable!("{} inputs and {} outputs", inputs.len(), outputs.len()))
    }
}

/// Numbers that are needed soon, which loops fetch into the second-level cache: as many bytes with each of their steps. Evenly
/// spread, fetching them takes no time of the loops.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    from: *const f32,
    /// Bytes from one step to the next.
    bytes: usize,
}

impl Ahead {
    /// For loops of so many steps together.
    #[inline(always)]
    pub(crate) fn new(numbers: &[f32], steps: usize) -> Self {
        Ahead { from: numbers.as_ptr(), bytes: size_of_val(numbers).div_ceil(steps.max(1)) }
    }

    /// The address of a step.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> *const f32 {
        let from = self.from;
        self.skip(1);
        from
    }

    /// Goes on behind so many steps.
    #[inline(always)]
    pub(crate) fn skip(&mut self, steps: usize) {
        self.from = self.from.wrapping_byte_add(steps * self.bytes);
    }
}

/// The size of the next part of what is left, where a part has at most `most`. The last two parts have about the same size,
/// because very small parts are slow.
pub(crate) fn part(left: usize, most: usize) -> usize {
    if left <= most {
        left
    } else if left < 2 * most {
        left.div_ceil(2)
    } else {
        most
    }
}

/// Numbers that start at the start of a cache line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    pub(crate) fn zeros(len: usize) -> Self {
        Aligned { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    #[inline]
    pub(crate) fn slice(&self) -> &[f32] {
        // SAFETY: `lines` has at least `len` numbers, without gaps.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    #[inline]
    pub(crate) fn slice_mut(&mut self) -> &mut [f32] {
        // SAFETY: `lines` has at least `len` numbers, without gaps.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The layout of a map in memory: `height` rows of `width` pixels of `channels` numbers, inside a border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// Zero pixels above, left, below and right.
    pub(crate) border: [usize; 4],
}

impl Map {
    /// A map without a border.
    #[inline]
    pub(crate) fn dense(height: usize, width: usize, channels: usize) -> Self {
        Map { height, width, channels, border: [0; 4] }
    }

    /// Numbers of a row, with the border.
    #[inline]
    pub(crate) fn row(&self) -> usize {
        (self.width + self.border[1] + self.border[3]) * self.channels
    }

    /// Numbers of the map, with the border.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.height + self.border[0] + self.border[2]) * self.row()
    }

    /// The index of the first number of a pixel.
    #[inline]
    pub(crate) fn at(&self, y: usize, x: usize) -> usize {
        (y + self.border[0]) * self.row() + (x + self.border[1]) * self.channels
    }

    /// [`Map::at`] of all pixels, row by row.
    pub(crate) fn offsets(&self) -> Vec<u32> {
        (0..self.height).flat_map(|y| (0..self.width).map(move |x| self.at(y, x) as u32)).collect()
    }

    /// Writes zeros into the border.
    pub(crate) fn clear_border(&self, data: &mut [f32]) {
        if self.border == [0; 4] {
            return;
        }
        let (row, c) = (self.row(), self.channels);
        data[..self.border[0] * row].fill(0.0);
        data[(self.border[0] + self.height) * row..].fill(0.0);
        for line in data.chunks_exact_mut(row).skip(self.border[0]).take(self.height) {
            line[..self.border[1] * c].fill(0.0);
            line[(self.border[1] + self.width) * c..].fill(0.0);
        }
    }
}
