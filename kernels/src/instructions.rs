//! The choice of the instruction set.

use std::{fmt, sync::LazyLock};

use crate::simd::{self, PANEL, Simd, Vectors};

/// The environment variable that selects the instruction set.
const VARIABLE: &str = "POMONA_INSTRUCTIONS";
/// The names of all instruction sets, also of other processors.
const NAMES: [&str; 4] = ["avx512", "avx2", "neon", "scalar"];

/// An instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512F, AVX2, FMA and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain code for any processor.
    Scalar,
}

fn panels<I: Vectors>() -> usize {
    I::VECTORS * I::Vector::LANES / PANEL
}

impl Instructions {
    /// The instruction sets of this processor, the fastest first. The last is [`Instructions::Scalar`].
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("popcnt") {
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

    /// The instruction set that the environment variable `POMONA_INSTRUCTIONS` names; the fastest one if the variable is
    /// not set or empty.
    ///
    /// The kernels cannot fail, so they use the fastest one in place of a wrong name. Call this function at the start of a
    /// program, and report its error.
    pub fn from_environment() -> Result<Self, InvalidInstructions> {
        let named = std::env::var_os(VARIABLE).unwrap_or_default();
        Self::named(&named.to_string_lossy())
    }

    fn named(name: &str) -> Result<Self, InvalidInstructions> {
        let available = Instructions::available();
        let found = if name.is_empty() { available.first() } else { available.iter().find(|i| i.name() == name) };
        match (found, NAMES.into_iter().find(|known| *known == name)) {
            (Some(found), _) => Ok(*found),
            (None, Some(known)) => Err(InvalidInstructions::Missing(known)),
            (None, None) => Err(InvalidInstructions::Unknown(name.to_owned())),
        }
    }

    /// The panels of weights whose outputs are computed together where products with zero are left out.
    pub(crate) fn panels(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => panels::<simd::Avx512>(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => panels::<simd::Avx2>(),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => panels::<simd::Neon>(),
            Instructions::Scalar => panels::<simd::Scalar>(),
        }
    }

    /// The instruction set of the kernels in this process.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: LazyLock<Instructions> = LazyLock::new(|| {
            let fastest = || Instructions::available().first().copied().unwrap_or(Instructions::Scalar);
            Instructions::from_environment().unwrap_or_else(|_| fastest())
        });
        *CHOSEN
    }
}

/// Why the value of `POMONA_INSTRUCTIONS` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidInstructions {
    /// There is no instruction set with this name.
    Unknown(String),
    /// The processor does not have this instruction set.
    Missing(&'static str),
}

impl fmt::Display for InvalidInstructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available: Vec<_> = Instructions::available().into_iter().map(Instructions::name).collect();
        let available = available.join(", ");
        match self {
            InvalidInstructions::Unknown(name) => {
                let names = NAMES.join(", ");
                write!(f, "{VARIABLE} must be one of {names}, not {name:?}; this processor has {available}")
            }
            InvalidInstructions::Missing(name) => {
                write!(f, "{VARIABLE} is {name}, but this processor has only {available}")
            }
        }
    }
}

impl std::error::Error for InvalidInstructions {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_an_instruction_set_of_this_processor_or_is_an_error() {
        let available = Instructions::available();
        assert_eq!(Instructions::named(""), Ok(available[0]));
        for known in NAMES {
            match available.iter().find(|i| i.name() == known) {
                Some(found) => assert_eq!(Instructions::named(known), Ok(*found)),
                None => assert_eq!(Instructions::named(known), Err(InvalidInstructions::Missing(known))),
            }
        }
        assert!(available.iter().all(|i| NAMES.contains(&i.name())));
        let error = Instructions::named("bogus").unwrap_err();
        assert_eq!(error, InvalidInstructions::Unknown("bogus".to_owned()));
        assert!(error.to_string().contains("one of avx512, avx2, neon, scalar, not \"bogus\""), "{error}");
        let error = InvalidInstructions::Missing("avx512");
        assert!(error.to_string().contains("is avx512, but this processor has only"), "{error}");
    }
}
