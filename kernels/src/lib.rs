//! Kernels for MobileNet-like networks, principal components and image resizing, with the same bits on every processor.
//!
//! A [`Network`] is a whole model of convolutions (dense, pointwise, depthwise 3 x 3), ReLU6, residual additions and a
//! global mean, as MobileNetV2 is. A [`Builder`] makes one, layer by layer. Each layer is one pass: bias, activation and
//! residual are part of the convolution that they belong to. Data is channels-last; weights are packed once; buffers are
//! kept from image to image.
//!
//! Every output is a sum in one fixed order, so AVX-512, AVX2, NEON and plain code give the same bits. [`linear`] does the
//! same for the dense loops of a PCA, [`resample`] for the resizing of 8-bit images.
//!
//! ```
//! use pomona_kernels::{Builder, Convolution};
//!
//! // A network of one pointwise convolution, 3 -> 8 channels, and a mean over the image.
//! let (mut builder, image) = Builder::new(4, 4);
//! let weight = vec![0.5; 8 * 3];
//! let convolution = Convolution {
//!     weight: &weight, shape: [8, 3, 1, 1], bias: &[0.0; 8], stride: 1, padding: [0; 4], groups: 1, relu6: true,
//! };
//! let features = builder.convolution(image, &convolution, None)?;
//! let output = builder.mean(features)?;
//! let network = builder.build(output)?;
//! // Samples of 8 bits become x / 127.5 - 1, so white is 1.
//! assert_eq!(network.run(&[255; 4 * 4 * 3]), vec![1.5; 8]);
//! # Ok::<(), pomona_kernels::Unsupported>(())
//! ```
//!
//! This crate holds all `unsafe` code of Pomona but one call at the start of the program.
#![allow(unsafe_op_in_unsafe_fn)]

/// Defines a function whose body is compiled for AVX2 as well, and chosen when it is called.
macro_rules! compiled_twice {
    ($(#[$doc:meta])* $public:vis $name:ident, $wide:ident, $body:ident, ($($arg:ident: $kind:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        $public fn $name($($arg: $kind),*) $(-> $out)? {
            match $crate::Instructions::chosen() {
                // SAFETY: chosen from those that the processor has.
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

mod builder;
mod conv;
mod fused;
mod instructions;
pub mod linear;
mod network;
pub mod resample;
mod simd;
#[cfg(test)]
mod tests;

pub use builder::{Builder, Convolution, Unsupported, Value};
pub use instructions::Instructions;
pub use network::Network;
