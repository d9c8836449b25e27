//! Reads an archive from front to back, in large blocks that are requested ahead.

use std::ops::Range;

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

    /// The next bytes without taking them: `count` of them, or all that are left.
    pub(super) async fn peek(&mut self, count: u64) -> Result<Bytes> {
        let count = usize::try_from(count.min(self.left())).unwrap_or(usize::MAX);
        while self.block.len() < count {
            let more = self.fetch().await?;
            if more.is_empty() {
                break;
            }
            self.block = if self.block.is_empty() { more } else { [self.block.as_ref(), &more].concat().into() };
        }
        Ok(self.block.slice(..count.min(self.block.len())))
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
