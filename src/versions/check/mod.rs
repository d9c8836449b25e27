//! The check of an output: every file against its checksum, and the numbers against each other; and the repair.
//!
//! A check only reads. It names each damaged file, the versions that it belongs to, and what it is made again from. Records
//! are read piece by piece, so that a damaged one does not hide the damage behind it. A [`repair`](repair()) writes only
//! files with exactly the content on record, and deletes nothing but the marks of dead runs.

mod delta;
mod files;
mod findings;
mod index;
mod named;
mod notes;
mod numbers;
mod remake;
mod repair;
mod runs;
mod scores;
mod states;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use serde::{Serialize, Serializer};

pub use repair::{RepairInput, Tools, repair};

use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, Checksum, FileRef, GroupRecord, Manifest, PartList, VersionState, keys,
        lease::{Judge, Liveness},
        registry::{self, Remake},
    },
    escape_invisible,
    ids::{GroupId, Version},
    pipeline::{Phase, Watcher},
    store::{self, Store},
};

/// How much is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every file with its checksum.
    Files,
    /// Also the numbers with each other: ids, sums, basis and scores are computed again from the features.
    Numbers,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It does not exist.
    Missing,
    /// It does not have the content that it was written with.
    Damaged,
    /// It has that content, but contradicts another file.
    Wrong,
}

/// A damaged file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Key, relative to the output.
    pub file: String,
    /// What is wrong.
    pub problem: Fault,
    /// What was found.
    pub detail: String,
    /// The versions that the file belongs to, ascending.
    #[serde(serialize_with = "numbers_of")]
    pub versions: Vec<Version>,
    /// What such files are made again from, as in the table of `docs/file-formats.md`.
    pub made_again_from: &'static str,
    /// Whether a result depends on the file. Records of runs that have ended are not needed, for example.
    pub needed: bool,
    /// Whether a repair has made the file again.
    pub repaired: bool,
}

impl Problem {
    /// Whether a result depends on the file and it is still damaged.
    pub fn matters(&self) -> bool {
        self.needed && !self.repaired
    }
}

fn numbers_of<S: Serializer>(versions: &[Version], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(versions.iter().map(|version| version.0))
}

/// Files that no published version names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Orphans {
    /// Their number.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
}

/// The mark of a run or the lock of a vacuum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundMark {
    /// Key, relative to the output.
    pub file: String,
    /// Whether its holder still works.
    pub holder: Liveness,
}

/// The result of a check.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Number of files of the output.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// The published versions, ascending.
    #[serde(serialize_with = "numbers_of")]
    pub versions: Vec<Version>,
    /// Images of the newest version.
    pub images: u64,
    /// Damaged files by key. After a repair also those that were made again.
    pub problems: Vec<Problem>,
    /// Files that are not of Pomona. They are never touched.
    pub unknown: Vec<String>,
    /// Files that no published version names. A vacuum deletes them.
    pub orphans: Orphans,
    /// Marks of runs and vacuums.
    pub marks: Vec<FoundMark>,
    #[serde(skip)]
    survey: Survey,
}

impl Checked {
    /// Whether nothing that a result depends on is damaged, or all that was is made again.
    pub fn is_sound(&self) -> bool {
        !self.problems.iter().any(Problem::matters)
    }

    /// Fails with `Dataset.Corrupt`, which names the first damaged files, if anything is damaged.
    pub fn expect_sound(&self) -> Result<()> {
        const NAMED: usize = 5;
        let damaged: Vec<&str> = self.problems.iter().filter(|p| p.matters()).map(|p| p.file.as_str()).collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let mut named = damaged.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        if damaged.len() > NAMED {
            named.push_str(", ...");
        }
        Err(Error::new(ErrorKind::DatasetCorrupt, "files of this data set are damaged")
            .context("number", damaged.len())
            .context("files", named))
    }
}

/// What is known about a version number.
#[derive(Debug, Default)]
struct Known {
    /// From its record, or from the copy if that is damaged. None if neither can be read.
    state: Option<VersionState>,
    /// The copy of the manifest in the folder of its run.
    copy: Option<Bytes>,
    /// What is wrong with the record.
    problem: Option<(Fault, String)>,
}

/// What a file should be.
#[derive(Clone, Debug)]
struct Named {
    /// None for files that prove themselves, and for those of format 1.
    checksum: Option<Checksum>,
    versions: BTreeSet<Version>,
    /// Whether the file is of a version of format 1.
    released: bool,
}

/// All that a check has learned about an output.
#[derive(Debug, Default)]
struct Survey {
    /// Sizes of all files.
    listed: BTreeMap<String, u64>,
    /// All version numbers that are, or should be, decided.
    versions: BTreeMap<Version, Known>,
    named: BTreeMap<String, Named>,
    /// Records of groups that can be read.
    groups: HashMap<GroupId, Arc<GroupRecord>>,
    /// Lists of parts that can be read, by version and number of the group.
    lists: HashMap<(Version, u64), PartList>,
    problems: BTreeMap<String, Problem>,
    /// Files that have been read and are as they should be.
    sound: HashSet<String>,
    marks: Vec<FoundMark>,
}

impl Survey {
    fn published(&self) -> impl DoubleEndedIterator<Item = &Manifest> {
        self.versions.values().filter_map(|known| match &known.state {
            Some(VersionState::Published(manifest)) => Some(manifest.as_ref()),
            _ => None,
        })
    }

