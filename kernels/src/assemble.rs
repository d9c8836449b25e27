//! From the layers of a [`Builder`] to a [`Network`]: fusion of layers, and buffers.

use crate::{
    Activation, Builder, Instructions, Network, Unsupported, Value,
    builder::{MAX_NUMBERS, unsupported},
    conv::Taps,
    depthwise::{Depthwise, WideDepthwise},
    fused::{Fused, Projection},
    layout::{Map, Packed},
    network::{Layer, Place},
    passes::{Function, Pass},
    zeros,
};

/// A layer before buffers are assigned. `from`, `to` and `residual` are numbers of values.
#[derive(Debug)]
pub(crate) enum Step {
    Dense {
        packed: Packed,
        taps: Taps,
        activation: Activation,
        /// Whether the input is the output of a ReLU, and all weights are finite.
        zeros: bool,
        from: usize,
        residual: Option<usize>,
        to: usize,
    },
    Depthwise {
        kernel: Depthwise,
        from: usize,
        to: usize,
    },
    Fused {
        fused: Box<Fused>,
        from: usize,
        residual: Option<usize>,
        to: usize,
    },
    WideDepthwise {
        kernel: WideDepthwise,
        from: usize,
        to: usize,
    },
    Mean {
        from: usize,
        to: usize,
    },
    Pass {
        pass: Pass,
        from: usize,
        other: Option<usize>,
        to: usize,
    },
}

impl Step {
    pub(crate) fn inputs(&self) -> Vec<usize> {
        match self {
            Step::Dense { from, residual, .. } | Step::Fused { from, residual, .. } => {
                [*from].into_iter().chain(*residual).collect()
            }
            Step::Pass { from, other, .. } => [*from].into_iter().chain(*other).collect(),
            Step::Depthwise { from, .. } | Step::WideDepthwise { from, .. } | Step::Mean { from, .. } => vec![*from],
        }
    }

    /// Whether a ReLU makes the output.
    pub(crate) fn is_rectified(&self) -> bool {
        let activation = match self {
            Step::Dense { activation, .. }
            | Step::Pass { pass: Pass::Function(Function::Activation(activation)) | Pass::Sum(activation), .. } => {
                *activation
            }
            Step::Depthwise { kernel, .. } => kernel.activation,
            Step::WideDepthwise { kernel, .. } => kernel.activation,
            Step::Fused { fused, .. } => {
                fused.projection.as_ref().map_or(fused.kernel.activation, |projection| projection.activation)
            }
            Step::Mean { .. } | Step::Pass { .. } => Activation::Identity,
        };
        activation != Activation::Identity
    }

    pub(crate) fn to(&self) -> usize {
        match self {
            Step::Dense { to, .. }
            | Step::Depthwise { to, .. }
            | Step::WideDepthwise { to, .. }
            | Step::Fused { to, .. }
            | Step::Mean { to, .. }
            | Step::Pass { to, .. } => *to,
        }
    }
}

/// The weights of a dense convolution as it reads them. `zeros`: as in [`Step::Dense`].
fn laid_out(packed: Packed, zeros: bool, taps: Taps, from: Map) -> Packed {
    if zeros && taps.is_row(from) { zeros::packed(packed, Instructions::chosen().panels()) } else { packed }
}

impl Builder {
    /// The network that computes `output`. Fails unless this is a vector and the output of the last layer, and if a padded
    /// value has more than one reader.
    pub fn build(self, output: Value) -> Result<Network, Unsupported> {
        let columns = self.values[output.0].channels;
        self.build_first(output, columns)
    }

    /// [`build`](Builder::build) with the first `columns` numbers of the output only.
    pub fn build_first(mut self, output: Value, columns: usize) -> Result<Network, Unsupported> {
        let result = self.values[output.0];
        if columns == 0 || columns > result.channels {
            return unsupported(format!("its output has {} numbers, not {columns}", result.channels));
        }
        if self.layers.last().is_none_or(|layer| layer.to() != output.0) || result.height * result.width != 1 {
            return unsupported("its output is not a vector from the last layer");
        }
        let readers = self.readers(output.0);
        if self.values.iter().zip(&readers).any(|(map, readers)| map.border != [0; 4] && *readers != 1) {
            return unsupported("it pads a value that another layer reads");
        }
        self.prune(&readers);
        self.fuse(&readers);
        self.place(columns)
    }

    /// [`build`](Builder::build) without [`prune`](Builder::prune).
    #[cfg(test)]
    pub(crate) fn build_whole(mut self, output: Value) -> Result<Network, Unsupported> {
        let (columns, readers) = (self.values[output.0].channels, self.readers(output.0));
        self.fuse(&readers);
        self.place(columns)
    }

