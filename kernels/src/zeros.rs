//! Pointwise convolutions that leave out products with zero. After a ReLU, many numbers of a map are zeros.
//!
//! A product that is zero does not change a sum, so the bits are those of the sum over all channels, but for the sign of a
//! zero, which [`Target::write`] makes positive. A list of the channels in which at least one of some neighbouring pixels is
//! not zero takes the place of the loop over all channels. Lists that are nearly as long as that loop are not worth their
//! making.

use std::{mem::MaybeUninit, ops::Range};

use super::{
    conv::{Dense, Target},
    layout::{Ahead, Packed, part},
    simd::{LANES, PANEL, Simd, Vectors},
};

/// Numbers of the lists that are made at a time.
const LISTED: usize = 16 * 1_024;
/// Most groups of pixels whose lists are made at a time.
const MOST_GROUPS: usize = 256;
/// Most pixels of a group, of all instruction sets.
const MOST_PIXELS: usize = 4;
/// Most vectors of sums of a pixel, of all instruction sets.
const MOST_VECTORS: usize = 6;
/// Channels between that whose weights are fetched and that which is computed: processors foresee no lists.
const AHEAD: usize = 32;
/// Numbers of a cache line.
const LINE: usize = 16;
/// Lists pay if they have less than this share of all channels, in percent.
const WORTH: usize = 85;

/// Groups of neighbouring pixels, and the channels of each in which a pixel is not zero.
struct Lists {
    channels: [MaybeUninit<u16>; LISTED],
    /// The length of each list.
    lengths: [u16; MOST_GROUPS],
    /// Numbers from one list to the next.
    slot: usize,
}

/// The pixels of a group.
#[derive(Clone, Copy)]
struct Group {
    first: usize,
    pixels: usize,
}

/// Pixels of which lists are made together.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    pixels: usize,
    /// Pixels of a group.
    size: usize,
}

impl Span {
    fn groups(self) -> usize {
        self.pixels.div_ceil(self.size)
    }

    fn group(self, index: usize) -> Group {
        let before = index * self.size;
        Group { first: self.first + before, pixels: self.size.min(self.pixels - before) }
    }
}

impl Lists {
    /// The channels of a group, and [`AHEAD`] more.
    fn of(&self, group: usize) -> &[u16] {
        let list = &self.channels[group * self.slot..][..usize::from(self.lengths[group]) + AHEAD];
        // SAFETY: `make` and `fill` have written as many numbers as the length says, and `extend` the others.
        unsafe { std::slice::from_raw_parts(list.as_ptr().cast(), list.len()) }
    }

    /// Makes the first list one of all channels.
    fn fill(&mut self, inner: usize) {
        for (channel, number) in self.channels[..inner].iter_mut().zip(0..) {
            channel.write(number);
        }
        extend(&mut self.channels, inner);
        self.lengths[0] = inner as u16;
    }

    /// Lists the channels of all groups of a span. Returns the sum of the lengths.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`. The input has all pixels of the span, of `inner` channels each.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn make<I: Vectors>(&mut self, input: &[f32], inner: usize, span: Span) -> usize {
        let mut sum = 0;
        for index in 0..span.groups() {
            let Group { first, pixels } = span.group(index);
            let list = &mut self.channels[index * self.slot..][..self.slot];
            let from = &input[first * inner..(first + pixels) * inner];
            // SAFETY: The caller guarantees the instructions. A slot has as many numbers as a pixel has channels, and more up to
            // a whole vector.
            let length = unsafe {
                match pixels {
                    1 => I::nonzero::<1>(from, list),
                    2 => I::nonzero::<2>(from, list),
                    3 => I::nonzero::<3>(from, list),
                    _ => I::nonzero::<4>(from, list),
                }
            };
            extend(list, length);
            self.lengths[index] = length as u16;
            sum += length;
        }
        sum
    }
}

/// Writes the start of a list once more behind it: the next group of pixels begins with much the same channels.
fn extend(list: &mut [MaybeUninit<u16>], length: usize) {
    let (list, behind) = list.split_at_mut(length);
    for (at, channel) in behind[..AHEAD].iter_mut().enumerate() {
        *channel = list.get(at).copied().unwrap_or(MaybeUninit::new(0));
    }
}

