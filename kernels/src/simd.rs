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
mod x86 {
    use std::{arch::x86_64::*, mem::MaybeUninit};

    use super::{LANES, PANEL, Simd, Two, Vectors};

    /// The numbers of the bits that are set, for each mask, in their order, and then zeros.
    static SELECTED: [[u8; LANES]; 256] = {
        let mut all = [[0; LANES]; 256];
        let mut mask = 0;
        while mask < 256 {
            let (mut lane, mut length) = (0, 0);
            while lane < LANES {
                if mask >> lane & 1 == 1 {
                    all[mask][length] = lane as u8;
                    length += 1;
                }
                lane += 1;
            }
            mask += 1;
        }
        all
    };

    /// AVX2 and FMA: Intel since Haswell, AMD since Zen.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2;

    impl Vectors for Avx2 {
        type Panel = Two<Avx2>;
        type Half = Avx2;
        type Vector = Avx2;
        /// 12 sums, 2 weights and a sample take 15 of 16 registers.
        const ROWS: usize = 6;
        /// 12 sums, 2 samples and a weight take 15 of 16 registers.
        const GROUP: usize = 2;
        const VECTORS: usize = 4;

        #[inline(always)]
        unsafe fn nonzero<const P: usize>(pixels: &[f32], list: &mut [MaybeUninit<u16>]) -> usize {
            let channels = pixels.len() / P;
            assert!(channels.is_multiple_of(LANES) && list.len() >= channels);
            let mut length = 0;
            // SAFETY: The caller guarantees the instructions. The list is never longer than the channels before the current ones,
            // and has room for these.
            unsafe {
                let mut numbers = _mm_setzero_si128();
                for channel in (0..channels).step_by(LANES) {
                    let from = pixels.as_ptr().add(channel);
                    let mut any = _mm256_castps_si256(_mm256_loadu_ps(from));
                    for p in 1..P {
                        any = _mm256_or_si256(any, _mm256_castps_si256(_mm256_loadu_ps(from.add(p * channels))));
                    }
                    let zero = _mm256_cmpeq_epi32(any, _mm256_setzero_si256());
                    let mask = !_mm256_movemask_ps(_mm256_castsi256_ps(zero)) as u8;
                    let lanes = _mm_loadl_epi64(SELECTED[usize::from(mask)].as_ptr().cast());
                    let selected = _mm_add_epi16(_mm_cvtepu8_epi16(lanes), numbers);
                    _mm_storeu_si128(list.as_mut_ptr().add(length).cast(), selected);
                    length += mask.count_ones() as usize;
                    numbers = _mm_add_epi16(numbers, _mm_set1_epi16(LANES as i16));
                }
            }
            length
        }
    }

    // SAFETY: each function uses only AVX2 and FMA.
    unsafe impl Simd for Avx2 {
        const LANES: usize = LANES;
        type V = __m256;

        #[inline(always)]
        unsafe fn prefetch(address: *const f32) {
            // SAFETY: A fetch of an address that is not valid does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: The caller guarantees AVX2, and that the pointer is valid for a vector.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            // SAFETY: The caller guarantees AVX2, and that the pointer is valid for a vector.
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            // SAFETY: The caller guarantees AVX2, and that the pointer is valid for one number.
            unsafe { _mm256_broadcast_ss(&*from) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: The caller guarantees FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: The caller guarantees AVX2.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            // SAFETY: The caller guarantees AVX2.
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn relu(v: __m256) -> __m256 {
            // SAFETY: The caller guarantees AVX2. If the first operand is NaN or both are zero, the result is the second.
            unsafe { _mm256_max_ps(v, _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn relu6(v: __m256) -> __m256 {
            // SAFETY: The caller guarantees AVX2. If the first operand is NaN or both are zero, the result is the second.
            unsafe { _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), _mm256_set1_ps(6.0)) }
        }
    }

    /// AVX-512F, AVX2 and FMA: Intel servers since 2017, AMD since 2022.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx512;

    impl Vectors for Avx512 {
        type Panel = Avx512;
        type Half = Avx2;
        type Vector = Avx512;
        /// 12 sums and a weight take 13 of 32 registers; each multiply-add can read its sample from memory.
        const ROWS: usize = 12;
        /// 24 sums, 4 samples and a weight take 29 of 32 registers.
        const GROUP: usize = 4;
        const VECTORS: usize = 6;

        #[inline(always)]
        unsafe fn nonzero<const P: usize>(pixels: &[f32], list: &mut [MaybeUninit<u16>]) -> usize {
            let channels = pixels.len() / P;
            assert!(list.len() >= channels.next_multiple_of(PANEL));
            let mut length = 0;
            // SAFETY: The caller guarantees the instructions. The mask limits what is read. The list is never longer than the
            // channels before the current ones, and has room for a vector.
            unsafe {
                let mut numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                for channel in (0..channels).step_by(PANEL) {
                    let from = pixels.as_ptr().add(channel).cast();
                    let lanes = if channels - channel < PANEL { !(!0 << (channels - channel)) } else { !0 };
                    let mut any = _mm512_maskz_loadu_epi32(lanes, from);
                    for p in 1..P {
                        any = _mm512_or_si512(any, _mm512_maskz_loadu_epi32(lanes, from.add(p * channels)));
                    }
                    let mask = _mm512_test_epi32_mask(any, any);
                    let selected = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(mask, numbers));
                    _mm256_storeu_si256(list.as_mut_ptr().add(length).cast(), selected);
                    length += mask.count_ones() as usize;
                    numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(PANEL as i32));
                }
            }
            length
        }
    }

