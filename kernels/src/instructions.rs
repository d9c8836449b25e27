//! The choice of the instruction set.

use std::sync::LazyLock;

/// An instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512F, AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain code for any processor.
    Scalar,
}

impl Instructions {
    /// The instruction sets of this processor, the fastest first. The last is [`Instructions::Scalar`].
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            if is_x86_feature_detected!("avx512f") {
                all.push(Instructions::Avx512);
            }
            all.push(Instructions::Avx2);
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Instructions::Neon);
        all.push(Instructions::Scalar);
        all
    }

    /// The name, as in the environment variable `POMONA_INSTRUCTIONS`.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => "neon",
            Instructions::Scalar => "scalar",
        }
    }

    /// The fastest instruction set, or the one that the environment variable `POMONA_INSTRUCTIONS` names, if the processor
    /// has it.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: LazyLock<Instructions> = LazyLock::new(|| {
            let named = std::env::var("POMONA_INSTRUCTIONS").unwrap_or_default();
            let available = Instructions::available();
            let chosen = available.iter().find(|i| i.name() == named).or(available.first());
            chosen.copied().unwrap_or(Instructions::Scalar)
        });
        *CHOSEN
    }
}
