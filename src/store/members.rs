//! Names: which objects are archives, and the keys of their members.
//!
//! A member has the key of its archive, `!`, and its own name: `photos/a.tar!apple/1.jpg`. So that no other object can have
//! that key, `!` is doubled in two places:
//!
//! - where it follows `.tar`, `.zip` or `.parquet` in the key of an object that is itself in the store;
//! - at the start of a member's name.
//!
//! A run of `!` behind such an extension therefore has an even length if it is a part of the store's key, and an odd length
//! if the last of them separates a member from its archive. Doubling keeps the order of the keys. Keys without `!` behind
//! such an extension stay as they are.

use std::{borrow::Cow, ops::Range};

use crate::ids::ETag;

/// The formats that are opened, by the extension of a key. Case does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tar,
    Zip,
    Parquet,
    /// An archive that cannot be read in parts.
    Closed(&'static str),
}

/// Extensions of archives with members.
const OPENED: [(&str, Kind); 3] = [(".tar", Kind::Tar), (".zip", Kind::Zip), (".parquet", Kind::Parquet)];
/// Extensions of archives that are not opened.
const CLOSED: [&str; 10] =
    [".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".7z", ".rar"];
/// Extensions of members that are images, or that a person takes for images.
const IMAGES: [&str; 20] = [
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".avif", ".heic",
    ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".dng", ".cr2",
];

/// Extensions of files that lie beside images and are plainly none: annotations, lists, documents, programs.
const COMPANIONS: [&str; 27] = [
    ".csv", ".tsv", ".xml", ".json", ".jsonl", ".ndjson", ".geojson", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".txt",
    ".md", ".rst", ".log", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".sh", ".sha256", ".md5", ".pdf", ".docx",
];
/// Names of such files without an extension that says so.
const COMPANION_NAMES: [&str; 6] = ["thumbs.db", "ehthumbs.db", "desktop.ini", "readme", "license", "icon\r"];

fn ends_with(text: &str, extension: &str) -> bool {
    let start = text.len().checked_sub(extension.len());
    start.and_then(|start| text.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(extension))
}

/// The kind of archive that a key or name belongs to by its extension; None for others, and for hidden ones.
pub(crate) fn kind_of(name: &str) -> Option<Kind> {
    let closed = || CLOSED.into_iter().find(|extension| ends_with(name, extension)).map(Kind::Closed);
    let opened = OPENED.into_iter().find(|(extension, _)| ends_with(name, extension)).map(|(_, kind)| kind);
    opened.or_else(closed).filter(|_| !is_hidden(name))
}

/// Whether a part of the path starts with a dot.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

/// Whether an object is ignored: a hidden file, the marker of a folder, or a file that is plainly no image by its name.
///
/// ```
/// use pomona::store::is_ignored;
///
/// assert!(is_ignored("Apple/.DS_Store") && is_ignored("Apple/") && is_ignored("Apple/boxes.XML"));
/// assert!(!is_ignored("Apple/1.jpg") && !is_ignored("Apple/1") && !is_ignored("Apple/1.heic"));
/// ```
pub fn is_ignored(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    let named = || COMPANION_NAMES.iter().any(|other| name.eq_ignore_ascii_case(other));
    name.is_empty() || is_hidden(key) || COMPANIONS.iter().any(|extension| ends_with(name, extension)) || named()
}

/// Whether a member is an image by its name.
pub(crate) fn is_image(name: &str) -> bool {
    IMAGES.into_iter().any(|extension| ends_with(name, extension))
}

/// Whether a store lists a problem in place of a file.
pub(crate) fn is_problem(etag: &ETag) -> bool {
    etag.as_str().starts_with('!')
}

/// The next run of `!` behind the extension of an archive, from byte `from` on.
fn next_run(key: &str, from: usize) -> Option<Range<usize>> {
    let bytes = key.as_bytes();
    let mut at = from;
    while let Some(start) = memchr::memchr(b'!', bytes.get(at..)?).map(|found| at + found) {
        let end = start + bytes[start..].iter().take_while(|byte| **byte == b'!').count();
        if OPENED.iter().any(|(extension, _)| ends_with(&key[..start], extension)) {
            return Some(start..end);
        }
        at = end;
    }
    None
}

/// The key of an object of the store.
pub(crate) fn of_object(raw: &str) -> String {
    let (mut key, mut from) = (String::with_capacity(raw.len()), 0);
    while let Some(run) = next_run(raw, from) {
        key.push_str(&raw[from..run.end]);
        key.push_str(&raw[run.clone()]);
        from = run.end;
    }
    key.push_str(&raw[from..]);
    key
}

/// The key of a member, given the key of its archive in the store.
pub(crate) fn of_member(archive: &str, name: &str) -> String {
    let marks = name.len() - name.trim_start_matches('!').len();
    format!("{}!{}{name}", of_object(archive), "!".repeat(marks))
}

/// What a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'k> {
    /// Key of an object of the store.
    Object(Cow<'k, str>),
    /// Key of an archive of the store, and the name of its member.
    Member(Cow<'k, str>, Cow<'k, str>),
}

/// The start of a key with single `!` instead of doubled ones. Borrowed if it has none.
struct Undoubled<'k> {
    key: &'k str,
    /// What is different from the start of the key.
    text: Option<String>,
    from: usize,
}

