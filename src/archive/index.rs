//! The members of an archive, collected while it is read.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
};

use super::names::{self, Kind};
use crate::{
    image::Reason,
    store::{Form, Object, Packed},
};

/// Most members of an archive: images, and what else has a row. About 300 bytes of memory each.
pub(super) const MAX_MEMBERS: usize = 1 << 20;
/// Longest name of a member in bytes. S3 permits 1,024 for a whole key.
pub(super) const MAX_NAME: usize = 4_096;
/// Longest label of a label file or a column in bytes.
const MAX_LABEL: usize = 255;

/// A reason for which an archive, or a member of it, has no features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Problem { reason, detail: detail.into() }
    }

    pub(super) fn form(&self) -> Form {
        Form::Unusable { reason: self.reason.name().to_owned(), detail: self.detail.clone() }
    }
}

/// A member that is, or seems to be, an image.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) etag: String,
    pub(super) size: u64,
    /// Microseconds since 1970-01-01 UTC.
    pub(super) modified: i64,
    pub(super) label: Option<String>,
    pub(super) range: Range<u64>,
    pub(super) form: Form,
}

/// What a name of a member means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Image(String),
    /// An archive in an archive.
    Nested(String),
    /// A hidden file, or something else than an image.
    Other,
}

/// What to do with a member of this name.
pub(super) fn role(name: &str) -> Role {
    match names::member_name(name) {
        Some(name) if names::is_image(&name) => Role::Image(name),
        Some(name) if matches!(names::kind_of(&name), Some(Kind::Tar | Kind::Zip | Kind::Closed(_))) => {
            Role::Nested(name)
        }
        _ => Role::Other,
    }
}

/// The problem of an archive in an archive.
pub(super) fn nested() -> Problem {
    Problem::new(Reason::UnsupportedFormat, "an archive in an archive is not opened; put it beside, or unpack it")
}

/// The members of an archive, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Index {
    members: HashMap<String, Found>,
    /// Labels of samples, by the path up to the first dot of the file name.
    labels: HashMap<String, String>,
    /// Number of label files, of which there are at most as many as members.
    problem: Option<Problem>,
}

impl Index {
    /// Adds a member. Of several with one name the last counts, as for programs that unpack the archive. Returns whether
    /// there is room for more.
    pub(super) fn push(&mut self, found: Found) -> bool {
        let full = self.members.len() >= MAX_MEMBERS;
        match self.members.entry(found.name.clone()) {
            Entry::Occupied(mut old) => drop(old.insert(found)),
            Entry::Vacant(_) if full => {
                self.fail(Problem::new(
                    Reason::TooLarge,
                    format!("more than {MAX_MEMBERS} members; split the archive"),
                ));
                return false;
            }
            Entry::Vacant(new) => drop(new.insert(found)),
        }
        true
    }

    /// Adds the label of a sample of WebDataset. `file` is the name of the label file. The first of a sample's labels that
    /// is given by a `.cls` file counts, or else that of a `.json` file.
    pub(super) fn push_label(&mut self, file: &str, content: &[u8]) {
        let Some(name) = names::member_name(file) else { return };
        let Some(label) = label_in(&name, content).filter(|_| self.labels.len() < MAX_MEMBERS) else { return };
        let sample = sample_of(&name).to_owned();
        if name.ends_with(CLS) {
            self.labels.insert(sample, label);
        } else {
            self.labels.entry(sample).or_insert(label);
        }
    }

    /// Notes what is wrong with the archive. The first note counts.
    pub(super) fn fail(&mut self, problem: Problem) {
        self.problem.get_or_insert(problem);
    }

    /// The objects of the archive in key order. One of them stands for the archive if it has a problem.
    pub(super) fn into_objects(self, archive: &Object) -> Vec<Object> {
        let packed = |label: Option<String>, range, form| {
            let (etag, size) = (archive.etag.clone(), archive.size);
            Some(Box::new(Packed { etag, size, label, range, form }))
        };
        let mut objects = Vec::with_capacity(self.members.len() + 1);
        if let Some(problem) = &self.problem {
            objects.push(Object {
                key: names::of_object(&archive.key),
                packed: packed(None, 0..0, problem.form()),
                ..archive.clone()
            });
        }
        for found in self.members.into_values() {
            let label = found.label.or_else(|| self.labels.get(sample_of(&found.name)).cloned());
            objects.push(Object {
                key: names::of_member(&archive.key, &found.name),
                etag: found.etag.into(),
                size: found.size,
                modified: found.modified,
                packed: packed(label, found.range, found.form),
            });
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        objects
    }
}

const CLS: &str = ".cls";
const JSON: &str = ".json";

/// Whether the member is a label file of WebDataset.
pub(super) fn is_label_file(name: &str) -> bool {
    name.ends_with(CLS) || name.ends_with(JSON)
}

/// The path up to the first dot of the file name, which WebDataset calls the key of a sample.
fn sample_of(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

/// The label in a label file: the text of a `.cls` file, or the field `label` of a `.json` file.
fn label_in(name: &str, content: &[u8]) -> Option<String> {
    if name.ends_with(CLS) {
        return usable_label(std::str::from_utf8(content).ok()?.trim());
    }
    match serde_json::from_slice::<serde_json::Value>(content).ok()?.get("label")? {
        serde_json::Value::String(text) => usable_label(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A label, if the text can be one.
pub(super) fn usable_label(text: &str) -> Option<String> {
    let usable = !text.is_empty() && text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
    usable.then(|| text.to_owned())
}
