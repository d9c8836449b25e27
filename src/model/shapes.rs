//! The sizes of all tensors of a model, computed before tract allocates any of them.
//!
//! tract's own analysis evaluates operators of constants as soon as it knows their inputs, whatever the size of the output.
//! [`check`] walks the graph from the input to the output. For each node it first asks the operator for its shapes alone,
//! compares them with the limits, and only then lets tract evaluate the node. It repeats this until nothing new is found, so
//! tract's analysis afterwards evaluates nothing that was not checked. Some operators give their shapes only when tract
//! translates them; [`check_typed`] checks all tensors again at that point.

use std::collections::HashMap;

use tract_onnx::{prelude::*, tract_core::internal::DimLike, tract_hir::infer::Factoid};

use super::{
    invalid,
    limits::{MAX_MEMORY, MAX_OPERATIONS, MAX_RANK, MAX_SIZES, MAX_TENSOR, OpenEnds, check_integer, refused, volume},
    onnx::{Graph, Node},
};
use crate::Result;

/// Operators whose integer inputs are sizes, so that no open end is allowed in them.
const SIZED: [&str; 12] = [
    "CenterCropPad",
    "ConstantOfShape",
    "Expand",
    "OneHot",
    "Pad",
    "Range",
    "Reshape",
    "Resize",
    "Split",
    "Tile",
    "TopK",
    "Upsample",
];
/// Most walks through the graph. One is enough unless a shape follows from the shapes of later nodes.
const MAX_ROUNDS: usize = 8;

type Facts = TVec<InferenceFact>;
type Nodes<'a> = HashMap<&'a str, &'a Node>;

/// The dimensions and the bytes of a tensor.
#[derive(Clone, Debug, Default)]
struct Size {
    dims: Vec<u64>,
    count: u64,
    bytes: u64,
}

/// Computes the facts of all nodes that the output depends on. Fails with `Model.Invalid` at the first node that exceeds a
/// limit.
pub(super) fn check(model: &mut InferenceModel, graph: &Graph) -> Result<()> {
    let nodes = by_name(graph)?;
    let order = model.eval_order().map_err(|e| invalid("its nodes form a loop").source(format!("{e:#}")))?;
    for _ in 0..MAX_ROUNDS {
        let (mut usage, mut changed) = (Usage::default(), false);
        for id in &order {
            changed |= check_node(model, *id, &nodes, &mut usage)?;
        }
        if !changed {
            return Ok(());
        }
    }
    Err(invalid(format!("its shapes are not found in {MAX_ROUNDS} rounds")))
}

/// The nodes by their names in tract.
fn by_name(graph: &Graph) -> Result<Nodes<'_>> {
    let mut nodes = HashMap::new();
    for node in &graph.node {
        if node.label().is_empty() || nodes.insert(node.label(), node).is_some() {
            return Err(refused(node.label(), "it has no name, or another node has the same name"));
        }
    }
    Ok(nodes)
}

/// Computes the facts of a node. Returns whether something new is known.
fn check_node(model: &mut InferenceModel, id: usize, nodes: &Nodes<'_>, usage: &mut Usage) -> Result<bool> {
    let name = model.node(id).name.clone();
    let node = nodes.get(name.as_str()).copied();
    let failed = |e: TractError| refused(&name, "its shape cannot be computed").source(format!("{e:#}"));
    let inputs: Facts = model.node_input_facts(id).map_err(failed)?.into_iter().cloned().collect();
    let outputs: Facts = model.node_output_facts(id).map_err(failed)?.into_iter().cloned().collect();
    if let Some(node) = node.filter(|node| SIZED.contains(&node.op_type.as_str())) {
        check_sizes(node, &inputs)?;
    }
    let mut op = model.node(id).op.clone();
    let (_, sized, _) = op.infer_facts(inputs.iter().collect(), outputs.iter().collect(), tvec!()).map_err(failed)?;
    let is_input = model.input_outlets().is_ok_and(|outlets| outlets.iter().any(|outlet| outlet.node == id));
    let is_constant = !is_input && inputs.iter().all(|fact| fact.value.is_concrete());
    let read: Vec<OutletId> = model.node(id).inputs.to_vec();
    let successors = model.node(id).outputs.iter().map(|output| output.successors.len());
    let mut written = Vec::new();
    for (fact, readers) in sized.iter().zip(successors) {
        let dims = fact.shape.concretize().and_then(|shape| {
            shape.iter().map(|dim| dim.to_usize().ok().map(|dim| dim as u64)).collect::<Option<Vec<u64>>>()
        });
        let size = match dims {
            Some(dims) => size(&name, dims, fact.datum_type.concretize())?,
            // tract would evaluate it, and only then know its size.
            None if is_constant => return Err(refused(&name, "the shape of a constant is not fixed by the file")),
            None => Size::default(),
        };
        written.push((size, readers));
    }
    usage.add(Step { name: &name, node, id, read: &read, is_constant, written })?;
    let (inputs, outputs, _) = op.infer(inputs.iter().collect(), outputs.iter().collect(), tvec!()).map_err(failed)?;
    store(model, id, inputs, outputs).map_err(failed)
}