impl<'k> Undoubled<'k> {
    fn new(key: &'k str) -> Self {
        Undoubled { key, text: None, from: 0 }
    }

    /// Takes the next doubled run and what is before it.
    fn take(&mut self, run: &Range<usize>) {
        let text = self.text.get_or_insert_with(String::new);
        text.push_str(&self.key[self.from..run.start + run.len() / 2]);
        self.from = run.end;
    }

    /// The text up to byte `end` of the key.
    fn up_to(self, end: usize) -> Cow<'k, str> {
        match self.text {
            None => Cow::Borrowed(&self.key[..end]),
            Some(text) => Cow::Owned(text + &self.key[self.from..end]),
        }
    }
}

/// Parses a key of [`of_object`] or [`of_member`].
pub(crate) fn parse(key: &str) -> Parsed<'_> {
    let mut raw = Undoubled::new(key);
    while let Some(run) = next_run(key, raw.from) {
        if run.len() % 2 == 1 {
            let marks = run.len() / 2;
            // Half of the marks behind the separator are the name's.
            let name = &key[run.end - marks..];
            return Parsed::Member(raw.up_to(run.start), Cow::Borrowed(name));
        }
        raw.take(&run);
    }
    Parsed::Object(raw.up_to(key.len()))
}

/// The longest start that the store's keys of all objects and archives have whose keys, or members' keys, start with
/// `prefix`.
pub(crate) fn raw_prefix(prefix: &str) -> Cow<'_, str> {
    let mut raw = Undoubled::new(prefix);
    while let Some(run) = next_run(prefix, raw.from) {
        if run.len() % 2 == 1 || run.end == prefix.len() {
            return raw.up_to(run.start);
        }
        raw.take(&run);
    }
    raw.up_to(prefix.len())
}

/// Starts of a key of the store that are names of archives whose members may come after that key.
pub(crate) fn enclosing(raw: &str) -> impl Iterator<Item = &str> {
    // The members' keys go on with `!`, so only what is less can come before them.
    let ends = (1..=raw.len()).filter(|end| raw.as_bytes().get(*end).is_none_or(|next| *next <= b'!'));
    ends.filter_map(|end| raw.get(..end))
        .filter(|start| OPENED.iter().any(|(extension, _)| ends_with(start, extension)))
}

/// The keys of all members of an archive are between these two.
pub(crate) fn bounds(archive: &str) -> (String, String) {
    let key = of_object(archive);
    (format!("{key}!"), format!("{key}\""))
}

/// Without empty parts and `.`; `None` if a part is hidden, among them `..`.
pub(crate) fn member_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.iter().any(|part| part.starts_with('.')) {
        return None;
    }
    Some(parts.join("/"))
}

/// The key of the archive and the name of the member in the key of a member, both as they are in the key. None for keys of
/// other objects.
pub(crate) fn halves(key: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let run = next_run(key, from)?;
        if run.len() % 2 == 1 {
            return Some((&key[..run.start], &key[run.end - run.len() / 2..]));
        }
        from = run.end;
    }
}

