//! A store in a folder of a file system.
//!
//! A put writes a file below `.tmp/`, syncs it and renames it to its key. A conditional put creates a hard link instead,
//! which fails if the name exists. A link creates a hard link below `.tmp/` and renames it to its key. Each process keeps
//! its temporary files in its own folder, which contains a locked file. The kernel releases the lock when the process
//! dies, so the next process that writes here recognises and removes the temporary files of killed processes.

mod entries;
mod files;
mod names;
mod walk;

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use rayon::prelude::*;
use tempfile::NamedTempFile;

use super::{Middle, Object, OpenFile, Store};
use crate::{Error, ErrorKind, Result};
use files::{Existing, Workspace, at, open_regular, publish, publish_name, read_within, second_name, stamp, temporary};
pub(crate) use names::escaped_name;
use walk::{Found, Problem, Walk, Wanted};

const PAGE: usize = 1_000;
/// Least number of files whose sizes and times one thread reads.
const STATS: usize = 64;
const TMP: &str = ".tmp";

/// A [`Store`] in a folder. Objects are the regular files below it; symbolic links are followed.
///
/// A name that is not UTF-8 has an escaped key. An entry that is no readable file, such as a pipe, a link that leads
/// nowhere or a folder without permission, is listed too; reading it fails with the reason.
#[derive(Debug)]
pub struct FolderStore {
    root: PathBuf,
    /// A folder that is not listed, even if a link leads to it.
    excluded: Option<PathBuf>,
    workspace: Arc<Mutex<Option<Workspace>>>,
    /// Files that this store holds, by key.
    held: Arc<Mutex<HashMap<String, File>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FolderStore {
    /// A store with its keys relative to `root`. The folder need not exist; the first put creates it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FolderStore { root: root.into(), excluded: None, workspace: Arc::default(), held: Arc::default() }
    }

    /// A store that does not list files below `output`, whichever way leads to them. Entries that lead there are listed;
    /// reading them fails.
    #[must_use]
    pub fn excluding(mut self, output: impl AsRef<Path>) -> Self {
        self.excluded = Some(super::location::resolved(output.as_ref()));
        self
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        let mut path = self.root.clone();
        for part in key.split('/') {
            let name = names::to_name(part);
            let bytes = name.as_encoded_bytes();
            if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&0) || bytes.contains(&b'/') {
                return Err(Error::new(ErrorKind::StoreFailed, "this key cannot be a file name").context("key", key));
            }
            path.push(name);
        }
        Ok(path)
    }

    /// Runs file operations on the runtime's blocking threads.
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "a file operation panicked").source(e)))
    }

    /// Makes something in the folder for temporary files.
    fn in_workspace<T>(
        &self,
        make: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> impl FnOnce() -> Result<T> + Send + 'static {
        let (root, workspace) = (self.root.clone(), self.workspace.clone());
        move || {
            let mut workspace = locked(&workspace);
            if workspace.is_none() {
                *workspace = Some(Workspace::open(&root.join(TMP))?);
            }
            let folder = workspace.as_ref().map(|w| w.folder.path()).unwrap_or(&root);
            make(folder)
        }
    }

    fn staged(&self) -> impl FnOnce() -> Result<NamedTempFile> + Send + 'static {
        self.in_workspace(temporary)
    }

    fn read_part(path: &Path, range: Range<u64>) -> Result<Bytes> {
        let (mut file, metadata) = open_regular(path)?;
        if range.end > metadata.len() {
            return Err(Error::new(ErrorKind::StoreFailed, "the file ends before the range does")
                .context("path", path.display()));
        }
        let mut body = vec![0; range.end.saturating_sub(range.start) as usize];
        file.seek(SeekFrom::Start(range.start)).map_err(|e| at(e, path))?;
        file.read_exact(&mut body).map_err(|e| at(e, path))?;
        Ok(body.into())
    }

    /// Reads a whole file, which must not grow while it is read.
    fn read(path: &Path) -> Result<(Vec<u8>, fs::Metadata)> {
        let (file, metadata) = open_regular(path)?;
        match read_within(file, metadata.len(), path)? {
            Some(body) => Ok((body, metadata)),
            None => Err(Error::new(ErrorKind::StoreFailed, "the file has grown while it was read")
                .context("path", path.display())),
        }
    }
}

fn replaced(path: &Path) -> Error {
    Error::new(ErrorKind::StoreNotFound, "the file has been replaced since it was listed")
        .context("path", path.display())
}

impl Drop for FolderStore {
    fn drop(&mut self) {
        if locked(&self.workspace).take().is_some() {
            // Fails while another process has a folder in it.
            let _ = fs::remove_dir(self.root.join(TMP));
        }
    }
}

