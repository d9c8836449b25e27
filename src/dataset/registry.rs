//! Every kind of file of an output, in one table.
//!
//! [`keys`](super::keys) builds and parses keys by this table. `pomona check`, `vacuum`, `erase` and the tests of damaged
//! files go through it, so that they cover a new kind of file as soon as it has an entry here. The table "Files" of
//! `docs/file-formats.md` is the same; a test compares them.
//!
//! ```
//! use pomona::dataset::registry;
//!
//! let key = registry::FEATURES.key(&["3f2a"]);
//! assert_eq!(key, "shards/3f2a/features.parquet");
//! assert_eq!(registry::FEATURES.parse(&key), Some(vec!["3f2a"]));
//! assert_eq!(registry::kind_of(&key), Some(&registry::FEATURES));
//! assert_eq!(registry::kind_of("shards/notes.txt"), None);
//! ```

use crate::ids::RunId;

/// A kind of file of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// Short name of the kind, for messages. Each kind has its own.
    pub name: &'static str,
    /// The keys: text with placeholders such as `{id}`.
    pub pattern: &'static str,
    /// The stage or command that writes such files.
    pub written_by: &'static str,
    /// [`name`](FileKind::name) of the kind of file that names such files, or [`ITS_KEY`].
    pub named_by: &'static str,
    /// Whether such files can hold paths of images.
    pub paths: bool,
    /// Whether such files hold features or scores of images.
    pub vectors: bool,
    /// What such a file can be made again from.
    pub remake: Remake,
    /// Whether a vacuum deletes such files if no kept version names them.
    pub swept: bool,
}

/// [`FileKind::named_by`] of files that no other file names: readers know the key or list the folder.
pub const ITS_KEY: &str = "its key";

/// What a file can be made again from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remake {
    /// The images of the input.
    Images,
    /// Features and records of shards.
    Shards,
    /// Records and sums of groups.
    Groups,
    /// The total sums.
    Sums,
    /// Features of shards and the basis.
    ShardsAndBasis,
    /// Features of shards and the classifier.
    ShardsAndClassifier,
    /// The parts of the scores.
    Scores,
    /// The manifest of a version.
    Manifest,
    /// The copy of a manifest in the folder of its run.
    Copy,
    /// The report in the folder of its run. No result depends on the file.
    RunReport,
    /// A listing of the input, which the next run makes anyway.
    Listing,
    /// Nothing. No result depends on the file after its run has ended.
    Record,
    /// Nothing needs to be made again: no result depends on the file.
    Unneeded,
    /// Nothing, and the file is needed.
    Nothing,
}

impl Remake {
    /// The words of `docs/file-formats.md`.
    pub fn text(self) -> &'static str {
        match self {
            Remake::Images => "images",
            Remake::Shards => "shards",
            Remake::Groups => "groups",
            Remake::Sums => "sums",
            Remake::ShardsAndBasis => "shards, basis",
            Remake::ShardsAndClassifier => "shards, classifier",
            Remake::Scores => "scores",
            Remake::Manifest => "the manifest",
            Remake::Copy => "the copy in `runs/`",
            Remake::RunReport => "the report in `runs/`",
            Remake::Listing => "the bucket: the next run lists all",
            Remake::Record => "nothing; not needed after the run",
            Remake::Unneeded => "nothing needed",
            Remake::Nothing => "nothing",
        }
    }
}

/// What a placeholder of a pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// ASCII letters and digits.
    Id,
    /// ASCII letters, digits, `-` and `_`.
    Name,
    /// A `u64` with leading zeros up to this number of digits.
    Number(usize),
    /// A [`RunId`].
    Run,
    /// A label in the form of [`folder_value`](super::partition::folder_value).
    Label,
}

/// The placeholders of the patterns.
const PLACEHOLDERS: &[(&str, Class)] = &[
    ("id", Class::Id),
    ("name", Class::Id),
    ("map", Class::Name),
    ("result", Class::Name),
    ("version", Class::Number(8)),
    ("group", Class::Number(5)),
    ("part", Class::Number(5)),
    ("segment", Class::Number(5)),
    ("ticket", Class::Number(10)),
    ("commit", Class::Number(20)),
    ("attempt", Class::Number(1)),
    ("run", Class::Run),
    ("label", Class::Label),
];

impl Class {
    fn of(placeholder: &str) -> Option<Class> {
        PLACEHOLDERS.iter().find(|(name, _)| *name == placeholder).map(|(_, class)| *class)
    }

