//! Listing a folder in the byte order of its keys.
//!
//! Symbolic links are followed. An entry that cannot be read as a file or folder is listed with a [`Problem`] as its etag,
//! so that it becomes a reject instead of an error of the whole listing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    super::Object,
    TMP,
    entries::{Entries, Kind},
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
    entries: Entries,
    /// The folder in it that was opened last: most often, its content comes next.
    opened: Option<(PathBuf, Opened)>,
}

/// A folder that can be read.
#[derive(Debug)]
struct Opened {
    identity: Identity,
    entries: fs::ReadDir,
}

/// An entry of a listing.
#[derive(Debug)]
pub(super) enum Found {
    /// A file, whose size and time are still to be read.
    File { key: String, path: PathBuf },
    /// An entry that cannot be read.
    Unreadable { key: String, problem: Problem },
}

impl Found {
    /// The object of the entry. None if it is gone.
    pub(super) fn object(self) -> Option<Object> {
        let (key, problem) = match self {
            Found::Unreadable { key, problem } => (key, problem),
            Found::File { key, path } => match fs::metadata(&path) {
                Ok(metadata) => match stamp(&metadata, &path) {
                    Ok((etag, modified)) => {
                        return Some(Object { key, etag, size: metadata.len(), modified, packed: None });
                    }
                    Err(_) => (key, Problem::Failed),
                },
                // Deleted after the folder was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
                Err(e) => (key, Problem::from_io(&e)),
            },
        };
        Some(Object { key, etag: problem.etag().into(), size: 0, modified: 0, packed: None })
    }
}

impl Level {
    fn new(path: PathBuf, key: String, identity: Identity, links: usize) -> Self {
        Level { path, key, identity, links, entries: Entries::default(), opened: None }
    }
}

impl Walk {
    /// Starts in the deepest folder that the prefix names. A missing folder has no objects.
    pub(super) fn new(root: &Path, wanted: Wanted) -> Result<Self> {
        let excluded = wanted.excluded.as_deref().and_then(|path| fs::metadata(path).ok()).map(|m| identity(&m));
        let mut walk = Walk { wanted, excluded, levels: Vec::new() };
        let identity_of = |path: &Path| fs::metadata(path).map_or((0, 0), |m| identity(&m));
        let mut level = Level::new(root.to_owned(), String::new(), identity_of(root), 0);
        let prefix = walk.wanted.prefix.clone();
        let parts = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
        for part in parts.split('/').filter(|_| !parts.is_empty()) {
            let path = level.path.join(to_name(part));
            let linked = fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
            let (key, links) = (format!("{}{part}/", level.key), level.links + usize::from(linked));
            let identity = identity_of(&path);
            walk.levels.push(std::mem::replace(&mut level, Level::new(path, key, identity, links)));
        }
        match fs::metadata(&level.path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(walk),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(walk),
            Err(e) => return Err(at(e, &level.path)),
        }
        match fs::read_dir(&level.path) {
            Ok(entries) => walk.enter(level, entries)?,
            // Deleted meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at(e, &level.path)),
        }
        Ok(walk)
    }

    /// Reads the entries of a folder, whose objects come next.
    fn enter(&mut self, mut level: Level, entries: fs::ReadDir) -> Result<()> {
        let mut key = level.key.clone();
        for entry in entries {
            let entry = entry.map_err(|e| at(e, &level.path))?;
            let part = to_part(&entry.file_name());
            key.truncate(level.key.len());
            key.push_str(&part);
            let Some(kind) = self.kind(&level, &entry) else { continue };
            if self.wanted.contains(&key) {
                level.entries.push(&part, kind);
            }
            if let Kind::Name { linked } = kind {
                key.push('/');
                if key.strip_suffix('/') != Some(TMP) && self.wanted.enters(&key) {
                    level.entries.push(&part, Kind::Folder { linked });
                }
            }
        }
        level.entries.sort();
        self.levels.push(level);
        Ok(())
    }

