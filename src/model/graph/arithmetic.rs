//! Arithmetic of ONNX graphs: functions of each number, sums, products, joined maps, and pooling.

use pomona_kernels::{Activation, Function, Value};

use super::{Outcome, Reader, at};
use crate::model::{
    attributes::{Constant, Weights, integer, integers, number, padding, stride},
    onnx::Node,
};

/// Most weights of the convolution that an average pooling becomes. No file has them, so its size does not limit them.
const MAX_AVERAGED: usize = 1 << 22;

/// A sum, difference, product or quotient of a map and a constant as `factor x + term`. None for a constant divided by the
/// map.
fn linear(operator: &str, constant: f32, is_first: bool) -> Option<(f32, f32)> {
    match (operator, is_first) {
        ("Add", _) => Some((1.0, constant)),
        ("Sub", false) => Some((1.0, -constant)),
        ("Sub", true) => Some((-1.0, constant)),
        ("Mul", _) => Some((constant, 0.0)),
        ("Div", false) => Some((1.0 / constant, 0.0)),
        _ => None,
    }
}

impl<'a> Reader<'a> {
    /// A function of each number, and its product with what it is a function of.
    pub(super) fn function(&mut self, node: &'a Node) -> Outcome<()> {
        let from = self.value(node, 0)?;
        let mut last = node;
        let product = self.only_consumer(node, "Mul").filter(|mul| {
            let of = |name: Option<&String>| self.nodes[*mul].input.iter().filter(|input| Some(*input) == name).count();
            of(node.input.first()) == 1 && of(node.output.first()) == 1
        });
        let hard = (number(node, "alpha").unwrap_or(0.2), number(node, "beta").unwrap_or(0.5));
        let function = match (node.op_type.as_str(), product) {
            ("Relu", _) => Function::Activation(Activation::Relu),
            ("Clip", _) => {
                let [low, high] =
                    self.bounds(node).ok_or_else(|| at(node, "its bounds are not constants of the file"))?;
                Function::Clip { low, high }
            }
            ("HardSwish", _) => Function::HardSwish { alpha: 1.0 / 6.0, beta: 0.5 },
            ("HardSigmoid", None) => Function::HardSigmoid { alpha: hard.0, beta: hard.1 },
            ("HardSigmoid", Some(mul)) => {
                last = self.take(mul);
                Function::HardSwish { alpha: hard.0, beta: hard.1 }
            }
            ("Sigmoid", None) => Function::Sigmoid,
            ("Sigmoid", Some(mul)) => {
                last = self.take(mul);
                Function::Swish
            }
            _ => return Err(at(node, "the kernels do not support this operator here")),
        };
        let output = self.builder.function(from, function).map_err(|e| at(node, e))?;
        self.name(last, output, self.channels(from))
    }

    /// The bounds of a Clip, if they are attributes or constants.
    pub(super) fn bounds(&self, clip: &Node) -> Option<[f32; 2]> {
        let bound = |input: usize, name: &str, none: f32| match clip.input.get(input).filter(|name| !name.is_empty()) {
            Some(_) => self.constant(clip, input).ok()?.data.first().copied(),
            None => Some(number(clip, name).unwrap_or(none)),
        };
        Some([bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?])
    }

    /// A sum, difference, product or quotient: of two maps, or of a map and constants.
    pub(super) fn arithmetic(&mut self, node: &'a Node) -> Outcome<()> {
        let constants = [0, 1].map(|input| self.constant(node, input).ok());
        match constants {
            [Some(constant), None] => self.with_constant(node, 1, &constant),
            [None, Some(constant)] => self.with_constant(node, 0, &constant),
            _ => self.of_two_maps(node),
        }
    }

    /// The sum of two maps, and the ReLU that follows it; or the product of two maps or of a map and a vector.
    fn of_two_maps(&mut self, node: &'a Node) -> Outcome<()> {
        let (a, b) = (self.value(node, 0)?, self.value(node, 1)?);
        let channels = self.channels(a);
        if channels != self.channels(b) {
            return Err(at(node, format!("its maps have {channels} and {} channels", self.channels(b))));
        }
        let mut last = node;
        let output = match node.op_type.as_str() {
            "Add" => {
                let activation = self.activation_after(&mut last);
                self.builder.sum(a, b, activation)
            }
            "Mul" if self.builder.shape(a) == self.builder.shape(b) => self.builder.product(a, b),
            "Mul" => {
                let [height, width, _] = self.builder.shape(b);
                let (map, factors) = if height * width == 1 { (a, b) } else { (b, a) };
                self.builder.scale(map, factors)
            }
            _ => return Err(at(node, "the kernels do not support this operator on two maps")),
        };
        let output = output.map_err(|e| at(node, e))?;
        self.name(last, output, channels)
    }

