//! An open file, of which parts are read.

use std::{fs::File, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::AsyncWriteExt;

use super::Store;
use crate::{Error, ErrorKind, Result};

/// Bytes of a request of [`copy`], and requests at the same time.
const COPIED: u64 = 8 << 20;
const REQUESTS: usize = 8;

/// An open file of a folder. Deleting or replacing its key does not change what is read.
#[derive(Clone, Debug)]
pub struct OpenFile(Arc<Shared>);

#[cfg(unix)]
type Shared = File;
/// Its position is shared by all readers.
#[cfg(not(unix))]
type Shared = std::sync::Mutex<File>;

impl OpenFile {
    pub(super) fn new(file: File) -> Self {
        OpenFile(Arc::new(Shared::from(file)))
    }

    /// Reads the bytes of `range`. Blocks. Fails with `Store.Failed` if the file ends before the range does.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let failed =
            |e: std::io::Error| Error::new(ErrorKind::StoreFailed, "a part of a file cannot be read").source(e);
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|e| Error::new(ErrorKind::StoreFailed, "a part of a file is too long").source(e))?;
        let mut body = vec![0; length];
        self.read_at(&mut body, range.start).map_err(failed)?;
        Ok(body.into())
    }

    #[cfg(unix)]
    fn read_at(&self, body: &mut [u8], start: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self.0.as_ref(), body, start)
    }

    #[cfg(not(unix))]
    fn read_at(&self, body: &mut [u8], start: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(body)
    }
}

/// Copies an object of `bytes` bytes to a temporary file without a name, for a reader of many parts. None if the file cannot be
/// written, for example because the disk is full. Fails with the errors of [`Store::get_range`].
pub async fn copy(store: &dyn Store, key: &str, bytes: u64) -> Result<Option<OpenFile>> {
    let Ok(file) = tempfile::tempfile() else { return Ok(None) };
    copy_to(file, store, key, bytes).await
}

async fn copy_to(file: File, store: &dyn Store, key: &str, bytes: u64) -> Result<Option<OpenFile>> {
    let mut file = tokio::fs::File::from_std(file);
    let starts = (0..bytes).step_by(COPIED as usize);
    let reads: Vec<_> = starts.map(|start| store.get_range(key, start..(start + COPIED).min(bytes))).collect();
    let mut parts = stream::iter(reads).buffered(REQUESTS);
    while let Some(part) = parts.try_next().await? {
        if file.write_all(&part).await.is_err() {
            return Ok(None);
        }
    }
    let written = file.flush().await.is_ok();
    Ok(if written { Some(OpenFile::new(file.into_std().await)) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn a_copy_has_all_parts_in_their_order() {
        let (store, bytes) = (MemoryStore::new(), 2 * COPIED + 7);
        let body: Bytes = (0..bytes).map(|i| (i ^ (i >> 9)) as u8).collect::<Vec<_>>().into();
        store.put("a", body.clone()).await.unwrap();
        let copied = copy(&store, "a", bytes).await.unwrap().unwrap();
        assert!(copied.read(0..bytes).unwrap() == body);
        // The object is a byte shorter than it should be.
        assert!(copy(&store, "a", bytes + 1).await.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn without_room_there_is_no_copy_and_no_error() {
        let store = MemoryStore::new();
        store.put("a", Bytes::from(vec![1; 100])).await.unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert!(copy_to(full, &store, "a", 100).await.unwrap().is_none());
    }
}