/// Checks the sizes of all tensors of a translated model. Fails with `Model.Invalid`, also if a size is not fixed.
pub(super) fn check_typed(model: &TypedModel, graph: &Graph) -> Result<()> {
    let nodes = by_name(graph)?;
    let order = model.eval_order().map_err(|e| invalid("its nodes form a loop").source(format!("{e:#}")))?;
    let mut usage = Usage::default();
    for id in order {
        let tract = model.node(id);
        let is_constant = tract.outputs.iter().all(|output| output.fact.konst.is_some());
        let mut written = Vec::new();
        for output in &tract.outputs {
            let dims = output.fact.shape.as_concrete().map(|dims| dims.iter().map(|dim| *dim as u64).collect());
            let Some(dims) = dims else {
                return Err(refused(&tract.name, "the shape of its output is not fixed by the file"));
            };
            written.push((size(&tract.name, dims, Some(output.fact.datum_type))?, output.successors.len()));
        }
        let (name, node) = (tract.name.as_str(), nodes.get(tract.name.as_str()).copied());
        usage.add(Step { name, node, id, read: &tract.inputs, is_constant, written })?;
    }
    Ok(())
}

/// Writes the facts of a node into the model. Returns whether one of them is new.
fn store(model: &mut InferenceModel, id: usize, inputs: Facts, outputs: Facts) -> TractResult<bool> {
    let outlets: Vec<OutletId> = model.node(id).inputs.to_vec();
    let outlets = outlets.into_iter().chain((0..outputs.len()).map(|slot| OutletId::new(id, slot)));
    let mut changed = false;
    for (outlet, fact) in outlets.zip(inputs.into_iter().chain(outputs)) {
        let known = model.outlet_fact(outlet)?;
        let unified = known.unify(&fact)?;
        if unified != *known {
            changed = true;
            model.set_outlet_fact(outlet, unified)?;
        }
    }
    Ok(changed)
}

/// Checks the integers that a node takes as sizes, as far as they are known.
fn check_sizes(node: &Node, inputs: &Facts) -> Result<()> {
    let known = inputs.iter().filter_map(|fact| fact.value.concretize());
    for tensor in known.filter(|tensor| !tensor.datum_type().is_float() && tensor.len() <= MAX_SIZES) {
        let Ok(integers) = tensor.cast_to::<i64>() else { continue };
        let Ok(view) = integers.to_plain_array_view::<i64>() else { continue };
        for value in view.iter() {
            check_integer(node.label(), *value, OpenEnds::Refused)?;
        }
    }
    Ok(())
}

/// The size of a tensor. Fails if it is too large.
fn size(name: &str, dims: Vec<u64>, element: Option<DatumType>) -> Result<Size> {
    if dims.len() > MAX_RANK {
        return Err(refused(
            name,
            format!("its output has {} dimensions; at most {MAX_RANK} are supported", dims.len()),
        ));
    }
    let Some(count) = volume(&dims) else {
        return Err(refused(name, format!("its output has the shape {dims:?}, more than {MAX_TENSOR} numbers")));
    };
    Ok(Size { bytes: count * element.map_or(8, |element| element.size_of()) as u64, dims, count })
}

/// A node with the tensors that it reads, and the size and the number of readers of each tensor that it writes.
struct Step<'a> {
    name: &'a str,
    node: Option<&'a Node>,
    id: usize,
    read: &'a [OutletId],
    is_constant: bool,
    written: Vec<(Size, usize)>,
}