    // SAFETY: each function uses only AVX-512F, AVX2 and FMA.
    unsafe impl Simd for Avx512 {
        const LANES: usize = PANEL;
        type V = __m512;

        #[inline(always)]
        unsafe fn prefetch(address: *const f32) {
            // SAFETY: A fetch of an address that is not valid does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: The caller guarantees AVX-512F, and that the pointer is valid for a vector.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: The caller guarantees AVX-512F, and that the pointer is valid for a vector.
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            // SAFETY: The caller guarantees AVX-512F, and that the pointer is valid for one number.
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: The caller guarantees AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: The caller guarantees AVX-512F.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            // SAFETY: The caller guarantees AVX-512F.
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn relu(v: __m512) -> __m512 {
            // SAFETY: The caller guarantees AVX-512F. If the first operand is NaN or both are zero, the result is the second.
            unsafe { _mm512_max_ps(v, _mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn relu6(v: __m512) -> __m512 {
            // SAFETY: The caller guarantees AVX2. Both types are 16 numbers.
            unsafe { std::mem::transmute(Two::<Avx2>::relu6(std::mem::transmute::<__m512, [__m256; 2]>(v))) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::{LANES, Simd, Two, Vectors};

    /// NEON, which every 64-bit ARM processor has. A vector of 8 numbers takes two registers.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Neon;

    impl Vectors for Neon {
        type Panel = Two<Neon>;
        type Half = Neon;
        type Vector = Neon;
        /// 24 sums, 4 weights and a sample take 29 of 32 registers.
        const ROWS: usize = 6;
        /// 24 sums, 3 samples and a weight take 28 of 32 registers.
        const GROUP: usize = 3;
        const VECTORS: usize = 4;
    }

    // SAFETY: each function uses only NEON, which is part of the architecture.
    unsafe impl Simd for Neon {
        const LANES: usize = LANES;
        type V = [float32x4_t; 2];

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            // SAFETY: The caller guarantees that the pointer is valid for eight numbers.
            unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            // SAFETY: The caller guarantees that the pointer is valid for eight numbers.
            unsafe {
                vst1q_f32(to, v[0]);
                vst1q_f32(to.add(4), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self::V {
            // SAFETY: The caller guarantees that the pointer is valid for one number.
            unsafe { [vld1q_dup_f32(from); 2] }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: NEON is part of the architecture.
            unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON is part of the architecture.
            unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON is part of the architecture.
            unsafe { [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn relu(v: Self::V) -> Self::V {
            // SAFETY: NEON is part of the architecture. `maxnm` returns the other operand if one is NaN.
            unsafe { v.map(|half| vmaxnmq_f32(half, vdupq_n_f32(0.0))) }
        }
        #[inline(always)]
        unsafe fn relu6(v: Self::V) -> Self::V {
            // SAFETY: NEON is part of the architecture. `maxnm` returns the other operand if one is NaN.
            unsafe {
                let (zero, six) = (vdupq_n_f32(0.0), vdupq_n_f32(6.0));
                v.map(|half| vminnmq_f32(vmaxnmq_f32(half, zero), six))
            }
        }
    }
}
