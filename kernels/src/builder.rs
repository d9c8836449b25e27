//! Builds a [`Network`](crate::Network) layer by layer: shapes and padding.

use std::{collections::HashSet, fmt};

use crate::{
    Samples,
    assemble::Step,
    conv::Taps,
    depthwise::{Depthwise, WideDepthwise},
    layout::{Map, Packed},
    passes::Pass,
    simd::LANES,
};

/// Widest padding of a convolution on one side, pixels.
const MAX_PADDING: usize = 8;
/// Most numbers of a map with its border, 1 GiB. Positions then fit into `u32`, and products of sizes into `usize`.
const MAX_MAP: usize = 1 << 28;
/// Most numbers of all weights, positions and buffers together: 2 GiB.
pub(crate) const MAX_NUMBERS: usize = 1 << 29;
/// Most multiply-adds for an image.
const MAX_OPERATIONS: u64 = 1 << 38;

/// The reason why the kernels cannot run a layer or a model, such as "it has 3 output channels, not a multiple of 8".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(String);

impl Unsupported {
    /// The reason completes "the kernels cannot run it: ...".
    pub fn new(reason: impl Into<String>) -> Self {
        Unsupported(reason.into())
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

pub(crate) fn unsupported<T>(reason: impl Into<String>) -> Result<T, Unsupported> {
    Err(Unsupported::new(reason))
}

/// A value of a network under construction: the image, or the output of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value(pub(crate) usize);

/// What is applied to each output of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
}

/// A convolution, in the terms of ONNX.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a> {
    /// `[outputs, inputs / groups, rows, columns]` row-major.
    pub weight: &'a [f32],
    /// Outputs, inputs / groups, rows and columns.
    pub shape: [usize; 4],
    /// `[outputs]`: added to the sums.
    pub bias: &'a [f32],
    /// Pixels between two outputs, on both axes.
    pub stride: usize,
    /// Zero pixels above, left, below and right of the input.
    pub padding: [usize; 4],
    /// 1 for a dense convolution, the number of channels for a depthwise one.
    pub groups: usize,
    /// The activation of the output, after a residual is added.
    pub activation: Activation,
}

/// Builds a [`Network`](crate::Network).
#[derive(Debug)]
pub struct Builder {
    /// The map of each value; the first is the image.
    pub(crate) values: Vec<Map>,
    pub(crate) layers: Vec<Step>,
    /// Numbers of values that several layers read, so that none may give them a border.
    shared: HashSet<usize>,
    pub(crate) samples: Samples,
    /// Numbers of the weights and positions so far.
    pub(crate) numbers: usize,
    /// Multiply-adds of the layers so far.
    operations: u64,
}

impl Builder {
    /// A network for images of this size, and the value of the image: `[height, width, 3]`, samples as `x / 127.5 - 1`.
    pub fn new(height: usize, width: usize) -> (Self, Value) {
        let values = vec![Map::dense(height, width, 3)];
        let (shared, samples) = (HashSet::new(), Samples::default());
        (Builder { values, layers: Vec::new(), shared, samples, numbers: 0, operations: 0 }, Value(0))
    }

    /// The same network for other numbers of the samples of an image.
    #[must_use]
    pub fn with_samples(mut self, samples: Samples) -> Self {
        self.samples = samples;
        self
    }

    /// Says that several layers read a value. A convolution that pads it reads a copy.
    pub fn share(&mut self, value: Value) {
        self.shared.insert(value.0);
    }

    /// Height, width and channels of a value.
    pub fn shape(&self, value: Value) -> [usize; 3] {
        let map = self.values[value.0];
        [map.height, map.width, map.channels]
    }

    /// Adds a value; returns its number.
    pub(crate) fn add(&mut self, map: Map) -> usize {
        self.values.push(map);
        self.values.len() - 1
    }

    /// Adds a convolution, and the addition of `residual`, which has the shape of the output.
    ///
    /// Fails if the kernels do not support the convolution. They support dense and depthwise convolutions whose number of output
    /// channels is a multiple of 8. A value that is padded must have one reader, or be [shared](Builder::share). A depthwise
    /// convolution has no residual. A map has at most 2^28 numbers; the network takes at most 2^29 numbers and 2^38
    /// multiply-adds. Nothing larger is allocated.
    pub fn convolution(
        &mut self,
        input: Value,
        convolution: &Convolution<'_>,
        residual: Option<Value>,
    ) -> Result<Value, Unsupported> {
        let [outer, inner, rows, columns] = convolution.shape;
        let map = self.output_map(input, convolution)?;
        self.count(convolution, map)?;
        let input = self.padded(input, convolution.padding)?;
        let channels = self.values[input.0].channels;
        let step = if convolution.groups == 1 && inner == channels {
            if let Some(residual) = residual
                && self.values[residual.0] != map
            {
                return unsupported("its residual has another shape, or is padded by another layer");
            }
            let packed = pack(convolution)?;
            let taps = Taps { rows, run: columns * inner, stride: convolution.stride };
            let (from, residual) = (input.0, residual.map(|value| value.0));
            let is_rectified = self.layers.iter().any(|layer| layer.to() == from && layer.is_rectified());
            let zeros = is_rectified && convolution.weight.iter().all(|weight| weight.is_finite());
            let activation = convolution.activation;
            Step::Dense { packed, taps, activation, zeros, from, residual, to: self.add(map) }
        } else if convolution.groups == channels && inner == 1 && outer == channels {
            if residual.is_some() {
                return unsupported("it is a depthwise convolution with a residual");
            }
            self.depthwise(input, convolution, map)?
        } else {
            return unsupported(format!(
                "it has {} groups of {rows} x {columns} over {channels} channels, neither dense nor depthwise",
                convolution.groups
            ));
        };
        let output = step.to();
        self.layers.push(step);
        Ok(Value(output))
    }

