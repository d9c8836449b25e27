//! From an ONNX graph to a [`Network`], when every node of it is of a kind that the kernels have.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use tract_onnx::pb::{ModelProto, NodeProto, TensorProto, tensor_shape_proto::dimension::Value as Dim, type_proto};

use super::{
    Instructions, Layer, Network, Place,
    conv::{Depthwise, Map, Packed, Taps},
    strips::Strips,
};

const FLOAT: i32 = 1;

impl Network {
    /// None when some part of the graph is not of a kind that is known here; then a general runtime is needed.
    pub fn of(model: &ModelProto) -> Option<Self> {
        Builder::of(model)?.build()
    }
}

/// What a value is, before it has a buffer.
#[derive(Clone, Copy)]
struct Value {
    map: Map,
    /// Nodes that take it; the output of the graph counts as one.
    consumers: usize,
}

struct Builder<'a> {
    nodes: &'a [NodeProto],
    constants: HashMap<&'a str, &'a TensorProto>,
    consumers: HashMap<&'a str, Vec<usize>>,
    output: &'a str,
    values: Vec<Value>,
    names: HashMap<&'a str, usize>,
    /// Nodes that an earlier one has taken up.
    done: HashSet<usize>,
    layers: Vec<Step>,
}

/// A layer whose places are still numbers of values.
enum Step {
    Dense { packed: Packed, taps: Taps, relu6: bool, from: usize, residual: Option<usize>, to: usize },
    Depthwise { kernel: Depthwise, from: usize, to: usize },
    Strips { strips: Box<Strips>, from: usize, to: usize },
    Mean { from: usize, to: usize },
}

