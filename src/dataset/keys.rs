//! Keys, relative to the output: every one is built here, and parsed here.
//!
//! Each key starts with one of the [`PREFIXES`] or is one of the few at the top. What a vacuum sweeps is derived from that
//! list, so a new kind of file cannot be forgotten by it.

use crate::ids::{BasisId, MomentsId, RunId, ShardId, Version};

/// A folder of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// With the `/` at its end.
    pub name: &'static str,
    /// Whether a vacuum deletes what no kept version names below it.
    pub swept: bool,
}

macro_rules! prefixes {
    ($( $(#[$doc:meta])* $name:ident = $text:literal, swept: $swept:literal; )+) => {
        $( $(#[$doc])* pub const $name: &str = $text; )+
        /// Every folder that Pomona writes to.
        pub const PREFIXES: &[Prefix] = &[ $( Prefix { name: $text, swept: $swept }, )+ ];
    };
}

prefixes! {
    /// Manifests, and claims on numbers.
    VERSIONS = "versions/", swept: false;
    /// Features and sums of shards.
    SHARDS = "shards/", swept: true;
    /// Rows of shards whose run was stopped.
    PARTIALS = "partials/", swept: true;
    /// Total sums.
    MOMENTS = "moments/", swept: true;
    /// Fitted bases.
    BASES = "basis/", swept: true;
    /// Scores.
    PCA = "pca/", swept: true;
    /// Scores as text.
    CSV = "csv/", swept: true;
    /// Tables of images without features.
    REJECTS = "rejects/", swept: true;
    /// Work lists, records and reports of runs.
    RUNS = "runs/", swept: true;
    /// Notices of uploads.
    INBOX = "inbox/", swept: false;
    /// Tickets of the runs that uploads start.
    TICKETS = "turns/", swept: false;
}

/// Folders that a vacuum sweeps.
pub fn swept() -> impl Iterator<Item = &'static str> {
    PREFIXES.iter().filter(|prefix| prefix.swept).map(|prefix| prefix.name)
}

/// What is kept under a version's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionFile {
    /// The manifest, or what else was decided.
    State,
    /// The claim of the run that writes under the number.
    Claim,
}

/// The state of a version.
pub fn version(version: Version) -> String {
    format!("{VERSIONS}{version}.json")
}

/// The claim on a number.
pub fn claim(version: Version) -> String {
    format!("{VERSIONS}{version}.claim")
}

/// Number and kind of a key below [`VERSIONS`].
pub fn parse_version(key: &str) -> Option<(Version, VersionFile)> {
    let (number, kind) = key.strip_prefix(VERSIONS)?.split_once('.')?;
    let kind = match kind {
        "json" => VersionFile::State,
        "claim" => VersionFile::Claim,
        _ => return None,
    };
    Some((Version(number.parse().ok()?), kind))
}

/// Features of a shard.
pub fn features(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/features.parquet")
}

/// Sums of a shard.
pub fn moments(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/moments.parquet")
}

/// Written last: a shard that has it is finished.
pub fn shard(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/shard.json")
}

/// The shard that a key of [`shard`] says is finished.
pub fn parse_shard(key: &str) -> Option<ShardId> {
    key.strip_prefix(SHARDS)?.strip_suffix("/shard.json").map(ShardId::from)
}

/// Rows of a shard whose run was stopped half-way.
pub fn partial(shard: &ShardId) -> String {
    format!("{PARTIALS}{shard}.parquet")
}

/// Total sums.
pub fn totals(id: &MomentsId) -> String {
    format!("{MOMENTS}{id}.parquet")
}

/// The name of total sums.
pub fn parse_totals(key: &str) -> Option<MomentsId> {
    key.strip_prefix(MOMENTS)?.strip_suffix(".parquet").map(MomentsId::from)
}

/// A fitted basis.
pub fn basis(id: &BasisId) -> String {
    format!("{BASES}{id}.parquet")
}

/// The folder of a version's scores.
pub fn pca(version: Version) -> String {
    format!("{PCA}v={version}/")
}

/// One part of a version's scores.
pub fn part(version: Version, label_folder: Option<&str>, part: u64) -> String {
    match label_folder {
        Some(label) => format!("{}label={label}/part-{part:05}.parquet", pca(version)),
        None => format!("{}part-{part:05}.parquet", pca(version)),
    }
}

/// Label folder and number of a part of a version's scores.
pub fn parse_part(version: Version, key: &str) -> Option<(Option<&str>, u64)> {
    let rest = key.strip_prefix(&pca(version))?;
    let (label, name) = match rest.rsplit_once('/') {
        Some((folder, name)) => (Some(folder.strip_prefix("label=")?), name),
        None => (None, rest),
    };
    Some((label, name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()?))
}

/// Scores as text. Not beside the parts: pandas and Athena take every file of that folder for Parquet.
pub fn csv(version: Version) -> String {
    format!("{CSV}v={version}/result.csv")
}

/// Says to Spark and its relatives that a version's scores are complete.
pub fn success(version: Version) -> String {
    format!("{}_SUCCESS", pca(version))
}

/// The table of a version's rejects.
pub fn rejects(version: Version) -> String {
    format!("{REJECTS}v={version}.parquet")
}

/// A file of a run.
pub fn run(run: &RunId, name: &str) -> String {
    format!("{}{name}", run_folder(run))
}

/// The folder of a run.
pub fn run_folder(run: &RunId) -> String {
    format!("{RUNS}{run}/")
}

const STARTED: &str = "started.json";

/// There while a run is in progress.
pub fn started(id: &RunId) -> String {
    run(id, STARTED)
}

/// The run whose mark a key of [`started`] is.
pub fn parse_started(key: &str) -> Option<&str> {
    key.strip_prefix(RUNS)?.strip_suffix(STARTED)?.strip_suffix('/')
}

/// A piece of the list of a run's objects.
pub fn objects(id: &RunId, segment: usize) -> String {
    run(id, &format!("objects-{segment:05}.jsonl"))
}

/// The record of a shard that a run has made.
pub fn featurized(id: &RunId, shard: &ShardId) -> String {
    run(id, &format!("featurized/{shard}.json"))
}

/// Sums of a group of shards.
pub fn merged(id: &RunId, group: u64) -> String {
    run(id, &format!("merged/{group:05}.parquet"))
}

/// The record of a group whose sums were added.
pub fn merge_record(id: &RunId, group: u64) -> String {
    run(id, &format!("merged/{group:05}.json"))
}

/// The record of a part that was projected.
pub fn projected(id: &RunId, part: u64) -> String {
    run(id, &format!("projected/{part:05}.json"))
}

/// Rows of one part as text, until they are joined.
pub fn csv_part(id: &RunId, part: u64) -> String {
    run(id, &format!("csv/{part:05}.csv"))
}

/// A notice of uploads, named after its content.
pub fn notice(name: &str) -> String {
    format!("{INBOX}{name}.json")
}

/// The ticket of a run that uploads start.
pub fn ticket(number: u64) -> String {
    format!("{TICKETS}{number:010}.json")
}

/// The number of a ticket.
pub fn parse_ticket(key: &str) -> Option<u64> {
    key.strip_prefix(TICKETS)?.strip_suffix(".json")?.parse().ok()
}

/// There while a vacuum is in progress.
pub const LOCK: &str = "vacuum.json";

/// The claim of the process that breaks an expired lock.
pub fn broken_lock(locked_at: i64, attempt: u32) -> String {
    format!("broken-{locked_at}-{attempt}-{LOCK}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_run() -> RunId {
        RunId::try_from("r-1".to_owned()).unwrap()
    }

    #[test]
    fn every_key_lies_below_a_listed_prefix() {
        let (id, shard_id, v) = (a_run(), ShardId::from("ab"), Version(3));
        let keys = [
            version(v),
            claim(v),
            features(&shard_id),
            moments(&shard_id),
            shard(&shard_id),
            partial(&shard_id),
            totals(&"t".into()),
            basis(&"b".into()),
            pca(v),
            part(v, None, 0),
            part(v, Some("x"), 0),
            csv(v),
            success(v),
            rejects(v),
            started(&id),
            objects(&id, 0),
            featurized(&id, &shard_id),
            merged(&id, 0),
            merge_record(&id, 0),
            projected(&id, 0),
            csv_part(&id, 0),
            notice("n"),
            ticket(1),
        ];
        for key in keys {
            assert_eq!(PREFIXES.iter().filter(|prefix| key.starts_with(prefix.name)).count(), 1, "{key}");
        }
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_what_was_built(number in 1u64..u64::MAX, label in "[^/]{1,12}", text in "[0-9a-f]{32}") {
            let v = Version(number);
            prop_assert_eq!(parse_version(&version(v)), Some((v, VersionFile::State)));
            prop_assert_eq!(parse_version(&claim(v)), Some((v, VersionFile::Claim)));
            prop_assert_eq!(parse_shard(&shard(&text.as_str().into())), Some(text.as_str().into()));
            prop_assert_eq!(parse_totals(&totals(&text.as_str().into())), Some(text.as_str().into()));
            let (labelled, plain, mark) = (part(v, Some(&label), number), part(v, None, number), started(&a_run()));
            prop_assert_eq!(parse_part(v, &labelled), Some((Some(label.as_str()), number)));
            prop_assert_eq!(parse_part(v, &plain), Some((None, number)));
            prop_assert_eq!(parse_started(&mark), Some("r-1"));
            prop_assert_eq!(parse_ticket(&ticket(number)), Some(number));
        }
    }

    #[test]
    fn keys_of_other_files_are_not_parsed() {
        assert_eq!(parse_version("versions/x.json"), None);
        assert_eq!(parse_version("versions/00000001.json.tmp"), None);
        assert_eq!(parse_shard("shards/ab/features.parquet"), None);
        assert_eq!(parse_part(Version(1), "pca/v=00000001/_SUCCESS"), None);
        assert_eq!(parse_part(Version(1), "pca/v=00000002/part-00000.parquet"), None);
        assert_eq!(parse_started("runs/r/plan.json"), None);
    }
}