    /// Whether the character can be part of a value. What follows a placeholder in a pattern cannot.
    fn has(self, c: char) -> bool {
        match self {
            Class::Id => c.is_ascii_alphanumeric(),
            Class::Name => c.is_ascii_alphanumeric() || matches!(c, '-' | '_'),
            Class::Number(_) => c.is_ascii_digit(),
            Class::Run | Class::Label => c != '/',
        }
    }

    /// Whether these characters are a value, in the only way to write it.
    fn accepts(self, value: &str) -> bool {
        match self {
            Class::Id | Class::Name | Class::Label => !value.is_empty(),
            Class::Run => RunId::is_name(value),
            Class::Number(digits) => {
                let padded = value.len() == digits || value.len() > digits && !value.starts_with('0');
                padded && value.parse::<u64>().is_ok()
            }
        }
    }
}

impl FileKind {
    /// Folder of the output that has such files, with `/` at its end; None for files beside the folders.
    pub fn folder(&self) -> Option<&'static str> {
        self.pattern.find('/').map(|end| &self.pattern[..=end])
    }

    /// The key with these values of the placeholders, in their order. Numbers get their leading zeros.
    pub fn key(&self, values: &[&str]) -> String {
        let (mut key, mut values) = (String::with_capacity(self.pattern.len() + 32), values.iter());
        for (text, placeholder) in self.pieces() {
            key.push_str(text);
            let Some(value) = placeholder.and_then(|_| values.next()) else { continue };
            if let Some(Class::Number(digits)) = placeholder.and_then(Class::of) {
                key.extend(std::iter::repeat_n('0', digits.saturating_sub(value.len())));
            }
            key.push_str(value);
        }
        key
    }

    /// The values of the placeholders in a key, in their order. None if the key is of another kind.
    pub fn parse<'k>(&self, key: &'k str) -> Option<Vec<&'k str>> {
        let (mut rest, mut values) = (key, Vec::new());
        for (text, placeholder) in self.pieces() {
            rest = rest.strip_prefix(text)?;
            let Some(placeholder) = placeholder else { continue };
            let class = Class::of(placeholder)?;
            let (value, after) = rest.split_at(rest.find(|c| !class.has(c)).unwrap_or(rest.len()));
            if !class.accepts(value) {
                return None;
            }
            values.push(value);
            rest = after;
        }
        rest.is_empty().then_some(values)
    }

    /// The pattern in pieces: text, and the name of the placeholder behind it.
    fn pieces(&self) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
        self.pattern.split('}').map(|piece| match piece.split_once('{') {
            Some((text, placeholder)) => (text, Some(placeholder)),
            None => (piece, None),
        })
    }
}

/// The kind of the file with this key. None if Pomona writes no such file.
pub fn kind_of(key: &str) -> Option<&'static FileKind> {
    KINDS.iter().find(|kind| kind.parse(key).is_some())
}

