//! A model as a list of layers, and its execution.

use std::sync::{Mutex, PoisonError};

use crate::{
    Activation, Instructions,
    conv::{Dense, Taps},
    depthwise::{Depthwise, WideDepthwise},
    fused::Fused,
    layout::{Aligned, Map, Packed},
    mean,
    passes::Pass,
    simd::{self, Scalar, Vectors},
};

/// A map in a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Index of the buffer.
    pub(crate) buffer: usize,
    pub(crate) map: Map,
}

/// A layer, with the buffers that it reads and writes.
#[derive(Debug)]
pub(crate) enum Layer {
    Dense {
        packed: Packed,
        taps: Taps,
        activation: Activation,
        /// Whether the input is the output of a ReLU, and all weights are finite.
        zeros: bool,
        from: Place,
        residual: Option<Place>,
        to: Place,
        /// [`Map::offsets`] of `to`.
        offsets: Vec<u32>,
    },
    Depthwise {
        kernel: Depthwise,
        from: Place,
        to: Place,
    },
    Fused {
        fused: Box<Fused>,
        from: Place,
        residual: Option<Place>,
        /// Index of the buffer for a strip.
        strip: usize,
        to: Place,
    },
    WideDepthwise {
        kernel: WideDepthwise,
        from: Place,
        to: Place,
    },
    Mean {
        from: Place,
        to: Place,
    },
    Pass {
        pass: Pass,
        from: Place,
        other: Option<Place>,
        to: Place,
    },
}

/// What a network gets of the 8-bit samples of an image. By default each sample `x` becomes `x / 127.5 - 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// The number for each sample of each channel of the network.
    pub table: [[f32; 256]; 3],
    /// Whether the channels of the network are blue, green, red.
    pub bgr: bool,
}

impl Default for Samples {
    fn default() -> Self {
        Samples { table: [std::array::from_fn(|sample| scaled(sample as u8)); 3], bgr: false }
    }
}

impl Samples {
    /// The least and the largest number of all tables, and 0, which a border has. NaN if a number is.
    pub(crate) fn range(&self) -> (f64, f64) {
        let all = self.table.iter().flatten().map(|x| f64::from(*x));
        all.fold((0.0, 0.0), |(least, most), x| match x.is_nan() {
            true => (f64::NAN, f64::NAN),
            false => (if x < least { x } else { least }, if x > most { x } else { most }),
        })
    }

    /// Converts the samples of some pixels.
    fn convert(&self, pixels: &[u8], to: &mut [f32]) {
        let order = if self.bgr { [2, 1, 0] } else { [0, 1, 2] };
        for (to, pixel) in to.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
            for ((to, table), from) in to.iter_mut().zip(&self.table).zip(order) {
                *to = table[usize::from(pixel[from])];
            }
        }
    }
}

compiled_twice! {
    /// [`Samples::convert`] for the default, without a table.
    scale, scale_wide, scale_body, (pixels: &[u8], to: &mut [f32])
}

#[inline(always)]
fn scale_body(pixels: &[u8], to: &mut [f32]) {
    for (to, sample) in to.iter_mut().zip(pixels) {
        *to = scaled(*sample);
    }
}

#[inline(always)]
fn scaled(sample: u8) -> f32 {
    f32::from(sample) / 127.5 - 1.0
}

/// A model that these kernels run. Threads can share it; each call uses buffers of its own.
#[derive(Debug)]
pub struct Network {
    layers: Vec<Layer>,
    /// Numbers of each buffer. The first is for the image.
    buffers: Vec<usize>,
    image: Map,
    columns: usize,
    samples: Box<Samples>,
    /// Whether they are the default.
    is_default: bool,
    instructions: Instructions,
    /// Sets of buffers that no call uses.
    spare: Mutex<Vec<Vec<Aligned>>>,
}

impl Network {
    pub(crate) fn new(
        layers: Vec<Layer>,
        buffers: Vec<usize>,
        (image, samples): (Map, Samples),
        columns: usize,
    ) -> Self {
        Network {
            layers,
            buffers,
            image,
            columns,
            is_default: samples == Samples::default(),
            samples: Box::new(samples),
            instructions: Instructions::chosen(),
            spare: Mutex::new(Vec::new()),
        }
    }

