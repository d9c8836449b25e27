//! The layout of an output and its versions.
//!
//! A version is a number whose fate one conditional put decides: `versions/00000007.json` is either the manifest of
//! the run that published it or a note that it was given up. A run claims a number before it writes under
//! `pca/v=00000007/`, so no two runs ever write there. To publish, it first gives up every number between the
//! version that it started from and its own, then puts its manifest. If another run published one of those numbers,
//! that put fails and the run plans again: the chain of published versions has no forks, and no run waits for
//! another.

pub mod keys;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Error, ErrorKind, Result,
    extractor::ExtractorInfo,
    preprocess::Reject,
    settings::Settings,
    shard::ShardId,
    store::{self, Store},
};

/// Format of the layout; a build refuses an output of another one.
pub const FORMAT: u32 = 1;
/// The object that says "this is an output of Pomona".
pub const MARKER: &str = "pomona.json";

/// Number of a version, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// A run's name: the folder of its records below `runs/`, and its execution's name on AWS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RunId(String);

impl TryFrom<String> for RunId {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=80).contains(&name.len()) && name.chars().all(legal) && !name.starts_with('.') {
            Ok(RunId(name))
        } else {
            Err(Error::new(ErrorKind::InputInvalid, "a run's name has 1 to 80 letters, digits, and - _ . (not first)")
                .context("run", name))
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RunId {
    /// The name of the `attempt`-th try of the same run, from 1.
    pub fn attempt(&self, attempt: u32) -> Result<RunId> {
        if attempt == 1 { Ok(self.clone()) } else { format!("{self}-{attempt}").try_into() }
    }
}

/// Images with one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCount {
    pub label: Option<String>,
    pub images: u64,
}

/// Adds counts of labels; the result is sorted by label, images without one first.
pub fn add_labels(to: &mut Vec<LabelCount>, from: &[LabelCount]) {
    for count in from {
        match to.binary_search_by(|c| c.label.cmp(&count.label)) {
            Ok(at) => to[at].images += count.images,
            Err(at) => to.insert(at, count.clone()),
        }
    }
}

/// A row of the rejects table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedObject {
    pub path: String,
    #[serde(flatten)]
    pub reject: Reject,
}

/// `shards/<id>/shard.json`: what a finished shard holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    pub id: ShardId,
    /// Rows of its features.
    pub rows: u64,
    /// First and last key of its objects.
    pub first: String,
    pub last: String,
    pub labels: Vec<LabelCount>,
    pub rejects: Vec<RejectedObject>,
}

/// A shard as a version names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    pub id: ShardId,
    pub rows: u64,
    pub rejects: u64,
    pub first: String,
    pub last: String,
}

/// The PCA of a version in figures; the vectors stand in the basis file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BasisSummary {
    pub id: String,
    pub key: String,
    pub components: usize,
    pub explained_variance: Vec<f64>,
    pub explained_variance_ratio: Vec<f64>,
    pub total_variance: f64,
    pub columns: usize,
    pub constant_columns: usize,
    /// Components that explain at least this share of the variance.
    pub components_for_90_percent: usize,
    pub components_for_99_percent: usize,
}

/// What the parts of a run cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// Images that went through the model in this run.
    pub inferred: u64,
    /// Images whose features were copied from earlier work.
    pub copied: u64,
    /// Images with features, beside those of the parent version: keys that it has not, or has with another etag, and
    /// keys that only it has.
    pub added: u64,
    pub changed: u64,
    pub removed: u64,
    pub shards_reused: u64,
    pub shards_computed: u64,
    /// Milliseconds of work by stage, added over shards and parts.
    pub plan_ms: u64,
    pub featurize_ms: u64,
    pub reduce_ms: u64,
    pub project_ms: u64,
}

/// The time, to the millisecond, in UTC, as RFC 3339.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default().to_string()
}

/// `versions/<number>.json` of a published version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub version: Version,
    /// The version that this one replaced.
    pub parent: Option<Version>,
    pub run: RunId,
    /// When the run began and when it published: UTC, RFC 3339.
    pub created: String,
    pub finished: String,
    pub pomona: String,
    pub input: String,
    pub settings: Settings,
    pub extractor: ExtractorInfo,
    /// Rows of features and scores.
    pub images: u64,
    pub rejects: u64,
    /// Objects that were passed over, hidden files and folder markers; not known when only parts were listed.
    pub ignored: Option<u64>,
    pub labels: Vec<LabelCount>,
    pub basis: BasisSummary,
    /// Key of the total moments.
    pub moments: String,
    pub outputs: Outputs,
    pub shards: Vec<ShardEntry>,
    pub figures: RunFigures,
}

