//! Kernels for MobileNet-like networks, which run in a fraction of the time of a general runtime.
//!
//! A [`Network`] is a whole model of convolutions (dense, pointwise, depthwise 3 x 3), ReLU6, residual additions and a
//! global mean, as MobileNetV2 is. Each layer is one pass: bias, activation and residual are part of the convolution
//! that they belong to. Data lies channels-last; weights are packed once; buffers are kept from image to image.
//!
//! Every output is a sum in one fixed order (`conv.rs`), so AVX-512, AVX2, NEON and plain code give the same bits. This is
//! the only part of Pomona with `unsafe` code beside one call at the start of the program.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn)]

/// Defines a function whose body is compiled for AVX2 as well, and chosen when it is called.
macro_rules! compiled_twice {
    ($(#[$doc:meta])* $public:vis $name:ident, $wide:ident, $body:ident, ($($arg:ident: $kind:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        $public fn $name($($arg: $kind),*) $(-> $out)? {
            match $crate::kernels::Instructions::chosen() {
                // SAFETY: chosen from those that the processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Instructions::Avx2 | $crate::kernels::Instructions::Avx512 => unsafe { $wide($($arg),*) },
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

mod conv;
pub(crate) mod linear;
mod network;
pub(crate) mod resample;
mod simd;
mod strips;
#[cfg(test)]
mod tests;

use std::sync::{LazyLock, Mutex, PoisonError};

use conv::{Aligned, Dense, Depthwise, Map, Packed, Taps};
use simd::{Scalar, Vectors};
use strips::Strips;

/// The kind of instructions that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Scalar,
}

impl Instructions {
    /// Those that this processor can use, the fastest first.
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

    /// As in `POMONA_INSTRUCTIONS`.
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

    /// The fastest, unless the variable `POMONA_INSTRUCTIONS` names another one that the processor has.
    fn chosen() -> Self {
        static CHOSEN: LazyLock<Instructions> = LazyLock::new(|| {
            let named = std::env::var("POMONA_INSTRUCTIONS").unwrap_or_default();
            let available = Instructions::available();
            let chosen = available.iter().find(|i| i.name() == named).or(available.first());
            chosen.copied().unwrap_or(Instructions::Scalar)
        });
        *CHOSEN
    }
}

/// A buffer, and how the map in it lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    buffer: usize,
    map: Map,
}

#[derive(Debug)]
enum Layer {
    Dense {
        packed: Packed,
        taps: Taps,
        relu6: bool,
        from: Place,
        residual: Option<Place>,
        to: Place,
        /// Those of the map of `to`.
        offsets: Vec<u32>,
    },
    Depthwise {
        kernel: Depthwise,
        from: Place,
        to: Place,
    },
    Strips {
        strips: Box<Strips>,
        from: Place,
        strip: usize,
        to: Place,
    },
    Mean {
        from: Place,
        to: Place,
    },
}

/// A model that is run by these kernels. Cheap to share: each call takes buffers of its own.
#[derive(Debug)]
pub struct Network {
    layers: Vec<Layer>,
    /// Numbers in each buffer; the first is the image's.
    buffers: Vec<usize>,
    image: Map,
    columns: usize,
    /// What each sample of a pixel becomes.
    samples: [f32; 256],
    instructions: Instructions,
    spare: Mutex<Vec<Vec<Aligned>>>,
}

impl Network {
    /// Height and width of the images.
    pub fn size(&self) -> (usize, usize) {
        (self.image.height, self.image.width)
    }

    /// Length of the output.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The same network with other instructions.
    #[cfg(test)]
    fn with(mut self, instructions: Instructions) -> Self {
        self.instructions = instructions;
        self
    }

    /// The output for an image, `[height, width, 3]`, samples of 8 bits.
    pub fn run(&self, pixels: &[u8]) -> Vec<f32> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffers = spare.unwrap_or_else(|| self.buffers.iter().map(|len| Aligned::zeros(*len)).collect());
        self.read_image(pixels, &mut buffers[0]);
        let mut last = 0;
        for layer in &self.layers {
            last = layer.to().buffer;
            self.step(layer, &mut buffers);
        }
        let output = buffers[last].slice()[..self.columns].to_vec();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        output
    }

    fn read_image(&self, pixels: &[u8], buffer: &mut Aligned) {
        let map = self.image;
        let data = &mut buffer.slice_mut()[..map.len()];
        map.clear_border(data);
        for (y, line) in pixels.chunks_exact(map.width * 3).enumerate().take(map.height) {
            let start = map.at(y, 0);
            for (to, sample) in data[start..start + map.width * 3].iter_mut().zip(line) {
                *to = self.samples[usize::from(*sample)];
            }
        }
    }

    fn step(&self, layer: &Layer, buffers: &mut [Aligned]) {
        let to = layer.to();
        // The output's buffer is none of the inputs', says `network`.
        let mut taken = std::mem::take(&mut buffers[to.buffer]);
        let output = &mut taken.slice_mut()[..to.map.len()];
        let scratch = match layer {
            Layer::Strips { strip, .. } => Some(*strip),
            _ => None,
        };
        let mut strip = scratch.map(|buffer| std::mem::take(&mut buffers[buffer])).unwrap_or_default();
        match self.instructions {
            // SAFETY: chosen from those that the processor has.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { step_avx512(layer, buffers, &mut strip, output) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { step_avx2(layer, buffers, &mut strip, output) },
            // SAFETY: every 64-bit ARM has NEON.
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => unsafe { step::<simd::Neon>(layer, buffers, &mut strip, output) },
            // SAFETY: needs no special instructions.
            Instructions::Scalar => unsafe { step::<Scalar>(layer, buffers, &mut strip, output) },
        }
        buffers[to.buffer] = taken;
        if let Some(buffer) = scratch {
            buffers[buffer] = strip;
        }
    }
}

impl Layer {
    fn to(&self) -> Place {
        match self {
            Layer::Dense { to, .. }
            | Layer::Depthwise { to, .. }
            | Layer::Strips { to, .. }
            | Layer::Mean { to, .. } => *to,
        }
    }
}

/// Compiles everything below it for AVX-512.
///
/// # Safety
///
/// The processor has AVX-512F, AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn step_avx512(layer: &Layer, buffers: &[Aligned], strip: &mut Aligned, output: &mut [f32]) {
    // SAFETY: says the caller.
    unsafe { step::<simd::Avx512>(layer, buffers, strip, output) }
}

