//! Sorts any number of rows by key, with bounded memory: sorted runs in temporary files, which are then merged.
//!
//! [`Sorter`] holds at most [`RUN_BYTES`] of rows. Merging holds a buffer of 64 KiB for each run, and [`Sorted`] the first
//! key of each block of 4,096 rows: about 25 KB for a million keys. The files are those of the system's folder for
//! temporary files, have no names, and end with the process. Keys are written without what they share with the key before
//! them, so a row takes about 50 bytes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use crate::{Error, ErrorKind, Result, store::Object};

/// Bytes of rows in memory.
pub(super) const RUN_BYTES: usize = 64 << 20;
/// Rows of a block of a sorted file.
const BLOCK_ROWS: usize = 4_096;
/// Buffer of a run.
const BUFFER: usize = 64 << 10;
/// Longest text of a row. Longer ones are no keys of S3.
pub(super) const MAX_TEXT: usize = 1 << 16;

/// What an inventory says about a key at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) key: String,
    /// Orders the rows of a key; the greatest counts.
    pub(super) sequence: String,
    pub(super) modified: i64,
    /// Whether the object exists.
    pub(super) exists: bool,
    pub(super) etag: String,
    pub(super) size: u64,
}

impl Row {
    fn bytes(&self) -> usize {
        size_of::<Row>() + self.key.len() + self.sequence.len() + self.etag.len()
    }

    fn into_object(self) -> Object {
        Object { key: self.key, etag: self.etag.into(), size: self.size, modified: self.modified, packed: None }
    }
}

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::StoreFailed, "an inventory cannot be sorted in the folder for temporary files")
        .context("folder", std::env::temp_dir().display())
        .source(error)
}

fn write_number(to: &mut impl Write, mut number: u64) -> io::Result<()> {
    while number >= 0x80 {
        to.write_all(&[number as u8 | 0x80])?;
        number >>= 7;
    }
    to.write_all(&[number as u8])
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let (mut number, mut byte) = (0, [0]);
    for shift in (0..64).step_by(7) {
        from.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(number);
        }
    }
    Err(io::Error::other("a number of the file is too long"))
}

fn read_text(from: &mut impl Read, start: &str) -> io::Result<String> {
    let length = usize::try_from(read_number(from)?).unwrap_or(usize::MAX);
    if length > MAX_TEXT {
        return Err(io::Error::other("a text of the file is too long"));
    }
    let mut text = Vec::with_capacity(start.len() + length);
    text.extend_from_slice(start.as_bytes());
    let from_byte = text.len();
    text.resize(from_byte + length, 0);
    from.read_exact(&mut text[from_byte..])?;
    String::from_utf8(text).map_err(io::Error::other)
}

/// Writes a row after the row with the key `before`.
fn write_row(to: &mut impl Write, before: &str, row: &Row) -> io::Result<()> {
    let mut shared = before.bytes().zip(row.key.bytes()).take_while(|(a, b)| a == b).count();
    while !row.key.is_char_boundary(shared) {
        shared -= 1;
    }
    write_number(to, shared as u64)?;
    for text in [&row.key[shared..], &row.sequence, &row.etag] {
        write_number(to, text.len() as u64)?;
        to.write_all(text.as_bytes())?;
    }
    write_number(to, row.size)?;
    write_number(to, row.modified as u64)?;
    to.write_all(&[u8::from(row.exists)])
}

/// Reads a row; None at the end.
fn read_row(from: &mut impl Read, before: &str) -> io::Result<Option<Row>> {
    let shared = match read_number(from) {
        Ok(shared) => usize::try_from(shared).unwrap_or(usize::MAX),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    let start = before.get(..shared).ok_or_else(|| io::Error::other("a key of the file has no start"))?;
    let (key, sequence, etag) = (read_text(from, start)?, read_text(from, "")?, read_text(from, "")?);
    let (size, modified) = (read_number(from)?, read_number(from)? as i64);
    let mut exists = [0];
    from.read_exact(&mut exists)?;
    Ok(Some(Row { key, sequence, modified, exists: exists[0] == 1, etag, size }))
}

/// Collects rows in any order.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    rows: Vec<Row>,
    bytes: usize,
    runs: Vec<File>,
}

impl Sorter {
    /// Adds a row.
    pub(super) fn push(&mut self, row: Row) -> Result<()> {
        self.bytes += row.bytes();
        self.rows.push(row);
        if self.bytes >= RUN_BYTES { self.spill().map_err(failed) } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        rows.sort_unstable();
        let mut file = BufWriter::with_capacity(BUFFER, tempfile::tempfile()?);
        let mut before = String::new();
        for row in rows {
            write_row(&mut file, &before, &row)?;
            before = row.key;
        }
        let mut file = file.into_inner()?;
        file.seek(SeekFrom::Start(0))?;
        self.runs.push(file);
        Ok(())
    }

    /// All rows in the order of their keys, one for each key that exists.
    pub(super) fn finish(mut self) -> Result<Sorted> {
        self.spill().and_then(|()| self.merge()).map_err(failed)
    }

