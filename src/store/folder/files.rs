//! Files: opening, reading within a limit, and writing whole or not at all.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::UNIX_EPOCH,
};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::{Error, ErrorKind, Result, ids::ETag};

const LOCK: &str = "lock";
/// Attempts to move a file into a folder that other processes may remove.
const PUBLISH_ATTEMPTS: u32 = 16;

/// Converts an I/O error, and adds the path.
pub(super) fn at(error: io::Error, path: &Path) -> Error {
    use io::ErrorKind as Io;
    let (kind, message) = match error.kind() {
        Io::NotFound => (ErrorKind::StoreNotFound, "there is no such file"),
        Io::PermissionDenied => (ErrorKind::StoreDenied, "access was refused"),
        Io::Interrupted | Io::TimedOut => (ErrorKind::StoreUnavailable, "the file system did not answer"),
        Io::WouldBlock => (ErrorKind::StoreFailed, "the file has nothing to read at the moment"),
        _ => (ErrorKind::StoreFailed, "the file system failed"),
    };
    Error::new(kind, message).context("path", path.display()).source(error)
}

/// ETag (modification time in nanoseconds, and size) and modification time (microseconds since 1970).
pub(super) fn stamp(metadata: &fs::Metadata, path: &Path) -> Result<(ETag, i64)> {
    let modified = metadata.modified().map_err(|e| at(e, path))?;
    let nanos = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    let etag = ETag::from(format!("{nanos:x}-{:x}", metadata.len()));
    Ok((etag, nanos.div_euclid(1_000) as i64))
}

/// Opens a regular file, and nothing else: opening a pipe or a device could wait forever.
pub(super) fn open_regular(path: &Path) -> Result<(File, fs::Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| at(e, path))?;
    let metadata = file.metadata().map_err(|e| at(e, path))?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    Err(Error::new(ErrorKind::StoreFailed, "this is not a regular file").context("path", path.display()))
}

/// Reads a file of at most `size` bytes. None if it has more.
pub(super) fn read_within(file: File, size: u64, path: &Path) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    // A file that is shorter than it claims must not cost the memory that it claims.
    let read = file.take(size.saturating_add(1)).read_to_end(&mut body);
    read.map_err(|e| at(e, path))?;
    Ok((body.len() as u64 <= size).then_some(body))
}

/// This process's folder for temporary files. Dropping it deletes the folder.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) folder: TempDir,
    _lock: File,
}

impl Workspace {
    pub(super) fn open(tmp: &Path) -> Result<Self> {
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

/// What to do with a file that is already at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    Keep,
}

/// A new temporary file in `folder`. Its permissions are those of any new file: 0666, without what the umask removes.
pub(super) fn temporary(folder: &Path) -> Result<NamedTempFile> {
    let all = fs::Permissions::from_mode(0o666);
    Builder::new().permissions(all).tempfile_in(folder).map_err(|e| at(e, folder))
}

/// A second, temporary name in `folder` of the file `source`. None if the file system has no second names, or not for this
/// file. Fails with `Store.NotFound` if there is no source.
pub(super) fn second_name(source: &Path, folder: &Path) -> Result<Option<NamedTempFile<()>>> {
    // A second name of a symbolic link is not a second name of the file that it leads to.
    if !fs::symlink_metadata(source).map_err(|e| at(e, source))?.is_file() {
        return Ok(None);
    }
    match Builder::new().make_in(folder, |name| fs::hard_link(source, name)) {
        Ok(second) => Ok(Some(second)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(at(e, source)),
        // Another file system, no support, no permission, too many names of the file, ...: a copy may still be possible.
        Err(_) => Ok(None),
    }
}

/// Moves a second name to `target`, which replaces an existing file.
pub(super) fn publish_name(second: NamedTempFile<()>, target: &Path) -> Result<()> {
    let temporary = second.path().to_owned();
    give_name(second, target, Existing::Replace)?;
    // If the target was a name of the same file before, a rename does nothing and leaves the temporary name.
    let _ = fs::remove_file(temporary);
    Ok(())
}

/// Moves a finished temporary file to `target`. None if there is a file that `existing` keeps.
pub(super) fn publish(file: NamedTempFile, target: &Path, existing: Existing) -> Result<Option<File>> {
    file.as_file().sync_all().map_err(|e| at(e, target))?;
    give_name(file, target, existing)
}

/// Moves a temporary file, whose content is on the disk, to `target`.
fn give_name<F>(mut file: NamedTempFile<F>, target: &Path, existing: Existing) -> Result<Option<F>> {
    let mut attempt = 1;
    let published = loop {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|e| at(e, parent))?;
        }
        let persisted = match existing {
            Existing::Replace => file.persist(target),
            Existing::Keep => file.persist_noclobber(target),
        };
        match persisted {
            Ok(published) => break published,
            Err(e) if existing == Existing::Keep && e.error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            // Another process has deleted the last file of the folder, and the folder.
            Err(e) if e.error.kind() == io::ErrorKind::NotFound && attempt < PUBLISH_ATTEMPTS => file = e.file,
            Err(e) => return Err(at(e.error, target)),
        }
        attempt += 1;
    };
    // Syncing the folder makes the new name durable. Some file systems do not support it.
    if let Some(folder) = target.parent().and_then(|p| File::open(p).ok()) {
        let _ = folder.sync_all();
    }
    Ok(Some(published))
}