impl Manifest {
    /// The name of the total moments: a hash of them.
    pub fn moments_id(&self) -> &str {
        self.moments.trim_start_matches("moments/").trim_end_matches(".parquet")
    }

    /// Shards whose range of keys meets `first..=last`.
    pub fn shards_between(&self, first: &str, last: &str) -> impl Iterator<Item = &ShardEntry> {
        let start = self.shards.partition_point(|shard| shard.last.as_str() < first);
        self.shards[start..].iter().take_while(move |shard| shard.first.as_str() <= last)
    }

    /// Seconds from the start of its run to its publication.
    pub fn seconds(&self) -> Option<f64> {
        let at = |text: &str| text.parse::<jiff::Timestamp>().ok();
        Some((at(&self.finished)? - at(&self.created)?).total(jiff::Unit::Second).ok()?.max(0.0))
    }

    /// Every file that this version consists of, the manifest itself left out.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let shards = self
            .shards
            .iter()
            .flat_map(|shard| [keys::features(&shard.id), keys::moments(&shard.id), keys::shard(&shard.id)]);
        let tables = [self.basis.key.clone(), self.moments.clone(), self.outputs.rejects.clone()];
        let scores = self.outputs.parts.iter().chain(&self.outputs.csv).cloned();
        shards.chain(tables).chain(scores).chain([keys::success(self.version)])
    }
}

/// Keys of what a version consists of, for readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    pub parts: Vec<String>,
    pub csv: Option<String>,
    pub rejects: String,
}

/// What stands at a version's key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Fate {
    Published(Box<Manifest>),
    /// Given up by its run, or passed by a faster one.
    Abandoned {
        version: Version,
        by: RunId,
    },
    /// Was published, and has been cleaned away since. The number stays taken: a slow run that started from an older
    /// version must not publish below the current one.
    Removed {
        version: Version,
    },
}

/// Encodes a record.
pub fn to_json<T: Serialize>(value: &T) -> Result<Bytes> {
    let bug = |e| Error::new(ErrorKind::InternalBug, "a record could not be written as JSON").source(e);
    serde_json::to_vec_pretty(value)
        .map(|mut text| {
            text.push(b'\n');
            text.into()
        })
        .map_err(bug)
}

/// Decodes a record; fails with `Dataset.Corrupt`.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8], key: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(ErrorKind::DatasetCorrupt, "this record cannot be read").context("key", key).source(e))
}

/// Reads a record that must be there.
pub async fn read_json<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<T> {
    from_json(&store.get(key).await?, key)
}

/// The output's list of version numbers, rising: published or given up, and claimed.
#[derive(Debug, Default)]
pub struct Versions {
    /// Numbers whose fate is decided.
    pub decided: Vec<Version>,
    /// The highest number that anything stands under.
    pub highest: u64,
}

/// Lists the versions of an output.
pub async fn versions(store: &dyn Store) -> Result<Versions> {
    let mut versions = Versions::default();
    for object in store::list_all(store, keys::VERSIONS).await? {
        let name = object.key.trim_start_matches(keys::VERSIONS);
        let Some((number, kind)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        versions.highest = versions.highest.max(number);
        if kind == "json" {
            versions.decided.push(Version(number));
        }
    }
    Ok(versions)
}

/// Reads the fate of a number that [`versions`] listed.
pub async fn fate(store: &dyn Store, version: Version) -> Result<Fate> {
    read_json(store, &keys::version(version)).await
}

/// The newest published version, if there is one.
pub async fn current(store: &dyn Store) -> Result<Option<Manifest>> {
    for version in versions(store).await?.decided.into_iter().rev() {
        if let Fate::Published(manifest) = fate(store, version).await? {
            return Ok(Some(*manifest));
        }
    }
    Ok(None)
}

/// All published versions that have not been cleaned away, rising.
pub async fn published(store: &dyn Store) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for version in versions(store).await?.decided {
        if let Fate::Published(manifest) = fate(store, version).await? {
            manifests.push(*manifest);
        }
    }
    Ok(manifests)
}

