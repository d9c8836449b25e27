//! Pages of Parquet columns: their headers, and their values.
//!
//! The Parquet library decodes values. It allocates what a page claims before it decodes it, and does not say where a page
//! is; so headers are read here first, and pages that claim too much are refused.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};
use parquet::{
    basic::{Compression, ZstdLevel},
    column::reader::ColumnReaderImpl,
    data_type::{ByteArray, ByteArrayType, DataType},
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
    schema::types::{ColumnDescPtr, ColumnDescriptor, ColumnPath, Type},
};

/// Longest header of a page, which can have a smallest and a largest value.
pub(super) const MAX_HEADER: u64 = 1 << 20;
/// Most bytes of a page, compressed and not. It can hold an image of the largest size.
pub(super) const MAX_PAGE: u64 = 192 << 20;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    Data,
    Dictionary,
    /// Not needed.
    Other,
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    /// Bytes of the header.
    pub(super) length: u64,
    /// Bytes behind the header.
    pub(super) packed: u64,
    /// The same after decompression.
    pub(super) unpacked: u64,
    /// Values of a page of data, nulls included.
    pub(super) values: u32,
}

impl PageHeader {
    /// Parses the header at the start of `bytes`: a struct in Thrift's compact protocol. None if there is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<PageHeader> {
        let mut thrift = Thrift { bytes, at: 0 };
        let (mut kind, mut unpacked, mut packed, mut values) = (None, None, None, None);
        let mut id = 0;
        while let Some(field) = thrift.field(&mut id)? {
            match (id, field) {
                (1, I32) => kind = Some(thrift.number()?),
                (2, I32) => unpacked = u64::try_from(thrift.number()?).ok(),
                (3, I32) => packed = u64::try_from(thrift.number()?).ok(),
                // Pages of data, of version 1 and 2, start with the number of values.
                (5 | 8, STRUCT) => values = Some(thrift.first_number()?),
                _ => thrift.skip(field, 0)?,
            }
        }
        let kind = match kind? {
            0 | 3 => PageKind::Data,
            2 => PageKind::Dictionary,
            _ => PageKind::Other,
        };
        let values = u32::try_from(values.unwrap_or(0)).ok()?;
        Some(PageHeader { kind, length: thrift.at as u64, packed: packed?, unpacked: unpacked?, values })
    }
}

const I32: u8 = 5;
const STRUCT: u8 = 12;
/// Structs in structs of a header that is skipped.
const MAX_DEPTH: usize = 8;

struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number in zigzag encoding.
    fn number(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The type of the next field, whose id replaces `id`. The inner None is the end of the struct; the outer one is damage.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        let delta = i64::from(byte >> 4);
        *id = if delta == 0 { self.number()? } else { id.checked_add(delta)? };
        Some(Some(byte & 15))
    }

    /// Field 1 of a struct, a number. The rest is skipped.
    fn first_number(&mut self) -> Option<i64> {
        let (mut id, mut first) = (0, None);
        while let Some(field) = self.field(&mut id)? {
            match (id, field) {
                (1, I32) => first = Some(self.number()?),
                _ => self.skip(field, 1)?,
            }
        }
        first
    }

    fn skip_bytes(&mut self, count: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(count).ok()?).filter(|end| *end <= self.bytes.len())?;
        self.at = end;
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => Some(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8),
            8 => {
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            STRUCT if depth < MAX_DEPTH => {
                let mut id = 0;
                while let Some(field) = self.field(&mut id)? {
                    self.skip(field, depth + 1)?;
                }
                Some(())
            }
            // Lists, sets and maps are in no header of a page.
            _ => None,
        }
    }
}

/// The names of compressions, in places of members.
pub(super) fn codec_name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::UNCOMPRESSED => Some("none"),
        Compression::SNAPPY => Some("snappy"),
        Compression::ZSTD(_) => Some("zstd"),
        _ => None,
    }
}

fn codec(name: &str) -> Option<Compression> {
    match name {
        "none" => Some(Compression::UNCOMPRESSED),
        "snappy" => Some(Compression::SNAPPY),
        "zstd" => Some(Compression::ZSTD(ZstdLevel::default())),
        _ => None,
    }
}

