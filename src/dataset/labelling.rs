//! Labels and splits of images: what their keys say, and what a file of labels says.
//!
//! A label is the class of an image, a split says whether it is there for training (`train`), validation (`val`) or testing
//! (`test`). Both are columns of the tables and a part of a shard's id, so another labelling makes other shards, whose
//! features are copied.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use super::{Checksum, get_checked, keys, partition::check_label, settings::Settings};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    store::{
        Object, Store,
        members::{folders, halves},
    },
};

/// Largest file of labels, bytes.
pub const MAX_LABELS_BYTES: u64 = 256 << 20;

/// Names of folders that are splits, in lower case, and the split.
const SPLITS: [(&str, &str); 9] = [
    ("train", "train"),
    ("training", "train"),
    ("test", "test"),
    ("testing", "test"),
    ("val", "val"),
    ("valid", "val"),
    ("validate", "val"),
    ("validation", "val"),
    ("eval", "val"),
];

/// How labels and splits follow from keys. The fields have the same names as those of [`Settings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRules {
    /// Which folder of the key is the label: 0 is the innermost, 1 the one that holds it.
    #[serde(default, skip_serializing_if = "is_innermost")]
    pub label_depth: u32,
    /// A regular expression with a group `label`; what it captures in the key is the label. Replaces the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_pattern: Option<String>,
    /// A regular expression with a group `split`. None for folders with names such as `train`, `Test` and `validation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_pattern: Option<String>,
}

fn is_innermost(depth: &u32) -> bool {
    *depth == 0
}

impl LabelRules {
    /// Whether these are the rules of a run without options.
    pub fn is_default(&self) -> bool {
        *self == LabelRules::default()
    }
}

/// What a file of labels says about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// None for an image without a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// None if the key decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
}

/// Label and split of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a> {
    /// The class.
    pub label: Option<&'a str>,
    /// `train`, `val`, `test`, or what a pattern or file names.
    pub split: Option<&'a str>,
}

/// Decides the label and the split of each image.
#[derive(Clone, Debug)]
pub struct Labelling {
    depth: usize,
    label: Option<Regex>,
    split: Option<Regex>,
    given: HashMap<String, Given>,
}

impl Labelling {
    /// Labels by these rules. Fails with `Input.Invalid` for a pattern that is not a regular expression or lacks its group.
    pub fn new(rules: &LabelRules) -> Result<Self> {
        let pattern = |pattern: &Option<String>, group| pattern.as_deref().map(|p| compile(p, group)).transpose();
        Ok(Labelling {
            depth: rules.label_depth as usize,
            label: pattern(&rules.label_pattern, "label")?,
            split: pattern(&rules.split_pattern, "split")?,
            given: HashMap::new(),
        })
    }

    /// Labels by the settings of a version or run, whose file of labels is in `output`. Fails with `Dataset.Corrupt`.
    #[compiled_once]
    pub async fn open(output: &dyn Store, settings: &Settings) -> Result<Self> {
        Ok(Labelling::new(&settings.label_rules())?.with(given(output, settings).await?))
    }

    /// The same with what a file says about some images.
    #[must_use]
    pub fn with(self, given: impl IntoIterator<Item = (String, Given)>) -> Self {
        Labelling { given: given.into_iter().collect(), ..self }
    }

    /// What the file of labels says about an image.
    pub fn given(&self, key: &str) -> Option<&Given> {
        self.given.get(key)
    }

    /// Number of images that the file of labels names.
    pub fn named(&self) -> usize {
        self.given.len()
    }

    /// The label and the split of an image.
    pub fn of<'a>(&'a self, key: &'a str) -> Labels<'a> {
        let given = self.given.get(key);
        let label = match given {
            Some(given) => given.label.as_deref(),
            None => self.label_of_key(key),
        };
        let split = given.and_then(|given| given.split.as_deref()).or_else(|| self.split_of_key(key));
        Labels { label: label.filter(|label| !label.is_empty()), split: split.filter(|split| !split.is_empty()) }
    }

