//! The members of a Parquet file: the values of a column of images.
//!
//! The column is the field `bytes` of a struct, as Hugging Face's image data sets have it (`image.bytes`), or else a column
//! of byte arrays that are no texts. A member is named after its row, and the file name in `image.path` if there is one.
//! Its label is the value of the column `label`; a number is replaced by its name if the file's metadata has the names.
//!
//! Parquet has no checksums of values, so every page of the column is decoded once, and a member's etag is a hash of its
//! content. A member is read later from its page alone.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;
use parquet::{
    basic::{ConvertedType, Type as Physical},
    data_type::{ByteArrayType, DataType, Int32Type, Int64Type},
    file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
    schema::types::ColumnDescPtr,
};
use sha2::{Digest, Sha256};

use super::{
    index::{Found, Index, MAX_MEMBERS, Problem, usable_label},
    pages::{self, MAX_HEADER, MAX_PAGE, PageHeader, PageKind, Pages},
    scan::Blocks,
};
use crate::{
    Result,
    dataset::blocking::run_blocking,
    ids::short_hex,
    image::Reason,
    store::{Form, Object, Store},
};

/// Bytes at the end of the file that are read first.
const TAIL: u64 = 64 << 10;
/// Largest footer.
const MAX_FOOTER: u64 = 64 << 20;
/// Largest dictionary of images, and largest column of labels or paths in a row group, both before and after decompression.
const MAX_COLUMN: u64 = 64 << 20;
/// The pages of a file may have this many bytes for each byte of the file, and 1 GiB more.
const MAX_RATIO: u64 = 1_024;
/// Longest file name that becomes a part of a member's name.
const MAX_FILE_NAME: usize = 255;

type Checked<T> = std::result::Result<T, Problem>;

fn corrupt(detail: impl Into<String>) -> Problem {
    Problem::new(Reason::Corrupt, detail)
}

