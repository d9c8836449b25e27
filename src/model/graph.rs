//! Translates an ONNX graph to a [`Network`] of the kernels.

use std::collections::{HashMap, HashSet};

use pomona_kernels::{Activation, Builder, Convolution, Network, Unsupported, Value};

use super::{
    extractor::MAX_SIDE,
    onnx::{FLOAT, Graph, Model, Node, Tensor},
};

/// Translates a model. Fails with the first node that the kernels do not support.
pub(super) fn network(model: &Model) -> Result<Network, Unsupported> {
    let Some(graph) = &model.graph else { return Err(Unsupported::new("the file has no graph")) };
    Reader::new(graph)?.read()
}

type Outcome<T> = Result<T, Unsupported>;

/// An error that names a node.
fn at(node: &Node, reason: impl std::fmt::Display) -> Unsupported {
    Unsupported::new(format!("node {:?} ({}): {reason}", node.label(), node.op_type))
}

struct Reader<'a> {
    nodes: &'a [Node],
    constants: HashMap<&'a str, &'a Tensor>,
    /// Indices of the nodes that read each value.
    consumers: HashMap<&'a str, Vec<usize>>,
    /// Name of the graph's output.
    output: &'a str,
    builder: Builder,
    values: HashMap<&'a str, Value>,
    /// Indices of the nodes that are part of an earlier layer.
    done: HashSet<usize>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a Graph) -> Outcome<Self> {
        let constants: HashMap<_, _> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, node) in graph.node.iter().enumerate() {
            for name in &node.input {
                consumers.entry(name).or_default().push(i);
            }
        }
        let mut inputs = graph.input.iter().filter(|input| !constants.contains_key(input.name.as_str()));
        let (Some(input), None, [output]) = (inputs.next(), inputs.next(), graph.output.as_slice()) else {
            return Err(Unsupported::new("the graph does not have one input and one output"));
        };
        let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        let shape = tensor.filter(|tensor| tensor.elem_type == FLOAT).and_then(|tensor| tensor.shape.as_ref());
        let Some(shape) = shape else { return Err(Unsupported::new("its input is not a float32 tensor")) };
        let size = |dim: &super::onnx::Dimension| dim.dim_value.and_then(|n| usize::try_from(n).ok());
        let dims: Vec<Option<usize>> = shape.dim.iter().map(size).collect();
        let (height, width, channels_last) = match dims.as_slice() {
            [_, Some(3), Some(h), Some(w)] => (*h, *w, false),
            [_, Some(h), Some(w), Some(3)] => (*h, *w, true),
            _ => return Err(Unsupported::new("its input is not an RGB image of fixed size")),
        };
        if ![height, width].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Err(Unsupported::new(format!("its input is {width} x {height} pixels")));
        }
        let (builder, image) = Builder::new(height, width);
        let (values, done) = (HashMap::new(), HashSet::new());
        let nodes = &graph.node;
        let mut reader = Reader { nodes, constants, consumers, output: &output.name, builder, values, done };
        let name = if channels_last { reader.transposed(&input.name)? } else { &input.name };
        reader.values.insert(name, image);
        Ok(reader)
    }

    /// The name of a channels-last input after its transposition to channels-first, as models of TensorFlow are exported.
    fn transposed(&mut self, input: &str) -> Outcome<&'a str> {
        let [index] = self.consumers.get(input).map_or(&[][..], Vec::as_slice) else {
            return Err(Unsupported::new("its channels-last input is read by more than one node"));
        };
        let node = &self.nodes[*index];
        match (node.op_type.as_str(), integers(node, "perm"), node.output.first()) {
            ("Transpose", Some([0, 3, 1, 2]), Some(output)) => {
                self.done.insert(*index);
                Ok(output)
            }
            _ => Err(at(node, "its channels-last input is not transposed to channels-first")),
        }
    }

    fn read(mut self) -> Outcome<Network> {
        for index in 0..self.nodes.len() {
            if self.done.contains(&index) {
                continue;
            }
            let node = &self.nodes[index];
            match node.op_type.as_str() {
                "Conv" => self.convolution(node)?,
                "GlobalAveragePool" => {
                    let from = self.value(node, 0)?;
                    let to = self.builder.mean(from).map_err(|e| at(node, e))?;
                    self.name(node, to)?;
                }
                // For a map of one pixel, these change only the shape.
                "Flatten" | "Squeeze" | "Reshape" => {
                    let from = self.value(node, 0)?;
                    let [height, width, _] = self.builder.shape(from);
                    if height * width != 1 {
                        return Err(at(node, format!("it reshapes a map of {height} x {width} pixels")));
                    }
                    self.name(node, from)?;
                }
                _ => return Err(at(node, "the kernels do not support this operator here")),
            }
        }
        let output = self.values.get(self.output).copied();
        let output = output.ok_or_else(|| Unsupported::new("no node computes its output"))?;
        self.builder.build(output)
    }

    /// The value of a node's input.
    fn value(&self, node: &Node, input: usize) -> Outcome<Value> {
        let value = node.input.get(input).and_then(|name| self.values.get(name.as_str()));
        value.copied().ok_or_else(|| at(node, "one of its inputs is not computed by the kernels"))
    }

    /// Names a value after a node's output.
    fn name(&mut self, node: &'a Node, value: Value) -> Outcome<()> {
        let name = node.output.first().ok_or_else(|| at(node, "it has no output"))?;
        self.values.insert(name, value);
        Ok(())
    }

    /// A convolution, and the ReLU6 or the residual addition that follows it.
    fn convolution(&mut self, node: &'a Node) -> Outcome<()> {
        let from = self.value(node, 0)?;
        let (weight, bias) = (self.constant(node, 1)?, self.constant(node, 2)?);
        let &[outer, inner, rows, columns] = weight.dims.as_slice() else {
            return Err(at(node, "its weights are not those of a convolution over an image"));
        };
        let mut last = node;
        let relu6 = self.only_consumer(last, "Clip").filter(|clip| self.is_relu6(&self.nodes[*clip]));
        if let Some(clip) = relu6 {
            self.done.insert(clip);
            last = &self.nodes[clip];
        }
        let convolution = Convolution {
            weight: &weight.data,
            shape: [outer, inner, rows, columns],
            bias: &bias.data,
            stride: stride(node)?,
            padding: padding(node)?,
            groups: groups(node)?,
            activation: if relu6.is_some() { Activation::Relu6 } else { Activation::Identity },
        };
        let mut residual = None;
        // The kernels have no residual addition after ReLU6 or after a depthwise convolution.
        if convolution.groups == 1
            && relu6.is_none()
            && let Some(add) = self.only_consumer(last, "Add")
        {
            residual = Some(self.other_term(&self.nodes[add], last)?);
            self.done.insert(add);
            last = &self.nodes[add];
        }
        let output = self.builder.convolution(from, &convolution, residual).map_err(|e| at(node, e))?;
        self.name(last, output)
    }

    /// The index of the node that reads a node's output, if it is the only one and has this operator.
    fn only_consumer(&self, node: &Node, kind: &str) -> Option<usize> {
        let name = node.output.first()?;
        let [consumer] = self.consumers.get(name.as_str())?.as_slice() else { return None };
        (self.nodes[*consumer].op_type == kind && name != self.output).then_some(*consumer)
    }

    /// The other term of an addition to the output of `term`.
    fn other_term(&self, add: &Node, term: &Node) -> Outcome<Value> {
        let output = term.output.first();
        match add.input.as_slice() {
            [a, b] if a != b => self.value(add, usize::from(Some(a) == output)),
            _ => Err(at(add, "it does not add two values")),
        }
    }

    fn is_relu6(&self, clip: &Node) -> bool {
        let bound = |input: usize, name: &str| {
            let attribute = clip.attribute.iter().find(|a| a.name == name).map(|a| a.f);
            attribute.or_else(|| self.constant(clip, input).ok()?.data.first().copied())
        };
        bound(1, "min") == Some(0.0) && bound(2, "max") == Some(6.0)
    }

    fn constant(&self, node: &Node, input: usize) -> Outcome<Constant> {
        let tensor = node.input.get(input).and_then(|name| self.constants.get(name.as_str()));
        let constant = tensor.and_then(|tensor| Constant::read(tensor));
        constant.ok_or_else(|| at(node, format!("its input {input} is not a float32 constant inside the file")))
    }
}