    /// The label and the split of an object. A label that an archive gives its member counts before the folder, and after a
    /// pattern and a file of labels.
    pub fn of_object<'a>(&'a self, object: &'a Object) -> Labels<'a> {
        let labels = self.of(&object.key);
        let own = object.packed.as_ref().and_then(|packed| packed.label.as_deref());
        let by_folder = self.label.is_none() && self.depth == 0 && !self.given.contains_key(&object.key);
        if own.is_some() && by_folder { Labels { label: own, ..labels } } else { labels }
    }

    fn label_of_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        match &self.label {
            Some(pattern) => captured(pattern, "label", key),
            // A folder that is a split is not a class, unless it is asked for.
            None => folders(key)
                .into_iter()
                .rev()
                .nth(self.depth)
                .filter(|folder| self.depth > 0 || split_of(folder).is_none()),
        }
    }

    fn split_of_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        match &self.split {
            Some(pattern) => captured(pattern, "split", key),
            None => folders(key).into_iter().find_map(split_of).or_else(|| split_of_archive(key)),
        }
    }
}

fn compile(pattern: &str, group: &str) -> Result<Regex> {
    let invalid = |message: String| Error::new(ErrorKind::InputInvalid, message).context("pattern", pattern);
    let compiled = Regex::new(pattern)
        .map_err(|e| invalid(format!("the pattern of the {group} is not a regular expression")).source(e))?;
    if compiled.capture_names().flatten().all(|name| name != group) {
        return Err(invalid(format!("the pattern needs a group that is named {group}, such as (?<{group}>[^/]+)")));
    }
    Ok(compiled)
}

fn captured<'a>(pattern: &Regex, group: &str, key: &'a str) -> Option<&'a str> {
    pattern.captures(key)?.name(group).map(|found| found.as_str())
}

fn split_of(folder: &str) -> Option<&'static str> {
    SPLITS.iter().find(|(name, _)| folder.eq_ignore_ascii_case(name)).map(|(_, split)| *split)
}

/// The split that the name of an archive says: `test.tar!1.jpg`, `train-00000-of-00004.parquet!0.jpg`.
fn split_of_archive(key: &str) -> Option<&'static str> {
    let (archive, _) = halves(key)?;
    let name = archive.rsplit('/').next()?;
    let stem = name.split(['.', '-']).next()?;
    split_of(stem)
}

/// Reads a file of labels: CSV with columns `path` and `label`, and perhaps `split`. `place` is the location of the images,
/// which paths may begin with.
///
/// Fails with `Input.Invalid`, which names the line, if a column is missing or two lines say different things about an image.
pub fn read(file: &[u8], name: &str, place: &str) -> Result<BTreeMap<String, Given>> {
    let invalid = |message: String| Error::new(ErrorKind::InputInvalid, message).context("labels", name);
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::Headers).from_reader(file);
    let wrong = |e: csv::Error| invalid("the file of labels is not CSV in UTF-8".to_owned()).source(e);
    let header = reader.headers().map_err(wrong)?.clone();
    // Spreadsheets mark UTF-8 with three bytes.
    let column = |name: &str| header.iter().position(|found| found.trim_start_matches('\u{feff}').trim() == name);
    let (Some(path), Some(label)) = (column("path"), column("label")) else {
        let found = header.iter().take(10).collect::<Vec<_>>().join(", ");
        let message = "the file of labels needs a first line that names the columns path and label, and may name split";
        return Err(invalid(message.to_owned()).context("first line", found));
    };
    let split = column("split");
    let mut given: BTreeMap<String, Given> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).map(str::to_owned).filter(|text| !text.is_empty());
        let (Some(path), true) = (field(path), record.len() > label) else {
            return Err(
                invalid("a line of the file of labels has no path or no label".to_owned()).context("line", line)
            );
        };
        let key = key_of(&path, place).to_owned();
        let new = Given { label: field(label), split: split.and_then(field) };
        if given.get(&key).is_some_and(|old| *old != new) {
            let message = "two lines of the file of labels say different things about an image";
            return Err(invalid(message.to_owned()).context("path", path).context("line", line));
        }
        given.insert(key, new);
    }
    Ok(given)
}

