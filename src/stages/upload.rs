//! A work list that is written while it grows, so that memory does not grow with it.

use std::{cmp::Reverse, fmt};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{Error, ErrorKind, Result, dataset, ids::ShardId, store::Store};

/// Text that is collected before it is written, bytes.
const PIECE_BYTES: usize = 8 << 20;
/// Lines of a list for functions that are put in another order together: some millions of images.
const SHUFFLED: usize = 1 << 14;

/// The size of a shard, its id and its line.
type Waiting = (Reverse<u64>, ShardId, Vec<u8>);

/// JSON lines, each with a seal.
pub(super) struct WorkList<'a> {
    output: &'a dyn Store,
    key: String,
    text: Vec<u8>,
    upload: Option<Upload<'a>>,
    /// Lines that wait to be put in order, with the size and the id of their shards; None if they keep the order of the keys.
    waiting: Option<Vec<Waiting>>,
    /// Number of lines.
    pub(super) lines: u64,
    /// Where each line ends that is in its place, in bytes.
    pub(super) ends: Vec<u64>,
}

/// An object that is being written.
struct Upload<'a> {
    pieces: mpsc::Sender<Result<Bytes>>,
    done: BoxFuture<'a, Result<()>>,
}

impl fmt::Debug for WorkList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkList").field("key", &self.key).field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl<'a> Upload<'a> {
    fn start(output: &'a dyn Store, key: String) -> Self {
        let (pieces, receiver) = mpsc::channel(1);
        let body = stream::unfold(receiver, |mut pieces| async { pieces.recv().await.map(|piece| (piece, pieces)) });
        let done = async move { output.put_stream(&key, body.boxed()).await }.boxed();
        Upload { pieces, done }
    }

    async fn send(&mut self, piece: Bytes) -> Result<()> {
        let Upload { pieces, done } = self;
        match select(pieces.send(Ok(piece)).boxed(), done).await {
            Either::Left((Ok(()), _)) => Ok(()),
            Either::Left((Err(_), done)) => done.await.and_then(|()| Err(cut_short())),
            Either::Right((done, _)) => done.and_then(|()| Err(cut_short())),
        }
    }
}

fn cut_short() -> Error {
    Error::new(ErrorKind::StoreFailed, "the store took only the beginning of a file")
}

impl<'a> WorkList<'a> {
    /// A list in the order of the keys, or for functions: the largest shards first, so that none of them ends long after the
    /// others; equally large ones by their ids. Functions that walk neighbouring keys at the same time share a partition of S3,
    /// which answers 5,500 reads a second; this order has nothing to do with that of keys.
    pub(super) fn new(output: &'a dyn Store, key: String, for_functions: bool) -> Self {
        let waiting = for_functions.then(Vec::new);
        WorkList { output, key, text: Vec::new(), upload: None, waiting, lines: 0, ends: Vec::new() }
    }

    /// Adds a line about a shard of this size.
    pub(super) async fn push<T: Serialize>(&mut self, line: &T, (size, shard): (u64, &ShardId)) -> Result<()> {
        let line = dataset::to_sealed_lines(std::slice::from_ref(line))?;
        self.lines += 1;
        match &mut self.waiting {
            None => self.append(&line).await,
            Some(waiting) => {
                waiting.push((Reverse(size), shard.clone(), line.to_vec()));
                if waiting.len() < SHUFFLED { Ok(()) } else { self.release().await }
            }
        }
    }

    /// Writes the lines that wait.
    async fn release(&mut self) -> Result<()> {
        let mut waiting = self.waiting.as_mut().map(std::mem::take).unwrap_or_default();
        waiting.sort_unstable();
        for (_, _, line) in waiting {
            self.append(&line).await?;
        }
        Ok(())
    }

    async fn append(&mut self, line: &[u8]) -> Result<()> {
        self.text.extend_from_slice(line);
        self.ends.push(self.ends.last().copied().unwrap_or(0) + line.len() as u64);
        if self.text.len() < PIECE_BYTES {
            return Ok(());
        }
        let (output, key) = (self.output, self.key.clone());
        let upload = self.upload.get_or_insert_with(|| Upload::start(output, key));
        upload.send(std::mem::take(&mut self.text).into()).await
    }

    /// Writes the rest. The list exists afterwards, and not before.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.release().await?;
        let text = std::mem::take(&mut self.text).into();
        match self.upload.take() {
            None => self.output.put(&self.key, text).await,
            Some(mut upload) => {
                upload.send(text).await?;
                let Upload { pieces, done } = upload;
                drop(pieces);
                done.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn a_list_of_any_length_is_the_same_text() {
        let lines: Vec<_> = (0..3).map(|i| serde_json::json!({ "text": "x".repeat(PIECE_BYTES / 2 + i) })).collect();
        for count in 0..=3 {
            let store = MemoryStore::new();
            let mut list = WorkList::new(&store, "list.jsonl".to_owned(), false);
            for line in &lines[..count] {
                list.push(line, (1, &"a".into())).await.unwrap();
                assert!(store.get("list.jsonl").await.is_err());
            }
            list.finish().await.unwrap();
            let text = store.get("list.jsonl").await.unwrap();
            assert!(text == dataset::to_sealed_lines(&lines[..count]).unwrap(), "{count}");
            assert_eq!(list.lines, count as u64);
            assert_eq!(list.ends.last().copied().unwrap_or(0), text.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_list_for_functions_has_the_largest_shards_first() {
        let store = MemoryStore::new();
        let mut list = WorkList::new(&store, "list.jsonl".to_owned(), true);
        for (size, id) in [(1, "c"), (1, "a"), (2, "b")] {
            list.push(&serde_json::json!({ "id": id }), (size, &id.into())).await.unwrap();
        }
        list.finish().await.unwrap();
        let text = String::from_utf8(store.get("list.jsonl").await.unwrap().to_vec()).unwrap();
        let ids: Vec<&str> = text.lines().map(|line| &line[7..8]).collect();
        assert_eq!(ids, ["b", "a", "c"], "{text}");
        let lengths: Vec<u64> = text.lines().map(|line| line.len() as u64 + 1).collect();
        let ends = lengths.iter().scan(0, |at, length| {
            *at += length;
            Some(*at)
        });
        assert_eq!(list.ends, ends.collect::<Vec<_>>());
    }
}