/// A published version; the current one when no number is given. Fails with `Output.NoVersion`, saying which there are.
pub async fn version(store: &dyn Store, wanted: Option<u64>) -> Result<Manifest> {
    let missing =
        |message: String| Err(Error::new(ErrorKind::OutputNoVersion, message).context("output", store.location()));
    let Some(number) = wanted else {
        return match current(store).await? {
            Some(manifest) => Ok(manifest),
            None => missing("no run has been finished here".to_owned()),
        };
    };
    let decided = versions(store).await?.decided;
    let fate = if decided.contains(&Version(number)) { Some(fate(store, Version(number)).await?) } else { None };
    match fate {
        Some(Fate::Published(manifest)) => Ok(*manifest),
        Some(Fate::Removed { .. }) => missing(format!("version {number} has been cleaned away")),
        Some(Fate::Abandoned { .. }) => {
            missing(format!("number {number} was given up by its run; there is no such version"))
        }
        None => {
            let numbers: Vec<String> = published(store).await?.iter().map(|m| m.version.0.to_string()).collect();
            missing(format!("there is no version {number}; there are: {}", numbers.join(", ")))
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    what: String,
    format: u32,
}

/// Makes sure that the output is empty or ours, and marks it.
pub async fn open_output(store: &dyn Store) -> Result<()> {
    if let Some(marker) = store::get_opt(store, MARKER).await? {
        return check_marker(&marker, store);
    }
    use futures::TryStreamExt;
    let first = store.list("", None).try_next().await?;
    if let Some(object) = first.and_then(|page| page.into_iter().next()) {
        // The marker is the first thing that a run writes: another run may have begun since it was looked for.
        if let Some(marker) = store::get_opt(store, MARKER).await? {
            return check_marker(&marker, store);
        }
        return Err(Error::new(ErrorKind::OutputOccupied, "the output holds something that Pomona did not write")
            .context("output", store.location())
            .context("found", object.key));
    }
    let marker =
        Marker { what: "output of Pomona; see docs/file-formats.md of its repository".to_owned(), format: FORMAT };
    if !store.put_if_absent(MARKER, to_json(&marker)?).await? {
        check_marker(&store.get(MARKER).await?, store)?;
    }
    Ok(())
}

fn check_marker(marker: &[u8], store: &dyn Store) -> Result<()> {
    let marker: Marker = from_json(marker, MARKER)?;
    if marker.format == FORMAT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::OutputUnknownFormat, "this build cannot read that output")
        .context("output", store.location())
        .context("format", marker.format)
        .context("known", FORMAT))
}

/// Makes sure that there is an output of Pomona, without writing anything.
pub async fn expect_output(store: &dyn Store) -> Result<()> {
    match store::get_opt(store, MARKER).await? {
        Some(marker) => check_marker(&marker, store),
        None => Err(Error::new(ErrorKind::OutputNoVersion, "there is no output of Pomona here")
            .context("output", store.location())),
    }
}

/// Claims the next free version number for a run.
pub async fn claim(store: &dyn Store, run: &RunId) -> Result<Version> {
    loop {
        let mut next = versions(store).await?.highest + 1;
        while !store.put_if_absent(&keys::claim(Version(next)), to_json(run)?).await? {
            next += 1;
        }
        // Claims may have been cleaned away while outputs of a dead run were not: never write among them.
        if store::list_all(store, &keys::pca(Version(next))).await?.is_empty() {
            return Ok(Version(next));
        }
    }
}

/// Publishes a manifest, the last step of a run: see the module's text. Fails with `Dataset.Conflict` when another
/// run has published since `manifest.parent`.
pub async fn commit(store: &dyn Store, manifest: Manifest) -> Result<()> {
    let (version, parent, run) = (manifest.version, manifest.parent, manifest.run.clone());
    let conflict = |number: Version| {
        Error::new(ErrorKind::DatasetConflict, "another run published first").context("version", number)
    };
    for number in parent.map_or(1, |p| p.0 + 1)..version.0 {
        let number = Version(number);
        let given_up = to_json(&Fate::Abandoned { version: number, by: run.clone() })?;
        if !store.put_if_absent(&keys::version(number), given_up).await?
            && !matches!(fate(store, number).await?, Fate::Abandoned { .. })
        {
            return Err(conflict(number));
        }
    }
    let body = to_json(&Fate::Published(Box::new(manifest)))?;
    if store.put_if_absent(&keys::version(version), body).await? {
        return Ok(());
    }
    // A retry of a put that did succeed finds its own manifest there.
    match fate(store, version).await? {
        Fate::Published(found) if found.run == run => Ok(()),
        _ => Err(conflict(version)),
    }
}