/// The folders of a key, the outermost first. An archive is a folder that has its name without the extension.
pub(crate) fn folders(key: &str) -> Vec<&str> {
    let of = |path: &str| path.rfind('/');
    let Some((archive, name)) = halves(key) else {
        return of(key).map_or(Vec::new(), |end| key[..end].split('/').collect());
    };
    let extension = OPENED.iter().find(|(extension, _)| ends_with(archive, extension));
    let stem = extension.map_or(archive, |(extension, _)| &archive[..archive.len() - extension.len()]);
    let inner = of(name).map(|end| &name[..end]);
    stem.split('/').chain(inner.into_iter().flat_map(|folders| folders.split('/'))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_as_documented() {
        assert_eq!(of_member("a.tar", "b/c.jpg"), "a.tar!b/c.jpg");
        assert_eq!(of_object("Äpfel!/it's.jpg"), "Äpfel!/it's.jpg");
        assert_eq!(of_object("a.tar!b/c.jpg"), "a.tar!!b/c.jpg");
        assert_eq!(of_object("x/a.ZIP!!/y.tar"), "x/a.ZIP!!!!/y.tar");
        assert_eq!(of_member("a.tar", "!b.jpg"), "a.tar!!!b.jpg");
        assert_eq!(parse("a.tar!!b/c.jpg"), Parsed::Object("a.tar!b/c.jpg".into()));
        assert_eq!(parse("a.tar!!!b.jpg"), Parsed::Member("a.tar".into(), "!b.jpg".into()));
        assert_eq!(parse("a.tar!b.tar!c.jpg"), Parsed::Member("a.tar".into(), "b.tar!c.jpg".into()));
        assert_eq!(kind_of("x/A.TAR"), Some(Kind::Tar));
        assert_eq!(kind_of("x/a.tar.gz"), Some(Kind::Closed(".tar.gz")));
        assert_eq!((kind_of(".cache/a.tar"), kind_of("a.jpg"), kind_of("tar")), (None, None, None));
        assert_eq!(member_name("./a//b/./c.jpg").as_deref(), Some("a/b/c.jpg"));
        assert_eq!(member_name("/etc/passwd.jpg").as_deref(), Some("etc/passwd.jpg"));
        assert_eq!([member_name("../a.jpg"), member_name("a/.b/c.jpg"), member_name("./")], [None, None, None]);
        assert_eq!(folders("x/train.tar!a/b/c.jpg"), ["x", "train", "a", "b"]);
        assert_eq!((folders("train.ZIP!c.jpg"), folders("a.tar!!b/c.jpg")), (vec!["train"], vec!["a.tar!!b"]));
        assert_eq!((folders("a/b/c.jpg"), folders("c.jpg")), (vec!["a", "b"], vec![]));
    }

    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![".tar", ".zip", ".Parquet", "!", "!!", "a", "/", " ", "\"", "ä", "."]);
        prop::collection::vec(piece, 1..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_object_and_member_has_a_key_of_its_own(raw in text(), archive in text(), name in text()) {
            let key = of_object(&raw);
            prop_assert_eq!(parse(&key), Parsed::Object(raw.into()));
            let archive = format!("{archive}.tar");
            let key = of_member(&archive, &name);
            let (low, high) = bounds(&archive);
            prop_assert!(key >= low && key < high);
            prop_assert_eq!(parse(&key), Parsed::Member(archive.into(), name.into()));
        }

        #[test]
        fn keys_keep_the_order_of_the_store(a in text(), b in text()) {
            prop_assert_eq!(of_object(&a).cmp(&of_object(&b)), a.cmp(&b));
        }

        #[test]
        fn the_start_of_a_key_leads_to_its_object(raw in text(), name in text(), cut in any::<prop::sample::Index>()) {
            for (raw, key) in [(raw.clone(), of_object(&raw)), (format!("{raw}.zip"), of_member(&format!("{raw}.zip"), &name))] {
                let end = (0..=key.len()).filter(|end| key.is_char_boundary(*end)).collect::<Vec<_>>();
                let prefix = &key[..end[cut.index(end.len())]];
                prop_assert!(raw.starts_with(raw_prefix(prefix).as_ref()), "{} {} {}", raw, prefix, raw_prefix(prefix));
            }
        }

        #[test]
        fn members_that_come_after_a_key_of_the_store_are_found(archive in text(), name in text(), raw in text()) {
            let archive = format!("{archive}.tar");
            let after = of_object(&raw);
            if of_member(&archive, &name) > after && archive <= raw {
                prop_assert!(enclosing(&raw).any(|start| start == archive), "{} {}", archive, raw);
            }
        }
    }
}