/// The key of a path of a file of labels: relative to the images, or with their location in front.
fn key_of<'a>(path: &'a str, place: &str) -> &'a str {
    let place = place.trim_end_matches('/');
    let inside = path.strip_prefix(place).and_then(|rest| rest.strip_prefix('/')).filter(|_| !place.is_empty());
    inside.or_else(|| path.strip_prefix("./")).unwrap_or(path)
}

/// The file of labels as an output has it: sorted by path, each image once.
pub fn write(given: &BTreeMap<String, Given>) -> Result<Vec<u8>> {
    let bug = |e: csv::Error| Error::new(ErrorKind::InternalBug, "the file of labels could not be written").source(e);
    let with_split = given.values().any(|given| given.split.is_some());
    let columns = if with_split { 3 } else { 2 };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&["path", "label", "split"][..columns]).map_err(bug)?;
    for (path, Given { label, split }) in given {
        let fields = [path.as_str(), label.as_deref().unwrap_or(""), split.as_deref().unwrap_or("")];
        writer.write_record(&fields[..columns]).map_err(bug)?;
    }
    writer
        .into_inner()
        .map_err(|e| Error::new(ErrorKind::InternalBug, "the file of labels could not be written").source(e))
}

/// Stores a file of labels in the output, and returns its checksum, which the settings have.
#[compiled_once]
pub async fn store(output: &dyn Store, given: &BTreeMap<String, Given>) -> Result<Checksum> {
    let file = write(given)?;
    let checksum = Checksum::of(&file);
    output.put(&keys::labels(&checksum), file.into()).await?;
    Ok(checksum)
}

/// The rows of the stored file of labels of a version or run; none without one. Fails with `Dataset.Corrupt`.
#[compiled_once]
pub async fn given(output: &dyn Store, settings: &Settings) -> Result<BTreeMap<String, Given>> {
    let Some(file) = &settings.labels else { return Ok(BTreeMap::new()) };
    let key = keys::labels(file);
    read(&get_checked(output, &key, Some(file)).await?, &key, "")
}

/// The stored file of labels without some images; None if it does not name them.
#[compiled_once]
pub async fn without(output: &dyn Store, file: &Checksum, erased: &BTreeSet<String>) -> Result<Option<Checksum>> {
    let key = keys::labels(file);
    let mut given = read(&get_checked(output, &key, Some(file)).await?, &key, "")?;
    let before = given.len();
    given.retain(|path, _| !erased.contains(path));
    if given.len() == before { Ok(None) } else { store(output, &given).await.map(Some) }
}

