//! Limits on ONNX files, and the checks of a decoded file that need no shapes.
//!
//! A model is a file that a stranger may have made. [`check`] runs before anything is built from it. The shapes of all
//! tensors are checked later, while they are computed and before anything is allocated: by `shapes` for tract, and by the
//! builder of the kernels.

use std::collections::HashMap;

use super::{
    invalid,
    onnx::{Attribute, Model, Node, Tensor},
};
use crate::{Error, Result};

/// Largest ONNX file, bytes: 1 GiB. ONNX itself ends at 2 GiB. While it is loaded, a file is in memory up to four times.
pub const MAX_MODEL_BYTES: u64 = 1 << 30;
/// Most fields of a file, with those of its messages: 64 for each of [`MAX_NODES`] nodes. Decoded, each takes several hundred
/// bytes at most.
pub(super) const MAX_FIELDS: usize = 1 << 19;
/// Most integers in packed lists. Decoded they take 128 MiB.
pub(super) const MAX_INTEGERS: usize = 1 << 24;
/// Most nodes. Image models have hundreds to a few thousand. The time of tract's optimiser grows with the square of the
/// number: with 20,000 nodes it does not end for minutes.
const MAX_NODES: usize = 1 << 13;
/// Most initializers.
const MAX_INITIALIZERS: usize = 1 << 13;
/// Most dimensions of a tensor. ONNX exports of image models have up to 6.
pub(super) const MAX_RANK: usize = 8;
/// Largest absolute value of an integer that can be a size. The largest image, flattened, has 2,048 x 2,048 x 3 numbers,
/// which is less.
pub(super) const MAX_SIZE: i64 = 1 << 24;
/// Longest list of integers that can be sizes. A list of pads has two for each of [`MAX_RANK`] dimensions; longer lists are
/// data.
pub(super) const MAX_SIZES: usize = 1 << 6;
/// Most positions of a pooling or convolution window: 256 x 256.
const MAX_WINDOW: u64 = 1 << 16;
/// Most numbers of a tensor: 64 channels of the largest image. As float32 they take 1 GiB.
pub(super) const MAX_TENSOR: u64 = 1 << 28;
/// Most bytes of weights, counted once for each node that reads them, because a packed copy is made for each: 2 GiB.
const MAX_WEIGHTS: u64 = 1 << 31;
/// Most memory for constants and for the tensors that are alive at the same time, bytes: 4 GiB.
#[cfg(feature = "tract")]
pub(super) const MAX_MEMORY: u64 = 1 << 32;
/// Most multiply-adds for one image. A ViT-H/14 of 224 x 224 pixels needs 1.7 x 10^11, which is less.
#[cfg(feature = "tract")]
pub(super) const MAX_OPERATIONS: u64 = 1 << 38;

/// An error that names a node and the limit.
pub(super) fn refused(node: &str, reason: impl std::fmt::Display) -> Error {
    let name: String = node.chars().take(100).collect();
    invalid(format!("node {name:?}: {reason}"))
}

/// Checks numbers of nodes and weights, and the integers that can be sizes. Fails with `Model.Invalid`.
pub(super) fn check(model: &Model) -> Result<()> {
    let Some(graph) = &model.graph else { return Ok(()) };
    for (what, count, most) in
        [("nodes", graph.node.len(), MAX_NODES), ("initializers", graph.initializer.len(), MAX_INITIALIZERS)]
    {
        if count > most {
            return Err(invalid(format!("it has {count} {what}; at most {most} are supported")));
        }
    }
    let mut bytes: HashMap<&str, u64> = HashMap::new();
    for tensor in &graph.initializer {
        check_tensor(&tensor.name, tensor)?;
        bytes.insert(&tensor.name, tensor.bytes());
    }
    let mut weights = 0;
    for node in &graph.node {
        check_node(node)?;
        if let (Some(output), Some(value)) = (node.output.first(), node.attribute.iter().find_map(|a| a.t.as_ref())) {
            bytes.insert(output, value.bytes());
        }
        weights += node.input.iter().filter_map(|name| bytes.get(name.as_str())).sum::<u64>();
        if weights > MAX_WEIGHTS {
            let reason = format!("it and the nodes before it read more than {MAX_WEIGHTS} bytes of weights");
            return Err(refused(node.label(), reason));
        }
    }
    Ok(())
}