/// Reads the members. Fails if the store does; what is wrong with the file is a note in the index.
pub(super) async fn read(store: &dyn Store, archive: &Object, index: &mut Index) -> Result<()> {
    let table = match footer(store, archive).await? {
        Ok(metadata) => Columns::find(&metadata).map(|columns| (metadata, columns)),
        Err(problem) => Err(problem),
    };
    match table {
        Err(problem) => index.fail(problem),
        Ok((metadata, columns)) => {
            let budget = archive.size.saturating_mul(MAX_RATIO).saturating_add(1 << 30);
            let mut table = Table { blocks: Blocks::new(store, archive), archive, columns, index, row: 0, budget };
            for group in metadata.row_groups() {
                if let Err(problem) = table.group(group).await? {
                    table.index.fail(problem);
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn footer(store: &dyn Store, archive: &Object) -> Result<Checked<ParquetMetaData>> {
    let tail = store.get_part(archive, archive.size.saturating_sub(TAIL)..archive.size).await?;
    let Some((text, [l0, l1, l2, l3, b'P', b'A', b'R', b'1'])) = tail.split_last_chunk::<8>() else {
        let start = store.get_part(archive, 0..archive.size.min(4)).await?;
        return Ok(Err(match &start[..] {
            b"PAR1" => Problem::new(Reason::Truncated, "the Parquet file ends before its footer does"),
            _ => Problem::new(Reason::NotAnImage, "this is no Parquet file"),
        }));
    };
    let length = u64::from(u32::from_le_bytes([*l0, *l1, *l2, *l3]));
    if length > MAX_FOOTER || length.saturating_add(12) > archive.size {
        return Ok(Err(corrupt(format!("the footer of the Parquet file claims {length} bytes"))));
    }
    let end = archive.size - 8;
    let text = match text.len().checked_sub(length as usize) {
        Some(start) => Bytes::copy_from_slice(&text[start..]),
        None => store.get_part(archive, end - length..end).await?,
    };
    let decoded = run_blocking(move || {
        // The decoder panics on some damaged footers.
        let decoded = std::panic::catch_unwind(|| ParquetMetaDataReader::decode_metadata(&text));
        Ok(decoded.map_err(|_| "the decoder panicked".to_owned()).and_then(|read| read.map_err(|e| e.to_string())))
    });
    Ok(decoded.await?.map_err(|e| corrupt(format!("the footer of the Parquet file: {e}"))))
}

/// Numbers of the columns that are read.
#[derive(Debug)]
struct Columns {
    image: usize,
    path: Option<usize>,
    label: Option<usize>,
    /// Names of labels that are numbers.
    names: Vec<String>,
}

impl Columns {
    fn find(metadata: &ParquetMetaData) -> Checked<Columns> {
        let columns = metadata.file_metadata().schema_descr().columns();
        let flat = |i: &usize| columns[*i].max_rep_level() == 0;
        let path = |i: usize| columns[i].path().parts();
        let bytes = |i: &usize| flat(i) && columns[*i].physical_type() == Physical::BYTE_ARRAY;
        let text =
            |i: usize| columns[i].logical_type_ref().is_some() || columns[i].converted_type() != ConvertedType::NONE;
        let named = |mut found: Vec<usize>| {
            let usual =
                ["image", "img"].into_iter().find_map(|name| found.iter().copied().find(|i| path(*i)[0] == name));
            usual.or(if found.len() == 1 { found.pop() } else { None })
        };
        let in_structs = (0..columns.len()).filter(bytes).filter(|i| path(*i).len() == 2 && path(*i)[1] == "bytes");
        let plain = (0..columns.len()).filter(bytes).filter(|i| path(*i).len() == 1 && !text(*i));
        let Some(image) = named(in_structs.collect()).or_else(|| named(plain.collect())) else {
            return Err(Problem::new(
                Reason::NotAnImage,
                "this Parquet file has no column of images: a struct with a field `bytes`, or one column of byte arrays",
            ));
        };
        let beside = |name: &str| {
            let mut wanted = path(image).to_vec();
            wanted.pop();
            wanted.push(name.to_owned());
            (0..columns.len()).filter(bytes).find(|i| path(*i) == wanted)
        };
        let label = (0..columns.len()).filter(flat).find(|i| path(*i) == ["label"]);
        Ok(Columns { image, path: beside("path"), label, names: label_names(metadata) })
    }
}

/// The names of labels, as Hugging Face's data sets write them.
fn label_names(metadata: &ParquetMetaData) -> Vec<String> {
    let pairs = metadata.file_metadata().key_value_metadata();
    let value = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref());
    let json = value.and_then(|value| serde_json::from_str::<serde_json::Value>(value).ok());
    let names = json.as_ref().and_then(|json| json.pointer("/info/features/label/names")?.as_array());
    let names = names.map(|names| names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect());
    names.unwrap_or_default()
}

struct Table<'a> {
    blocks: Blocks<'a>,
    archive: &'a Object,
    columns: Columns,
    index: &'a mut Index,
    /// Number of the next row.
    row: u64,
    /// Bytes that pages may still have after decompression.
    budget: u64,
}

/// A part of a column, in a row group.
struct Chunk<'m> {
    metadata: &'m ColumnChunkMetaData,
    range: Range<u64>,
    codec: &'static str,
    levels: u8,
}

impl Table<'_> {
    /// Reads the rows of a row group.
    async fn group(&mut self, group: &RowGroupMetaData) -> Result<Checked<()>> {
        let Some(rows) = usize::try_from(group.num_rows()).ok().filter(|rows| *rows <= MAX_MEMBERS) else {
            return Ok(Err(Problem::new(Reason::TooLarge, format!("{} rows; split the file", group.num_rows()))));
        };
        let image = match self.chunk(group, self.columns.image) {
            Ok(chunk) => chunk,
            Err(problem) => return Ok(Err(problem)),
        };
        let names = match self.columns.path {
            Some(path) => self.texts(group, path, rows).await?,
            None => Ok(Vec::new()),
        };
        let labels = match self.columns.label {
            Some(label) => self.texts(group, label, rows).await?,
            None => Ok(Vec::new()),
        };
        match (names, labels) {
            (Ok(names), Ok(labels)) => self.images(&image, rows, &names, &labels).await,
            (Err(problem), _) | (_, Err(problem)) => Ok(Err(problem)),
        }
    }

    fn chunk<'m>(&self, group: &'m RowGroupMetaData, column: usize) -> Checked<Chunk<'m>> {
        let metadata = group.columns().get(column).ok_or_else(|| corrupt("a row group lacks a column"))?;
        let dictionary = metadata.dictionary_page_offset().filter(|offset| *offset > 0);
        let start = dictionary.unwrap_or(i64::MAX).min(metadata.data_page_offset());
        let range = u64::try_from(start).ok().zip(u64::try_from(metadata.compressed_size()).ok());
        let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
        let range = range.filter(|range| range.end <= self.archive.size);
        let range = range.ok_or_else(|| corrupt("a column lies outside of the Parquet file"))?;
        let codec = pages::codec_name(metadata.compression()).ok_or_else(|| {
            let detail = format!(
                "compression {:?} in a Parquet file; Snappy, Zstandard and none are read",
                metadata.compression()
            );
            Problem::new(Reason::UnsupportedFormat, detail)
        })?;
        let levels = u8::try_from(metadata.column_descr().max_def_level()).unwrap_or(u8::MAX);
        Ok(Chunk { metadata, range, codec, levels })
    }

    /// The values of a column of texts or of numbers, as texts.
    async fn texts(
        &mut self,
        group: &RowGroupMetaData,
        column: usize,
        rows: usize,
    ) -> Result<Checked<Vec<Option<String>>>> {
        let chunk = match self.chunk(group, column) {
            Ok(chunk) if chunk.range.end - chunk.range.start <= MAX_COLUMN => chunk,
            Ok(_) => return Ok(Err(Problem::new(Reason::TooLarge, "a column of labels or paths is too large"))),
            Err(problem) => return Ok(Err(problem)),
        };
        let body = self.blocks.get(chunk.range.clone()).await?;
        let column = chunk.metadata.column_descr_ptr();
        let (codec, names) = (chunk.codec, self.columns.names.clone());
        let decoded = run_blocking(move || {
            Ok(checked_size(&body, rows).and_then(|()| {
                let dictionary = None;
                let pages = Pages { dictionary, data: body, values: rows };
                match column.physical_type() {
                    Physical::BYTE_ARRAY => decoded::<ByteArrayType>(&pages, codec, column, |value| {
                        std::str::from_utf8(value.data()).ok().map(str::to_owned)
                    }),
                    Physical::INT32 => {
                        decoded::<Int32Type>(&pages, codec, column, |value| named(&names, i64::from(*value)))
                    }
                    Physical::INT64 => decoded::<Int64Type>(&pages, codec, column, |value| named(&names, *value)),
                    _ => Ok(vec![None; rows]),
                }
            }))
        });
        Ok(decoded.await?.map_err(|e| corrupt(format!("a column of labels or paths: {e}"))))
    }

    /// Reads the pages of images of a row group.
    async fn images(
        &mut self,
        chunk: &Chunk<'_>,
        rows: usize,
        names: &[Option<String>],
        labels: &[Option<String>],
    ) -> Result<Checked<()>> {
        let (mut dictionary, mut done, mut at) = (None, 0, chunk.range.start);
        while done < rows {
            let page = match self.page(at, chunk.range.end).await? {
                Ok(page) => page,
                Err(problem) => return Ok(Err(problem)),
            };
            at = page.range.end;
            // The dictionary is unpacked for each page.
            let again = dictionary.as_ref().map_or(0, |dictionary: &Page| dictionary.header.unpacked);
            let Some(budget) = self.budget.checked_sub(again) else {
                return Ok(Err(Problem::new(Reason::TooLarge, "a dictionary that is unpacked too often")));
            };
            self.budget = budget;
            let values = page.header.values as usize;
            match page.header.kind {
                PageKind::Dictionary => dictionary = Some(page),
                PageKind::Data if values > rows - done => return Ok(Err(corrupt("a page has more values than rows"))),
                PageKind::Data => {
                    let place = Place::new(&page, dictionary.as_ref(), chunk);
                    let packed = dictionary.as_ref().map(|dictionary| dictionary.bytes.clone());
                    let pages = Pages { dictionary: packed, data: page.bytes, values };
                    let (codec, levels) = (chunk.codec, chunk.levels);
                    let hashes = match run_blocking(move || Ok(hashes(&pages, codec, levels))).await? {
                        Ok(hashes) => hashes,
                        Err(e) => return Ok(Err(corrupt(format!("a page of images: {e}")))),
                    };
                    let (names, labels) = (names.get(done..), labels.get(done..));
                    if !self.push(&place, hashes, names.unwrap_or_default(), labels.unwrap_or_default()) {
                        return Ok(Ok(()));
                    }
                    done += values;
                }
                PageKind::Other => {}
            }
        }
        Ok(Ok(()))
    }

    /// Reads the page at an offset of a column that ends at `end`.
    async fn page(&mut self, at: u64, end: u64) -> Result<Checked<Page>> {
        let ended = || Ok(Err(corrupt("a column of images ends in a page")));
        // Most headers are short.
        let mut header = None;
        for length in [1 << 10, MAX_HEADER] {
            if header.is_none() {
                header = PageHeader::parse(&self.blocks.get(at..end.min(at + length)).await?);
            }
        }
        let Some(header) = header else { return ended() };
        let most = if header.kind == PageKind::Data { MAX_PAGE } else { MAX_COLUMN };
        let left = self.budget.checked_sub(header.unpacked);
        let (Some(budget), true) = (left, header.unpacked.max(header.packed) <= most) else {
            let detail = format!("a page of {} bytes in a Parquet file of {}", header.unpacked, self.archive.size);
            return Ok(Err(Problem::new(Reason::TooLarge, detail)));
        };
        self.budget = budget;
        let range = at..at + header.length + header.packed;
        if range.end > end {
            return ended();
        }
        let bytes = self.blocks.get(range.clone()).await?;
        Ok(Ok(Page { header, range, bytes }))
    }

    /// Adds the members of a page. False if there are too many.
    fn push(
        &mut self,
        place: &Place,
        hashes: Vec<Option<(String, u64)>>,
        names: &[Option<String>],
        labels: &[Option<String>],
    ) -> bool {
        for (value, hash) in (0..).zip(hashes) {
            let at = value as usize;
            let file = names.get(at).and_then(Option::as_deref).and_then(file_name);
            let label = labels.get(at).and_then(Option::as_deref).and_then(usable_label);
            let name = file.map_or_else(|| format!("{:09}", self.row), |file| format!("{:09}-{file}", self.row));
            self.row += 1;
            let (etag, size) = hash.unwrap_or_else(|| ("null".to_owned(), 0));
            let empty = size == 0;
            let found = Found {
                name,
                etag,
                size,
                // Parquet has no time of a value.
                modified: 0,
                label,
                range: if empty { 0..0 } else { place.range.clone() },
                form: if empty { Form::Plain } else { place.form(value) },
            };
            if !self.index.push(found) {
                return false;
            }
        }
        true
    }
}