    /// Height and width of the images, pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.image.height, self.image.width)
    }

    /// Number of output numbers.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The same network with another instruction set.
    ///
    /// # Panics
    ///
    /// If the processor does not have it: see [`Instructions::available`].
    pub fn with_instructions(mut self, instructions: Instructions) -> Self {
        assert!(Instructions::available().contains(&instructions), "this processor lacks {}", instructions.name());
        self.instructions = instructions;
        self
    }

    /// Number of buffer sets that no call uses. It grows to the largest number of concurrent calls.
    pub fn spare_buffers(&self) -> usize {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Frees the buffer sets that no call uses. A later call makes a new one.
    pub fn free_buffers(&self) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Numbers of all buffers of a call.
    #[cfg(test)]
    pub(crate) fn buffer_numbers(&self) -> usize {
        self.buffers.iter().sum()
    }

    /// The output for an image `[height, width, 3]` of 8-bit samples, red first. [`Samples`] says what the network gets of them.
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

    /// Converts the samples of an image, and writes them into its buffer.
    fn read_image(&self, pixels: &[u8], buffer: &mut Aligned) {
        let map = self.image;
        let data = &mut buffer.slice_mut()[..map.len()];
        map.clear_border(data);
        for (y, line) in pixels.chunks_exact(map.width * 3).enumerate().take(map.height) {
            let start = map.at(y, 0);
            let data = &mut data[start..start + map.width * 3];
            if self.is_default {
                scale(line, data);
            } else {
                self.samples.convert(line, data);
            }
        }
    }

    /// Runs one layer.
    pub(crate) fn step(&self, layer: &Layer, buffers: &mut [Aligned]) {
        let to = layer.to();
        // No input of a layer is in the buffer of its output.
        let mut taken = std::mem::take(&mut buffers[to.buffer]);
        let output = &mut taken.slice_mut()[..to.map.len()];
        let scratch = match layer {
            Layer::Fused { strip, .. } => Some(*strip),
            _ => None,
        };
        let mut strip = scratch.map(|buffer| std::mem::take(&mut buffers[buffer])).unwrap_or_default();
        match self.instructions {
            // SAFETY: the processor has the instructions, as `chosen` and `with_instructions` check.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { step_avx512(layer, buffers, &mut strip, output) },
            // SAFETY: the processor has the instructions, as `chosen` and `with_instructions` check.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { step_avx2(layer, buffers, &mut strip, output) },
            // SAFETY: NEON is part of the architecture.
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => unsafe { step::<simd::Neon>(layer, buffers, &mut strip, output) },
            // SAFETY: plain code needs no special instructions.
            Instructions::Scalar => unsafe { step::<Scalar>(layer, buffers, &mut strip, output) },
        }
        buffers[to.buffer] = taken;
        if let Some(buffer) = scratch {
            buffers[buffer] = strip;
        }
    }
}

impl Layer {
    /// The output.
    pub(crate) fn to(&self) -> Place {
        match self {
            Layer::Dense { to, .. }
            | Layer::Depthwise { to, .. }
            | Layer::WideDepthwise { to, .. }
            | Layer::Fused { to, .. }
            | Layer::Mean { to, .. }
            | Layer::Pass { to, .. } => *to,
        }
    }
}

/// Runs a layer, compiled for AVX-512 with all functions that it inlines.
///
/// # Safety
///
/// The processor has AVX-512F, AVX2, FMA and POPCNT.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,popcnt")]
unsafe fn step_avx512(layer: &Layer, buffers: &[Aligned], strip: &mut Aligned, output: &mut [f32]) {
    // SAFETY: The caller guarantees the instructions.
    unsafe { step::<simd::Avx512>(layer, buffers, strip, output) }
}

/// Runs a layer, compiled for AVX2 with all functions that it inlines.
///
/// # Safety
///
/// The processor has AVX2, FMA and POPCNT.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
unsafe fn step_avx2(layer: &Layer, buffers: &[Aligned], strip: &mut Aligned, output: &mut [f32]) {
    // SAFETY: The caller guarantees the instructions.
    unsafe { step::<simd::Avx2>(layer, buffers, strip, output) }
}

/// Runs a layer.
///
/// # Safety
///
/// The processor has the instructions of `I`.
#[cfg_attr(optimized, inline(always))]
unsafe fn step<I: Vectors>(layer: &Layer, buffers: &[Aligned], strip: &mut Aligned, output: &mut [f32]) {
    let read = |place: &Place| &buffers[place.buffer].slice()[..place.map.len()];
    match layer {
        Layer::Dense { packed, taps, activation, zeros, from, residual, to, offsets } => {
            to.map.clear_border(output);
            let dense = Dense {
                input: read(from),
                from: from.map,
                taps: *taps,
                packed,
                channels: 0..packed.outer,
                to: to.map,
                offsets,
                residual: residual.as_ref().map(read),
                activation: *activation,
                zeros: *zeros,
            };
            // SAFETY: The caller guarantees the instructions.
            unsafe { dense.run::<I>(output) }
        }
        // SAFETY: The caller guarantees the instructions.
        Layer::Depthwise { kernel, from, to } => unsafe {
            kernel.run::<I>((read(from), from.map), 0..to.map.channels, output, to.map);
        },
        Layer::Fused { fused, from, residual, to, .. } => {
            to.map.clear_border(output);
            let strip = &mut strip.slice_mut()[..fused.buffer_len()];
            // SAFETY: The caller guarantees the instructions.
            unsafe {
                fused.run::<I>((read(from), from.map), residual.as_ref().map(read), strip, output, to.map);
            }
        }
        // SAFETY: The caller guarantees the instructions.
        Layer::WideDepthwise { kernel, from, to } => unsafe {
            kernel.run::<I>(read(from), from.map, output, to.map);
        },
        Layer::Pass { pass, from, other, to } => {
            pass.run(read(from), from.map, other.as_ref().map_or(&[], read), output, to.map);
        }
        // SAFETY: The caller guarantees the instructions.
        Layer::Mean { from, to } => unsafe { mean::mean::<I>(read(from), to.map.channels, output) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_becomes_the_number_of_the_table_on_all_ways() {
        let pixels: Vec<u8> = (0..=255).cycle().take(3 * 256).collect();
        let samples = Samples::default();
        let (mut fast, mut of_table, mut plain) = (vec![0.0; 768], vec![0.0; 768], vec![0.0; 768]);
        scale(&pixels, &mut fast);
        scale_body(&pixels, &mut plain);
        samples.convert(&pixels, &mut of_table);
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&fast), bits(&plain)), (bits(&of_table), bits(&of_table)));
        assert_eq!((fast[0], fast[255]), (-1.0, 1.0));
        let blue_first = Samples { bgr: true, ..samples };
        blue_first.convert(&[0, 51, 255], &mut fast[..3]);
        assert_eq!(fast[..3], [1.0, scaled(51), -1.0]);
    }
}