struct Constant {
    dims: Vec<usize>,
    data: Vec<f32>,
}

impl Constant {
    /// None for another type, for data outside of the file, and if shape and data do not match.
    fn read(tensor: &Tensor) -> Option<Self> {
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

fn integers<'a>(node: &'a Node, name: &str) -> Option<&'a [i64]> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.as_slice())
}

fn stride(node: &Node) -> Outcome<usize> {
    if integers(node, "dilations").is_some_and(|values| values.iter().any(|v| *v != 1)) {
        return Err(at(node, "it is dilated"));
    }
    match integers(node, "strides") {
        None => Ok(1),
        Some([a, b]) if a == b => usize::try_from(*a).map_err(|_| at(node, format!("its stride is {a}"))),
        Some(strides) => Err(at(node, format!("its strides are {strides:?}"))),
    }
}

fn padding(node: &Node) -> Outcome<[usize; 4]> {
    if node.attribute.iter().any(|a| a.name == "auto_pad" && a.s.as_slice() != b"NOTSET") {
        return Err(at(node, "it uses auto_pad"));
    }
    match integers(node, "pads") {
        None => Ok([0; 4]),
        Some(&[t, l, b, r]) => Ok([t, l, b, r].map(|pad| usize::try_from(pad).unwrap_or(usize::MAX))),
        Some(pads) => Err(at(node, format!("its padding is {pads:?}"))),
    }
}

