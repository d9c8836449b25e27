//! AVX2 and AVX-512.

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

/// AVX2, FMA and POPCNT: Intel since Haswell, AMD since Zen.
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
    const VECTORS: usize = 6;

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
    unsafe fn prefetch_far(address: *const f32) {
        // SAFETY: A fetch of an address that is not valid does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
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

/// AVX-512F, AVX2, FMA and POPCNT: Intel servers since 2017, AMD since 2022.
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
    const DEPTHWISE_ROWS: usize = 2;
    const FETCHES_FAR: bool = true;

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
    unsafe fn prefetch_far(address: *const f32) {
        // SAFETY: A fetch of an address that is not valid does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
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
        // SAFETY: The caller guarantees AVX-512F. If the first operand is NaN or both are zero, the result is the second.
        unsafe { _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(6.0)) }
    }
}
