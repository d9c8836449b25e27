//! The layers of a [`Builder`] that are no convolutions: passes over one or two maps.

use crate::{
    Activation, Builder, Unsupported, Value,
    assemble::Step,
    builder::{check_map, unsupported},
    layout::Map,
    passes::{Function, Pass},
    simd::LANES,
};

/// Longest side of a window of a maximum.
const MAX_WINDOW: usize = 64;

impl Builder {
    /// Adds a pass over a value.
    pub(crate) fn pass(
        &mut self,
        pass: Pass,
        input: Value,
        other: Option<Value>,
        map: Map,
    ) -> Result<Value, Unsupported> {
        let bordered = [Some(input), other].into_iter().flatten().any(|value| self.values[value.0].border != [0; 4]);
        if bordered {
            return unsupported("it reads a value that another layer pads");
        }
        check_map(map)?;
        let window = if let Pass::Maximum { size, .. } = pass { size[0] * size[1] } else { 1 };
        self.operate((map.len() as u64).saturating_mul(window as u64))?;
        let to = self.add(map);
        self.layers.push(Step::Pass { pass, from: input.0, other: other.map(|value| value.0), to });
        Ok(Value(to))
    }

    /// Adds a function of each number.
    pub fn function(&mut self, input: Value, function: Function) -> Result<Value, Unsupported> {
        self.pass(Pass::Function(function), input, None, self.values[input.0])
    }

    /// Adds the sum of two values of the same shape, and its activation.
    pub fn sum(&mut self, a: Value, b: Value, activation: Activation) -> Result<Value, Unsupported> {
        if self.shape(a) != self.shape(b) {
            return unsupported(format!("it adds maps of {:?} and {:?}", self.shape(a), self.shape(b)));
        }
        self.pass(Pass::Sum(activation), a, Some(b), self.values[a.0])
    }

    /// Adds the product of a map and a vector: a factor for each channel.
    pub fn scale(&mut self, input: Value, factors: Value) -> Result<Value, Unsupported> {
        let [_, _, channels] = self.shape(input);
        if self.shape(factors) != [1, 1, channels] {
            return unsupported(format!("it multiplies maps of {:?} and {:?}", self.shape(input), self.shape(factors)));
        }
        self.pass(Pass::Scale, input, Some(factors), self.values[input.0])
    }

    /// Adds the product of two values of the same shape.
    pub fn product(&mut self, a: Value, b: Value) -> Result<Value, Unsupported> {
        if self.shape(a) != self.shape(b) {
            return unsupported(format!("it multiplies maps of {:?} and {:?}", self.shape(a), self.shape(b)));
        }
        self.pass(Pass::Product, a, Some(b), self.values[a.0])
    }

    /// Adds a map with the first channels of two maps, one behind the other, and zeros up to a multiple of 8. Each input is
    /// a value and the number of its channels that count.
    pub fn concat(&mut self, a: (Value, usize), b: (Value, usize)) -> Result<Value, Unsupported> {
        let ([height, width, of_a], [rows, columns, of_b]) = (self.shape(a.0), self.shape(b.0));
        if [height, width] != [rows, columns] || a.1 > of_a || b.1 > of_b {
            let (a, b) = (self.shape(a.0), self.shape(b.0));
            return unsupported(format!("it joins maps of {a:?} and {b:?}"));
        }
        let map = Map::dense(height, width, (a.1 + b.1).next_multiple_of(LANES));
        self.pass(Pass::Concat { first: a.1, second: b.1 }, a.0, Some(b.0), map)
    }

    /// Adds the largest number of each channel in windows. What pads them counts for nothing. Fails if a window has padding only.
    pub fn maximum(
        &mut self,
        input: Value,
        size: [usize; 2],
        stride: usize,
        padding: [usize; 4],
    ) -> Result<Value, Unsupported> {
        let [height, width, channels] = self.shape(input);
        let is_padded_too_much = (0..4).any(|side| padding[side] >= size[side % 2]);
        let span =
            |length: usize, pads: usize, size: usize| (length + pads).checked_sub(size).map(|rest| rest / stride + 1);
        if stride == 0 || is_padded_too_much || size.iter().any(|side| *side > MAX_WINDOW) {
            return unsupported(format!("it has windows of {size:?}, stride {stride} and padding {padding:?}"));
        }
        match (span(height, padding[0] + padding[2], size[0]), span(width, padding[1] + padding[3], size[1])) {
            (Some(to_height), Some(to_width)) => {
                let pass = Pass::Maximum { size, stride, padding: [padding[0], padding[1]] };
                self.pass(pass, input, None, Map::dense(to_height, to_width, channels))
            }
            _ => unsupported(format!("its windows of {size:?} are larger than its input")),
        }
    }

    /// Adds the mean of each channel over all pixels. Fails unless the number of channels is a multiple of 8.
    pub fn mean(&mut self, input: Value) -> Result<Value, Unsupported> {
        let Map { channels, border, .. } = self.values[input.0];
        if !channels.is_multiple_of(LANES) {
            return unsupported(format!("it is the mean of {channels} channels, not a multiple of {LANES}"));
        }
        if border != [0; 4] {
            return unsupported("it reads a value that another layer pads");
        }
        let to = self.add(Map::dense(1, 1, channels));
        self.layers.push(Step::Mean { from: input.0, to });
        Ok(Value(to))
    }
}