fn groups(node: &Node) -> Outcome<usize> {
    let group = node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i);
    usize::try_from(group).map_err(|_| at(node, format!("it has {group} groups")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pomona_kernels::Instructions;
    use prost::Message;

    use super::*;

    fn read(onnx: &'static [u8]) -> Outcome<Network> {
        network(&Model::decode(Bytes::from_static(onnx)).unwrap())
    }

    fn embedded() -> Network {
        read(include_bytes!("../../models/mobilenetv2_1.00_224.onnx")).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn the_whole_model_gives_the_same_bits_with_all_instructions() {
        let mut random = fastrand::Rng::with_seed(5);
        let pixels: Vec<u8> = (0..224 * 224 * 3).map(|_| random.u8(..)).collect();
        let outputs: Vec<_> = Instructions::available()
            .into_iter()
            .map(|i| bits(&embedded().with_instructions(i).run(&pixels)))
            .collect();
        assert_eq!(outputs[0].len(), 1_280);
        assert!(outputs.iter().all(|output| *output == outputs[0]));
    }

    #[test]
    fn buffers_are_used_again_and_hold_nothing_of_the_last_image() {
        let network = embedded();
        let images: Vec<Vec<u8>> = (0..3u8).map(|i| vec![i * 100; 224 * 224 * 3]).collect();
        let first: Vec<_> = images.iter().map(|image| bits(&network.run(image))).collect();
        let again: Vec<_> = images.iter().rev().map(|image| bits(&network.run(image))).collect();
        assert_eq!(first, again.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(network.spare_buffers(), 1);
    }

    #[test]
    fn an_unsupported_model_names_the_node() {
        let why = |onnx| read(onnx).map(drop).unwrap_err().to_string();
        assert_eq!(read(include_bytes!("../../tests/models/tiny.onnx")).map(drop), Ok(()));
        for (onnx, reason) in [
            (&include_bytes!("../../tests/models/log.onnx")[..], "(GlobalAveragePool): it is the mean of 3 channels"),
            (include_bytes!("../../tests/models/large.onnx"), "(Mul)"),
            (include_bytes!("../../tests/models/two-inputs.onnx"), "one input and one output"),
            (include_bytes!("../../tests/models/any-size.onnx"), "RGB image of fixed size"),
            (include_bytes!("../../tests/models/map.onnx"), "not a vector"),
        ] {
            assert!(why(onnx).contains(reason), "{}", why(onnx));
        }
    }
}
