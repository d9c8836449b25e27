//! Kernels for convolutional networks, principal components and image resizing, with the same bits on every processor.
//!
//! A [`Network`] is a whole model of convolutions (dense, pointwise, depthwise), activations, residual additions, maxima of
//! windows, factors of channels and a global mean, such as MobileNetV2, ResNet or EfficientNet. A [`Builder`] makes one,
//! layer by layer. Bias, activation and residual are part of
//! their convolution, so a layer is one pass over the data. Data is channels-last. Weights are packed once. Buffers are
//! reused for the next image.
//!
//! Every output is a sum in one fixed order, so AVX-512, AVX2, NEON and plain code give the same bits. The same holds for
//! [`linear`], the inner loops of a PCA, and for [`resample`], the inner loops of resizing 8-bit images. [`jpeg`] is
//! libjpeg-turbo, whose SIMD code has the bits of its plain code.
//!
//! ```
//! use pomona_kernels::{Activation, Builder, Convolution};
//!
//! // A network of one pointwise convolution, 3 -> 8 channels, and a mean over the image.
//! let (mut builder, image) = Builder::new(4, 4);
//! let weight = vec![0.5; 8 * 3];
//! let convolution = Convolution {
//!     weight: &weight, shape: [8, 3, 1, 1], bias: &[0.0; 8], stride: 1, padding: [0; 4], groups: 1,
//!     activation: Activation::Relu6,
//! };
//! let features = builder.convolution(image, &convolution, None)?;
//! let output = builder.mean(features)?;
//! let network = builder.build(output)?;
//! // An 8-bit sample x is converted to x / 127.5 - 1, so white is 1.
//! assert_eq!(network.run(&[255; 4 * 4 * 3]), vec![1.5; 8]);
//! # Ok::<(), pomona_kernels::Unsupported>(())
//! ```
//!
//! This crate has all `unsafe` code of Pomona, except for one call at the start of the program.
#![allow(unsafe_op_in_unsafe_fn)]

/// Defines a function that is compiled twice, for any processor and for AVX2. Each call selects one of the two.
macro_rules! compiled_twice {
    ($(#[$doc:meta])* $public:vis $name:ident, $wide:ident, $body:ident, ($($arg:ident: $kind:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        $public fn $name($($arg: $kind),*) $(-> $out)? {
            match $crate::Instructions::chosen() {
                // SAFETY: `chosen` returns instructions that the processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::Instructions::Avx2 | $crate::Instructions::Avx512 => unsafe { $wide($($arg),*) },
                _ => $body($($arg),*),
            }
        }

        /// # Safety
        ///
        /// The processor has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        unsafe fn $wide($($arg: $kind),*) $(-> $out)? {
            $body($($arg),*)
        }
    };
}

mod assemble;
mod builder;
mod conv;
mod depthwise;
mod fused;
mod instructions;
pub mod jpeg;
mod layers;
mod layout;
pub mod linear;
mod mean;
pub mod nearest;
mod network;
pub mod pages;
mod passes;
mod prune;
pub mod resample;
pub mod scan;
mod simd;
#[cfg(test)]
mod tests;
mod zeros;

pub use builder::{Activation, Builder, Convolution, Unsupported, Value};
pub use instructions::{Instructions, InvalidInstructions};
pub use network::{Network, Samples};
pub use passes::Function;