    /// None for an entry that is gone.
    fn kind(&self, level: &Level, entry: &fs::DirEntry) -> Option<Kind> {
        Some(match entry.file_type() {
            Ok(kind) if kind.is_symlink() => self.linked(level, &entry.path())?,
            Ok(kind) if kind.is_dir() => Kind::Name { linked: false },
            Ok(kind) if kind.is_file() => Kind::File,
            Ok(_) => Kind::Problem(Problem::NotRegular),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => Kind::Problem(Problem::from_io(&e)),
        })
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
        Some(Kind::Name { linked: true })
    }

    /// Opens a folder of the deepest level. None if it is gone.
    fn open(&self, path: &Path, linked: bool) -> Option<std::result::Result<Opened, Problem>> {
        let level = self.levels.last()?;
        let (metadata, entries) = match fs::metadata(path).and_then(|m| fs::read_dir(path).map(|entries| (m, entries)))
        {
            Ok(opened) => opened,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return Some(Err(Problem::from_io(&e))),
        };
        let identity = identity(&metadata);
        if self.excluded == Some(identity) {
            return Some(Err(Problem::Output));
        }
        // Only a link can lead back to a folder above it.
        let mut above = self.levels.iter().map(|level| level.identity);
        if (linked || level.links > 0) && above.any(|folder| folder == identity) {
            return Some(Err(Problem::Loop));
        }
        Some(Ok(Opened { identity, entries }))
    }

    fn leads_to_excluded(&self, link: &Path) -> bool {
        let Some(excluded) = self.wanted.excluded.as_deref().filter(|_| self.excluded.is_some()) else { return false };
        link.canonicalize().is_ok_and(|target| target.starts_with(excluded))
    }

    /// The next entry. A folder has none itself, unless it cannot be read.
    fn step(&mut self) -> Option<Result<Option<Found>>> {
        let level = self.levels.last_mut()?;
        let Some((part, kind)) = level.entries.next() else {
            self.levels.pop();
            return Some(Ok(None));
        };
        let key = format!("{}{part}", level.key);
        let path = level.path.join(to_name(part.trim_end_matches('/')));
        Some(match kind {
            Kind::File => Ok(Some(Found::File { key, path })),
            Kind::Problem(problem) => Ok(Some(Found::Unreadable { key, problem })),
            Kind::Name { linked } => match self.open(&path, linked) {
                None => Ok(None),
                Some(Err(problem)) => Ok(Some(Found::Unreadable { key, problem })),
                Some(Ok(opened)) => {
                    if let Some(level) = self.levels.last_mut() {
                        level.opened = Some((path, opened));
                    }
                    Ok(None)
                }
            },
            Kind::Folder { linked } => {
                let links = level.links + usize::from(linked);
                let opened = level.opened.take().filter(|(last, _)| *last == path).map(|(_, opened)| opened);
                match opened.or_else(|| self.open(&path, linked)?.ok()) {
                    None => Ok(None),
                    Some(Opened { identity, entries }) => {
                        self.enter(Level::new(path, key, identity, links), entries).map(|()| None)
                    }
                }
            }
        })
    }
}

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step()? {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// The folder in the middle of those whose content is behind `after` and up to `until`: in the deepest folder where there
/// are some behind the one that `after` is in. None if there are none.
pub(super) fn middle(root: &Path, after: &str, until: Option<&str>) -> Option<String> {
    /// Most entries of a folder that are looked at: they are enough to find its middle.
    const ENTRIES: usize = 100_000;
    let mut folder = String::new();
    loop {
        let path =
            folder.split('/').filter(|part| !part.is_empty()).fold(root.to_owned(), |p, part| p.join(to_name(part)));
        let entries = fs::read_dir(path).ok()?.take(ENTRIES).filter_map(|entry| entry.ok());
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let keys = folders.map(|entry| format!("{folder}{}/", to_part(&entry.file_name())));
        let mut behind: Vec<String> =
            keys.filter(|key| key.as_str() > after && until.is_none_or(|until| key.as_str() < until)).collect();
        if !behind.is_empty() {
            let half = behind.len() / 2;
            return Some(behind.select_nth_unstable(half).1.clone());
        }
        // All that is left is in the folder that `after` is in.
        let next = after.get(folder.len()..)?.split_once('/')?.0;
        folder = format!("{folder}{next}/");
    }
}