/// The weights of a pointwise convolution in blocks, if [`Dense::without_zeros`] can run it. A loop over panels that are apart
/// would need an address for each, more than there are registers for.
///
/// `panels`: those of a block, which are computed together.
pub(crate) fn packed(packed: Packed, panels: usize) -> Packed {
    let fits = packed.inner.is_multiple_of(LANES) && packed.inner.next_multiple_of(PANEL) + AHEAD <= LISTED;
    if fits && packed.outer >= 2 * PANEL { packed.widened(panels) } else { packed }
}

impl Dense<'_> {
    /// Runs a pointwise convolution of all pixels, and leaves out products with zero while that pays.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`. The lengths are as [`Dense::run`] checks them.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn without_zeros<I: Vectors>(&self, output: &mut [f32]) {
        const { assert!(I::GROUP <= MOST_PIXELS && I::VECTORS <= MOST_VECTORS) };
        let Dense { input, packed, .. } = *self;
        let inner = packed.inner;
        let slot = inner.next_multiple_of(PANEL) + AHEAD;
        let all = self.to.height * self.to.width;
        let most = (LISTED / slot).min(MOST_GROUPS) * I::GROUP;
        let mut lists = Lists { channels: [const { MaybeUninit::uninit() }; LISTED], lengths: [0; MOST_GROUPS], slot };
        let (mut done, mut pays) = (0, true);
        while done < all {
            let span = Span { first: done, pixels: most.min(all - done), size: I::GROUP };
            let mut steps = span.groups() * inner;
            if pays {
                // SAFETY: The caller guarantees the instructions and the length of the input.
                let listed = unsafe { lists.make::<I>(input, inner, span) };
                pays = listed * 100 <= steps * WORTH;
                if pays {
                    steps = listed;
                } else {
                    lists.fill(inner);
                }
            }
            let mut rest = packed.weights.slice();
            for block in packed.blocks() {
                let step = block.len().next_multiple_of(PANEL);
                let (weights, behind) = rest.split_at(step * inner);
                rest = behind;
                let mut first = block.start;
                while first < block.end {
                    let vectors = part((block.end - first).div_ceil(I::Vector::LANES), I::VECTORS);
                    let outputs = first..block.end.min(first + vectors * I::Vector::LANES);
                    let mut ahead = Ahead::new(&behind[..behind.len().min(weights.len())], steps);
                    for index in 0..span.groups() {
                        let list = lists.of(if pays { index } else { 0 });
                        let columns = Columns {
                            group: span.group(index),
                            list,
                            outputs: outputs.clone(),
                            weights: &weights[first - block.start..],
                            step,
                            ahead,
                        };
                        // SAFETY: The caller guarantees the instructions. The span is within the map, and the list has channels
                        // of it.
                        unsafe { columns.compute::<I>(self, output) }
                        ahead.skip(list.len() - AHEAD);
                    }
                    first = outputs.end;
                }
            }
            done += span.pixels;
        }
    }
}

/// Whether the registers hold the sums of a group. Instruction sets with fewer of them have no code for larger ones.
const fn has_registers<I: Vectors>(pixels: usize, vectors: usize, halves: usize) -> bool {
    pixels <= I::GROUP && vectors + halves <= I::VECTORS && halves < I::Vector::LANES / LANES
}

/// Some outputs of a group of pixels.
struct Columns<'a> {
    group: Group,
    /// The channels of the input in which a pixel of the group is not zero.
    list: &'a [u16],
    /// Outputs of one block of weights, ...
    outputs: Range<usize>,
    /// ... and the weights from those of the first channel for the first of these outputs on.
    weights: &'a [f32],
    /// Numbers from the weights of a channel to those of the next one.
    step: usize,
    /// Of the weights of the next block.
    ahead: Ahead,
}