#[async_trait]
impl Store for FolderStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn place(&self) -> String {
        super::location::resolved(&self.root).display().to_string()
    }

    async fn identity(&self) -> Option<String> {
        let root = self.root.clone();
        let created = Self::blocking(move || {
            let metadata = fs::metadata(&root).map_err(|e| at(e, &root))?;
            metadata.created().map_err(|e| at(e, &root))
        });
        let since_1970 = created.await.ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        (!since_1970.is_zero()).then(|| format!("folder-{:x}", since_1970.as_nanos()))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let wanted = Wanted {
            prefix: prefix.to_owned(),
            after: after.unwrap_or_default().to_owned(),
            excluded: self.excluded.clone(),
        };
        stream::try_unfold((self.root.clone(), Some(wanted), None::<Walk>), |(root, mut wanted, walk)| {
            Self::blocking(move || {
                let mut walk = match (walk, wanted.take()) {
                    (Some(walk), _) => walk,
                    (None, Some(wanted)) => Walk::new(&root, wanted)?,
                    (None, None) => return Ok(None),
                };
                loop {
                    let found = walk.by_ref().take(PAGE).collect::<Result<Vec<_>>>()?;
                    if found.is_empty() {
                        return Ok(None);
                    }
                    let page = found.into_par_iter().with_min_len(STATS).filter_map(Found::object);
                    let page: Vec<Object> = page.collect();
                    // Files can be deleted after their folder was read.
                    if !page.is_empty() {
                        return Ok(Some((page, (root, None, Some(walk)))));
                    }
                }
            })
        })
        .boxed()
    }

    fn listers(&self) -> usize {
        // Reading a folder waits for the disk or the network.
        std::thread::available_parallelism().map_or(1, usize::from).saturating_mul(2).clamp(4, 32)
    }

    async fn middle(&self, after: &str, until: Option<&str>) -> Result<Middle> {
        let (root, after, until) = (self.root.clone(), after.to_owned(), until.map(str::to_owned));
        let key = Self::blocking(move || Ok(walk::middle(&root, &after, until.as_deref()))).await?;
        Ok(key.map_or(Middle::Whole, Middle::Key))
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let path = self.path(key)?;
        Self::blocking(move || Ok(Self::read(&path)?.0.into())).await
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        let (path, listed, size) = (self.path(&object.key)?, object.etag.clone(), object.size);
        if let Some(problem) = Problem::of(&listed) {
            return Err(problem.error(&path));
        }
        Self::blocking(move || {
            let (file, _) = open_regular(&path)?;
            let body = read_within(file, size, &path)?;
            // The etag is taken after the content, so that a file that was replaced in between is noticed.
            let (etag, _) = stamp(&fs::metadata(&path).map_err(|e| at(e, &path))?, &path)?;
            match body.filter(|_| etag == listed) {
                Some(body) => Ok(body.into()),
                None => Err(replaced(&path)),
            }
        })
        .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(key)?;
        Self::blocking(move || Self::read_part(&path, range)).await
    }

    async fn open(&self, key: &str) -> Result<Option<OpenFile>> {
        let path = self.path(key)?;
        Self::blocking(move || open_regular(&path).map(|(file, _)| Some(OpenFile::new(file)))).await
    }

    async fn get_part(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        let (path, listed) = (self.path(&object.key)?, object.etag.clone());
        if let Some(problem) = Problem::of(&listed) {
            return Err(problem.error(&path));
        }
        Self::blocking(move || {
            let body = Self::read_part(&path, range);
            // The etag is taken after the content, as for a whole file.
            let (etag, _) = stamp(&fs::metadata(&path).map_err(|e| at(e, &path))?, &path)?;
            if etag == listed { body } else { Err(replaced(&path)) }
        })
        .await
    }

    async fn put_stream(&self, key: &str, mut body: BoxStream<'_, Result<Bytes>>) -> Result<()> {
        let target = self.path(key)?;
        let mut file = Self::blocking(self.staged()).await?;
        while let Some(piece) = body.next().await {
            let piece = piece?;
            let path = target.clone();
            file = Self::blocking(move || file.write_all(&piece).map(|()| file).map_err(|e| at(e, &path))).await?;
        }
        Self::blocking(move || publish(file, &target, Existing::Replace)).await.map(drop)
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<bool> {
        let target = self.path(key)?;
        let staged = self.staged();
        Self::blocking(move || {
            let mut file = staged()?;
            file.write_all(&body).map_err(|e| at(e, &target))?;
            Ok(publish(file, &target, Existing::Keep)?.is_some())
        })
        .await
    }

    async fn replace(&self, listed: &Object, body: Bytes) -> Result<bool> {
        let (target, listed, staged) = (self.path(&listed.key)?, listed.etag.clone(), self.staged());
        Self::blocking(move || {
            let mut file = staged()?;
            file.write_all(&body).map_err(|e| at(e, &target))?;
            let current = match open_regular(&target) {
                Err(e) if e.is(ErrorKind::StoreNotFound) => return Ok(false),
                current => current?.0,
            };
            // Concurrent calls for this file wait here, and then find another one. Some file systems have no locks.
            let _ = current.lock();
            match fs::metadata(&target) {
                Ok(metadata) if stamp(&metadata, &target)?.0 == listed => {
                    // Two files of the same tick of the clock would have one etag.
                    let old = metadata.modified().map_err(|e| at(e, &target))?;
                    if file.as_file().metadata().and_then(|new| new.modified()).map_err(|e| at(e, &target))? <= old {
                        let later = old + Duration::from_nanos(1);
                        file.as_file().set_modified(later).map_err(|e| at(e, &target))?;
                    }
                    publish(file, &target, Existing::Replace).map(|_| true)
                }
                _ => Ok(false),
            }
        })
        .await
    }

    async fn put_held(&self, key: &str, body: Bytes) -> Result<bool> {
        let (target, staged, held, key) = (self.path(key)?, self.staged(), self.held.clone(), key.to_owned());
        Self::blocking(move || {
            let mut file = staged()?;
            file.write_all(&body).map_err(|e| at(e, &target))?;
            // Before the file has its name: nobody sees it without the lock. Some file systems have no locks.
            let _ = file.as_file().try_lock();
            let Some(file) = publish(file, &target, Existing::Keep)? else { return Ok(false) };
            locked(&held).insert(key, file);
            Ok(true)
        })
        .await
    }

    async fn is_held(&self, key: &str) -> Result<Option<bool>> {
        let path = self.path(key)?;
        Self::blocking(move || {
            let (file, _) = open_regular(&path)?;
            Ok(match file.try_lock_shared() {
                Ok(()) => Some(false),
                Err(TryLockError::WouldBlock) => Some(true),
                Err(TryLockError::Error(_)) => None,
            })
        })
        .await
    }

    async fn link(&self, from: &str, to: &str) -> Result<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let staged = self.in_workspace(move |folder| second_name(&source, folder));
        let linked = Self::blocking(move || match staged()? {
            Some(second) => publish_name(second, &target).map(|()| true),
            None => Ok(false),
        });
        if linked.await? {
            return Ok(());
        }
        let body = self.get(from).await?;
        self.put(to, body).await
    }

    fn links(&self) -> bool {
        true
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let (path, root, held, key) = (self.path(key)?, self.root.clone(), self.held.clone(), key.to_owned());
        Self::blocking(move || match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(e, &path)),
            _ => {
                locked(&held).remove(&key);
                // Removes the folders that are empty now, up to the root.
                let folders =
                    path.ancestors().skip(1).take_while(|folder| *folder != root && folder.starts_with(&root));
                for folder in folders {
                    if fs::remove_dir(folder).is_err() {
                        break;
                    }
                }
                Ok(())
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode()
    }

    /// The files in the folders of `.tmp/`, without the locks.
    fn leftovers(root: &Path) -> usize {
        let folders = fs::read_dir(root.join(TMP)).unwrap().map(|entry| entry.unwrap().path());
        folders.map(|folder| fs::read_dir(folder).unwrap().count() - 1).sum()
    }

    #[tokio::test]
    async fn files_honour_the_umask() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path());
        store.put("put", Bytes::from_static(b"x")).await.unwrap();
        assert!(store.put_if_absent("absent", Bytes::from_static(b"x")).await.unwrap());
        assert!(store.put_held("held", Bytes::from_static(b"x")).await.unwrap());
        store.link("put", "link").await.unwrap();
        File::create(root.path().join("plain")).unwrap();
        for key in ["put", "absent", "held", "link"] {
            assert_eq!(mode(&root.path().join(key)), mode(&root.path().join("plain")), "{key}");
        }
    }

    #[tokio::test]
    async fn a_link_is_a_second_name_of_the_same_file() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path());
        let number = |key: &str| fs::metadata(root.path().join(key)).unwrap().ino();
        store.put("a/file", Bytes::from_static(b"x")).await.unwrap();
        store.put("b/link", Bytes::from_static(b"other")).await.unwrap();
        // The second time, both are names of one file already.
        for _ in 0..2 {
            store.link("a/file", "b/link").await.unwrap();
            store.link("a/file", "a/file").await.unwrap();
            assert_eq!(number("b/link"), number("a/file"));
            assert_eq!(fs::metadata(root.path().join("a/file")).unwrap().nlink(), 2);
            assert_eq!(leftovers(root.path()), 0);
        }
        assert!(store.links());
    }

    #[tokio::test]
    async fn what_cannot_be_linked_is_copied() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("file"), "x").unwrap();
        symlink(other.path().join("file"), root.path().join("file")).unwrap();
        let store = FolderStore::new(root.path());
        store.link("file", "copy").await.unwrap();
        assert_eq!(store.get("copy").await.unwrap(), "x");
        assert!(fs::symlink_metadata(root.path().join("copy")).unwrap().is_file());
        fs::create_dir(root.path().join("folder")).unwrap();
        assert!(store.link("folder", "copy").await.unwrap_err().is(ErrorKind::StoreFailed));
        assert_eq!(store.get("copy").await.unwrap(), "x");
    }
}