/// Pages of one column, with their headers.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) dictionary: Option<Bytes>,
    pub(super) data: Bytes,
    /// Number of their values.
    pub(super) values: usize,
}

/// A value as the owner of its bytes.
struct Value(ByteArray);

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.0.data()
    }
}

/// Decodes the values of pages of byte arrays; None for nulls.
pub(super) fn byte_arrays(pages: &Pages, codec: &str, levels: u8) -> Result<Vec<Option<Bytes>>, String> {
    use parquet::basic::{Repetition, Type as Physical};

    let repetition = if levels == 0 { Repetition::REQUIRED } else { Repetition::OPTIONAL };
    let leaf = Type::primitive_type_builder("bytes", Physical::BYTE_ARRAY).with_repetition(repetition).build();
    let leaf = leaf.map_err(|e| e.to_string())?;
    let column = Arc::new(ColumnDescriptor::new(Arc::new(leaf), i16::from(levels), 0, ColumnPath::from("bytes")));
    let values = decode::<ByteArrayType>(pages, codec, column)?;
    // The values share the memory of the page.
    Ok(values.into_iter().map(|value| value.map(|value| Bytes::from_owner(Value(value)))).collect())
}

/// Decodes the values of pages of a column that does not repeat.
pub(super) fn decode<T: DataType>(
    pages: &Pages,
    codec_name: &str,
    column: ColumnDescPtr,
) -> Result<Vec<Option<T::T>>, String> {
    // The decoder panics on some damaged pages.
    catch_unwind(AssertUnwindSafe(|| decode_guarded::<T>(pages, codec_name, column)))
        .unwrap_or_else(|_| Err("the decoder panicked".to_owned()))
}

fn decode_guarded<T: DataType>(
    pages: &Pages,
    codec_name: &str,
    column: ColumnDescPtr,
) -> Result<Vec<Option<T::T>>, String> {
    let text = |e: parquet::errors::ParquetError| e.to_string();
    let codec = codec(codec_name).ok_or_else(|| format!("compression {codec_name}"))?;
    // In front of it, as in a file, so that no offset is 0.
    let mut chunk = BytesMut::from(&b"PAR1"[..]);
    let dictionary = pages.dictionary.as_ref().map(|dictionary| {
        chunk.put_slice(dictionary);
        4
    });
    let (start, optional) = (chunk.len() as i64, column.max_def_level());
    chunk.put_slice(&pages.data);
    let count = pages.values;
    let metadata = ColumnChunkMetaData::builder(column.clone())
        .set_compression(codec)
        .set_num_values(i64::try_from(count).unwrap_or(i64::MAX))
        .set_data_page_offset(start)
        .set_dictionary_page_offset(dictionary)
        .set_total_compressed_size(chunk.len() as i64 - 4)
        .build()
        .map_err(text)?;
    let reader = SerializedPageReader::new(Arc::new(chunk.freeze()), &metadata, count, None).map_err(text)?;
    let mut reader = ColumnReaderImpl::<T>::new(column, Box::new(reader));
    let (mut levels, mut present) = (Vec::new(), Vec::new());
    let (read, _, _) = reader.read_records(count, Some(&mut levels), None, &mut present).map_err(text)?;
    if read != count {
        return Err(format!("{read} values instead of {count}"));
    }
    if optional == 0 {
        return Ok(present.into_iter().map(Some).collect());
    }
    let mut present = present.into_iter();
    Ok(levels.into_iter().map(|level| if level == optional { present.next() } else { None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_version_1_is_parsed() {
        // Type 0, 1000 and 300 bytes, 7 values of encoding 0, levels 3 and 3.
        let header = [
            0x15, 0x00, 0x15, 0xd0, 0x0f, 0x15, 0xd8, 0x04, 0x2c, 0x15, 0x0e, 0x15, 0x00, 0x15, 0x06, 0x15, 0x06, 0, 0,
        ];
        let parsed = PageHeader::parse(&header).unwrap();
        let expected = PageHeader { kind: PageKind::Data, length: 19, packed: 300, unpacked: 1_000, values: 7 };
        assert_eq!(parsed, expected);
        assert!((0..header.len()).all(|end| PageHeader::parse(&header[..end]).is_none()));
    }
}