    /// A map and a constant, or one for each channel.
    fn with_constant(&mut self, node: &'a Node, input: usize, constant: &Constant) -> Outcome<()> {
        let from = self.value(node, input)?;
        let linear = |constant: &f32| {
            let linear = linear(&node.op_type, *constant, input == 1);
            linear.ok_or_else(|| at(node, "it divides a constant by a map"))
        };
        if let [constant] = &constant.data[..] {
            let (factor, term) = linear(constant)?;
            let output = self.builder.function(from, Function::Linear { factor, term }).map_err(|e| at(node, e))?;
            return self.name(node, output, self.channels(from));
        }
        let is_per_channel = constant.dims.len() >= 3
            && constant.dims.iter().rev().take(2).all(|side| *side == 1)
            && constant.dims[constant.dims.len() - 3] == self.channels(from)
            && constant.data.len() == self.channels(from);
        if !is_per_channel {
            return Err(at(node, format!("its constant of {:?} is not one for each channel", constant.dims)));
        }
        let (factors, terms): (Vec<_>, _) =
            constant.data.iter().map(linear).collect::<Outcome<Vec<_>>>()?.into_iter().unzip();
        self.per_channel(node, from, (&factors, terms))
    }

    /// A batch normalisation that follows no convolution.
    pub(super) fn normalization(&mut self, node: &'a Node) -> Outcome<()> {
        let from = self.value(node, 0)?;
        let channels = self.channels(from);
        let weights = Weights { shape: [channels, 1, 1, 1], data: vec![1.0; channels], bias: vec![0.0; channels] };
        let weights = self.normalized(weights, node)?;
        self.per_channel(node, from, (&weights.data, weights.bias))
    }

    /// A convolution of one pixel that has these factors and terms.
    fn per_channel(&mut self, node: &'a Node, from: Value, (factors, bias): (&[f32], Vec<f32>)) -> Outcome<()> {
        let [_, _, physical] = self.builder.shape(from);
        let channels = factors.len();
        // Depthwise convolutions have a multiple of 8 channels; the image has 3.
        let (groups, inner) = if physical.is_multiple_of(8) { (channels, 1) } else { (1, channels) };
        let mut data = vec![0.0; channels * inner];
        for (channel, factor) in factors.iter().enumerate() {
            data[channel * inner + channel % inner] = *factor;
        }
        let weights = Weights { shape: [channels, inner, 1, 1], data, bias };
        self.layer((node, node), from, weights, (1, [0; 4], groups))
    }

    /// Maps one behind the other, by channels.
    pub(super) fn concat(&mut self, node: &'a Node) -> Outcome<()> {
        if ![Some(1), Some(-3)].contains(&integer(node, "axis")) {
            return Err(at(node, "it does not join channels"));
        }
        let mut joined = self.value(node, 0)?;
        let mut channels = self.channels(joined);
        for input in 1..node.input.len() {
            let next = self.value(node, input)?;
            let of_next = self.channels(next);
            joined = self.builder.concat((joined, channels), (next, of_next)).map_err(|e| at(node, e))?;
            channels += of_next;
        }
        self.name(node, joined, channels)
    }

    /// The largest number of each window.
    pub(super) fn maximum(&mut self, node: &'a Node) -> Outcome<()> {
        let from = self.value(node, 0)?;
        let (size, stride, padding) = self.windows(node, from)?;
        let output = self.builder.maximum(from, size, stride, padding).map_err(|e| at(node, e))?;
        self.name(node, output, self.channels(from))
    }

    /// The mean of each window: a depthwise convolution.
    pub(super) fn average(&mut self, node: &'a Node) -> Outcome<()> {
        let from = self.value(node, 0)?;
        let (size, stride, padding) = self.windows(node, from)?;
        if padding != [0; 4] {
            return Err(at(node, "it is padded"));
        }
        let ([rows, columns], channels) = (size, self.channels(from));
        let [height, width, _] = self.builder.shape(from);
        if rows > height || columns > width {
            return Err(at(node, format!("its windows of {size:?} are larger than its input")));
        }
        // At most those of the map.
        let numbers = channels * rows * columns;
        if numbers > MAX_AVERAGED {
            return Err(at(node, format!("its windows of {size:?} are too large")));
        }
        let data = vec![1.0 / (rows * columns) as f32; numbers];
        let weights = Weights { shape: [channels, 1, rows, columns], data, bias: vec![0.0; channels] };
        self.layer((node, node), from, weights, (stride, padding, channels))
    }

