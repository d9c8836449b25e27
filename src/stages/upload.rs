//! A work list that is written while it grows, so that memory does not grow with it.

use std::fmt;

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{Error, ErrorKind, Result, dataset, store::Store};

/// Text that is collected before it is written, bytes.
const PIECE_BYTES: usize = 8 << 20;

/// JSON lines, each with a seal.
pub(super) struct WorkList<'a> {
    output: &'a dyn Store,
    key: String,
    text: Vec<u8>,
    upload: Option<Upload<'a>>,
    /// Number of lines.
    pub(super) lines: u64,
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
    pub(super) fn new(output: &'a dyn Store, key: String) -> Self {
        WorkList { output, key, text: Vec::new(), upload: None, lines: 0 }
    }

    /// Adds a line.
    pub(super) async fn push<T: Serialize>(&mut self, line: &T) -> Result<()> {
        self.text.extend_from_slice(&dataset::to_sealed_lines(std::slice::from_ref(line))?);
        self.lines += 1;
        if self.text.len() < PIECE_BYTES {
            return Ok(());
        }
        let (output, key) = (self.output, self.key.clone());
        let upload = self.upload.get_or_insert_with(|| Upload::start(output, key));
        upload.send(std::mem::take(&mut self.text).into()).await
    }

    /// Writes the rest. The list exists afterwards, and not before.
    pub(super) async fn finish(&mut self) -> Result<()> {
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
            let mut list = WorkList::new(&store, "list.jsonl".to_owned());
            for line in &lines[..count] {
                list.push(line).await.unwrap();
                assert!(store.get("list.jsonl").await.is_err());
            }
            list.finish().await.unwrap();
            let text = store.get("list.jsonl").await.unwrap();
            assert!(text == dataset::to_sealed_lines(&lines[..count]).unwrap(), "{count}");
            assert_eq!(list.lines, count as u64);
        }
    }
}
