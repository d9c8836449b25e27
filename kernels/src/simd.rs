//! Vectors of 8 and 16 numbers, for each instruction set.
//!
//! The kernels are written once, for any [`Simd`]. No operation combines lanes, and the fused multiply-add rounds once on
//! every processor. So all implementations give the same bits.

use std::mem::MaybeUninit;

/// Numbers of channels are multiples of this.
pub(crate) const LANES: usize = 8;
/// Channels that are processed together, except for the last [`LANES`] if this does not divide their number.
pub(crate) const PANEL: usize = 2 * LANES;

/// The vectors of an instruction set.
pub(crate) trait Vectors {
    /// A vector of [`PANEL`] numbers.
    type Panel: Simd;
    /// A vector of [`LANES`] numbers.
    type Half: Simd;
    /// Pixels that are processed together: the registers hold a panel of sums for each.
    const ROWS: usize;
    /// A vector of one register.
    type Vector: Simd;
    /// Pixels that are processed together where products with zero are left out, ...
    const GROUP: usize;
    /// ... and vectors of sums of each of them.
    const VECTORS: usize;

    /// Whether loops fetch weights that later ones need into the second-level cache. With narrower vectors, the sums take twice as
    /// many instructions, and one more per step takes more time than it saves.
    const FETCHES_FAR: bool = false;
    /// Rows of outputs of a depthwise convolution that are computed together: the registers hold all its weights, and the sums
    /// of four pixels of each row.
    const DEPTHWISE_ROWS: usize = 1;

    /// Lists the channels in which one of `P` pixels is not zero, in their order; returns their number.
    ///
    /// `pixels` has the pixels one behind the other. `list` has a number for each of their channels, rounded up to a multiple of
    /// [`PANEL`].
    ///
    /// # Safety
    ///
    /// The processor has the instructions.
    #[inline(always)]
    unsafe fn nonzero<const P: usize>(pixels: &[f32], list: &mut [MaybeUninit<u16>]) -> usize {
        let channels = pixels.len() / P;
        let mut length = 0;
        for channel in 0..channels {
            let is_zero = (0..P).all(|p| pixels[p * channels + channel].to_bits() == 0);
            list[length].write(channel as u16);
            length += usize::from(!is_zero);
        }
        length
    }
}

/// Operations on vectors of `f32`, lane by lane.
///
/// # Safety
///
/// The processor must have the instructions of the implementation. Pointers must be valid for [`Simd::LANES`] numbers, or
/// for one number in [`Simd::splat`]. They need no alignment.
pub(crate) unsafe trait Simd: Copy {
    /// Numbers of a vector.
    const LANES: usize;
    /// The vector.
    type V: Copy;
    /// Fetches the cache line of an address, which need not be valid, where the processor does not foresee it.
    #[inline(always)]
    unsafe fn prefetch(_address: *const f32) {}
    /// [`Simd::prefetch`] into the second-level cache only.
    #[inline(always)]
    unsafe fn prefetch_far(_address: *const f32) {}
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// The number in all lanes.
    unsafe fn splat(from: *const f32) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `max(v, 0)`, and 0 for NaN.
    unsafe fn relu(v: Self::V) -> Self::V;
    /// `min(max(v, 0), 6)`, and 0 for NaN.
    unsafe fn relu6(v: Self::V) -> Self::V;
}

/// Two vectors as one vector of twice the length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Two<S>(S);

// SAFETY: each function calls that of both halves.
unsafe impl<S: Simd> Simd for Two<S> {
    const LANES: usize = 2 * S::LANES;
    type V = [S::V; 2];

    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        // SAFETY: The address need not be valid.
        unsafe { S::prefetch(address) }
    }
    #[inline(always)]
    unsafe fn prefetch_far(address: *const f32) {
        // SAFETY: The address need not be valid.
        unsafe { S::prefetch_far(address) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: The caller guarantees that the pointer is valid for both halves.
        unsafe { [S::load(from), S::load(from.add(S::LANES))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: The caller guarantees that the pointer is valid for both halves.
        unsafe {
            S::store(to, v[0]);
            S::store(to.add(S::LANES), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::V {
        // SAFETY: The caller guarantees that the pointer is valid for one number.
        unsafe { [S::splat(from); 2] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: The caller guarantees the instructions.
        unsafe { [S::fma(a[0], b[0], c[0]), S::fma(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: The caller guarantees the instructions.
        unsafe { [S::add(a[0], b[0]), S::add(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: The caller guarantees the instructions.
        unsafe { [S::div(a[0], b[0]), S::div(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn relu(v: Self::V) -> Self::V {
        // SAFETY: The caller guarantees the instructions.
        unsafe { [S::relu(v[0]), S::relu(v[1])] }
    }
    #[inline(always)]
    unsafe fn relu6(v: Self::V) -> Self::V {
        // SAFETY: The caller guarantees the instructions.
        unsafe { [S::relu6(v[0]), S::relu6(v[1])] }
    }
}

/// Plain code, the reference for all instruction sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Vectors for Scalar {
    type Panel = Two<Scalar>;
    type Half = Scalar;
    type Vector = Scalar;
    const ROWS: usize = 6;
    const GROUP: usize = 3;
    const VECTORS: usize = 4;
}

// SAFETY: plain arithmetic needs no special instructions.
unsafe impl Simd for Scalar {
    const LANES: usize = LANES;
    type V = [f32; LANES];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: The caller guarantees that the pointer is valid for eight numbers.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: The caller guarantees that the pointer is valid for eight numbers.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::V {
        // SAFETY: The caller guarantees that the pointer is valid for one number.
        unsafe { [*from; LANES] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn relu(v: Self::V) -> Self::V {
        v.map(|x| if x > 0.0 { x } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn relu6(v: Self::V) -> Self::V {
        // For NaN and zeros, these comparisons give the results of `maxps`, `minps`, `fmaxnm` and `fminnm`.
        v.map(|x| if x > 0.0 { if x < 6.0 { x } else { 6.0 } } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm;
