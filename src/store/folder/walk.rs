//! Listing a folder in the byte order of its keys.
//!
//! Symbolic links are followed. An entry that cannot be read as a file or folder is listed with a [`Problem`] as its etag,
//! so that it becomes a reject instead of an error of the whole listing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    vec,
};

use super::{
    super::Object,
    TMP,
    files::{at, stamp},
    names::{to_name, to_part},
};
use crate::{Error, ErrorKind, Result, ids::ETag};

/// Most linked folders in one path. More would let a few links between folders stand for millions of paths.
const MAX_LINKED_FOLDERS: usize = 8;

/// Why an entry of a folder cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Denied,
    Loop,
    Dangling,
    Output,
    TooManyLinks,
    NotRegular,
    Failed,
}

impl Problem {
    const ALL: [Problem; 7] = [
        Problem::Denied,
        Problem::Loop,
        Problem::Dangling,
        Problem::Output,
        Problem::TooManyLinks,
        Problem::NotRegular,
        Problem::Failed,
    ];

    /// Stands for the etag of the entry. The etag of a file never starts with `!`.
    fn etag(self) -> &'static str {
        match self {
            Problem::Denied => "!denied",
            Problem::Loop => "!loop",
            Problem::Dangling => "!dangling",
            Problem::Output => "!output",
            Problem::TooManyLinks => "!links",
            Problem::NotRegular => "!special",
            Problem::Failed => "!failed",
        }
    }

    /// The problem that a listing found in place of a file.
    pub(super) fn of(listed: &ETag) -> Option<Problem> {
        Problem::ALL.into_iter().find(|problem| problem.etag() == listed.as_str())
    }

    pub(super) fn error(self, path: &Path) -> Error {
        let (kind, message) = match self {
            Problem::Denied => (ErrorKind::StoreDenied, "access was refused"),
            Problem::Loop => (ErrorKind::StoreFailed, "this link leads back to a folder above it, or to itself"),
            Problem::Dangling => (ErrorKind::StoreFailed, "this link leads to a file that does not exist"),
            Problem::Output => (ErrorKind::StoreFailed, "this leads into the output of the run"),
            Problem::TooManyLinks => (ErrorKind::StoreFailed, "more than 8 linked folders lead here"),
            Problem::NotRegular => (ErrorKind::StoreFailed, "this is not a regular file"),
            Problem::Failed => (ErrorKind::StoreFailed, "the file system failed"),
        };
        Error::new(kind, message).context("path", path.display())
    }

    fn from_io(error: &io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Problem::Denied,
            io::ErrorKind::NotFound => Problem::Dangling,
            // ELOOP, which has no stable kind.
            _ if error.to_string().contains("symbolic links") => Problem::Loop,
            _ => Problem::Failed,
        }
    }
}

/// Device and inode: the same for all paths to a folder.
type Identity = (u64, u64);

/// The part of a store that a listing returns.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) prefix: String,
    /// Only greater keys.
    pub(super) after: String,
    /// A folder whose content is not listed: the output of the run.
    pub(super) excluded: Option<PathBuf>,
}

impl Wanted {
    /// Whether the folder `key`, with `/` at its end, can contain wanted keys.
    fn enters(&self, key: &str) -> bool {
        (key.starts_with(&self.prefix) || self.prefix.starts_with(key))
            && (key > self.after.as_str() || self.after.starts_with(key))
    }

    fn contains(&self, key: &str) -> bool {
        key.starts_with(&self.prefix) && key > self.after.as_str()
    }
}

/// A walk through the wanted part of a folder, in the byte order of the keys.
#[derive(Debug)]
pub(super) struct Walk {
    wanted: Wanted,
    excluded: Option<Identity>,
    levels: Vec<Level>,
}

/// A folder that is being listed.
#[derive(Debug)]
struct Level {
    path: PathBuf,
    /// The key of the folder, with `/` at its end; empty for the root.
    key: String,
    identity: Identity,
    /// Linked folders in its path.
    links: usize,
    entries: vec::IntoIter<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The part of the key; with `/` at its end for a folder.
    part: String,
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Folder { identity: Identity, linked: bool },
    File,
    Problem(Problem),
}

impl Walk {
    /// Starts in the deepest folder that the prefix names. A missing folder has no objects.
    pub(super) fn new(root: &Path, wanted: Wanted) -> Result<Self> {
        let excluded = wanted.excluded.as_deref().and_then(|path| fs::metadata(path).ok()).map(|m| identity(&m));
        let mut walk = Walk { wanted, excluded, levels: Vec::new() };
        let mut level = Level {
            path: root.to_owned(),
            key: String::new(),
            identity: fs::metadata(root).map_or((0, 0), |m| identity(&m)),
            links: 0,
            entries: Vec::new().into_iter(),
        };
        let prefix = walk.wanted.prefix.clone();
        let parts = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
        for part in parts.split('/').filter(|_| !parts.is_empty()) {
            let path = level.path.join(to_name(part));
            let linked = fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
            let (key, links) = (format!("{}{part}/", level.key), level.links + usize::from(linked));
            let identity = fs::metadata(&path).map_or((0, 0), |m| identity(&m));
            walk.levels.push(std::mem::replace(
                &mut level,
                Level { path, key, identity, links, entries: Vec::new().into_iter() },
            ));
        }
        match fs::metadata(&level.path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(walk),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(walk),
            Err(e) => return Err(at(e, &level.path)),
        }
        walk.enter(level)?;
        Ok(walk)
    }

