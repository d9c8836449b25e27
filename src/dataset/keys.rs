//! The keys of an output, relative to it. All keys are built and parsed in this file.
//!
//! Each key starts with one of the [`PREFIXES`], except for the marker and the lock of a vacuum. A vacuum deletes files
//! below the prefixes of this list, so it covers new kinds of files.

use sha2::{Digest, Sha256};

use crate::ids::{BasisId, MomentsId, RunId, ShardId, Version, short_hex};

/// A top-level folder of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The name, with `/` at its end.
    pub name: &'static str,
    /// Whether a vacuum deletes the files below it that no kept version names.
    pub swept: bool,
}

macro_rules! prefixes {
    ($( $(#[$doc:meta])* $name:ident = $text:literal, swept: $swept:literal; )+) => {
        $( $(#[$doc])* pub const $name: &str = $text; )+
        /// All top-level folders that Pomona writes to.
        pub const PREFIXES: &[Prefix] = &[ $( Prefix { name: $text, swept: $swept }, )+ ];
    };
}

prefixes! {
    /// Manifests and other states of versions, and claims on version numbers.
    VERSIONS = "versions/", swept: false;
    /// Features and sums of shards.
    SHARDS = "shards/", swept: true;
    /// Features of shards whose run was interrupted.
    PARTIALS = "partials/", swept: true;
    /// Total moments.
    MOMENTS = "moments/", swept: true;
    /// Fitted bases.
    BASES = "basis/", swept: true;
    /// Parts of the table of scores.
    PCA = "pca/", swept: true;
    /// Scores as CSV.
    CSV = "csv/", swept: true;
    /// Tables of rejects.
    REJECTS = "rejects/", swept: true;
    /// Work lists, records, receipts and reports of runs.
    RUNS = "runs/", swept: true;
    /// Notices of uploads.
    INBOX = "inbox/", swept: false;
    /// Tickets of the runs that uploads start. The name is that of format 1.
    TICKETS = "turns/", swept: false;
}

/// Names of the folders in which a vacuum deletes files.
pub(crate) fn swept() -> impl Iterator<Item = &'static str> {
    PREFIXES.iter().filter(|prefix| prefix.swept).map(|prefix| prefix.name)
}

/// A kind of file below [`VERSIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionFile {
    /// The [`VersionState`](crate::dataset::VersionState): a manifest, or another state.
    State,
    /// The claim of a run on the number.
    Claim,
}

/// Key of the state of a version.
pub fn version(version: Version) -> String {
    format!("{VERSIONS}{version}.json")
}

/// Key of the claim on a version number.
pub fn claim(version: Version) -> String {
    format!("{VERSIONS}{version}.claim")
}

/// Parses the keys of [`version`] and [`claim`]. None for other keys.
pub fn parse_version(key: &str) -> Option<(Version, VersionFile)> {
    let (number, kind) = key.strip_prefix(VERSIONS)?.split_once('.')?;
    let kind = match kind {
        "json" => VersionFile::State,
        "claim" => VersionFile::Claim,
        _ => return None,
    };
    Some((Version(number.parse().ok()?), kind))
}

/// Key of the features of a shard.
pub fn features(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/features.parquet")
}

/// Key of the moments of a shard.
pub fn moments(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/moments.parquet")
}

/// Key of the record of a shard. It is written last, so a shard with a record is complete.
pub fn shard(shard: &ShardId) -> String {
    format!("{SHARDS}{shard}/shard.json")
}

/// Parses a key of [`shard`]. None for other keys.
pub fn parse_shard(key: &str) -> Option<ShardId> {
    key.strip_prefix(SHARDS)?.strip_suffix("/shard.json").map(ShardId::from)
}

/// Key of the features of a shard whose run was interrupted.
pub fn partial(shard: &ShardId) -> String {
    format!("{PARTIALS}{shard}.parquet")
}

/// Key of total moments.
pub fn totals(id: &MomentsId) -> String {
    format!("{MOMENTS}{id}.parquet")
}

/// Parses a key of [`totals`]. None for other keys.
pub fn parse_totals(key: &str) -> Option<MomentsId> {
    key.strip_prefix(MOMENTS)?.strip_suffix(".parquet").map(MomentsId::from)
}

/// Key of a basis.
pub fn basis(id: &BasisId) -> String {
    format!("{BASES}{id}.parquet")
}

/// Folder of a version's scores, with `/` at its end.
pub fn pca(version: Version) -> String {
    format!("{PCA}v={version}/")
}

/// Key of a part of a version's scores. `label_folder` is a label in the form of
/// [`folder_value`](crate::dataset::partition::folder_value), for tables that are partitioned by label.
pub fn part(version: Version, label_folder: Option<&str>, part: u64) -> String {
    match label_folder {
        Some(label) => format!("{}label={label}/part-{part:05}.parquet", pca(version)),
        None => format!("{}part-{part:05}.parquet", pca(version)),
    }
}

/// Parses a key of [`part`]: label folder and number. None for other keys.
pub fn parse_part(version: Version, key: &str) -> Option<(Option<&str>, u64)> {
    let rest = key.strip_prefix(&pca(version))?;
    let (label, name) = match rest.rsplit_once('/') {
        Some((folder, name)) => (Some(folder.strip_prefix("label=")?), name),
        None => (None, rest),
    };
    Some((label, name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()?))
}

/// Key of a version's scores as CSV. Not in the folder of the parts, because pandas and Athena read each file there as
/// Parquet.
pub fn csv(version: Version) -> String {
    format!("{CSV}v={version}/result.csv")
}

/// Key of the empty object by which Spark and Hadoop recognise complete tables, here the scores of a version.
pub fn success(version: Version) -> String {
    format!("{}_SUCCESS", pca(version))
}

/// Key of a version's table of rejects.
pub fn rejects(version: Version) -> String {
    format!("{REJECTS}v={version}.parquet")
}

/// Key of a file of a run.
pub fn run(run: &RunId, name: &str) -> String {
    format!("{}{name}", run_folder(run))
}

/// Folder of a run, with `/` at its end.
pub fn run_folder(run: &RunId) -> String {
    format!("{RUNS}{run}/")
}

const STARTED: &str = "started.json";

/// Key of the object that marks a run in progress: see [`lease`](crate::dataset::lease).
pub fn started(id: &RunId) -> String {
    run(id, STARTED)
}

/// Parses a key of [`started`]: the name of the run. None for other keys.
pub fn parse_started(key: &str) -> Option<&str> {
    key.strip_prefix(RUNS)?.strip_suffix(STARTED)?.strip_suffix('/')
}

/// Key of a segment of a run's list of objects.
pub fn objects(id: &RunId, segment: usize) -> String {
    run(id, &format!("objects-{segment:05}.jsonl"))
}

/// Key of a run's record of a shard that it computed.
pub fn featurized(id: &RunId, shard: &ShardId) -> String {
    run(id, &format!("featurized/{shard}.json"))
}

/// Key of the added moments of a group of shards.
pub fn merged(id: &RunId, group: u64) -> String {
    run(id, &format!("merged/{group:05}.parquet"))
}

/// Key of a run's record of a group whose moments it added.
pub fn merge_record(id: &RunId, group: u64) -> String {
    run(id, &format!("merged/{group:05}.json"))
}

/// Key of a run's record of a part that it projected.
pub fn projected(id: &RunId, part: u64) -> String {
    run(id, &format!("projected/{part:05}.json"))
}

/// Key of the rows of a part as CSV, before all parts are joined.
pub fn csv_part(id: &RunId, part: u64) -> String {
    run(id, &format!("csv/{part:05}.csv"))
}

/// Key of a notice of uploads. `name` is a hash of its content.
pub fn notice(name: &str) -> String {
    format!("{INBOX}{name}.json")
}

/// Key of the ticket of a run that uploads start.
pub fn ticket(number: u64) -> String {
    format!("{TICKETS}{number:010}.json")
}

/// Parses a key of [`ticket`]. None for other keys.
pub fn parse_ticket(key: &str) -> Option<u64> {
    key.strip_prefix(TICKETS)?.strip_suffix(".json")?.parse().ok()
}

/// Key of the lock of a vacuum in progress.
pub const LOCK: &str = "vacuum.json";

/// Key of the claim of the process that breaks the dead lock with this content. `attempt` counts claimants that died.
pub(crate) fn broken_lock(lock: &[u8], attempt: u32) -> String {
    format!("broken-{}-{attempt}-{LOCK}", short_hex(&Sha256::digest(lock)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_run() -> RunId {
        RunId::try_from("r-1".to_owned()).unwrap()
    }

    #[test]
    fn every_key_starts_with_a_listed_prefix() {
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
