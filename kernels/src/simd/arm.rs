//! NEON.

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