    /// The shape of a convolution's output.
    fn output_map(&self, input: Value, convolution: &Convolution<'_>) -> Result<Map, Unsupported> {
        let [outer, inner, rows, columns] = convolution.shape;
        let (map, pads, stride) = (self.values[input.0], convolution.padding, convolution.stride);
        check_map(map)?;
        if stride == 0 || pads.iter().any(|pad| *pad > MAX_PADDING) {
            return unsupported(format!("it has stride {stride} and padding {pads:?}"));
        }
        let weights = [outer, inner, rows, columns].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if weights != Some(convolution.weight.len()) || convolution.bias.len() != outer {
            return unsupported("its weights or bias do not have the stated shape");
        }
        let size = |length: usize, pad: usize, kernel: usize| Some((length + pad).checked_sub(kernel)? / stride + 1);
        match (size(map.height, pads[0] + pads[2], rows), size(map.width, pads[1] + pads[3], columns)) {
            (Some(height), Some(width)) => check_map(Map::dense(height, width, outer)),
            _ => unsupported(format!("its kernel of {rows} x {columns} is larger than its input")),
        }
    }

    /// Adds the weights, positions and operations of a convolution to those of the network. Fails if there are too many.
    fn count(&mut self, convolution: &Convolution<'_>, output: Map) -> Result<(), Unsupported> {
        let pixels = output.height * output.width;
        let weights = convolution.weight.len();
        self.numbers = self.numbers.saturating_add(weights).saturating_add(pixels);
        if self.numbers > MAX_NUMBERS {
            return unsupported(format!("it and the layers before it have more than {MAX_NUMBERS} weights and pixels"));
        }
        self.operate((pixels as u64).saturating_mul(weights as u64))
    }

    /// Adds operations to those of the network. Fails if there are too many.
    pub(crate) fn operate(&mut self, operations: u64) -> Result<(), Unsupported> {
        self.operations = self.operations.saturating_add(operations);
        if self.operations > MAX_OPERATIONS {
            return unsupported(format!("it and the layers before it need more than {MAX_OPERATIONS} multiply-adds"));
        }
        Ok(())
    }

    fn depthwise(&mut self, input: Value, convolution: &Convolution<'_>, map: Map) -> Result<Step, Unsupported> {
        let &Convolution { shape: [outer, _, rows, columns], bias, stride, activation, .. } = convolution;
        let weight = |tap: usize, c: usize| convolution.weight[c * rows * columns + tap];
        let refused = || Unsupported::new(channels_or_stride(outer, stride));
        let from = input.0;
        if (rows, columns) == (3, 3) && stride <= 2 {
            let kernel = Depthwise::new(bias, stride, activation, weight).ok_or_else(refused)?;
            return Ok(Step::Depthwise { kernel, from, to: self.add(map) });
        }
        let kernel = WideDepthwise::new((bias, [rows, columns]), stride, activation, weight).ok_or_else(refused)?;
        Ok(Step::WideDepthwise { kernel, from, to: self.add(map) })
    }

    /// A value with the border of its reader's padding: itself, or a copy if others read it, or if the layer that computes it
    /// writes no border.
    fn padded(&mut self, value: Value, border: [usize; 4]) -> Result<Value, Unsupported> {
        if border == [0; 4] {
            return Ok(value);
        }
        let Map { border: given, .. } = self.values[value.0];
        if given != [0; 4]
            || self.layers.iter().any(|layer| layer.inputs().contains(&value.0)) && !self.shared.contains(&value.0)
        {
            return unsupported("it pads a value that another layer reads");
        }
        let writes_border = |layer: &Step| matches!(layer, Step::Dense { to, .. } if *to == value.0);
        if !self.shared.contains(&value.0) && (value.0 == 0 || self.layers.iter().any(writes_border)) {
            self.values[value.0].border = border;
            return Ok(value);
        }
        self.pass(Pass::Copy, value, None, Map { border, ..self.values[value.0] })
    }
}

/// A map, if it has at most [`MAX_MAP`] numbers with the widest border.
pub(crate) fn check_map(map: Map) -> Result<Map, Unsupported> {
    let side = |length: usize| length.checked_add(2 * MAX_PADDING);
    let numbers = side(map.height).and_then(|rows| rows.checked_mul(side(map.width)?)?.checked_mul(map.channels));
    match numbers {
        Some(numbers) if numbers <= MAX_MAP => Ok(map),
        _ => {
            unsupported(format!("a map of {} x {} with {} channels is too large", map.width, map.height, map.channels))
        }
    }
}

