//! Constants and attributes of ONNX nodes, as the kernels need them.

use pomona_kernels::Unsupported;

use super::{
    graph::{Outcome, at},
    onnx::{FLOAT, Node, Tensor},
};

/// Most weights of a layer with those that are added: 1 GiB.
const MAX_PADDED: usize = 1 << 28;

/// A float32 constant of a file.
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) data: Vec<f32>,
}

impl Constant {
    /// None for another type, for data outside of the file, and if shape and data do not match.
    pub(super) fn read(tensor: &Tensor) -> Option<Self> {
        let dims: Vec<usize> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
        if tensor.data_type != FLOAT || !tensor.external_data.is_empty() {
            return None;
        }
        let data: Vec<f32> = if tensor.raw_data.is_empty() {
            tensor.float_data.clone()
        } else {
            tensor.raw_data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        (data.len() == count).then_some(Constant { dims, data })
    }
}

/// The weights of a convolution.
pub(super) struct Weights {
    /// Outputs, inputs, rows and columns.
    pub(super) shape: [usize; 4],
    /// `[outputs, inputs, rows, columns]` row-major.
    pub(super) data: Vec<f32>,
    /// `[outputs]`
    pub(super) bias: Vec<f32>,
}

impl Weights {
    /// Those of the convolution and the batch normalisation of its output, `[scale, shift, mean, variance]`, each `[outputs]`.
    pub(super) fn normalized(mut self, norm: &[Constant; 4], epsilon: f32) -> Outcome<Self> {
        let [outer, rest @ ..] = self.shape;
        if self.bias.len() != outer || norm.iter().any(|constant| constant.data.len() != outer) {
            return Err(Unsupported::new("it does not have a number for each channel"));
        }
        let [scale, shift, mean, variance] = norm.each_ref().map(|constant| &constant.data);
        let each = rest.iter().product::<usize>().max(1);
        for (o, weights) in self.data.chunks_exact_mut(each).enumerate() {
            let factor = f64::from(scale[o]) / (f64::from(variance[o]) + f64::from(epsilon)).sqrt();
            weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
            let bias = (f64::from(self.bias[o]) - f64::from(mean[o])) * factor + f64::from(shift[o]);
            self.bias[o] = bias as f32;
        }
        Ok(self)
    }

    /// With zeros for further inputs, up to `inner`, and for further outputs, up to a multiple of 8.
    pub(super) fn padded(self, inner: usize) -> Outcome<Self> {
        let [outer, given, rows, columns] = self.shape;
        let outputs = outer.next_multiple_of(8);
        if self.bias.len() != outer || inner < given {
            return Err(Unsupported::new("its weights or bias do not have the stated shape"));
        }
        if (outputs, inner) == (outer, given) {
            return Ok(self);
        }
        let (taps, numbers) = (rows * columns, [outputs, inner, rows, columns]);
        let numbers = numbers.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
        let numbers = numbers
            .filter(|numbers| *numbers <= MAX_PADDED)
            .ok_or_else(|| Unsupported::new("it has too many weights"))?;
        let mut data = vec![0.0; numbers];
        for (at, of_pair) in self.data.chunks_exact(taps.max(1)).enumerate() {
            let start = (at / given * inner + at % given) * taps;
            data[start..start + taps].copy_from_slice(of_pair);
        }
        let mut bias = self.bias;
        bias.resize(outputs, 0.0);
        Ok(Weights { shape: [outputs, inner, rows, columns], data, bias })
    }
}

/// A matrix with rows of this length, column by column.
pub(super) fn transposed(data: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| data.iter().skip(column).step_by(columns).copied()).collect()
}

/// An attribute that is a list of integers.
pub(super) fn integers<'a>(node: &'a Node, name: &str) -> Option<&'a [i64]> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.as_slice())
}

/// Pixels between two outputs of a convolution or pooling, the same on both axes.
pub(super) fn stride(node: &Node) -> Outcome<usize> {
    if integers(node, "dilations").is_some_and(|values| values.iter().any(|v| *v != 1)) {
        return Err(at(node, "it is dilated"));
    }
    match integers(node, "strides") {
        None => Ok(1),
        Some([a, b]) if a == b => usize::try_from(*a).map_err(|_| at(node, format!("its stride is {a}"))),
        Some(strides) => Err(at(node, format!("its strides are {strides:?}"))),
    }
}

/// Pixels above, left, below and right.
pub(super) fn padding(node: &Node) -> Outcome<[usize; 4]> {
    if node.attribute.iter().any(|a| a.name == "auto_pad" && a.s.as_slice() != b"NOTSET") {
        return Err(at(node, "it uses auto_pad"));
    }
    match integers(node, "pads") {
        None => Ok([0; 4]),
        Some(&[t, l, b, r]) => Ok([t, l, b, r].map(|pad| usize::try_from(pad).unwrap_or(usize::MAX))),
        Some(pads) => Err(at(node, format!("its padding is {pads:?}"))),
    }
}

pub(super) fn groups(node: &Node) -> Outcome<usize> {
    let group = node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i);
    usize::try_from(group).map_err(|_| at(node, format!("it has {group} groups")))
}

/// An attribute that is a number.
pub(super) fn number(node: &Node, name: &str) -> Option<f32> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.f)
}

/// An attribute that is an integer.
pub(super) fn integer(node: &Node, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}