fn check_tensor(name: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.external_data.is_empty() || tensor.data_location != 0 {
        return Err(refused(name, "its data is in another file; export the model as one file"));
    }
    if tensor.dims.len() > MAX_RANK {
        return Err(refused(
            name,
            format!("it has {} dimensions; at most {MAX_RANK} are supported", tensor.dims.len()),
        ));
    }
    let dims: Option<Vec<u64>> = tensor.dims.iter().map(|d| u64::try_from(*d).ok()).collect();
    let Some(count) = dims.and_then(|dims| volume(&dims)) else {
        return Err(refused(
            name,
            format!("its shape {:?} is negative or has more than {MAX_TENSOR} numbers", tensor.dims),
        ));
    };
    if count <= MAX_SIZES as u64 {
        for value in tensor.integers(MAX_SIZES) {
            check_integer(name, value, OpenEnds::Allowed)?;
        }
    }
    Ok(())
}

/// The number of elements of a tensor. None if there are more than [`MAX_TENSOR`].
pub(super) fn volume(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1u64, |count, dim| count.checked_mul(*dim).filter(|count| *count <= MAX_TENSOR))
}

fn check_node(node: &Node) -> Result<()> {
    if node.op_type.starts_with("TreeEnsemble") {
        return Err(refused(node.label(), "decision trees are not supported"));
    }
    let open_ends = match node.op_type.as_str() {
        "Slice" | "Shape" | "Constant" => OpenEnds::Allowed,
        _ => OpenEnds::Refused,
    };
    for attribute in &node.attribute {
        check_attribute(node, attribute, open_ends)?;
    }
    Ok(())
}

fn check_attribute(node: &Node, attribute: &Attribute, open_ends: OpenEnds) -> Result<()> {
    for value in [attribute.i].iter().chain(&attribute.ints) {
        check_integer(node.label(), *value, open_ends)?;
    }
    let most = match attribute.name.as_str() {
        "kernel_shape" => MAX_WINDOW,
        "shape" => MAX_TENSOR,
        _ => u64::MAX,
    };
    let sizes = attribute.ints.iter().map(|size| size.unsigned_abs());
    if most != u64::MAX && sizes.fold(1, u64::saturating_mul) > most {
        let reason = format!("{} is {:?}; the product may be at most {most}", attribute.name, attribute.ints);
        return Err(refused(node.label(), reason));
    }
    for tensor in attribute.t.iter().chain(&attribute.tensors) {
        check_tensor(node.label(), tensor)?;
    }
    Ok(())
}

/// Whether an integer may stand for "up to the end", as in a `Slice`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenEnds {
    Allowed,
    Refused,
}

/// Fails unless an integer can be a size, a position or, if allowed, an open end.
pub(super) fn check_integer(node: &str, value: i64, open_ends: OpenEnds) -> Result<()> {
    const ENDS: [i64; 6] = [i64::MAX, i64::MIN, -i64::MAX, i32::MAX as i64, i32::MIN as i64, -(i32::MAX as i64)];
    if value.unsigned_abs() <= MAX_SIZE.unsigned_abs() || open_ends == OpenEnds::Allowed && ENDS.contains(&value) {
        return Ok(());
    }
    Err(refused(node, format!("it has the size {value}; sizes may be at most {MAX_SIZE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_do_not_overflow() {
        assert_eq!(volume(&[]), Some(1));
        assert_eq!(volume(&[1 << 14, 1 << 14]), Some(MAX_TENSOR));
        assert_eq!(volume(&[1 << 14, 1 << 14, 2]), None);
        assert_eq!(volume(&[u64::MAX, u64::MAX]), None);
        assert_eq!(volume(&[u64::MAX, 0]), Some(0));
    }

    #[test]
    fn only_a_slice_may_have_an_open_end() {
        assert!(check_integer("a", MAX_SIZE, OpenEnds::Refused).is_ok());
        assert!(check_integer("a", -MAX_SIZE - 1, OpenEnds::Allowed).is_err());
        assert!(check_integer("a", i64::MAX, OpenEnds::Allowed).is_ok());
        assert!(check_integer("a", i64::MIN, OpenEnds::Refused).is_err());
    }
}
