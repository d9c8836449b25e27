//! Pointwise convolutions that leave out products with zero. After a ReLU, many numbers of a map are zeros.
//!
//! A product that is zero does not change a sum, so the bits are those of the sum over all channels, but for the sign of a
//! zero, which [`Target::write`] makes positive. A list of the channels in which at least one of some neighbouring pixels is
//! not zero takes the place of the loop over all channels. Lists that are nearly as long as that loop are not worth their
//! making.

use std::mem::MaybeUninit;

use super::{
    conv::{Dense, Target, block},
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
/// Fewest panels for which lists pay.
const LEAST_PANELS: usize = 2;
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
    /// The channels of a group.
    fn of(&self, group: usize) -> &[u16] {
        let list = &self.channels[group * self.slot..][..usize::from(self.lengths[group])];
        // SAFETY: `make` has written as many numbers as the length says.
        unsafe { std::slice::from_raw_parts(list.as_ptr().cast(), list.len()) }
    }

    /// Lists the channels of all groups of a span. Returns the sum of the lengths.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`. The input has all pixels of the span, of `inner` channels each.
    #[inline(always)]
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
            self.lengths[index] = length as u16;
            sum += length;
        }
        sum
    }
}

impl Dense<'_> {
    /// Runs a pointwise convolution of all pixels, and leaves out products with zero while that pays. Returns the pixels that
    /// are done, from the first on, and the output channels that are done of them.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `I`. The lengths are as [`Dense::run`] checks them.
    #[inline(always)]
    pub(crate) unsafe fn without_zeros<I: Vectors>(&self, output: &mut [f32]) -> (usize, usize) {
        const { assert!(I::GROUP <= MOST_PIXELS && I::VECTORS <= MOST_VECTORS) };
        let (inner, panels) = (self.packed.inner, self.packed.outer / PANEL);
        let slot = inner.next_multiple_of(PANEL);
        let all = self.to.height * self.to.width;
        if panels < LEAST_PANELS || !inner.is_multiple_of(LANES) || slot > LISTED {
            return (0, 0);
        }
        let together = I::VECTORS * I::Vector::LANES / PANEL;
        let most = (LISTED / slot).min(MOST_GROUPS) * I::GROUP;
        let mut lists = Lists { channels: [const { MaybeUninit::uninit() }; LISTED], lengths: [0; MOST_GROUPS], slot };
        let mut done = 0;
        while done < all {
            let span = Span { first: done, pixels: most.min(all - done), size: I::GROUP };
            // SAFETY: The caller guarantees the instructions and the length of the input.
            let listed = unsafe { lists.make::<I>(self.input, inner, span) };
            if listed * 100 > span.groups() * inner * WORTH {
                break;
            }
            let mut panel = 0;
            while panel < panels {
                let together = block(panels - panel, together);
                for index in 0..span.groups() {
                    let columns = Columns { group: span.group(index), list: lists.of(index), panel };
                    // SAFETY: The caller guarantees the instructions. The span is within the map, and the list has channels of it.
                    unsafe { columns.panels::<I>(together, self, output) }
                }
                panel += together;
            }
            done += span.pixels;
        }
        (done, panels * PANEL)
    }
}

/// The outputs of a group of pixels for some panels.
struct Columns<'a> {
    group: Group,
    /// The channels of the input in which a pixel of the group is not zero.
    list: &'a [u16],
    /// The first panel.
    panel: usize,
}

impl Columns<'_> {
    /// Computes `together` panels.
    ///
    /// # Safety
    ///
    /// As for [`Columns::run`].
    #[inline(always)]
    unsafe fn panels<I: Vectors>(&self, together: usize, dense: &Dense<'_>, output: &mut [f32]) {
        macro_rules! run {
            ($($pixels:literal: $($vectors:literal)*;)*) => {
                match (self.group.pixels, together * PANEL / I::Vector::LANES) {
                    $($(
                        // Instruction sets with fewer registers have no code for larger groups.
                        ($pixels, $vectors)
                            if $pixels <= I::GROUP && $vectors <= I::VECTORS && $vectors * I::Vector::LANES % PANEL == 0 =>
                        // SAFETY: The caller guarantees the instructions, the numbers of pixels and of panels.
                        unsafe { self.run::<I::Vector, $pixels, $vectors>(dense, output) },
                    )*)*
                    _ => unreachable!("at most {} pixels and {} vectors", I::GROUP, I::VECTORS),
                }
            };
        }
        run!(1: 1 2 3 4 5 6; 2: 1 2 3 4 5 6; 3: 1 2 3 4 5 6; 4: 1 2 3 4 5 6;);
    }

    /// Computes `N` vectors of outputs of `P` pixels.
    ///
    /// # Safety
    ///
    /// The processor has the instructions of `S`. The group has `P` pixels of the map, the weights have `N` vectors, which are
    /// whole panels, from the first panel on, and the list has channels of the input.
    #[inline(always)]
    unsafe fn run<S: Simd, const P: usize, const N: usize>(&self, dense: &Dense<'_>, output: &mut [f32]) {
        let (inner, channel) = (dense.packed.inner, self.panel * PANEL);
        let bias = &dense.packed.bias.slice()[channel..channel + N * S::LANES];
        let weights = &dense.packed.weights.slice()[channel * inner..(channel + N * S::LANES) * inner];
        let input = &dense.input[self.group.first * inner..(self.group.first + P) * inner];
        // Where the weights of a vector start: a panel has one or two.
        let start = |n: usize| n * S::LANES / PANEL * PANEL * inner + n * S::LANES % PANEL;
        // SAFETY: The caller guarantees the instructions. A channel of the list is less than `inner`, so its weights are in
        // each of the vectors, and its number in each of the `P` pixels.
        unsafe {
            let mut sums = [[S::load(bias.as_ptr()); P]; N];
            for (n, of_vector) in sums.iter_mut().enumerate() {
                *of_vector = [S::load(bias.as_ptr().add(n * S::LANES)); P];
            }
            let (input, weights) = (input.as_ptr(), weights.as_ptr());
            for channel in self.list {
                let channel = usize::from(*channel);
                let mut samples = [S::splat(input.add(channel)); P];
                for (p, sample) in samples.iter_mut().enumerate() {
                    *sample = S::splat(input.add(p * inner + channel));
                }
                let weights = weights.add(channel * PANEL);
                for (n, of_vector) in sums.iter_mut().enumerate() {
                    let factor = S::load(weights.add(start(n)));
                    for (sum, sample) in of_vector.iter_mut().zip(samples) {
                        *sum = S::fma(sample, factor, *sum);
                    }
                }
            }
            for (n, of_vector) in sums.into_iter().enumerate() {
                let to = Target { first: self.group.first, channel: channel + n * S::LANES };
                to.write::<S, P>(of_vector, dense, output);
            }
        }
    }
}
