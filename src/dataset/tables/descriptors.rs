//! Columns of ORB keypoints: the rows of a table of their own, or the lists of a column of the features.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, Float32Array, Int32Array, ListArray, StringArray, StructArray,
    cast::AsArray,
    types::{Float32Type, Int32Type},
};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields};
use bytes::Bytes;

use super::{Compression, Layout, Table, bug, corrupt, write};
use crate::{
    Result,
    orb::{Descriptor, Keypoint},
};

/// Bytes of a descriptor.
const BYTES: i32 = size_of::<Descriptor>() as i32;

/// Encodes a part of the table: the keypoints of each image, in the order of the images.
pub fn write_descriptors(images: &[(String, Vec<Keypoint>)]) -> Result<Bytes> {
    let paths = images.iter().flat_map(|(path, keypoints)| keypoints.iter().map(move |_| path));
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(paths));
    let mut fields = vec![(Field::new("path", DataType::Utf8, false), paths)];
    fields.extend(columns(images.iter().flat_map(|(_, keypoints)| keypoints))?);
    write(fields, &[], Layout::Rows(Compression::Snappy))
}

/// What is known of each keypoint, besides the path of its image.
fn columns<'k>(keypoints: impl Iterator<Item = &'k Keypoint> + Clone) -> Result<Vec<(Field, ArrayRef)>> {
    let float = |name: &str, of: fn(&Keypoint) -> f32| {
        let values: ArrayRef = Arc::new(Float32Array::from_iter_values(keypoints.clone().map(of)));
        (Field::new(name, DataType::Float32, false), values)
    };
    let octaves = Int32Array::from_iter_values(keypoints.clone().map(|keypoint| i32::from(keypoint.octave)));
    let bytes: Vec<u8> = keypoints.clone().flat_map(|keypoint| keypoint.descriptor).collect();
    let descriptors = FixedSizeBinaryArray::try_new(BYTES, Buffer::from_vec(bytes), None).map_err(bug)?;
    Ok(vec![
        float("x", |keypoint| keypoint.x),
        float("y", |keypoint| keypoint.y),
        (Field::new("octave", DataType::Int32, false), Arc::new(octaves)),
        float("angle", |keypoint| keypoint.angle),
        float("response", |keypoint| keypoint.response),
        (Field::new("descriptor", DataType::FixedSizeBinary(BYTES), false), Arc::new(descriptors)),
    ])
}

/// A column with the keypoints of each row.
pub(super) fn column_of_keypoints(rows: &[Vec<Keypoint>]) -> Result<ArrayRef> {
    let (fields, columns): (Vec<_>, Vec<_>) = columns(rows.iter().flatten())?.into_iter().unzip();
    let (fields, length) = (Fields::from(fields), rows.iter().map(Vec::len).sum());
    let keypoints = StructArray::try_new_with_length(fields, columns, None, length).map_err(bug)?;
    let item = Arc::new(Field::new("element", keypoints.data_type().clone(), false));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(Vec::len));
    Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(keypoints), None).map_err(bug)?))
}

/// Decodes a column of [`column_of_keypoints`].
pub(super) fn read_keypoints(table: &Table<'_>, name: &'static str) -> Result<Vec<Vec<Keypoint>>> {
    let mut rows = Vec::new();
    table.each(name, |column| {
        let lists = column.as_list_opt::<i32>().filter(|lists| lists.null_count() == 0)?;
        for row in 0..lists.len() {
            rows.push(keypoints(&lists.value(row))?);
        }
        Some(())
    })?;
    let is_good = |keypoint: &Keypoint| {
        [keypoint.x, keypoint.y, keypoint.angle, keypoint.response].iter().all(|number| number.is_finite())
    };
    if let Some(row) = rows.iter().position(|keypoints| !keypoints.iter().all(is_good)) {
        return Err(corrupt(table.key).context("row", row).source("a keypoint has a number that is not finite"));
    }
    Ok(rows)
}

/// The keypoints of a row. None if the type is wrong, or a value.
fn keypoints(row: &ArrayRef) -> Option<Vec<Keypoint>> {
    let row = row.as_struct_opt().filter(|row| row.null_count() == 0)?;
    let column = |name| row.column_by_name(name).filter(|column| column.null_count() == 0);
    let floats = |name| Some(column(name)?.as_primitive_opt::<Float32Type>()?.values());
    let (x, y, angle, response) = (floats("x")?, floats("y")?, floats("angle")?, floats("response")?);
    let octaves = column("octave")?.as_primitive_opt::<Int32Type>()?.values();
    let descriptors = column("descriptor")?.as_fixed_size_binary_opt()?;
    let keypoint = |at: usize| {
        Some(Keypoint {
            x: *x.get(at)?,
            y: *y.get(at)?,
            octave: u8::try_from(*octaves.get(at)?).ok()?,
            angle: *angle.get(at)?,
            response: *response.get(at)?,
            descriptor: descriptors.value(at).try_into().ok()?,
        })
    };
    (0..row.len()).map(keypoint).collect()
}
