//! A store in a folder of a file system.
//!
//! A put writes a file below `.tmp/`, syncs it and renames it to its key. A conditional put creates a hard link instead,
//! which fails if the name exists. Each process keeps its temporary files in its own folder, which contains a locked
//! file. The kernel releases the lock when the process dies, so the next process that writes here recognises and removes
//! the temporary files of killed processes.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tempfile::{NamedTempFile, TempDir};
use walkdir::{DirEntry, WalkDir};

use super::{Object, Store};
use crate::{Error, ErrorKind, Result, ids::ETag};

const PAGE: usize = 1_000;
const TMP: &str = ".tmp";
const LOCK: &str = "lock";

/// A [`Store`] in a folder. Objects are the regular files below it; symbolic links are followed.
#[derive(Debug)]
pub struct FolderStore {
    root: PathBuf,
    workspace: Arc<Mutex<Option<Workspace>>>,
}

/// This process's folder for temporary files. Dropping it deletes the folder.
#[derive(Debug)]
struct Workspace {
    folder: TempDir,
    _lock: File,
}

impl FolderStore {
    /// A store with its keys relative to `root`. The folder need not exist; the first put creates it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FolderStore { root: root.into(), workspace: Arc::default() }
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        let legal = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if key.split('/').all(legal) {
            Ok(self.root.join(key))
        } else {
            Err(Error::new(ErrorKind::StoreFailed, "this key cannot be a file name").context("key", key))
        }
    }

    /// Runs file operations on the runtime's blocking threads.
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::InternalBug, "a file operation panicked").source(e)))
    }

    fn staged(&self) -> impl FnOnce() -> Result<NamedTempFile> + Send + 'static {
        let (root, workspace) = (self.root.clone(), self.workspace.clone());
        move || {
            let mut workspace = workspace.lock().unwrap_or_else(PoisonError::into_inner);
            if workspace.is_none() {
                *workspace = Some(Workspace::open(&root.join(TMP))?);
            }
            let folder = workspace.as_ref().map(|w| w.folder.path()).unwrap_or(&root);
            NamedTempFile::new_in(folder).map_err(|e| at(e, folder))
        }
    }
}

impl Workspace {
    fn open(tmp: &Path) -> Result<Self> {
        fs::create_dir_all(tmp).map_err(|e| at(e, tmp))?;
        sweep(tmp);
        loop {
            let folder = TempDir::new_in(tmp).map_err(|e| at(e, tmp))?;
            let path = folder.path().join(LOCK);
            let lock = File::create(&path).map_err(|e| at(e, &path))?;
            lock.lock().map_err(|e| at(e, &path))?;
            // Another process may have removed the folder before it was locked.
            if path.exists() {
                return Ok(Workspace { folder, _lock: lock });
            }
        }
    }
}

impl Drop for FolderStore {
    fn drop(&mut self) {
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        if workspace.take().is_some() {
            // Fails while another process has a folder in it.
            let _ = fs::remove_dir(self.root.join(TMP));
        }
    }
}

/// Removes the temporary folders of dead processes. Errors are ignored: listings do not show these folders.
fn sweep(tmp: &Path) {
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => drop(fs::remove_dir_all(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Converts an I/O error, and adds the path.
fn at(error: io::Error, path: &Path) -> Error {
    use io::ErrorKind as Io;
    let (kind, message) = match error.kind() {
        Io::NotFound => (ErrorKind::StoreNotFound, "there is no such file"),
        Io::PermissionDenied => (ErrorKind::StoreDenied, "access was refused"),
        Io::Interrupted | Io::TimedOut | Io::WouldBlock => {
            (ErrorKind::StoreUnavailable, "the file system did not answer")
        }
        _ => (ErrorKind::StoreFailed, "the file system failed"),
    };
    Error::new(kind, message).context("path", path.display()).source(error)
}

/// Attempts to move a file into a folder that other processes may remove.
const PUBLISH_ATTEMPTS: u32 = 16;

/// What to do with a file that is already at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    Replace,
    Keep,
}

/// Moves a finished temporary file to `target`. False if there is a file that `existing` keeps.
fn publish(mut file: NamedTempFile, target: &Path, existing: Existing) -> Result<bool> {
    file.as_file().sync_all().map_err(|e| at(e, target))?;
    let mut attempt = 1;
    loop {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|e| at(e, parent))?;
        }
        let persisted = match existing {
            Existing::Replace => file.persist(target),
            Existing::Keep => file.persist_noclobber(target),
        };
        match persisted {
            Ok(_) => break,
            Err(e) if existing == Existing::Keep && e.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            // Another process has deleted the last file of the folder, and the folder.
            Err(e) if e.error.kind() == io::ErrorKind::NotFound && attempt < PUBLISH_ATTEMPTS => file = e.file,
            Err(e) => return Err(at(e.error, target)),
        }
        attempt += 1;
    }
    // Syncing the folder makes the new name durable. Some file systems do not support it.
    if let Some(folder) = target.parent().and_then(|p| File::open(p).ok()) {
        let _ = folder.sync_all();
    }
    Ok(true)
}