/// The same for AVX2.
///
/// # Safety
///
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn step_avx2(layer: &Layer, buffers: &[Aligned], strip: &mut Aligned, output: &mut [f32]) {
    // SAFETY: says the caller.
    unsafe { step::<simd::Avx2>(layer, buffers, strip, output) }
}

/// # Safety
///
/// The processor has the instructions of `I`.
#[inline(always)]
unsafe fn step<I: Vectors>(layer: &Layer, buffers: &[Aligned], strip: &mut Aligned, output: &mut [f32]) {
    let read = |place: &Place| &buffers[place.buffer].slice()[..place.map.len()];
    match layer {
        Layer::Dense { packed, taps, relu6, from, residual, to, offsets } => {
            to.map.clear_border(output);
            let dense = Dense {
                input: read(from),
                from: from.map,
                taps: *taps,
                packed,
                to: to.map,
                offsets,
                residual: residual.as_ref().map(read),
                relu6: *relu6,
            };
            // SAFETY: says the caller.
            unsafe { dense.run::<I>(output) }
        }
        // SAFETY: says the caller.
        Layer::Depthwise { kernel, from, to } => unsafe { kernel.run::<I>(read(from), from.map, output, to.map) },
        Layer::Strips { strips, from, to, .. } => {
            let strip = &mut strip.slice_mut()[..strips.buffer()];
            // SAFETY: says the caller.
            unsafe { strips.run::<I>(read(from), from.map, strip, output, to.map) }
        }
        // SAFETY: says the caller.
        Layer::Mean { from, to } => unsafe { conv::mean::<I>(read(from), to.map.channels, output) },
    }
}
