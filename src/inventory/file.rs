//! A file of a store for readers that are not async: read in blocks, of which a few stay in memory.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

use crate::{
    Result,
    store::{Object, Store},
};

/// Bytes of a request, and blocks in memory: one for each column that is read, and more.
const BLOCK: u64 = 4 << 20;
const BLOCKS: usize = 12;

/// A file. Its clones share the blocks.
#[derive(Clone, Debug)]
pub(super) struct RangeFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    object: Object,
    runtime: Handle,
    /// The newest first.
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RangeFile {
    /// A file for one of the runtime's blocking threads.
    pub(super) fn new(store: Arc<dyn Store>, object: Object, runtime: Handle) -> Self {
        RangeFile(Arc::new(Inner { store, object, runtime, blocks: Mutex::default() }))
    }

    /// A reader from byte `position` on.
    pub(super) fn read_from(&self, position: u64) -> RangeRead {
        RangeRead { file: self.clone(), position }
    }

    fn block(&self, number: u64) -> Result<Bytes> {
        let Inner { store, object, runtime, blocks } = self.0.as_ref();
        let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = blocks.iter().position(|(known, _)| *known == number)
            && let Some(block) = blocks.remove(at)
        {
            blocks.push_front(block.clone());
            return Ok(block.1);
        }
        let start = number * BLOCK;
        let range = start..object.size.min(start + BLOCK);
        let body = runtime.block_on(store.get_part(object, range))?;
        blocks.truncate(BLOCKS - 1);
        blocks.push_front((number, body.clone()));
        Ok(body)
    }

    /// The bytes at a position, at least one and at most `most`; none at the end.
    fn some(&self, position: u64, most: usize) -> Result<Bytes> {
        if position >= self.0.object.size {
            return Ok(Bytes::new());
        }
        let block = self.block(position / BLOCK)?;
        let start = usize::try_from(position % BLOCK).unwrap_or(usize::MAX).min(block.len());
        Ok(block.slice(start..block.len().min(start.saturating_add(most))))
    }
}

impl Length for RangeFile {
    fn len(&self) -> u64 {
        self.0.object.size
    }
}

impl ChunkReader for RangeFile {
    type T = RangeRead;

    fn get_read(&self, start: u64) -> parquet::errors::Result<RangeRead> {
        Ok(self.read_from(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if start.saturating_add(length as u64) > self.0.object.size {
            return Err(parquet::errors::ParquetError::EOF("the file ends before the range does".to_owned()));
        }
        let external = |e| parquet::errors::ParquetError::External(Box::new(e));
        let first = self.some(start, length).map_err(external)?;
        if first.len() == length {
            return Ok(first);
        }
        let mut all = BytesMut::from(first);
        while all.len() < length {
            let more = self.some(start + all.len() as u64, length - all.len()).map_err(external)?;
            if more.is_empty() {
                return Err(parquet::errors::ParquetError::EOF("the file ends before the range does".to_owned()));
            }
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }
}

/// Reads a file from front to back.
#[derive(Debug)]
pub(super) struct RangeRead {
    file: RangeFile,
    position: u64,
}

impl Read for RangeRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.some(self.position, buffer.len()).map_err(io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }
}