/// Fails with `Input.Invalid` if the label of an image cannot be a partition folder.
pub(crate) fn check_folder(labels: Labels<'_>) -> Result<()> {
    check_label(labels.label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(rules: LabelRules, key: &str) -> (Option<String>, Option<String>) {
        let labelling = Labelling::new(&rules).unwrap();
        let Labels { label, split } = labelling.of(key);
        (label.map(str::to_owned), split.map(str::to_owned))
    }

    fn by_folder(key: &str) -> (Option<String>, Option<String>) {
        labels(LabelRules::default(), key)
    }

    fn pair(label: &str, split: &str) -> (Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (some(label), some(split))
    }

    #[test]
    fn folders_are_labels_and_splits() {
        assert_eq!(by_folder("Apple Red/1.jpg"), pair("Apple Red", ""));
        assert_eq!(by_folder("1.jpg"), pair("", ""));
        assert_eq!(by_folder("Training/Apple Red/1.jpg"), pair("Apple Red", "train"));
        assert_eq!(by_folder("a/Test/b/c/1.jpg"), pair("c", "test"));
        assert_eq!(by_folder("fruit/VALIDATION/pear/1.jpg"), pair("pear", "val"));
        assert_eq!(by_folder("trainer/pear/test.jpg"), pair("pear", ""));
        // The outermost split counts, and is no class.
        assert_eq!(by_folder("test/train/x/1.jpg"), pair("x", "test"));
        assert_eq!(by_folder("test/1.jpg"), pair("", "test"));
    }

    #[test]
    fn the_name_of_an_archive_can_be_a_split() {
        let labelling = Labelling::new(&LabelRules::default()).unwrap();
        for (key, split) in [
            ("data/train-00000-of-00004.parquet!0.jpg", Some("train")),
            ("test.tar!a/1.jpg", Some("test")),
            ("test/fruit.tar!a/1.jpg", Some("test")),
            ("fruit.tar!a/1.jpg", None),
            ("train!x.jpg", None),
        ] {
            assert_eq!(labelling.of(key).split, split, "{key}");
        }
    }

    #[test]
    fn a_depth_or_a_pattern_replaces_the_innermost_folder() {
        let depth = |label_depth| LabelRules { label_depth, ..LabelRules::default() };
        assert_eq!(labels(depth(1), "Apple/Red 1/x.jpg"), pair("Apple", ""));
        assert_eq!(labels(depth(2), "Apple/Red 1/x.jpg"), pair("", ""));
        let pattern = |p: &str| LabelRules { label_pattern: Some(p.to_owned()), ..LabelRules::default() };
        assert_eq!(labels(pattern("(?<label>[^/_]+)_[0-9]+[.]jpg$"), "test/all/pear_12.jpg"), pair("pear", "test"));
        assert_eq!(labels(pattern("(?<label>never)"), "test/pear/1.jpg"), pair("", "test"));
        let split = LabelRules { split_pattern: Some("_(?<split>[a-z]+)[.]".to_owned()), ..LabelRules::default() };
        assert_eq!(labels(split.clone(), "test/pear/1_holdout.jpg"), pair("pear", "holdout"));
        assert_eq!(labels(split, "test/pear/1.jpg"), pair("pear", ""));
    }

    #[test]
    fn a_pattern_that_cannot_work_is_refused() {
        for (pattern, says) in [("(", "regular expression"), ("[a-z]+", "(?<label>[^/]+)"), ("(?<other>a)", "label")] {
            let rules = LabelRules { label_pattern: Some(pattern.to_owned()), ..LabelRules::default() };
            let error = Labelling::new(&rules).unwrap_err();
            assert!(error.is(ErrorKind::InputInvalid) && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_file_of_labels_goes_before_the_key() {
        let file =
            "label,path,split\nPear,a/1.jpg,\n,a/2.jpg,test\n\"a,\"\"b\"\"\",s3://b/x/a/3.jpg,val\nPear,a/1.jpg,\n";
        let given = read(file.as_bytes(), "labels.csv", "s3://b/x/").unwrap();
        let labelling = Labelling::new(&LabelRules::default()).unwrap().with(given.clone());
        let of = |key| (labelling.of(key).label, labelling.of(key).split);
        assert_eq!(of("a/1.jpg"), (Some("Pear"), None));
        assert_eq!(of("a/2.jpg"), (None, Some("test")));
        assert_eq!(of("a/3.jpg"), (Some("a,\"b\""), Some("val")));
        assert_eq!(of("a/4.jpg"), (Some("a"), None));
        // What is stored reads as the same, and is sorted.
        let stored = write(&given).unwrap();
        assert!(stored.starts_with(b"path,label,split\na/1.jpg,Pear,\n"), "{}", String::from_utf8_lossy(&stored));
        assert_eq!(read(&stored, "stored", "").unwrap(), given);
    }

    #[test]
    fn a_file_of_labels_that_is_wrong_names_its_line() {
        let cases: [(&[u8], &str); 5] = [
            (b"file,class\na,b\n", "first line: file, class"),
            (b"", "path and label"),
            (b"path,label\na.jpg,x\na.jpg,y\n", "line: 3"),
            (b"path,label\na.jpg\n", "line: 2"),
            (b"path,label\na.jpg,\xff\n", "UTF-8"),
        ];
        for (file, says) in cases {
            let error = read(file, "labels.csv", "").unwrap_err();
            assert!(error.is(ErrorKind::InputInvalid) && error.to_string().contains(says), "{error}");
        }
        // A byte order mark, spaces in the header, more columns, Windows line ends.
        let file = "\u{feff}path , label,note\r\na.jpg,x,y\r\n";
        assert_eq!(read(file.as_bytes(), "labels.csv", "").unwrap()["a.jpg"].label.as_deref(), Some("x"));
    }
}