impl<'a> Builder<'a> {
    fn of(model: &'a ModelProto) -> Option<Self> {
        let graph = model.graph.as_ref()?;
        let constants: HashMap<_, _> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, node) in graph.node.iter().enumerate() {
            for name in &node.input {
                consumers.entry(name).or_default().push(i);
            }
        }
        let mut inputs = graph.input.iter().filter(|input| !constants.contains_key(input.name.as_str()));
        let (input, [output]) = (inputs.next()?, graph.output.as_slice()) else { return None };
        let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref()?.value.as_ref() else { return None };
        let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match dim.value {
            Some(Dim::DimValue(n)) => usize::try_from(n).ok(),
            _ => None,
        });
        let dims: Vec<Option<usize>> = dims.collect();
        if inputs.next().is_some() || tensor.elem_type != FLOAT {
            return None;
        }
        let mut builder = Builder {
            nodes: &graph.node,
            constants,
            consumers,
            output: &output.name,
            values: Vec::new(),
            names: HashMap::new(),
            done: HashSet::new(),
            layers: Vec::new(),
        };
        match dims.as_slice() {
            [_, Some(3), Some(h), Some(w)] => {
                builder.name(&input.name, Map::dense(*h, *w, 3));
            }
            // Channels last, and turned round at once, as TensorFlow's models are exported.
            [_, Some(h), Some(w), Some(3)] => {
                let [turn] = builder.consumers.get(input.name.as_str())?.as_slice() else { return None };
                let (at, node) = (*turn, &builder.nodes[*turn]);
                if node.op_type != "Transpose" || integers(node, "perm")? != [0, 3, 1, 2] {
                    return None;
                }
                builder.done.insert(at);
                builder.name(node.output.first()?, Map::dense(*h, *w, 3));
            }
            _ => return None,
        }
        Some(builder)
    }

    fn name(&mut self, name: &'a str, map: Map) -> usize {
        let consumers = self.consumers.get(name).map_or(0, Vec::len) + usize::from(name == self.output);
        self.values.push(Value { map, consumers });
        self.names.insert(name, self.values.len() - 1);
        self.values.len() - 1
    }

    /// The only node that takes a value, when it is of that kind.
    fn only(&self, name: &str, kind: &str) -> Option<usize> {
        let [node] = self.consumers.get(name)?.as_slice() else { return None };
        (self.nodes[*node].op_type == kind && name != self.output).then_some(*node)
    }

    fn build(mut self) -> Option<Network> {
        for at in 0..self.nodes.len() {
            if self.done.contains(&at) {
                continue;
            }
            let node = &self.nodes[at];
            match node.op_type.as_str() {
                "Conv" => self.convolution(node)?,
                "GlobalAveragePool" => {
                    let from = *self.names.get(node.input.first()?.as_str())?;
                    let channels = self.values[from].map.channels;
                    if !channels.is_multiple_of(super::simd::LANES) {
                        return None;
                    }
                    let to = self.name(node.output.first()?, Map::dense(1, 1, channels));
                    self.layers.push(Step::Mean { from, to });
                }
                // Of a map of one pixel, these change the shape and nothing else.
                "Flatten" | "Squeeze" | "Reshape" => {
                    let from = *self.names.get(node.input.first()?.as_str())?;
                    let map = self.values[from].map;
                    if map.height * map.width != 1 {
                        return None;
                    }
                    self.names.insert(node.output.first()?, from);
                }
                _ => return None,
            }
        }
        self.finish()
    }

    fn convolution(&mut self, node: &'a NodeProto) -> Option<()> {
        let [x, w, b] = node.input.as_slice() else { return None };
        let from = *self.names.get(x.as_str())?;
        let (weight, bias) = (self.constant(w)?, self.constant(b)?);
        let [outer, inner, kh, kw] = *weight.dims.as_slice() else { return None };
        let input = self.values[from].map;
        let stride = match integers(node, "strides").as_deref() {
            None => 1,
            Some([a, b]) if a == b => usize::try_from(*a).ok()?,
            Some(_) => return None,
        };
        let pads = match integers(node, "pads").as_deref() {
            None => [0; 4],
            Some(&[t, l, b, r]) => [t, l, b, r].map(|pad| usize::try_from(pad).unwrap_or(usize::MAX)),
            Some(_) => return None,
        };
        let plain = |name| integers(node, name).is_none_or(|values| values.iter().all(|v| *v == 1));
        let automatic = node.attribute.iter().any(|a| a.name == "auto_pad" && a.s.as_slice() != b"NOTSET");
        let group = node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i) as usize;
        if !plain("dilations")
            || automatic
            || stride == 0
            || pads.iter().any(|pad| *pad > 8)
            || bias.data.len() != outer
        {
            return None;
        }
        let size = |length: usize, pad: usize, kernel: usize| Some((length + pad).checked_sub(kernel)? / stride + 1);
        let (height, width) = (size(input.height, pads[0] + pads[2], kh)?, size(input.width, pads[1] + pads[3], kw)?);
        self.pad(from, pads)?;

        let mut output = node.output.first()?;
        let relu6 = match self.only(output, "Clip") {
            Some(clip) if self.is_relu6(&self.nodes[clip]) => {
                self.done.insert(clip);
                output = self.nodes[clip].output.first()?;
                true
            }
            _ => false,
        };
        let map = Map::dense(height, width, outer);
        if group == 1 && inner == input.channels {
            let mut residual = None;
            if let Some(add) = self.only(output, "Add").filter(|_| !relu6) {
                let [a, b] = self.nodes[add].input.as_slice() else { return None };
                let other = *self.names.get(if a == output { b.as_str() } else { a.as_str() })?;
                if self.values[other].map != map || a == b {
                    return None;
                }
                // It is read as it lies: from now on it gets no border.
                residual = Some(other);
                self.done.insert(add);
                output = self.nodes[add].output.first()?;
            }
            let packed = if (kh, kw) == (1, 1) {
                // Most weights of a network are here, and divisions would take longer than anything else at its start.
                Packed::new(inner, &bias.data, |k, o| weight.data[o * inner + k])?
            } else {
                Packed::new(inner * kh * kw, &bias.data, |k, o| {
                    let (c, rest) = (k % inner, k / inner);
                    weight.data[((o * inner + c) * kh + rest / kw) * kw + rest % kw]
                })?
            };
            let taps = Taps { rows: kh, run: kw * inner, stride };
            let to = self.name(output, map);
            self.layers.push(Step::Dense { packed, taps, relu6, from, residual, to });
        } else if group == input.channels && inner == 1 && outer == group && (kh, kw) == (3, 3) {
            let kernel = Depthwise::new(&bias.data, stride, relu6, |tap, c| weight.data[c * 9 + tap])?;
            let to = self.name(output, map);
            self.layers.push(Step::Depthwise { kernel, from, to });
        } else {
            return None;
        }
        Some(())
    }

    /// Gives a value the border that its one consumer pads with.
    fn pad(&mut self, value: usize, border: [usize; 4]) -> Option<()> {
        let value = &mut self.values[value];
        if border != [0; 4] {
            if value.consumers != 1 {
                return None;
            }
            value.map.border = border;
        }
        Some(())
    }

    fn is_relu6(&self, clip: &NodeProto) -> bool {
        let bound = |at: usize, name: &str| {
            let attribute = clip.attribute.iter().find(|a| a.name == name).map(|a| a.f);
            let input = clip.input.get(at).and_then(|name| self.constant(name)).and_then(|c| c.data.first().copied());
            attribute.or(input)
        };
        bound(1, "min") == Some(0.0) && bound(2, "max") == Some(6.0)
    }

    fn constant(&self, name: &str) -> Option<Constant> {
        Constant::of(self.constants.get(name)?)
    }

    /// Joins pairs of layers where what lies between them is large and nothing else needs it.
    fn go_in_strips(&mut self) {
        let mut joined: Vec<Step> = Vec::new();
        for layer in std::mem::take(&mut self.layers) {
            let Step::Depthwise { kernel, from, to } = layer else {
                joined.push(layer);
                continue;
            };
            let Value { map, consumers } = self.values[from];
            match joined.pop() {
                Some(Step::Dense { packed, taps, relu6, from: source, residual: None, to: between })
                    if between == from && consumers == 1 && Strips::pays(map) =>
                {
                    let strips = Box::new(Strips::new(packed, taps, relu6, kernel, map));
                    joined.push(Step::Strips { strips, from: source, to });
                }
                other => {
                    joined.extend(other);
                    joined.push(Step::Depthwise { kernel, from, to });
                }
            }
        }
        self.layers = joined;
    }

    /// Gives buffers to values: one is used again as soon as nothing needs what is in it.
    fn finish(mut self) -> Option<Network> {
        self.go_in_strips();
        let result = *self.names.get(self.output)?;
        let image = self.values.first()?.map;
        let mut last_use = vec![0; self.values.len()];
        for (at, layer) in self.layers.iter().enumerate() {
            for value in layer.inputs() {
                last_use[value] = at;
            }
        }
        if self.layers.last()?.to() != result || self.values[result].map.height * self.values[result].map.width != 1 {
            return None;
        }
        let mut sizes = vec![image.len()];
        let mut buffer_of = vec![0; self.values.len()];
        let mut free: Vec<usize> = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            let to = layer.to();
            let buffer = free.pop().unwrap_or_else(|| {
                sizes.push(0);
                sizes.len() - 1
            });
            sizes[buffer] = sizes[buffer].max(self.values[to].map.len());
            buffer_of[to] = buffer;
            let mut inputs = layer.inputs();
            inputs.dedup();
            // The image's buffer stays the image's.
            free.extend(inputs.into_iter().filter(|v| last_use[*v] == at && *v != 0).map(|v| buffer_of[v]));
        }
        let strip = self.layers.iter().filter_map(|layer| match layer {
            Step::Strips { strips, .. } => Some(strips.buffer()),
            _ => None,
        });
        sizes.push(strip.max().unwrap_or(0));
        let strip = sizes.len() - 1;
        let place = |value: usize| Place { buffer: buffer_of[value], map: self.values[value].map };
        let columns = self.values[result].map.channels;
        let layers = self.layers.into_iter().map(|layer| match layer {
            Step::Dense { packed, taps, relu6, from, residual, to } => Layer::Dense {
                packed,
                taps,
                relu6,
                from: place(from),
                residual: residual.map(place),
                offsets: place(to).map.offsets(),
                to: place(to),
            },
            Step::Depthwise { kernel, from, to } => Layer::Depthwise { kernel, from: place(from), to: place(to) },
            Step::Strips { strips, from, to } => Layer::Strips { strips, from: place(from), strip, to: place(to) },
            Step::Mean { from, to } => Layer::Mean { from: place(from), to: place(to) },
        });
        Some(Network {
            layers: layers.collect(),
            buffers: sizes,
            image,
            columns,
            samples: std::array::from_fn(|sample| sample as f32 / 127.5 - 1.0),
            instructions: Instructions::chosen(),
            spare: Mutex::new(Vec::new()),
        })
    }
}

impl Step {
    fn inputs(&self) -> Vec<usize> {
        match self {
            Step::Dense { from, residual, .. } => [*from].into_iter().chain(*residual).collect(),
            Step::Depthwise { from, .. } | Step::Strips { from, .. } | Step::Mean { from, .. } => vec![*from],
        }
    }

    fn to(&self) -> usize {
        match self {
            Step::Dense { to, .. } | Step::Depthwise { to, .. } | Step::Strips { to, .. } | Step::Mean { to, .. } => {
                *to
            }
        }
    }
}

struct Constant {
    dims: Vec<usize>,
    data: Vec<f32>,
}

impl Constant {
    fn of(tensor: &TensorProto) -> Option<Self> {
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

fn integers(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.clone())
}