    /// The number of readers of each value. The output of the network counts as a reader.
    fn readers(&self, output: usize) -> Vec<usize> {
        let mut readers = vec![0; self.values.len()];
        readers[output] = 1;
        for value in self.layers.iter().flat_map(Step::inputs) {
            readers[value] += 1;
        }
        readers
    }

    /// Fuses each dense convolution with the depthwise convolution that follows it, and with the pointwise one that follows both
    /// if its input is large, where the map between has no other reader.
    fn fuse(&mut self, readers: &[usize]) {
        let mut joined: Vec<Step> = Vec::new();
        for layer in std::mem::take(&mut self.layers) {
            let before =
                joined.pop_if(|before| readers[before.to()] == 1 && layer.inputs().first() == Some(&before.to()));
            match (before, layer) {
                (
                    Some(Step::Dense { packed, taps, activation, from, residual: None, to: between, .. }),
                    Step::Depthwise { kernel, to, .. },
                ) => {
                    let fused = Box::new(Fused::new(packed, taps, activation, kernel, self.values[between]));
                    joined.push(Step::Fused { fused, from, residual: None, to });
                }
                (
                    Some(Step::Fused { fused, from, residual: None, to: narrow }),
                    Step::Dense { packed, taps, activation, zeros, residual, to, .. },
                ) if fused.projection.is_none()
                    && taps.is_row(self.values[narrow])
                    && self.values[narrow].len() >= Fused::LARGE =>
                {
                    let packed = laid_out(packed, zeros, taps, self.values[narrow]);
                    let (input, offsets) = (self.values[narrow], self.values[to].offsets());
                    let projection = Projection { packed, activation, zeros, from: input, offsets };
                    let fused = Box::new(fused.with_projection(projection, Fused::STRIPS));
                    joined.push(Step::Fused { fused, from, residual, to });
                }
                (before, layer) => joined.extend(before.into_iter().chain([layer])),
            }
        }
        self.layers = joined;
    }

    /// Assigns buffers to values. A buffer is reused after the last reader of its value. Fails if the buffers and the weights
    /// are too large together.
    fn place(self, columns: usize) -> Result<Network, Unsupported> {
        let image = self.values[0];
        let mut last_use = vec![0; self.values.len()];
        for (at, layer) in self.layers.iter().enumerate() {
            for value in layer.inputs() {
                last_use[value] = at;
            }
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
            sizes[buffer] = sizes[buffer].max(self.values[to].len());
            buffer_of[to] = buffer;
            let mut inputs = layer.inputs();
            inputs.dedup();
            // The buffer of the image is not reused.
            free.extend(inputs.into_iter().filter(|v| last_use[*v] == at && *v != 0).map(|v| buffer_of[v]));
        }
        let strip = self.layers.iter().filter_map(|layer| match layer {
            Step::Fused { fused, .. } => Some(fused.buffer_len()),
            _ => None,
        });
        sizes.push(strip.max().unwrap_or(0));
        let strip = sizes.len() - 1;
        let numbers = sizes.iter().fold(self.numbers, |sum, size| sum.saturating_add(*size));
        if numbers > MAX_NUMBERS {
            return unsupported(format!("it needs {numbers} numbers of memory; at most {MAX_NUMBERS} are supported"));
        }
        let place = |value: usize| Place { buffer: buffer_of[value], map: self.values[value] };
        let layers = self.layers.into_iter().map(|layer| match layer {
            Step::Dense { packed, taps, activation, zeros, from, residual, to } => Layer::Dense {
                packed: laid_out(packed, zeros, taps, place(from).map),
                taps,
                activation,
                zeros,
                from: place(from),
                residual: residual.map(place),
                offsets: place(to).map.offsets(),
                to: place(to),
            },
            Step::Depthwise { kernel, from, to } => Layer::Depthwise { kernel, from: place(from), to: place(to) },
            Step::Fused { fused, from, residual, to } => {
                Layer::Fused { fused, from: place(from), residual: residual.map(place), strip, to: place(to) }
            }
            Step::WideDepthwise { kernel, from, to } => {
                Layer::WideDepthwise { kernel, from: place(from), to: place(to) }
            }
            Step::Pass { pass, from, other, to } => {
                Layer::Pass { pass, from: place(from), other: other.map(place), to: place(to) }
            }
            Step::Mean { from, to } => Layer::Mean { from: place(from), to: place(to) },
        });
        Ok(Network::new(layers.collect(), sizes, (image, self.samples), columns))
    }
}