/// The byte order of keys: a folder sorts as its name followed by `/`.
fn by_key(a: &DirEntry, b: &DirEntry) -> std::cmp::Ordering {
    let key = |e: &DirEntry| {
        let mut name = e.file_name().as_encoded_bytes().to_vec();
        if e.file_type().is_dir() {
            name.push(b'/');
        }
        name
    };
    key(a).cmp(&key(b))
}

/// The key of an entry. A name that is not UTF-8 cannot be a key. It is listed with replacement characters, and reading it
/// fails, so that the image appears among the rejects.
fn key(root: &Path, entry: &DirEntry) -> String {
    entry.path().strip_prefix(root).unwrap_or(entry.path()).to_string_lossy().into_owned()
}

fn object(root: &Path, entry: &DirEntry) -> Result<Option<Object>> {
    if !entry.file_type().is_file() {
        return Ok(None);
    }
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        // Deleted after the folder was read.
        Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => return Ok(None),
        Err(e) => return Err(walk_error(e)),
    };
    let (etag, modified) = stamp(&metadata, entry.path())?;
    Ok(Some(Object { key: key(root, entry), etag, size: metadata.len(), modified }))
}

/// ETag (modification time in nanoseconds, and size) and modification time (microseconds since 1970).
fn stamp(metadata: &fs::Metadata, path: &Path) -> Result<(ETag, i64)> {
    let modified = metadata.modified().map_err(|e| at(e, path))?;
    let nanos = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    let etag = ETag::from(format!("{nanos:x}-{:x}", metadata.len()));
    Ok((etag, nanos.div_euclid(1_000) as i64))
}

fn walk_error(error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(Path::new("?")).to_owned();
    if error.loop_ancestor().is_some() {
        return Error::new(ErrorKind::StoreFailed, "a symbolic link leads back to a folder above it")
            .context("path", path.display());
    }
    match error.into_io_error() {
        Some(e) => at(e, &path),
        None => Error::new(ErrorKind::StoreFailed, "the folder could not be listed").context("path", path.display()),
    }
}

#[async_trait]
impl Store for FolderStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> BoxStream<'a, Result<Vec<Object>>> {
        let root = self.root.clone();
        let (wanted, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        // The walk starts in the deepest folder that the prefix contains. It skips folders that can only have keys
        // without the prefix or before `after`.
        let start = root.join(prefix.rsplit_once('/').map_or("", |(folder, _)| folder));
        let enter = {
            let (root, wanted, after) = (root.clone(), wanted.clone(), after.clone());
            move |entry: &DirEntry| {
                let mut key = key(&root, entry);
                if entry.depth() == 0 || !entry.file_type().is_dir() {
                    return true;
                }
                if key == TMP {
                    return false;
                }
                key.push('/');
                (key.starts_with(&wanted) || wanted.starts_with(&key)) && (key > after || after.starts_with(&key))
            }
        };
        let walk = WalkDir::new(start).follow_links(true).sort_by(by_key).into_iter().filter_entry(enter);
        let objects = walk.filter_map(move |entry| match entry {
            Ok(entry) => object(&root, &entry).transpose(),
            Err(e) => match walk_error(e) {
                // The start of the walk does not exist: the listing is empty.
                e if e.is(ErrorKind::StoreNotFound) => None,
                e => Some(Err(e)),
            },
        });
        let objects = objects.filter(move |object| {
            object.as_ref().map_or(true, |object| object.key.starts_with(&wanted) && object.key > after)
        });
        stream::try_unfold(objects, |mut objects| {
            Self::blocking(move || {
                let page = objects.by_ref().take(PAGE).collect::<Result<Vec<_>>>()?;
                Ok((!page.is_empty()).then_some((page, objects)))
            })
        })
        .boxed()
    }

    async fn get(&self, key: &str) -> Result<Bytes> {
        let path = self.path(key)?;
        Self::blocking(move || fs::read(&path).map(Bytes::from).map_err(|e| at(e, &path))).await
    }

    async fn get_listed(&self, object: &Object) -> Result<Bytes> {
        let (path, listed) = (self.path(&object.key)?, object.etag.clone());
        Self::blocking(move || {
            let body = fs::read(&path).map_err(|e| at(e, &path))?;
            // The etag is taken after the content, so that a file that was replaced in between is noticed.
            let (etag, _) = stamp(&fs::metadata(&path).map_err(|e| at(e, &path))?, &path)?;
            if etag == listed {
                return Ok(body.into());
            }
            Err(Error::new(ErrorKind::StoreNotFound, "the file has been replaced since it was listed")
                .context("path", path.display()))
        })
        .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(key)?;
        Self::blocking(move || {
            let mut file = File::open(&path).map_err(|e| at(e, &path))?;
            let mut body = vec![0; range.end.saturating_sub(range.start) as usize];
            file.seek(SeekFrom::Start(range.start)).map_err(|e| at(e, &path))?;
            file.read_exact(&mut body).map_err(|e| at(e, &path))?;
            Ok(body.into())
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
            publish(file, &target, Existing::Keep)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let (path, root) = (self.path(key)?, self.root.clone());
        Self::blocking(move || match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(e, &path)),
            _ => {
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