    /// Reads the entries of a folder, whose objects come next.
    fn enter(&mut self, mut level: Level) -> Result<()> {
        let read = match fs::read_dir(&level.path) {
            Ok(read) => read,
            // Deleted after its parent was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(at(e, &level.path)),
        };
        let mut entries = Vec::new();
        for entry in read {
            let entry = entry.map_err(|e| at(e, &level.path))?;
            entries.extend(self.entry(&level, &entry).filter(|entry| self.is_wanted(&level, entry)));
        }
        entries.sort_unstable_by(|a, b| a.part.cmp(&b.part));
        level.entries = entries.into_iter();
        self.levels.push(level);
        Ok(())
    }

    fn is_wanted(&self, level: &Level, entry: &Entry) -> bool {
        let key = format!("{}{}", level.key, entry.part);
        match entry.kind {
            Kind::Folder { .. } => key.strip_suffix('/') != Some(TMP) && self.wanted.enters(&key),
            Kind::File | Kind::Problem(_) => self.wanted.contains(&key),
        }
    }

    /// None for an entry that is gone.
    fn entry(&self, level: &Level, entry: &fs::DirEntry) -> Option<Entry> {
        let (path, part) = (entry.path(), to_part(&entry.file_name()));
        let kind = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => self.linked(level, &path)?,
            Ok(kind) if kind.is_dir() => self.folder(level, &path, false)?,
            Ok(kind) if kind.is_file() => Kind::File,
            Ok(_) => Kind::Problem(Problem::NotRegular),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => Kind::Problem(Problem::from_io(&e)),
        };
        let part = if matches!(kind, Kind::Folder { .. }) { part + "/" } else { part };
        Some(Entry { part, path, kind })
    }

    /// What a symbolic link leads to.
    fn linked(&self, level: &Level, path: &Path) -> Option<Kind> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(_) if fs::symlink_metadata(path).is_err() => return None,
            Err(e) => return Some(Kind::Problem(Problem::from_io(&e))),
        };
        if self.leads_to_excluded(path) {
            return Some(Kind::Problem(Problem::Output));
        }
        if metadata.is_file() {
            return Some(Kind::File);
        }
        if !metadata.is_dir() {
            return Some(Kind::Problem(Problem::NotRegular));
        }
        if level.links >= MAX_LINKED_FOLDERS {
            return Some(Kind::Problem(Problem::TooManyLinks));
        }
        self.folder(level, path, true)
    }

    fn folder(&self, level: &Level, path: &Path, linked: bool) -> Option<Kind> {
        let metadata = match fs::metadata(path).and_then(|metadata| fs::read_dir(path).map(|_| metadata)) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return Some(Kind::Problem(Problem::from_io(&e))),
        };
        let identity = identity(&metadata);
        if self.excluded == Some(identity) {
            return Some(Kind::Problem(Problem::Output));
        }
        // Only a link can lead back to a folder above it.
        let mut above = self.levels.iter().map(|level| level.identity).chain([level.identity]);
        if (linked || level.links > 0) && above.any(|folder| folder == identity) {
            return Some(Kind::Problem(Problem::Loop));
        }
        Some(Kind::Folder { identity, linked })
    }

    fn leads_to_excluded(&self, link: &Path) -> bool {
        let Some(excluded) = self.wanted.excluded.as_deref().filter(|_| self.excluded.is_some()) else { return false };
        link.canonicalize().is_ok_and(|target| target.starts_with(excluded))
    }

    fn object(key: String, entry: &Entry, problem: Option<Problem>) -> Option<Object> {
        let problem = match problem {
            Some(problem) => problem,
            None => match fs::metadata(&entry.path) {
                Ok(metadata) => match stamp(&metadata, &entry.path) {
                    Ok((etag, modified)) => {
                        return Some(Object { key, etag, size: metadata.len(), modified, packed: None });
                    }
                    Err(_) => Problem::Failed,
                },
                // Deleted after the folder was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
                Err(e) => Problem::from_io(&e),
            },
        };
        Some(Object { key, etag: problem.etag().into(), size: 0, modified: 0, packed: None })
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Iterator for Walk {
    type Item = Result<Object>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let level = self.levels.last_mut()?;
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let (key, links) = (format!("{}{}", level.key, entry.part), level.links);
            let problem = match entry.kind {
                Kind::Folder { identity, linked } => {
                    let links = links + usize::from(linked);
                    let level = Level { path: entry.path, key, identity, links, entries: Vec::new().into_iter() };
                    match self.enter(level) {
                        Ok(()) => continue,
                        Err(e) => return Some(Err(e)),
                    }
                }
                Kind::File => None,
                Kind::Problem(problem) => Some(problem),
            };
            if let Some(object) = Self::object(key, &entry, problem) {
                return Some(Ok(object));
            }
        }
    }
}