/// What the nodes so far need.
#[derive(Default)]
struct Usage {
    /// Bytes of constants.
    constants: u64,
    /// Bytes of tensors that later nodes read.
    alive: u64,
    operations: u64,
    sizes: HashMap<OutletId, Size>,
    /// Number of nodes that have yet to read a tensor.
    readers: HashMap<OutletId, usize>,
}

impl Usage {
    /// Adds a node, and frees the tensors that no later node reads.
    fn add(&mut self, step: Step<'_>) -> Result<()> {
        let Step { name, node, id, read, is_constant, written } = step;
        let inputs: Vec<Size> = read.iter().map(|outlet| self.sizes.get(outlet).cloned().unwrap_or_default()).collect();
        let count = written.iter().map(|(size, _)| size.count).sum();
        let outlets: Vec<OutletId> = (0..written.len()).map(|slot| OutletId::new(id, slot)).collect();
        for (outlet, (size, readers)) in outlets.iter().zip(written) {
            if is_constant {
                self.constants += size.bytes;
            } else {
                self.alive += size.bytes;
                self.readers.insert(*outlet, readers);
            }
            self.sizes.insert(*outlet, size);
        }
        let work = Work::of(node, &inputs, count);
        self.operations = self.operations.saturating_add(work.operations);
        if self.operations > MAX_OPERATIONS {
            let reason = format!("it and the nodes before it need more than {MAX_OPERATIONS} operations for an image");
            return Err(refused(name, reason));
        }
        let memory = self.constants.saturating_add(self.alive).saturating_add(work.scratch_bytes);
        if memory > MAX_MEMORY {
            return Err(refused(
                name,
                format!("it needs {memory} bytes of memory; at most {MAX_MEMORY} are supported"),
            ));
        }
        for outlet in read {
            if let Some(left) = self.readers.get_mut(outlet) {
                *left = left.saturating_sub(1);
            }
        }
        for outlet in outlets.iter().chain(read) {
            if self.readers.get(outlet) == Some(&0) {
                self.readers.remove(outlet);
                self.alive = self.alive.saturating_sub(self.sizes.get(outlet).map_or(0, |size| size.bytes));
            }
        }
        Ok(())
    }
}

/// An upper bound of what a node needs beside its inputs and outputs.
struct Work {
    operations: u64,
    scratch_bytes: u64,
}

impl Work {
    /// `written` is the number of elements of the outputs.
    fn of(node: Option<&Node>, inputs: &[Size], written: u64) -> Work {
        let read: u64 = inputs.iter().map(|size| size.count).sum();
        let kind = node.map_or("", |node| node.op_type.as_str());
        let attribute = |name: &str| node.and_then(|node| node.attribute.iter().find(|a| a.name == name));
        let longest = |inputs: &[Size]| inputs.iter().flat_map(|size| size.dims.iter().copied()).max().unwrap_or(1);
        let mut scratch = 0;
        let each = if kind.contains("Conv") {
            let weights = inputs.iter().skip(1).filter(|size| size.dims.len() > 2).max_by_key(|size| size.count);
            let (outer, depth) = weights.map_or((1, 1), |size| (size.dims[0].max(1), size.count / size.dims[0].max(1)));
            let groups = attribute("group").map_or(1, |a| a.i.unsigned_abs()).max(1);
            // tract writes one number for each pixel and each weight of one output channel, so that a product remains.
            let pixels = if kind == "ConvTranspose" { inputs.first().map_or(0, |size| size.count) } else { written };
            scratch = (pixels / outer).saturating_mul(depth).saturating_mul(groups);
            pixels.saturating_mul(depth).div_ceil(written.max(1))
        } else if kind.contains("MatMul") || kind == "Gemm" || kind == "Einsum" {
            longest(inputs.get(..1).unwrap_or_default())
        } else if matches!(kind, "LSTM" | "GRU" | "RNN") {
            longest(inputs).saturating_mul(8)
        } else {
            attribute("kernel_shape")
                .map_or(1, |a| a.ints.iter().map(|d| d.unsigned_abs()).fold(1, u64::saturating_mul))
        };
        let operations = written.saturating_mul(each).saturating_add(read).saturating_add(written);
        Work { operations, scratch_bytes: scratch.saturating_mul(4) }
    }
}