/// A page with its header.
struct Page {
    header: PageHeader,
    range: Range<u64>,
    bytes: Bytes,
}

/// Where a page of images is, and how it is read.
struct Place {
    range: Range<u64>,
    dictionary: Option<Range<u64>>,
    values: u32,
    codec: &'static str,
    levels: u8,
    unpacked: u64,
}

impl Place {
    fn new(page: &Page, dictionary: Option<&Page>, chunk: &Chunk<'_>) -> Self {
        Place {
            range: page.range.clone(),
            dictionary: dictionary.map(|dictionary| dictionary.range.clone()),
            values: page.header.values,
            codec: chunk.codec,
            levels: chunk.levels,
            unpacked: page.header.unpacked + dictionary.map_or(0, |dictionary| dictionary.header.unpacked),
        }
    }

    fn form(&self, value: u32) -> Form {
        Form::Page {
            dictionary: self.dictionary.clone(),
            values: self.values,
            value,
            codec: self.codec.to_owned(),
            levels: self.levels,
            unpacked: self.unpacked,
        }
    }
}

/// Hash and length of each value of a page; None for nulls.
fn hashes(pages: &Pages, codec: &str, levels: u8) -> std::result::Result<Vec<Option<(String, u64)>>, String> {
    // Values of a dictionary share their memory; each is hashed once.
    let mut known: HashMap<(usize, usize), String> = HashMap::new();
    let values = pages::byte_arrays(pages, codec, levels)?;
    let hash = |bytes: &Bytes| short_hex(&Sha256::digest(bytes));
    let hashes = values.iter().map(|value| {
        let bytes = value.as_ref()?;
        let place = (bytes.as_ptr() as usize, bytes.len());
        let hash = known.entry(place).or_insert_with(|| hash(bytes)).clone();
        Some((hash, bytes.len() as u64))
    });
    Ok(hashes.collect())
}

