//! Vectors of eight and of sixteen numbers, on each kind of processor.
//!
//! The kernels are written once, for any [`Simd`]. Lanes never meet, and the one operation that could round differently,
//! the fused multiplication and addition, rounds once everywhere: the same bits come out of every implementation.

/// Channels come in multiples of this.
pub(crate) const LANES: usize = 8;
/// Channels that are worked on together, where there are so many.
pub(crate) const PANEL: usize = 2 * LANES;

/// The vectors of a set of instructions.
pub(crate) trait Vectors {
    /// Of [`PANEL`] numbers.
    type Panel: Simd;
    /// Of [`LANES`] numbers.
    type Half: Simd;
    /// Pixels that are worked on together, each with the sums of a panel: as many as the registers hold.
    const ROWS: usize;
}

/// Some `f32`, lane by lane.
///
/// # Safety
///
/// Functions may only be called on a processor that has the instructions of the implementation. Pointers must be valid
/// for [`Simd::LANES`] numbers, or one for [`Simd::splat`]; they need no alignment.
pub(crate) unsafe trait Simd: Copy {
    const LANES: usize;
    type V: Copy;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn splat(from: *const f32) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The value moved into 0..=6.
    unsafe fn relu6(v: Self::V) -> Self::V;
}

/// Two vectors as one of twice the length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Two<S>(S);

// SAFETY: each function is that of the halves.
unsafe impl<S: Simd> Simd for Two<S> {
    const LANES: usize = 2 * S::LANES;
    type V = [S::V; 2];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: valid for both halves: the caller guarantees it, here and below.
        unsafe { [S::load(from), S::load(from.add(S::LANES))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe {
            S::store(to, v[0]);
            S::store(to.add(S::LANES), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::V {
        // SAFETY: as above.
        unsafe { [S::splat(from); 2] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { [S::fma(a[0], b[0], c[0]), S::fma(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { [S::add(a[0], b[0]), S::add(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { [S::div(a[0], b[0]), S::div(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn relu6(v: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { [S::relu6(v[0]), S::relu6(v[1])] }
    }
}

/// No vector instructions; the reference for all others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Vectors for Scalar {
    type Panel = Two<Scalar>;
    type Half = Scalar;
    const ROWS: usize = 6;
}

// SAFETY: plain arithmetic, on every processor.
unsafe impl Simd for Scalar {
    const LANES: usize = LANES;
    type V = [f32; LANES];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: valid for eight numbers: the caller guarantees it.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: valid for eight numbers: the caller guarantees it.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::V {
        // SAFETY: valid for one number: the caller guarantees it.
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
    unsafe fn relu6(v: Self::V) -> Self::V {
        // Written as the comparisons that `maxps`, `minps`, `fmaxnm` and `fminnm` agree on.
        v.map(|x| if x > 0.0 { if x < 6.0 { x } else { 6.0 } } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, PANEL, Simd, Two, Vectors};

    /// AVX2 with fused multiplication: Haswell and Zen, and everything since.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2;

    impl Vectors for Avx2 {
        type Panel = Two<Avx2>;
        type Half = Avx2;
        /// Twelve sums, two weights and a sample take 15 of 16 registers.
        const ROWS: usize = 6;
    }

    // SAFETY: each function is one instruction; the caller guarantees that the processor has it.
    unsafe impl Simd for Avx2 {
        const LANES: usize = LANES;
        type V = __m256;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_broadcast_ss(&*from) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn relu6(v: __m256) -> __m256 {
            // SAFETY: as above. The second operand is the result when the first is NaN or both are zero.
            unsafe { _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), _mm256_set1_ps(6.0)) }
        }
    }

    /// AVX-512F, beside AVX2: servers by Intel since 2017, by AMD since 2022.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx512;

    impl Vectors for Avx512 {
        type Panel = Avx512;
        type Half = Avx2;
        /// There are 32 registers, and for each sum a sample is read.
        const ROWS: usize = 12;
    }

    // SAFETY: as above; `relu6` is that of both halves.
    unsafe impl Simd for Avx512 {
        const LANES: usize = PANEL;
        type V = __m512;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn relu6(v: __m512) -> __m512 {
            // SAFETY: as above; sixteen numbers are twice eight.
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

    /// NEON, which every 64-bit ARM has; two registers make one vector.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Neon;

    impl Vectors for Neon {
        type Panel = Two<Neon>;
        type Half = Neon;
        /// 24 sums, four weights and a sample take 29 of 32 registers.
        const ROWS: usize = 6;
    }

    // SAFETY: NEON is part of the architecture.
    unsafe impl Simd for Neon {
        const LANES: usize = LANES;
        type V = [float32x4_t; 2];

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            // SAFETY: valid for eight numbers: the caller guarantees it.
            unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            // SAFETY: valid for eight numbers: the caller guarantees it.
            unsafe {
                vst1q_f32(to, v[0]);
                vst1q_f32(to.add(4), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> Self::V {
            // SAFETY: valid for one number: the caller guarantees it.
            unsafe { [vld1q_dup_f32(from); 2] }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: NEON is there.
            unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON is there.
            unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON is there.
            unsafe { [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn relu6(v: Self::V) -> Self::V {
            // SAFETY: NEON is there. `maxnm` gives the other operand where one is NaN.
            unsafe {
                let (zero, six) = (vdupq_n_f32(0.0), vdupq_n_f32(6.0));
                v.map(|half| vminnmq_f32(vmaxnmq_f32(half, zero), six))
            }
        }
    }
}
