//! The entries of one folder, sorted, in little memory: a folder can have millions.

use super::walk::Problem;

/// What an entry is, as far as reading the folder has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Problem(Problem),
    /// A folder, in the place of its name: it is listed here if it cannot be read.
    Name {
        linked: bool,
    },
    /// A folder, in the place of its content. The part ends with `/`.
    Folder {
        linked: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    length: u16,
    kind: Kind,
}

/// Parts of keys, and what they are.
#[derive(Debug, Default)]
pub(super) struct Entries {
    parts: String,
    entries: Vec<Entry>,
    next: usize,
}

impl Entries {
    /// Adds an entry. A part is a file name, which file systems limit to 255 bytes.
    pub(super) fn push(&mut self, part: &str, kind: Kind) {
        let start = self.parts.len();
        self.parts.push_str(part);
        if matches!(kind, Kind::Folder { .. }) {
            self.parts.push('/');
        }
        let length = u16::try_from(self.parts.len() - start).unwrap_or(u16::MAX);
        self.entries.push(Entry { start, length, kind });
    }

    /// Sorts the entries by their parts.
    pub(super) fn sort(&mut self) {
        let parts = &self.parts;
        let part = |entry: &Entry| parts.get(entry.start..entry.start + usize::from(entry.length));
        self.entries.sort_unstable_by(|a, b| part(a).cmp(&part(b)));
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Option<(&str, Kind)> {
        let Entry { start, length, kind } = *self.entries.get(self.next)?;
        self.next += 1;
        Some((self.parts.get(start..start + usize::from(length))?, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_where_its_name_and_where_its_content_is() {
        let (name, folder) = (Kind::Name { linked: false }, Kind::Folder { linked: false });
        let mut entries = Entries::default();
        for (part, kind) in [("a.jpg", Kind::File), ("a", folder), ("a", name), ("a-b", Kind::File), ("ä", Kind::File)]
        {
            entries.push(part, kind);
        }
        entries.sort();
        let mut sorted = Vec::new();
        while let Some((part, kind)) = entries.next() {
            sorted.push((part.to_owned(), kind));
        }
        let expected = [("a", name), ("a-b", Kind::File), ("a.jpg", Kind::File), ("a/", folder), ("ä", Kind::File)];
        assert_eq!(sorted, expected.map(|(part, kind)| (part.to_owned(), kind)));
        assert!(size_of::<Entry>() <= 16);
    }
}
