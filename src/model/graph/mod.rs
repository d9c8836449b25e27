//! Translates an ONNX graph to a [`Network`] of the kernels.

mod arithmetic;

use std::collections::{HashMap, HashSet};

use pomona_kernels::{Activation, Builder, Convolution, Network, Samples, Unsupported, Value};

use super::{
    attributes::{Constant, Weights, groups, integer, integers, number, padding, stride, transposed},
    extractor::MAX_SIDE,
    onnx::{FLOAT, Graph, Model, Node, Tensor},
};

/// Translates a model that gets these numbers of an image, which has this size if the model takes any. Fails with the first node
/// that the kernels do not support.
pub(super) fn network(model: &Model, samples: Samples, size: Option<[usize; 2]>) -> Result<Network, Unsupported> {
    let Some(graph) = &model.graph else { return Err(Unsupported::new("the file has no graph")) };
    Reader::new(graph, samples, size)?.read()
}

pub(super) type Outcome<T> = Result<T, Unsupported>;

/// An error that names a node.
pub(super) fn at(node: &Node, reason: impl std::fmt::Display) -> Unsupported {
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
    /// Channels of each value in the model. The kernels compute a multiple of 8; the others are 0, or do not count.
    channels: HashMap<Value, usize>,
    /// Indices of the nodes that are part of an earlier layer.
    done: HashSet<usize>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a Graph, samples: Samples, any: Option<[usize; 2]>) -> Outcome<Self> {
        let mut constants: HashMap<_, _> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut done = HashSet::new();
        for (i, node) in graph.node.iter().enumerate().filter(|(_, node)| node.op_type == "Constant") {
            let tensor = node.attribute.iter().find(|a| a.name == "value").and_then(|a| a.t.as_ref());
            if let (Some(tensor), Some(name)) = (tensor, node.output.first()) {
                constants.insert(name, tensor);
                done.insert(i);
            }
        }
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
            [_, Some(3) | None, None, None] if let Some([h, w]) = any => (h, w, false),
            _ => return Err(Unsupported::new("its input is not an RGB image of fixed size")),
        };
        if ![height, width].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Err(Unsupported::new(format!("its input is {width} x {height} pixels")));
        }
        let (builder, image) = Builder::new(height, width);
        let builder = builder.with_samples(samples);
        let (values, channels, nodes) = (HashMap::new(), HashMap::new(), &graph.node);
        let mut reader = Reader { nodes, constants, consumers, output: &output.name, builder, values, channels, done };
        let name = if channels_last { reader.transposed(&input.name)? } else { &input.name };
        reader.set(name, image, 3);
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
                "Gemm" | "MatMul" => self.product(node)?,
                "Relu" | "Clip" | "HardSwish" | "HardSigmoid" | "Sigmoid" => self.function(node)?,
                "Add" | "Sub" | "Mul" | "Div" => self.arithmetic(node)?,
                "BatchNormalization" => self.normalization(node)?,
                "Concat" => self.concat(node)?,
                "MaxPool" => self.maximum(node)?,
                "AveragePool" => self.average(node)?,
                "GlobalAveragePool" | "ReduceMean" => self.mean(node)?,
                // For a map of one pixel, these change only the shape.
                "Flatten" | "Squeeze" | "Reshape" => {
                    let from = self.value(node, 0)?;
                    let [height, width, _] = self.builder.shape(from);
                    if height * width != 1 {
                        return Err(at(node, format!("it reshapes a map of {height} x {width} pixels")));
                    }
                    self.name(node, from, self.channels(from))?;
                }
                "Identity" | "Dropout" => {
                    let from = self.value(node, 0)?;
                    self.name(node, from, self.channels(from))?;
                }
                _ => return Err(at(node, "the kernels do not support this operator here")),
            }
        }
        let output = self.values.get(self.output).copied();
        let output = output.ok_or_else(|| Unsupported::new("no node computes its output"))?;
        let columns = self.channels(output);
        let [height, width, _] = self.builder.shape(output);
        let output = if height * width == 1 { output } else { self.builder.mean(output)? };
        self.builder.build_first(output, columns)
    }

    /// The value of a node's input.
    fn value(&self, node: &Node, input: usize) -> Outcome<Value> {
        let value = node.input.get(input).and_then(|name| self.values.get(name.as_str()));
        value.copied().ok_or_else(|| at(node, "one of its inputs is not computed by the kernels"))
    }

    /// Channels of a value in the model.
    fn channels(&self, value: Value) -> usize {
        self.channels.get(&value).copied().unwrap_or_default()
    }

    /// Names a value after a node's output.
    fn name(&mut self, node: &'a Node, value: Value, channels: usize) -> Outcome<()> {
        let name = node.output.first().ok_or_else(|| at(node, "it has no output"))?;
        self.set(name, value, channels);
        Ok(())
    }

    fn set(&mut self, name: &'a str, value: Value, channels: usize) {
        if self.consumers.get(name).is_some_and(|consumers| consumers.len() > 1) {
            self.builder.share(value);
        }
        self.channels.insert(value, channels);
        self.values.insert(name, value);
    }

    /// A convolution.
    fn convolution(&mut self, node: &'a Node) -> Outcome<()> {
        let weight = self.constant(node, 1)?;
        let &[outer, inner, rows, columns] = weight.dims.as_slice() else {
            return Err(at(node, "its weights are not those of a convolution over an image"));
        };
        let bias = if node.input.len() > 2 { self.constant(node, 2)?.data } else { vec![0.0; outer] };
        let weights = Weights { shape: [outer, inner, rows, columns], data: weight.data, bias };
        let from = self.value(node, 0)?;
        self.layer((node, node), from, weights, (stride(node)?, padding(node)?, groups(node)?))
    }

    /// A product of a vector, which is a map of one pixel, and a matrix, and the sum with a bias.
    fn product(&mut self, node: &'a Node) -> Outcome<()> {
        let from = self.value(node, 0)?;
        let is_usual = number(node, "alpha").unwrap_or(1.0) == 1.0 && number(node, "beta").unwrap_or(1.0) == 1.0;
        let [height, width, _] = self.builder.shape(from);
        if !is_usual || integer(node, "transA").unwrap_or(0) != 0 || height * width != 1 {
            return Err(at(node, "it is not the product of a vector and a matrix"));
        }
        let matrix = self.constant(node, 1)?;
        let &[rows, columns] = matrix.dims.as_slice() else { return Err(at(node, "its second factor is no matrix")) };
        let (outer, inner, data) = match integer(node, "transB") {
            Some(1) => (rows, columns, matrix.data),
            _ => (columns, rows, transposed(&matrix.data, columns)),
        };
        let (mut bias, mut last) = (vec![0.0; outer], node);
        if node.input.len() > 2 {
            bias = self.constant(node, 2)?.data;
        } else if let Some(add) = self.only_consumer(node, "Add") {
            let terms = [0, 1].map(|input| self.constant(&self.nodes[add], input).ok());
            if let Some(term) = terms.into_iter().flatten().find(|term| term.data.len() == outer) {
                (bias, last) = (term.data, self.take(add));
            }
        }
        self.layer((node, last), from, Weights { shape: [outer, inner, 1, 1], data, bias }, (1, [0; 4], 1))
    }

    /// The weights of a convolution and of the batch normalisation that follows it.
    fn normalized(&self, weights: Weights, norm: &Node) -> Outcome<Weights> {
        let constants =
            [self.constant(norm, 1)?, self.constant(norm, 2)?, self.constant(norm, 3)?, self.constant(norm, 4)?];
        weights.normalized(&constants, number(norm, "epsilon").unwrap_or(1e-5)).map_err(|e| at(norm, e))
    }

    /// A convolution of `from`, and the normalisation, the residual addition and the ReLU that follow its last node.
    fn layer(
        &mut self,
        (node, mut last): (&'a Node, &'a Node),
        from: Value,
        mut weights: Weights,
        (stride, padding, mut groups): (usize, [usize; 4], usize),
    ) -> Outcome<()> {
        if let Some(norm) = self.only_consumer(last, "BatchNormalization") {
            last = self.take(norm);
            weights = self.normalized(weights, last)?;
        }
        let outer = weights.shape[0];
        let [_, _, physical] = self.builder.shape(from);
        let (is_dense, is_depthwise) = (groups == 1, groups == self.channels(from) && weights.shape[1] == 1);
        if is_dense && weights.shape[1] == self.channels(from) {
            weights = weights.padded(physical).map_err(|e| at(node, e))?;
        } else if is_depthwise && outer == groups {
            (weights, groups) = (weights.padded(1).map_err(|e| at(node, e))?, physical);
        }
        let mut activation = self.activation_after(&mut last);
        let mut residual = None;
        if is_dense
            && activation == Activation::Identity
            && let Some(add) = self.only_consumer(last, "Add")
            && let Some(other) = self.other_term(&self.nodes[add], last)
        {
            residual = Some(other);
            last = self.take(add);
            activation = self.activation_after(&mut last);
        }
        let Weights { shape, data, bias } = &weights;
        let convolution = Convolution { weight: data, shape: *shape, bias, stride, padding, groups, activation };
        let output = self.builder.convolution(from, &convolution, residual).map_err(|e| at(node, e))?;
        self.name(last, output, outer)
    }

    /// Marks a node as part of the layer before it.
    fn take(&mut self, index: usize) -> &'a Node {
        self.done.insert(index);
        &self.nodes[index]
    }

    /// The ReLU or ReLU6 that alone reads a node, which it replaces.
    fn activation_after(&mut self, last: &mut &'a Node) -> Activation {
        let relu6 = self.only_consumer(last, "Clip").filter(|clip| self.bounds(&self.nodes[*clip]) == Some([0.0, 6.0]));
        let relu = self.only_consumer(last, "Relu");
        let (index, activation) = match (relu6, relu) {
            (Some(index), _) => (index, Activation::Relu6),
            (None, Some(index)) => (index, Activation::Relu),
            (None, None) => return Activation::Identity,
        };
        *last = self.take(index);
        activation
    }

    /// The mean of all pixels.
    fn mean(&mut self, node: &'a Node) -> Outcome<()> {
        let of_pixels = |axes: &[i64]| axes == [2, 3] || axes == [-2, -1];
        if node.op_type == "ReduceMean" && !integers(node, "axes").is_some_and(of_pixels) {
            return Err(at(node, "it is not the mean of all pixels"));
        }
        let from = self.value(node, 0)?;
        let to = self.builder.mean(from).map_err(|e| at(node, e))?;
        self.name(node, to, self.channels(from))
    }

    /// The index of the node that reads a node's output, if it is the only one and has this operator.
    fn only_consumer(&self, node: &Node, kind: &str) -> Option<usize> {
        let name = node.output.first()?;
        let [consumer] = self.consumers.get(name.as_str())?.as_slice() else { return None };
        (self.nodes[*consumer].op_type == kind && name != self.output).then_some(*consumer)
    }

    /// The other term of an addition to the output of `term`, if it is computed already.
    fn other_term(&self, add: &Node, term: &Node) -> Option<Value> {
        let output = term.output.first();
        match add.input.as_slice() {
            [a, b] if a != b => self.value(add, usize::from(Some(a) == output)).ok(),
            _ => None,
        }
    }

    fn constant(&self, node: &Node, input: usize) -> Outcome<Constant> {
        let tensor = node.input.get(input).and_then(|name| self.constants.get(name.as_str()));
        let constant = tensor.and_then(|tensor| Constant::read(tensor));
        constant.ok_or_else(|| at(node, format!("its input {input} is not a float32 constant inside the file")))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pomona_kernels::Instructions;
    use prost::Message;

    use super::*;

    fn read(onnx: &'static [u8]) -> Outcome<Network> {
        network(&Model::decode(Bytes::from_static(onnx)).unwrap(), Samples::default(), None)
    }

    fn embedded() -> Network {
        read(include_bytes!("../../../models/mobilenetv2_1.00_224.onnx")).unwrap()
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
        network.free_buffers();
        assert_eq!(network.spare_buffers(), 0);
        assert_eq!(bits(&network.run(&images[1])), first[1]);
    }

    /// The narrow networks of tests/models/networks.py. `tests/python/test_networks.py` compares them with ONNX Runtime.
    #[test]
    fn networks_of_other_shapes_give_the_same_bits_with_all_instructions() {
        let mut random = fastrand::Rng::with_seed(6);
        for onnx in [
            &include_bytes!("../../../tests/models/networks/resnet18/model.onnx")[..],
            include_bytes!("../../../tests/models/networks/efficientnet-b0/model.onnx"),
            include_bytes!("../../../tests/models/networks/mobilenet-v3/model.onnx"),
            include_bytes!("../../../tests/models/networks/mobilenet-v3-keras/model.onnx"),
            include_bytes!("../../../tests/models/networks/squeezenet/model.onnx"),
            include_bytes!("../../../tests/models/networks/densenet/model.onnx"),
        ] {
            let (height, width) = read(onnx).unwrap().size();
            let pixels: Vec<u8> = (0..height * width * 3).map(|_| random.u8(..)).collect();
            let outputs: Vec<_> = Instructions::available()
                .into_iter()
                .map(|i| bits(&read(onnx).unwrap().with_instructions(i).run(&pixels)))
                .collect();
            assert!(outputs.iter().all(|output| *output == outputs[0]) && outputs[0].iter().any(|bits| *bits != 0));
        }
        let why = read(include_bytes!("../../../tests/models/networks/convnext/model.onnx"))
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(why.contains("Transpose"), "{why}");
    }

    #[test]
    fn an_unsupported_model_names_the_node() {
        let why = |onnx| read(onnx).map(drop).unwrap_err().to_string();
        assert_eq!(read(include_bytes!("../../../tests/models/tiny.onnx")).map(drop), Ok(()));
        for (onnx, reason) in [
            (
                &include_bytes!("../../../tests/models/log.onnx")[..],
                "(GlobalAveragePool): it is the mean of 3 channels",
            ),
            (include_bytes!("../../../tests/models/two-inputs.onnx"), "one input and one output"),
            (include_bytes!("../../../tests/models/any-size.onnx"), "RGB image of fixed size"),
        ] {
            assert!(why(onnx).contains(reason), "{}", why(onnx));
        }
    }
}