    /// The manifests of format 2.
    fn manifests(&self) -> Vec<Manifest> {
        self.published().filter(|manifest| manifest.released.is_none()).cloned().collect()
    }

    /// Notes a problem. The first one of a file counts.
    fn report(&mut self, key: &str, problem: Fault, detail: impl Into<String>, versions: &[Version]) {
        self.sound.remove(key);
        let remake = registry::kind_of(key).map_or(Remake::Nothing, |kind| kind.remake);
        let needed = !matches!(remake, Remake::Record | Remake::RunReport | Remake::Unneeded | Remake::Listing);
        let found = self.problems.entry(key.to_owned()).or_insert_with(|| Problem {
            file: key.to_owned(),
            problem,
            detail: detail.into(),
            versions: Vec::new(),
            made_again_from: remake.text(),
            needed,
            repaired: false,
        });
        let named = self.named.get(key).into_iter().flat_map(|named| &named.versions);
        let all: BTreeSet<Version> = found.versions.iter().chain(versions).chain(named).copied().collect();
        found.versions = all.into_iter().collect();
    }

    /// Notes an error that names damage; returns any other.
    fn note(&mut self, key: &str, error: Error, fault: Fault) -> Result<()> {
        if !error.is(ErrorKind::DatasetCorrupt) {
            return Err(error);
        }
        let fault = if self.exists(key) { fault } else { Fault::Missing };
        self.report(key, fault, detail(&error), &[]);
        Ok(())
    }

    fn exists(&self, key: &str) -> bool {
        self.listed.contains_key(key)
    }

    fn is_sound(&self, key: &str) -> bool {
        self.sound.contains(key)
    }

    /// A file with this name, as a version names it.
    fn file(&self, key: &str) -> FileRef {
        FileRef { key: key.to_owned(), checksum: self.named.get(key).and_then(|named| named.checksum.clone()) }
    }
}

/// What an error says, without the key, which is printed beside it.
fn detail(error: &Error) -> String {
    let text = error.to_string();
    let Some(key) = error.context_value("key").map(escape_invisible) else { return text };
    text.replacen(&format!(" (key: {key})"), "", 1).replacen(&format!("key: {key}, "), "", 1)
}

/// Reads everything that the versions of an output consist of.
///
/// Fails with `Output.NoVersion` if this is not an output of Pomona, with `Output.UnknownFormat`, and with errors of the
/// store. Damage is not an error: see [`Checked::problems`].
#[compiled_once]
pub async fn check<'a>(
    output: &'a dyn Store,
    depth: Depth,
    judge: Judge<'a>,
    watcher: &dyn Watcher,
) -> Result<Checked> {
    let survey = timed(watcher, None, list(output)).await?;
    let survey = look(output, survey, depth, judge, watcher).await?;
    let current = survey.published().next_back();
    let (unknown, orphans) = (notes::unknown(&survey), notes::orphans(&survey));
    Ok(Checked {
        files: survey.listed.len() as u64,
        bytes: survey.listed.values().sum(),
        versions: survey.published().map(|manifest| manifest.version).collect(),
        images: current.map_or(0, |manifest| manifest.images),
        problems: survey.problems.values().cloned().collect(),
        unknown,
        orphans,
        marks: survey.marks.clone(),
        survey,
    })
}

async fn list(output: &dyn Store) -> Result<Survey> {
    // A marker can be lost. Without versions, this is another folder, perhaps a large one.
    if let Err(e) = dataset::expect_output(output).await
        && e.is(ErrorKind::OutputNoVersion)
        && !states::has_versions(output).await?
    {
        return Err(e);
    }
    let listed = store::list_all(output, "").await?;
    Ok(Survey { listed: listed.into_iter().map(|object| (object.key, object.size)).collect(), ..Survey::default() })
}

/// All steps of a check after the listing.
async fn look(
    output: &dyn Store,
    mut survey: Survey,
    depth: Depth,
    judge: Judge<'_>,
    watcher: &dyn Watcher,
) -> Result<Survey> {
    states::read(&mut survey, output).await?;
    survey.marks = notes::marks(&survey, output, judge).await?;
    named::collect(&mut survey, output).await?;
    delta::check(&mut survey, output).await?;
    runs::check(&mut survey, output).await?;
    notes::check_inbox(&mut survey, output).await?;
    notes::check_review(&mut survey, output).await?;
    let left = files::left(&survey, depth);
    let total = Some(left.len() as u64);
    timed(watcher, total, files::read(&mut survey, output, left, watcher)).await?;
    if depth == Depth::Numbers {
        let shards = numbers::shards(&mut survey);
        let total = Some(shards.len() as u64);
        timed(watcher, total, numbers::check(&mut survey, output, shards, watcher)).await?;
    }
    states::forget_removed(&mut survey, output).await?;
    Ok(survey)
}

async fn timed<T>(watcher: &dyn Watcher, total: Option<u64>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    watcher.begin(Phase::Check, total);
    let outcome = work.await;
    watcher.end(Phase::Check, started.elapsed());
    outcome
}

/// Key of the copy of a version's manifest.
fn copy_of(manifest: &Manifest) -> String {
    keys::kept_manifest(&manifest.run)
}