fn decoded<T: DataType>(
    pages: &Pages,
    codec: &str,
    column: ColumnDescPtr,
    text: impl Fn(&T::T) -> Option<String>,
) -> std::result::Result<Vec<Option<String>>, String> {
    let values = pages::decode::<T>(pages, codec, column)?;
    Ok(values.into_iter().map(|value| value.as_ref().and_then(&text)).collect())
}

/// Fails if the pages of a column claim more bytes or values than there can be.
fn checked_size(body: &[u8], rows: usize) -> std::result::Result<(), String> {
    let (mut at, mut unpacked, mut values) = (0, 0u64, 0usize);
    while at < body.len() {
        let header = PageHeader::parse(&body[at..]).ok_or("a page has no header")?;
        unpacked += header.unpacked;
        values += if header.kind == PageKind::Data { header.values as usize } else { 0 };
        if unpacked > MAX_COLUMN || values > rows {
            return Err(format!("{unpacked} bytes and {values} values in {rows} rows"));
        }
        at = usize::try_from(header.length + header.packed)
            .ok()
            .and_then(|length| at.checked_add(length))
            .ok_or("a page")?;
    }
    Ok(())
}

fn named(names: &[String], label: i64) -> Option<String> {
    let name = usize::try_from(label).ok().and_then(|label| names.get(label)).filter(|name| !name.is_empty());
    Some(name.cloned().unwrap_or_else(|| label.to_string()))
}

/// The last part of a path, if it can be a part of a name.
fn file_name(path: &str) -> Option<&str> {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    (!name.is_empty() && name.len() <= MAX_FILE_NAME && !name.chars().any(char::is_control)).then_some(name)
}