    fn merge(self) -> io::Result<Sorted> {
        let mut runs: Vec<BufReader<File>> =
            self.runs.into_iter().map(|file| BufReader::with_capacity(BUFFER, file)).collect();
        let mut heap = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            heap.extend(read_row(run, "")?.map(|row| Reverse((row, number))));
        }
        let mut sorted = Writer::new()?;
        let mut last: Option<Row> = None;
        while let Some(Reverse((row, number))) = heap.pop() {
            if let Some(run) = runs.get_mut(number) {
                heap.extend(read_row(run, &row.key)?.map(|row| Reverse((row, number))));
            }
            // Of the rows of a key, the greatest comes last.
            if let Some(before) = last.replace(row)
                && last.as_ref().is_none_or(|row| row.key != before.key)
            {
                sorted.push(before)?;
            }
        }
        if let Some(row) = last {
            sorted.push(row)?;
        }
        sorted.finish()
    }
}

/// Writes a [`Sorted`].
struct Writer {
    file: BufWriter<File>,
    blocks: Vec<(String, u64)>,
    position: u64,
    rows: usize,
    before: String,
}

impl Writer {
    fn new() -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER, tempfile::tempfile()?);
        Ok(Writer { file, blocks: Vec::new(), position: 0, rows: 0, before: String::new() })
    }

    fn push(&mut self, row: Row) -> io::Result<()> {
        if !row.exists {
            return Ok(());
        }
        if self.rows.is_multiple_of(BLOCK_ROWS) {
            self.blocks.push((row.key.clone(), self.position));
            self.before.clear();
        }
        let mut text = Vec::with_capacity(128);
        write_row(&mut text, &self.before, &row)?;
        self.file.write_all(&text)?;
        self.position += text.len() as u64;
        self.rows += 1;
        self.before = row.key;
        Ok(())
    }

    fn finish(self) -> io::Result<Sorted> {
        Ok(Sorted { file: self.file.into_inner()?, blocks: self.blocks, bytes: self.position })
    }
}

/// Rows in the order of their keys.
#[derive(Debug)]
pub(super) struct Sorted {
    file: File,
    /// First key and offset of each block.
    blocks: Vec<(String, u64)>,
    bytes: u64,
}

impl Sorted {
    /// Number of the first block that can have keys from `key` on.
    pub(super) fn block_of(&self, key: &str) -> usize {
        self.blocks.partition_point(|(first, _)| first.as_str() <= key).saturating_sub(1)
    }

    /// The objects of a block; None after the last.
    pub(super) fn block(&self, number: usize) -> Result<Option<Vec<Object>>> {
        let Some((_, start)) = self.blocks.get(number) else { return Ok(None) };
        let end = self.blocks.get(number + 1).map_or(self.bytes, |(_, end)| *end);
        let mut text = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut text, *start).map_err(failed)?;
        let (mut rest, mut objects, mut before) = (text.as_slice(), Vec::with_capacity(BLOCK_ROWS), String::new());
        while let Some(row) = read_row(&mut rest, &before).map_err(failed)? {
            before.clone_from(&row.key);
            objects.push(row.into_object());
        }
        Ok(Some(objects))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = Row> {
        ("[aä/b]{0,6}", "[0-2]{0,2}", any::<i64>(), any::<bool>(), "[a-f0-9-]{0,9}", any::<u64>()).prop_map(
            |(key, sequence, modified, exists, etag, size)| Row { key, sequence, modified, exists, etag, size },
        )
    }

    proptest! {
        #[test]
        fn the_greatest_row_of_each_key_is_listed_in_order(rows in prop::collection::vec(row(), 0..80), spill in 1usize..30) {
            let (mut sorter, mut expected) = (Sorter::default(), BTreeMap::new());
            for (number, row) in rows.into_iter().enumerate() {
                let known = expected.entry(row.key.clone()).or_insert_with(|| row.clone());
                *known = known.clone().max(row.clone());
                sorter.push(row).unwrap();
                if number % spill == 0 {
                    sorter.spill().unwrap();
                }
            }
            let sorted = sorter.finish().unwrap();
            let mut found = Vec::new();
            for number in 0.. {
                let Some(block) = sorted.block(number).unwrap() else { break };
                found.extend(block);
            }
            let expected: Vec<Object> = expected.into_values().filter(|row| row.exists).map(Row::into_object).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_block_is_found_by_its_keys() {
        let mut sorter = Sorter::default();
        let key = |i: u64| format!("{:06}", i * 2);
        for i in (0..10_000u64).rev() {
            let row =
                Row { key: key(i), sequence: String::new(), modified: 0, exists: true, etag: "e".into(), size: i };
            sorter.push(row).unwrap();
        }
        let sorted = sorter.finish().unwrap();
        for i in [0, 1, 4_095, 4_096, 4_097, 8_192, 9_999] {
            let block = sorted.block(sorted.block_of(&key(i))).unwrap().unwrap();
            assert!(block.iter().any(|object| object.size == i), "{i}");
        }
        assert_eq!((sorted.block_of(""), sorted.block_of("z")), (0, 2));
    }
}
