//! The table of ORB keypoints.

use std::sync::Arc;

use arrow_array::{FixedSizeBinaryArray, Float32Array, Int32Array, StringArray};
use arrow_buffer::Buffer;
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::{Compression, Layout, bug, write};
use crate::{Result, orb::Keypoint};

/// Encodes a part of the table: the keypoints of each image, in the order of the images.
pub fn write_descriptors(images: &[(String, Vec<Keypoint>)]) -> Result<Bytes> {
    let rows = || images.iter().flat_map(|(path, keypoints)| keypoints.iter().map(move |keypoint| (path, keypoint)));
    let floats = |of: fn(&Keypoint) -> f32| Arc::new(Float32Array::from_iter_values(rows().map(|(_, k)| of(k))));
    let descriptors = FixedSizeBinaryArray::try_from_iter(rows().map(|(_, keypoint)| keypoint.descriptor));
    let descriptors = match rows().next() {
        Some(_) => descriptors.map_err(bug)?,
        None => FixedSizeBinaryArray::new(32, Buffer::default(), None),
    };
    let octaves = Int32Array::from_iter_values(rows().map(|(_, keypoint)| i32::from(keypoint.octave)));
    write(
        vec![
            (
                Field::new("path", DataType::Utf8, false),
                Arc::new(StringArray::from_iter_values(rows().map(|(path, _)| path))),
            ),
            (Field::new("x", DataType::Float32, false), floats(|keypoint| keypoint.x)),
            (Field::new("y", DataType::Float32, false), floats(|keypoint| keypoint.y)),
            (Field::new("octave", DataType::Int32, false), Arc::new(octaves)),
            (Field::new("angle", DataType::Float32, false), floats(|keypoint| keypoint.angle)),
            (Field::new("response", DataType::Float32, false), floats(|keypoint| keypoint.response)),
            (Field::new("descriptor", DataType::FixedSizeBinary(32), false), Arc::new(descriptors)),
        ],
        &[],
        Layout::Rows(Compression::Snappy),
    )
}