    /// Size, stride and padding of the windows of a pooling. Where sizes are rounded up, the padding is that much wider.
    fn windows(&self, node: &Node, from: Value) -> Outcome<([usize; 2], usize, [usize; 4])> {
        let size: Option<[usize; 2]> = integers(node, "kernel_shape").and_then(|sides| {
            let sides: Vec<usize> = sides.iter().map(|side| usize::try_from(*side).ok()).collect::<Option<_>>()?;
            sides.try_into().ok()
        });
        let size = size.ok_or_else(|| at(node, "it has no window of rows and columns"))?;
        if node.output.len() > 1 {
            return Err(at(node, "it has a second output"));
        }
        let (stride, mut padding) = (stride(node)?, padding(node)?);
        if integer(node, "ceil_mode").unwrap_or(0) != 0 && stride > 0 {
            let [height, width, _] = self.builder.shape(from);
            for (axis, length) in [height, width].into_iter().enumerate() {
                let padded = length.saturating_add(padding[axis]).saturating_add(padding[axis + 2]);
                let rest = padded.saturating_sub(size[axis]) % stride;
                let start = padded.saturating_sub(size[axis]) - rest + stride;
                // A window that would begin behind the map is none.
                if rest > 0 && start < length.saturating_add(padding[axis]) {
                    padding[axis + 2] = padding[axis + 2].saturating_add(stride - rest);
                }
            }
        }
        Ok((size, stride, padding))
    }
}

#[cfg(test)]
mod tests {
    use pomona_kernels::Samples;

    use super::super::network;
    use crate::model::onnx::{
        Attribute, Dimension, FLOAT, Graph, Model, Node, Shape, Tensor, TensorType, Type, ValueInfo,
    };

    const SIDES: [usize; 2] = [6, 7];

