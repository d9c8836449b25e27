//! Writes tar, zip and Parquet files with images.
#![allow(dead_code)]

use std::{io::Write, sync::Arc};

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use flate2::{Compression, write::DeflateEncoder};
use parquet::{
    arrow::ArrowWriter,
    basic::{self, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
};

/// A file: its name, its content, and its time in seconds since 1970.
pub(crate) type File = (String, Bytes, u64);

pub(crate) fn tar(files: &[File]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, time) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mtime(*time);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_ref()).unwrap();
    }
    builder.into_inner().unwrap().into()
}

/// How the members of a zip file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Stored,
    Deflated,
}

/// A zip file with times in extended timestamps, as Info-ZIP writes it.
pub(crate) fn zip(files: &[File], method: Method) -> Bytes {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for (name, content, time) in files {
        let data = match method {
            Method::Stored => content.to_vec(),
            Method::Deflated => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
        };
        let mut fields = Vec::new();
        fields.extend([20, 0, 0, 8, if method == Method::Deflated { 8 } else { 0 }, 0, 0, 0, 0, 0]);
        for number in [crc32fast::hash(content), data.len() as u32, content.len() as u32] {
            fields.extend(number.to_le_bytes());
        }
        fields.extend((name.len() as u16).to_le_bytes());
        // The local extra field is longer than that of the directory.
        let start = (zip.len() as u32).to_le_bytes();
        zip.extend([b"PK\x03\x04".as_slice(), &fields, &[13, 0], name.as_bytes()].concat());
        let extra = [b"UT\x09\x00\x03".as_slice(), &(*time as u32).to_le_bytes()].concat();
        zip.extend([extra.as_slice(), &[0; 4], &data].concat());
        let central = [b"UT\x05\x00\x01".as_slice(), &(*time as u32).to_le_bytes()].concat();
        directory
            .extend([b"PK\x01\x02\x14\x03".as_slice(), &fields, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa4, 0x81]].concat());
        directory.extend([start.as_slice(), name.as_bytes(), &central].concat());
    }
    let (start, size, count) = (zip.len() as u32, directory.len() as u32, (files.len() as u16).to_le_bytes());
    zip.extend(directory);
    zip.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count].concat());
    zip.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    zip.extend([0, 0]);
    zip.into()
}

/// A Parquet file as Hugging Face's data sets have it: `image.bytes`, `image.path`, and a label that is the folder. With
/// `rows` rows in a row group.
pub(crate) fn parquet(files: &[File], rows: usize) -> Bytes {
    let compression = basic::Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).set_compression(compression);
    parquet_with(files, properties.set_data_page_size_limit(2_000).set_write_batch_size(3).build())
}

pub(crate) fn parquet_with(files: &[File], properties: WriterProperties) -> Bytes {
    let mut labels: Vec<&str> = files.iter().map(|(name, ..)| folder(name)).collect();
    labels.sort_unstable();
    labels.dedup();
    let names = serde_json::json!({"info": {"features": {"label": {"names": labels, "_type": "ClassLabel"}}}});
    let binary: ArrayRef = Arc::new(BinaryArray::from_iter_values(files.iter().map(|(_, content, _)| content)));
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(files.iter().map(|(name, ..)| name)));
    let numbers = files.iter().map(|(name, ..)| labels.binary_search(&folder(name)).unwrap() as i64);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    let fields =
        Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)]);
    let image: ArrayRef = Arc::new(StructArray::new(fields.clone(), vec![binary, paths], None));
    let schema = Arc::new(Schema::new(vec![
        Field::new("image", DataType::Struct(fields), true),
        Field::new("label", DataType::Int64, true),
    ]));
    let batch = RecordBatch::try_new(schema.clone(), vec![image, numbers]).unwrap();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties)).unwrap();
    writer.append_key_value_metadata(KeyValue::new("huggingface".to_owned(), names.to_string()));
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file.into()
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folders, _)| folders.rsplit('/').next().unwrap())
}