impl Columns<'_> {
    /// Computes them.
    ///
    /// # Safety
    ///
    /// As for [`Columns::run`].
    #[cfg_attr(optimized, inline(always))]
    unsafe fn compute<I: Vectors>(&self, dense: &Dense<'_>, output: &mut [f32]) {
        let width = self.outputs.len();
        macro_rules! run {
            ($($pixels:literal: $($vectors:literal $halves:literal,)*;)*) => {
                match (self.group.pixels, width / I::Vector::LANES, width % I::Vector::LANES / LANES) {
                    $($(
                        ($pixels, $vectors, $halves) if has_registers::<I>($pixels, $vectors, $halves) =>
                        // SAFETY: The caller guarantees the instructions, the numbers of pixels and of outputs.
                        unsafe { self.run::<I, $pixels, $vectors, $halves>(dense, output) },
                    )*)*
                    _ => unreachable!("at most {} pixels and {} vectors", I::GROUP, I::VECTORS),
                }
            };
            ($($pixels:literal)*) => {
                run!($($pixels: 1 0, 2 0, 3 0, 4 0, 5 0, 6 0, 0 1, 1 1, 2 1, 3 1, 4 1, 5 1,;)*)
            };
        }
        run!(1 2 3 4);
    }

    /// Computes `N` vectors and `H` halves of outputs of `P` pixels.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`. The group has `P` pixels of the map. There are as many outputs as the vectors
    /// have numbers, all of one block, and the list has channels of the input.
    #[cfg_attr(optimized, inline(always))]
    unsafe fn run<I: Vectors, const P: usize, const N: usize, const H: usize>(
        &self,
        dense: &Dense<'_>,
        output: &mut [f32],
    ) {
        let (inner, first, after) = (dense.packed.inner, self.outputs.start, N * I::Vector::LANES);
        let Columns { weights, step, mut ahead, .. } = *self;
        let bias = &dense.packed.bias.slice()[self.outputs.clone()];
        let input = &dense.input[self.group.first * inner..(self.group.first + P) * inner];
        debug_assert!(bias.len() == after + H * LANES && weights.len() >= (inner - 1) * step + bias.len());
        // SAFETY: The caller guarantees the instructions. A channel of the list is less than `inner`, so its weights are in
        // the block, and its number in each of the `P` pixels.
        unsafe {
            let mut sums = [[I::Vector::splat(&0.0); P]; N];
            for (n, of_vector) in sums.iter_mut().enumerate() {
                *of_vector = [I::Vector::load(bias.as_ptr().add(n * I::Vector::LANES)); P];
            }
            let mut last = [[I::Half::load(bias.as_ptr().add(bias.len() - LANES)); P]; H];
            let (input, weights) = (input.as_ptr(), weights.as_ptr());
            for window in self.list.windows(AHEAD + 1) {
                let (channel, later) = (usize::from(window[0]), usize::from(window[AHEAD]));
                // Narrow blocks stay in the first-level cache.
                if after > 2 * LINE {
                    for line in 0..after.div_ceil(LINE) {
                        I::Vector::prefetch(weights.wrapping_add(later * step + line * LINE));
                    }
                    if I::FETCHES_FAR {
                        I::Vector::prefetch_far(ahead.next());
                    }
                }
                let mut samples = [I::Vector::splat(input.add(channel)); P];
                for (p, sample) in samples.iter_mut().enumerate() {
                    *sample = I::Vector::splat(input.add(p * inner + channel));
                }
                let weights = weights.add(channel * step);
                for (n, of_vector) in sums.iter_mut().enumerate() {
                    let factor = I::Vector::load(weights.add(n * I::Vector::LANES));
                    for (sum, sample) in of_vector.iter_mut().zip(samples) {
                        *sum = I::Vector::fma(sample, factor, *sum);
                    }
                }
                for of_half in &mut last {
                    let factor = I::Half::load(weights.add(after));
                    for (p, sum) in of_half.iter_mut().enumerate() {
                        *sum = I::Half::fma(I::Half::splat(input.add(p * inner + channel)), factor, *sum);
                    }
                }
            }
            for (n, of_vector) in sums.into_iter().enumerate() {
                let to = Target { first: self.group.first, channel: first + n * I::Vector::LANES };
                to.write::<I::Vector, P>(of_vector, dense, output);
            }
            for of_half in last {
                let to = Target { first: self.group.first, channel: first + after };
                to.write::<I::Half, P>(of_half, dense, output);
            }
        }
    }
}
