//! Reads archives in large blocks: from front to back, with requests ahead, or here and there.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture, stream::FuturesOrdered};

use crate::{
    Result,
    store::{Object, Store},
};

/// Bytes of a request.
const BLOCK: u64 = 8 << 20;
/// Requests at a time. With the block that is being read, this many blocks and one more are in memory.
const AHEAD: usize = 3;

/// A position in an archive, with the bytes behind it.
pub(super) struct Source<'a> {
    store: &'a dyn Store,
    archive: &'a Object,
    /// Where the bytes of `block` start.
    position: u64,
    block: Bytes,
    /// Where the next request starts.
    next: u64,
    end: u64,
    ahead: FuturesOrdered<BoxFuture<'a, Result<Bytes>>>,
}

impl<'a> Source<'a> {
    /// Starts at the first byte of the range, which must lie in the archive.
    pub(super) fn new(store: &'a dyn Store, archive: &'a Object, range: Range<u64>) -> Self {
        let Range { start, end } = range;
        Source { store, archive, position: start, block: Bytes::new(), next: start, end, ahead: FuturesOrdered::new() }
    }

    /// Offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes up to the end.
    pub(super) fn left(&self) -> u64 {
        self.end - self.position
    }

    /// The next bytes, at least one and at most `most`; none at the end.
    pub(super) async fn some(&mut self, most: u64) -> Result<Bytes> {
        if self.block.is_empty() && self.position < self.end {
            self.block = self.fetch().await?;
        }
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.block.len());
        self.position += count as u64;
        Ok(self.block.split_to(count))
    }

    async fn fetch(&mut self) -> Result<Bytes> {
        loop {
            while self.ahead.len() < AHEAD && self.next < self.end {
                let range = self.next..self.end.min(self.next + BLOCK);
                self.next = range.end;
                self.ahead.push_back(self.store.get_part(self.archive, range));
            }
            match self.ahead.next().await {
                Some(block) => return block,
                None if self.next >= self.end => return Ok(Bytes::new()),
                None => {}
            }
        }
    }

    /// The next `count` bytes; `None`, after which nothing is left, if there are fewer. `count` bounds the memory.
    pub(super) async fn exactly(&mut self, count: u64) -> Result<Option<Bytes>> {
        let first = self.some(count).await?;
        if first.len() as u64 == count {
            return Ok(Some(first));
        }
        let mut all = BytesMut::from(first);
        while (all.len() as u64) < count {
            let more = self.some(count - all.len() as u64).await?;
            if more.is_empty() {
                return Ok(None);
            }
            all.extend_from_slice(&more);
        }
        Ok(Some(all.freeze()))
    }

    /// Skips bytes, at most to the end. What is far behind is not read.
    pub(super) async fn skip(&mut self, count: u64) -> Result<()> {
        let target = self.end.min(self.position.saturating_add(count));
        if target > self.next {
            self.block = Bytes::new();
            self.ahead = FuturesOrdered::new();
            (self.next, self.position) = (target, target);
        }
        while self.position < target {
            if self.some(target - self.position).await?.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// Blocks of [`Blocks`] in memory.
const KEPT: usize = 6;

/// Parts of an archive that lie near each other, in any order.
pub(super) struct Blocks<'a> {
    store: &'a dyn Store,
    archive: &'a Object,
    /// Numbers and contents of the last blocks, the newest at the end.
    blocks: VecDeque<(u64, Bytes)>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(store: &'a dyn Store, archive: &'a Object) -> Self {
        Blocks { store, archive, blocks: VecDeque::new() }
    }

    /// The bytes of a range, which must lie in the archive. Its length bounds the memory.
    pub(super) async fn get(&mut self, range: Range<u64>) -> Result<Bytes> {
        let mut all: Option<BytesMut> = None;
        let mut at = range.start;
        while at < range.end {
            let block = self.block(at / BLOCK).await?;
            let start = usize::try_from(at % BLOCK).unwrap_or(usize::MAX);
            let count = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(block.len().saturating_sub(start));
            let part = block.slice(start..start + count);
            if count == 0 {
                // The range ends outside of the archive.
                break;
            }
            at += count as u64;
            match &mut all {
                None if at == range.end => return Ok(part),
                None => all = Some(BytesMut::from(part)),
                Some(all) => all.extend_from_slice(&part),
            }
        }
        Ok(all.unwrap_or_default().freeze())
    }

    /// A block. If it is not in memory, the next ones are read with it.
    async fn block(&mut self, number: u64) -> Result<Bytes> {
        let known = |blocks: &VecDeque<(u64, Bytes)>| {
            blocks.iter().find(|(known, _)| *known == number).map(|(_, block)| block.clone())
        };
        if let Some(block) = known(&self.blocks) {
            return Ok(block);
        }
        let last = self.archive.size.div_ceil(BLOCK).min(number + AHEAD as u64);
        let wanted: Vec<u64> =
            (number..last).filter(|next| self.blocks.iter().all(|(known, _)| known != next)).collect();
        let reads = wanted.iter().map(|number| {
            let range = number * BLOCK..self.archive.size.min((number + 1) * BLOCK);
            self.store.get_part(self.archive, range)
        });
        let read = futures::future::try_join_all(reads).await?;
        self.blocks.extend(wanted.into_iter().zip(read));
        while self.blocks.len() > KEPT {
            self.blocks.pop_front();
        }
        Ok(known(&self.blocks).unwrap_or_default())
    }
}