macro_rules! kinds {
    ($(
        $(#[$doc:meta])*
        $constant:ident = $name:literal, $pattern:literal, by $by:literal, from $from:expr,
        holds [$($holds:ident)*], $remake:ident, $swept:ident;
    )+) => {
        $(
            $(#[$doc])*
            pub const $constant: FileKind = FileKind {
                name: $name,
                pattern: $pattern,
                written_by: $by,
                named_by: $from,
                $($holds: true,)*
                remake: Remake::$remake,
                ..$swept
            };
        )+
        /// All kinds of files.
        pub const KINDS: &[FileKind] = &[$($constant),+];
    };
}

/// The defaults of the table: files that a vacuum leaves.
const KEPT: FileKind = FileKind {
    name: "",
    pattern: "",
    written_by: "",
    named_by: ITS_KEY,
    paths: false,
    vectors: false,
    remake: Remake::Nothing,
    swept: false,
};
/// The same for files that a vacuum deletes.
const SWEPT: FileKind = FileKind { swept: true, ..KEPT };

kinds! {
    /// Marks the folder as an output, and names its format.
    MARKER = "marker", "pomona.json", by "the first run", from ITS_KEY, holds [], Nothing, KEPT;
    /// The manifest of a version, or another state of its number.
    VERSION = "version", "versions/{version}.json", by "publish", from ITS_KEY, holds [paths], Copy, KEPT;
    /// The report of the newest version that has one.
    REPORT = "report", "report.html", by "report", from ITS_KEY, holds [paths vectors], RunReport, KEPT;
    /// The claim of a run on a version number.
    CLAIM = "claim", "versions/{version}.claim", by "reduce", from ITS_KEY, holds [], Record, KEPT;
    /// Features of the images of a shard, in key order.
    FEATURES = "features", "shards/{id}/features.parquet", by "featurize", from "group",
        holds [paths vectors], Images, SWEPT;
    /// The record of a shard.
    SHARD = "shard", "shards/{id}/shard.json", by "featurize", from "group", holds [paths], Images, SWEPT;
    /// The sums of a shard, in outputs of format 1.
    MOMENTS = "shard-sums", "shards/{id}/moments.parquet", by "featurize of format 1", from "version",
        holds [], Shards, SWEPT;
    /// Features of a part of a shard, whose run was interrupted.
    PARTIAL = "partial", "partials/{id}.parquet", by "a stopped featurize", from "partial-record",
        holds [paths vectors], Images, SWEPT;
    /// The record of a [`PARTIAL`].
    PARTIAL_RECORD = "partial-record", "partials/{id}.json", by "a stopped featurize", from ITS_KEY,
        holds [], Images, SWEPT;
    /// The members of an archive of the input.
    CONTAINER = "container", "containers/{id}.parquet", by "plan", from ITS_KEY, holds [paths], Unneeded, SWEPT;
    /// The exact sums of a group of shards.
    SUMS = "sums", "groups/{id}/sums.parquet", by "merge", from "group", holds [], Shards, SWEPT;
    /// The record of a group of shards.
    GROUP = "group", "groups/{id}/group.json", by "merge", from "version", holds [paths], Shards, SWEPT;
    /// The total sums of a version with more than one group.
    TOTALS = "totals", "moments/{id}.parquet", by "reduce", from "version", holds [], Groups, SWEPT;
    /// A fitted basis.
    BASIS = "basis", "basis/{id}.parquet", by "reduce", from "version", holds [], Sums, SWEPT;
    /// The sums of a group per class and fold, of a group that is large enough.
    CLASSES = "classes", "groups/{id}/classes-{name}.parquet", by "merge", from "version", holds [vectors], Shards, SWEPT;
    /// A segment of the search index: the rows of a group.
    INDEX = "index", "index/{id}-1.index", by "merge", from "version", holds [paths vectors], Shards, SWEPT;
    /// A classifier.
    CLASSIFIER = "classifier", "classifier/{id}.parquet", by "reduce", from "version", holds [vectors], Shards, SWEPT;
    /// Predictions for the images of a shard.
    PREDICTIONS = "predictions", "predictions/v={version}/part-{part}.parquet", by "project", from "part-list",
        holds [paths], ShardsAndClassifier, SWEPT;
    /// What a run was told of the labels of images.
    LABELS = "labels", "labels/{id}.csv", by "plan", from "version", holds [paths], Nothing, SWEPT;
    /// The visual words of an extractor.
    VOCABULARY = "vocabulary", "vocabularies/{id}.json", by "plan", from "version", holds [], Nothing, SWEPT;
    /// A model of the user's, an ONNX file.
    MODEL = "model", "models/{id}/model.onnx", by "model push", from ITS_KEY, holds [], Nothing, KEPT;
    /// The record of a [`MODEL`]: what it computes, and how long that takes.
    MODEL_RECORD = "model-record", "models/{id}/record.json", by "model push", from ITS_KEY, holds [], Nothing, KEPT;
    /// The record of an extractor: all that decides the bits of the features.
    EXTRACTOR = "extractor", "extractors/{id}.json", by "publish", from "version", holds [], Manifest, SWEPT;
    /// The list of the parts of a group.
    PART_LIST = "part-list", "scores/v={version}/{group}.json", by "publish", from "version", holds [], Scores, SWEPT;
    /// Scores of a shard.
    PART = "part", "pca/v={version}/part-{part}.parquet", by "project", from "part-list",
        holds [paths vectors], ShardsAndBasis, SWEPT;
    /// Scores of the images of a shard that have this label.
    LABEL_PART = "label-part", "pca/v={version}/label={label}/part-{part}.parquet", by "project", from "part-list",
        holds [paths vectors], ShardsAndBasis, SWEPT;
    /// The empty object by which Spark and Hadoop recognise a complete table.
    SUCCESS = "success", "pca/v={version}/_SUCCESS", by "publish", from ITS_KEY, holds [], Unneeded, SWEPT;
    /// Features of a shard of the version: a link to [`FEATURES`], or a copy.
    FEATURES_PART = "features-part", "features/v={version}/part-{part}.parquet", by "publish", from "version",
        holds [paths vectors], Shards, SWEPT;
    /// The list of the version's files of features, for readers of buckets.
    SYMLINKS = "symlinks", "features/v={version}/symlink.txt", by "publish", from "version", holds [], Manifest, SWEPT;
    /// Features of a shard of a version with a Delta log: a link to [`FEATURES`], or a copy.
    DELTA_PART = "delta-part", "delta/{id}.parquet", by "publish", from "version", holds [paths vectors], Shards, SWEPT;
    /// A commit of the Delta log.
    DELTA_COMMIT = "delta-commit", "delta/_delta_log/{commit}.json", by "publish", from "version", holds [], Manifest, SWEPT;
    /// Scores of a version as CSV.
    CSV = "csv", "csv/v={version}/result.csv", by "publish", from "version",
        holds [paths vectors], ShardsAndBasis, SWEPT;
    /// The table of rejects of a version.
    REJECTS = "rejects", "rejects/v={version}.parquet", by "publish", from "version", holds [paths], Groups, SWEPT;
    /// Images that a version has twice.
    DUPLICATES = "duplicates", "duplicates/v={version}/part-{part}.parquet", by "publish", from "version", holds [paths],
        Shards, SWEPT;
    /// Images that are unlike the others of a version.
    OUTLIERS = "outliers", "outliers/v={version}/part-{part}.parquet", by "publish", from "version", holds [paths],
        Scores, SWEPT;

    /// The plan of a run.
    RUN_PLAN = "run-plan", "runs/{run}/plan.json", by "plan", from ITS_KEY, holds [paths], Record, SWEPT;
    /// Marks a run in progress.
    RUN_STARTED = "run-started", "runs/{run}/started.json", by "plan", from ITS_KEY, holds [], Record, SWEPT;
    /// A segment of the listing of the input.
    RUN_OBJECTS = "run-objects", "runs/{run}/objects-{id}.jsonl", by "plan", from "run-work", holds [paths], Record,
        SWEPT;
    /// What the rounds of listers of a large input hand to each other.
    RUN_LISTING = "run-listing", "runs/{run}/listing.json", by "plan", from ITS_KEY, holds [paths], Record, SWEPT;
    /// Ids of the shards that need no list of objects, for listers.
    RUN_FINISHED = "run-finished", "runs/{run}/finished.jsonl", by "plan", from "run-ranges", holds [], Record, SWEPT;
    /// The work list of a round of listers.
    RUN_RANGES = "run-ranges", "runs/{run}/list-{segment}.jsonl", by "plan", from "run-listing", holds [paths], Record,
        SWEPT;
    /// The record of what a lister has listed.
    RUN_LISTED = "run-listed", "runs/{run}/listed/{segment}-{part}.json", by "list", from "run-ranges", holds [paths],
        Record, SWEPT;
    /// Shards and objects that a lister has listed.
    RUN_PIECES = "run-pieces", "runs/{run}/listed/{id}.jsonl", by "list", from "run-listed", holds [paths], Record, SWEPT;
    /// A segment of the list of planned shards.
    RUN_SHARDS = "run-shards", "runs/{run}/shards-{segment}.jsonl", by "plan", from "run-plan", holds [paths], Record,
        SWEPT;
    /// The work list of featurize.
    RUN_WORK = "run-work", "runs/{run}/featurize.jsonl", by "plan", from "run-plan", holds [paths], Record, SWEPT;
    /// Lines of the work list of featurize that one function works on.
    RUN_WORK_BATCHES = "run-work-batches", "runs/{run}/featurize-batches.jsonl", by "plan", from "run-plan", holds [],
        Record, SWEPT;
    /// The work list of merge.
    RUN_MERGES = "run-merges", "runs/{run}/merge.jsonl", by "plan", from "run-plan", holds [paths], Record, SWEPT;
    /// The work list of project.
    RUN_PROJECTIONS = "run-projections", "runs/{run}/project.jsonl", by "reduce", from "run-reduced", holds [paths],
        Record, SWEPT;
    /// Lines of the work list of project that one function works on.
    RUN_PROJECTION_BATCHES = "run-projection-batches", "runs/{run}/project-batches.jsonl", by "reduce", from "run-reduced",
        holds [], Record, SWEPT;
    /// The record of a shard that the run computed.
    RUN_FEATURIZED = "run-featurized", "runs/{run}/featurized/{id}.json", by "featurize", from "run-work",
        holds [paths], Record, SWEPT;
    /// The record of a group that the run merged.
    RUN_MERGED = "run-merged", "runs/{run}/merged/{group}.json", by "merge", from "run-merges", holds [paths], Record,
        SWEPT;
    /// The record of a group for which the run made a segment of the search index, if another function did it than merged the
    /// group.
    RUN_INDEXED = "run-indexed", "runs/{run}/indexed/{group}.json", by "merge", from "run-merges", holds [], Record,
        SWEPT;
    /// The sums of a group that the run merged, in outputs of format 1.
    RUN_SUMS = "run-sums", "runs/{run}/merged/{group}.parquet", by "merge of format 1", from "run-merges", holds [],
        Record, SWEPT;
    /// The record of reduce.
    RUN_REDUCED = "run-reduced", "runs/{run}/reduced.json", by "reduce", from ITS_KEY, holds [paths], Record, SWEPT;
    /// The record of a part that the run projected.
    RUN_PROJECTED = "run-projected", "runs/{run}/projected/{part}.json", by "project", from "run-projections", holds [],
        Record, SWEPT;
    /// The rows of a part as CSV, before all parts are joined.
    RUN_CSV = "run-csv", "runs/{run}/csv/{part}.csv", by "project", from "run-projections", holds [paths vectors], Record,
        SWEPT;
    /// What the functions of a map answered, or why they failed. Step Functions writes it; nothing reads it.
    RUN_MAP = "run-map", "runs/{run}/maps/{map}/{result}.json", by "Step Functions", from ITS_KEY, holds [paths], Record,
        SWEPT;
    /// Says that a shard is damaged, for the next attempt of the run.
    RUN_DAMAGED_SHARD = "run-damaged-shard", "runs/{run}/damaged/shards/{id}.json", by "the stage that reads it",
        from ITS_KEY, holds [], Record, SWEPT;
    /// Says that a group is damaged, for the next attempt of the run.
    RUN_DAMAGED_GROUP = "run-damaged-group", "runs/{run}/damaged/groups/{id}.json", by "the stage that reads it",
        from ITS_KEY, holds [], Record, SWEPT;
    /// The table of rejects of the run.
    RUN_REJECTS = "run-rejects", "runs/{run}/rejects.parquet", by "reduce", from ITS_KEY, holds [paths], Record, SWEPT;
    /// The copy of the manifest that the run published.
    RUN_MANIFEST = "run-manifest", "runs/{run}/manifest.json", by "publish", from ITS_KEY, holds [paths], Record, SWEPT;
    /// The page of the run.
    RUN_REPORT = "run-report", "runs/{run}/report.html", by "report", from ITS_KEY, holds [paths vectors], Record, SWEPT;
    /// The plot of the explained variance.
    RUN_SCREE = "run-scree", "runs/{run}/scree.png", by "report", from ITS_KEY, holds [], Record, SWEPT;
    /// The plot of the first two scores.
    RUN_SCATTER = "run-scatter", "runs/{run}/scatter.png", by "report", from ITS_KEY, holds [], Record, SWEPT;
    /// What the run cost.
    RUN_RECEIPT = "run-receipt", "runs/{run}/receipt.json", by "report", from ITS_KEY, holds [], Record, SWEPT;

    /// A notice of uploads that no run has processed yet.
    NOTICE = "notice", "inbox/{name}.json", by "the trigger", from ITS_KEY, holds [paths], Listing, KEPT;
    /// The ticket of a run that uploads start.
    TICKET = "ticket", "turns/{ticket}.json", by "the trigger", from ITS_KEY, holds [], Unneeded, KEPT;
    /// The labels that people accepted or corrected, for the next run.
    REVIEW = "review", "labels.csv", by "serve", from ITS_KEY, holds [paths], Nothing, KEPT;
    /// The lock of a vacuum in progress.
    LOCK = "lock", "vacuum.json", by "vacuum", from ITS_KEY, holds [], Unneeded, KEPT;
    /// The claim of the process that breaks a dead lock.
    BROKEN_LOCK = "broken-lock", "broken-{id}-{attempt}-vacuum.json", by "vacuum", from ITS_KEY, holds [], Unneeded,
        KEPT;
}

#[cfg(test)]
mod tests;