    fn node(kind: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[i64])]) -> Node {
        let attribute = |(name, ints): &(&str, &[i64])| Attribute {
            name: (*name).to_owned(),
            i: ints[0],
            ints: ints.to_vec(),
            ..Attribute::default()
        };
        Node {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            op_type: kind.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
            ..Node::default()
        }
    }

    /// The features of an image by nodes from `x` to `y`, whose pixels are averaged; or why the kernels do not run them.
    fn run(nodes: Vec<Node>, pixels: &[u8]) -> Result<Vec<f32>, String> {
        let value = |name: &str, dims: &[usize]| {
            let dim = |length: &usize| Dimension { dim_value: Some(*length as i64), ..Dimension::default() };
            let shape = Some(Shape { dim: dims.iter().map(dim).collect() });
            let tensor_type = Some(TensorType { elem_type: FLOAT, shape });
            ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
        };
        let constant = |name: &str, dims: &[i64], data: &[f32]| Tensor {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: FLOAT,
            float_data: data.to_vec(),
            ..Tensor::default()
        };
        let mut node_list = nodes;
        node_list.push(node("GlobalAveragePool", &["y"], "features", &[]));
        let graph = Graph {
            node: node_list,
            initializer: vec![
                constant("two", &[], &[2.0]),
                constant("channels", &[3, 1, 1], &[0.5, 2.0, -1.0]),
                constant("columns", &[1, 7], &[1.0; 7]),
                constant("ones", &[3], &[1.0; 3]),
            ],
            input: vec![value("x", &[1, 3, SIDES[0], SIDES[1]])],
            output: vec![value("features", &[1, 3, 1, 1])],
        };
        let network = network(&Model { graph: Some(graph) }, Samples::default(), None).map_err(|e| e.to_string())?;
        Ok(network.run(pixels))
    }

    /// `x` with eight channels in memory.
    fn first(output: &str) -> Node {
        node("Mul", &["x", "channels"], output, &[])
    }

    fn pixels() -> Vec<u8> {
        (0..SIDES[0] * SIDES[1] * 3).map(|at| (at * 37 % 256) as u8).collect()
    }

    /// What `first` makes of a pixel.
    fn given(y: usize, x: usize, channel: usize) -> f32 {
        let sample = f32::from(pixels()[(y * SIDES[1] + x) * 3 + channel]) / 127.5 - 1.0;
        sample * [0.5, 2.0, -1.0][channel]
    }

    /// The mean of windows, each of which `of` computes of its numbers.
    fn of_windows(size: usize, starts: [&[usize]; 2], of: fn(&[f32]) -> f32) -> Vec<f32> {
        let window = |top: usize, left: usize, channel: usize| {
            let rows = top..(top + size).min(SIDES[0]);
            let columns = left..(left + size).min(SIDES[1]);
            rows.flat_map(|y| columns.clone().map(move |x| given(y, x, channel))).collect::<Vec<_>>()
        };
        let count = (starts[0].len() * starts[1].len()) as f32;
        let sum = |channel: usize| -> f32 {
            starts[0].iter().flat_map(|y| starts[1].iter().map(move |x| of(&window(*y, *x, channel)))).sum()
        };
        (0..3).map(|channel| sum(channel) / count).collect()
    }

    #[test]
    fn sizes_are_rounded_up_if_a_window_begins_inside() {
        let largest = |numbers: &[f32]| numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mean = |numbers: &[f32]| numbers.iter().sum::<f32>() / numbers.len() as f32;
        let by = |kind: &str, size: i64, stride: i64, ceil: i64| {
            let attributes: [(&str, &[i64]); 3] =
                [("kernel_shape", &[size, size]), ("strides", &[stride, stride]), ("ceil_mode", &[ceil])];
            run(vec![first("a"), node(kind, &["a"], "y", &attributes)], &pixels()).unwrap()
        };
        for (found, expected) in [
            (by("MaxPool", 3, 2, 0), of_windows(3, [&[0, 2], &[0, 2, 4]], largest)),
            // Row 4 begins a window of two rows; columns are covered already.
            (by("MaxPool", 3, 2, 1), of_windows(3, [&[0, 2, 4], &[0, 2, 4]], largest)),
            // A window at row 6 would begin behind the map.
            (by("MaxPool", 1, 3, 1), of_windows(1, [&[0, 3], &[0, 3, 6]], largest)),
            (by("AveragePool", 2, 2, 0), of_windows(2, [&[0, 2, 4], &[0, 2, 4]], mean)),
        ] {
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn arithmetic_with_constants_is_that_of_each_number() {
        let mean = |of: &dyn Fn(f32) -> f32| -> Vec<f32> {
            let all = || (0..SIDES[0]).flat_map(|y| (0..SIDES[1]).map(move |x| (y, x)));
            (0..3).map(|c| all().map(|(y, x)| of(given(y, x, c))).sum::<f32>() / (SIDES[0] * SIDES[1]) as f32).collect()
        };
        let by = |nodes: &[Node]| run([&[first("a")], nodes].concat(), &pixels()).unwrap();
        for (found, expected) in [
            (by(&[node("Sub", &["two", "a"], "y", &[])]), mean(&|x| 2.0 - x)),
            (by(&[node("Sub", &["a", "two"], "y", &[])]), mean(&|x| x - 2.0)),
            (by(&[node("Div", &["a", "two"], "y", &[])]), mean(&|x| x / 2.0)),
            (by(&[node("Mul", &["a", "a"], "y", &[])]), mean(&|x| x * x)),
            (by(&[node("Add", &["two", "a"], "b", &[]), node("Mul", &["b", "a"], "y", &[])]), mean(&|x| (x + 2.0) * x)),
        ] {
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn what_the_kernels_do_not_compute_has_a_reason() {
        for (nodes, reason) in [
            (vec![node("Div", &["two", "a"], "y", &[])], "it divides a constant by a map"),
            (vec![node("Div", &["a", "a"], "y", &[])], "on two maps"),
            (vec![node("Add", &["a", "columns"], "y", &[])], "[1, 7] is not one for each channel"),
            // Of a map, this is one for each column.
            (vec![node("Add", &["a", "ones"], "y", &[])], "[3] is not one for each channel"),
            (vec![node("Concat", &["a", "a"], "y", &[("axis", &[2])])], "does not join channels"),
            (vec![node("AveragePool", &["a"], "y", &[("kernel_shape", &[8, 8])])], "larger than its input"),
        ] {
            let found = run([vec![first("a")], nodes].concat(), &pixels()).unwrap_err();
            assert!(found.contains(reason), "{reason}: {found}");
        }
    }
}
