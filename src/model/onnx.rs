//! The messages of `onnx.proto` that the translation to the kernels and the limits need, with its field numbers.

use bytes::Bytes;

/// `TensorProto.DataType.FLOAT`
pub(super) const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT32` and `UINT32`
const INTEGERS_OF_32_BITS: [i32; 2] = [6, 12];
/// `TensorProto.DataType.INT64` and `UINT64`
const INTEGERS_OF_64_BITS: [i32; 2] = [7, 13];

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Model {
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<Tensor>,
}

impl Node {
    /// The name of the node, or of its first output if it has none, as tract names it.
    pub(super) fn label(&self) -> &str {
        if self.name.is_empty() { self.output.first().map_or("", String::as_str) } else { &self.name }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    /// Little-endian; a slice of the file, not a copy.
    #[prost(bytes = "bytes", tag = "9")]
    pub raw_data: Bytes,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    /// 0 if the data is in this file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

impl Tensor {
    /// Bytes of the data.
    pub(super) fn bytes(&self) -> u64 {
        let of_32_bits = self.float_data.len() + self.int32_data.len();
        let of_64_bits = self.int64_data.len() + self.double_data.len() + self.uint64_data.len();
        (self.raw_data.len() + 4 * of_32_bits + 8 * of_64_bits) as u64
    }

    /// The first elements, at most `most`, of a tensor of integers of 32 or 64 bits; of another tensor, nothing.
    pub(super) fn integers(&self, most: usize) -> Vec<i64> {
        let lists = self.int32_data.iter().map(|v| i64::from(*v)).chain(self.int64_data.iter().copied());
        let lists = lists.chain(self.uint64_data.iter().map(|v| i64::try_from(*v).unwrap_or(i64::MAX)));
        if INTEGERS_OF_32_BITS.contains(&self.data_type) {
            let raw = self.raw_data.chunks_exact(4);
            let raw = raw.map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            raw.chain(lists).take(most).collect()
        } else if INTEGERS_OF_64_BITS.contains(&self.data_type) {
            let raw = self.raw_data.chunks_exact(8);
            let raw = raw.map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
            raw.chain(lists).take(most).collect()
        } else {
            Vec::new()
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Type {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dimension {
    /// None if the dimension has a name instead of a number.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    #[prost(string, tag = "2")]
    pub dim_param: String,
}

impl ValueInfo {
    /// Lengths of its axes; names or `?` for those that are not fixed.
    pub(super) fn shape(&self) -> Vec<String> {
        let length = |dimension: &Dimension| match dimension.dim_value {
            Some(length) => length.to_string(),
            None if dimension.dim_param.is_empty() => "?".to_owned(),
            None => dimension.dim_param.clone(),
        };
        let tensor = self.r#type.as_ref().and_then(|of| of.tensor_type.as_ref());
        tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map_or_else(Vec::new, |shape| shape.dim.iter().map(length).collect())
    }
}