/// The reason why a convolution cannot be packed.
fn channels_or_stride(channels: usize, stride: usize) -> String {
    if channels.is_multiple_of(LANES) {
        format!("it has stride {stride}")
    } else {
        format!("it has {channels} output channels, not a multiple of {LANES}")
    }
}

/// The packed weights of a dense convolution.
fn pack(convolution: &Convolution<'_>) -> Result<Packed, Unsupported> {
    let [outer, inner, rows, columns] = convolution.shape;
    let weight = convolution.weight;
    let packed = if (rows, columns) == (1, 1) {
        // Most weights of a network are pointwise. The divisions below would dominate the time to build it.
        Packed::new(inner, convolution.bias, |k, o| weight[o * inner + k])
    } else {
        Packed::new(inner * rows * columns, convolution.bias, |k, o| {
            let (c, rest) = (k % inner, k / inner);
            weight[((o * inner + c) * rows + rest / columns) * columns + rest % columns]
        })
    };
    packed.ok_or_else(|| Unsupported::new(channels_or_stride(outer, convolution.stride)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convolution<'a>(weight: &'a [f32], shape: [usize; 4], bias: &'a [f32]) -> Convolution<'a> {
        Convolution { weight, shape, bias, stride: 1, padding: [0; 4], groups: 1, activation: Activation::Identity }
    }

    #[test]
    fn networks_that_are_too_large_fail_before_anything_is_allocated() {
        let (weight, bias) = (vec![0.0; 8 * 3], [0.0; 8]);
        for (height, width) in [(1 << 20, 1 << 20), (usize::MAX, 1), (usize::MAX / 2, usize::MAX / 2)] {
            let (mut builder, image) = Builder::new(height, width);
            let failed = builder.convolution(image, &convolution(&weight, [8, 3, 1, 1], &bias), None);
            assert!(failed.unwrap_err().to_string().contains("too large"), "{height} x {width}");
        }
        // 2^22 pixels with 8 channels have 2^25 numbers. No buffer is free while all maps are read at the end.
        let (mut builder, image) = Builder::new(2_048, 2_048);
        let mut failed = None;
        for _ in 0..200 {
            let added = builder.convolution(image, &convolution(&weight, [8, 3, 1, 1], &bias), None);
            failed = failed.or(added.err());
        }
        assert!(failed.unwrap().to_string().contains("weights and pixels"));
    }

    #[test]
    fn unsupported_convolutions_fail_with_the_reason() {
        let weight = vec![0.0; 8 * 3 * 9];
        let bias = [0.0; 8];
        let fails = |change: &dyn Fn(&mut Convolution<'_>)| {
            let (mut builder, image) = Builder::new(5, 5);
            let mut layer = convolution(&weight, [8, 3, 3, 3], &bias);
            change(&mut layer);
            builder.convolution(image, &layer, None).map(drop).map_err(|e| e.to_string())
        };
        assert_eq!(fails(&|_| {}), Ok(()));
        type Change<'a> = &'a dyn Fn(&mut Convolution<'_>);
        let cases: [(&str, Change<'_>); 7] = [
            ("stride 0", &|l| l.stride = 0),
            ("padding [9, 0, 0, 0]", &|l| l.padding = [9, 0, 0, 0]),
            ("do not have the stated shape", &|l| l.bias = &[0.0; 3]),
            ("do not have the stated shape", &|l| l.shape = [8, 3, 3, usize::MAX]),
            ("2 groups", &|l| l.groups = 2),
            ("larger than its input", &|l| (l.shape, l.weight) = ([8, 1, 9, 3], &[0.0; 216])),
            ("not a multiple of 8", &|l| (l.shape, l.weight, l.bias) = ([3, 3, 1, 1], &[0.0; 9], &[0.0; 3])),
        ];
        for (reason, change) in cases {
            let found = fails(change);
            assert!(found.as_ref().is_err_and(|e| e.contains(reason)), "{reason}: {found:?}");
        }
    }

    #[test]
    fn a_padded_value_has_one_reader() {
        let (weight, bias) = (vec![0.0; 8 * 3 * 9], [0.0; 8]);
        let padded = Convolution { padding: [1; 4], ..convolution(&weight, [8, 3, 3, 3], &bias) };
        let (mut builder, image) = Builder::new(5, 5);
        builder.convolution(image, &padded, None).unwrap();
        assert!(builder.convolution(image, &padded, None).is_err());

        let (mut builder, image) = Builder::new(5, 5);
        let first = builder.convolution(image, &padded, None).unwrap();
        // The image is padded, and then read without padding.
        let output = builder.mean(first).unwrap();
        builder.convolution(image, &convolution(&weight[..24], [8, 3, 1, 1], &bias), None).unwrap();
        assert!(builder.build(output).is_err());
    }
}
