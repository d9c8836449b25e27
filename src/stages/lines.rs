//! Lines of JSONL files: ranges of them, and the lines of objects.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Result,
    dataset::{
        self, Checksum,
        labelling::{Given, LabelRules, Labelling},
    },
    store::{Object, Store},
};

/// A line of `objects-*.jsonl`: an object, and what a file of labels says about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectLine {
    #[serde(flatten)]
    pub(super) object: Object,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) given: Option<Given>,
}

impl ObjectLine {
    /// The lines of these objects.
    pub(super) fn of(objects: Vec<Object>, labelling: &Labelling) -> Vec<ObjectLine> {
        let line = |object: Object| ObjectLine { given: labelling.given(&object.key).cloned(), object };
        objects.into_iter().map(line).collect()
    }
}

/// Some lines of a JSONL file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRange {
    /// Key of the file.
    pub key: String,
    /// Offset of the first line, in bytes.
    pub offset: u64,
    /// Length of the lines, in bytes.
    pub length: u64,
    /// SHA-256 of the lines, in hexadecimal. A list that is written by hand needs none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

impl LineRange {
    /// Reads the lines. Fails with `Dataset.Corrupt` if they are not those that were written.
    pub(super) async fn read<T: DeserializeOwned>(&self, output: &dyn Store) -> Result<Vec<T>> {
        let text = output.get_range(&self.key, self.offset..self.offset + self.length).await?;
        if !self.sha256.is_empty() {
            Checksum { sha256: self.sha256.clone(), bytes: self.length }.check(&text, &self.key)?;
        }
        dataset::from_json_lines(&text, &self.key)
    }

    /// Reads lines of objects, and what labels them.
    pub(super) async fn read_objects(
        &self,
        output: &dyn Store,
        rules: &LabelRules,
    ) -> Result<(Vec<Object>, Labelling)> {
        let lines: Vec<ObjectLine> = self.read(output).await?;
        let mut given = Vec::new();
        let objects = lines.into_iter().map(|line| {
            given.extend(line.given.map(|labels| (line.object.key.clone(), labels)));
            line.object
        });
        let objects = objects.collect();
        Ok((objects, Labelling::new(rules)?.with(given)))
    }
}
