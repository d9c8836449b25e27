//! The keys of an output, relative to it. All keys are built and parsed in this file, by the table of the
//! [`registry`].

use std::{fmt::Display, sync::LazyLock};

use sha2::{Digest, Sha256};

use super::registry::{self, FileKind, KINDS};
use crate::ids::{BasisId, ExtractorId, GroupId, MomentsId, RunId, ShardId, Version, short_hex};

/// A top-level folder of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The name, with `/` at its end.
    pub name: &'static str,
    /// Whether a vacuum deletes the files below it that no kept version names.
    pub swept: bool,
}

/// All top-level folders that Pomona writes to, in the order of the registry. Only the marker and the locks of vacuums are
/// beside them.
pub static PREFIXES: LazyLock<Vec<Prefix>> = LazyLock::new(|| {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for kind in KINDS {
        let Some(name) = kind.folder() else { continue };
        if prefixes.iter().all(|prefix| prefix.name != name) {
            prefixes.push(Prefix { name, swept: kind.swept });
        }
    }
    prefixes
});

/// Manifests and other states of versions, and claims on version numbers.
pub const VERSIONS: &str = "versions/";
/// Features and records of shards.
pub const SHARDS: &str = "shards/";
/// Features of shards whose run was interrupted.
pub const PARTIALS: &str = "partials/";
/// Records and sums of groups.
pub const GROUPS: &str = "groups/";
/// Total moments.
pub const MOMENTS: &str = "moments/";
/// Fitted bases.
pub const BASES: &str = "basis/";
/// Records of extractors.
pub const EXTRACTORS: &str = "extractors/";
/// Lists of the parts of the scores.
pub const SCORES: &str = "scores/";
/// Parts of the table of scores.
pub const PCA: &str = "pca/";
/// Features by version, for readers.
pub const FEATURES: &str = "features/";
/// Scores as CSV.
pub const CSV: &str = "csv/";
/// Tables of rejects.
pub const REJECTS: &str = "rejects/";
/// Work lists, records, receipts and reports of runs.
pub const RUNS: &str = "runs/";
/// Notices of uploads.
pub const INBOX: &str = "inbox/";
/// Tickets of the runs that uploads start. The name is that of format 1.
pub const TICKETS: &str = "turns/";

/// Names of the folders in which a vacuum deletes files.
pub(crate) fn swept() -> impl Iterator<Item = &'static str> {
    PREFIXES.iter().filter(|prefix| prefix.swept).map(|prefix| prefix.name)
}

fn build<const N: usize>(kind: &FileKind, values: [&dyn Display; N]) -> String {
    let values = values.map(|value| value.to_string());
    kind.key(&values.each_ref().map(String::as_str))
}

/// The value of the only placeholder of a kind. None for keys of other kinds.
fn only<'k>(kind: &FileKind, key: &'k str) -> Option<&'k str> {
    kind.parse(key)?.first().copied()
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
    build(&registry::VERSION, [&version])
}

/// Key of the claim on a version number.
pub fn claim(version: Version) -> String {
    build(&registry::CLAIM, [&version])
}

/// Parses the keys of [`version`] and [`claim`]. None for other keys.
pub fn parse_version(key: &str) -> Option<(Version, VersionFile)> {
    let files = [(&registry::VERSION, VersionFile::State), (&registry::CLAIM, VersionFile::Claim)];
    let (number, file) = files.into_iter().find_map(|(kind, file)| Some((only(kind, key)?, file)))?;
    Some((Version(number.parse().ok()?), file))
}

/// Key of the features of a shard.
pub fn features(shard: &ShardId) -> String {
    build(&registry::FEATURES, [shard])
}

/// Key of the moments of a shard, in outputs of format 1.
pub fn moments(shard: &ShardId) -> String {
    build(&registry::MOMENTS, [shard])
}

/// Key of the record of a shard. It is written last, so a shard with a record is complete.
pub fn shard(shard: &ShardId) -> String {
    build(&registry::SHARD, [shard])
}

/// Parses a key of [`shard`]. None for other keys.
pub fn parse_shard(key: &str) -> Option<ShardId> {
    only(&registry::SHARD, key).map(ShardId::from)
}

/// Key of the record of the shard or group that a file belongs to. None for other files.
pub(crate) fn record_of(key: &str) -> Option<String> {
    let of_shard = [&registry::FEATURES, &registry::SHARD].into_iter().find_map(|kind| only(kind, key));
    let of_group = || [&registry::SUMS, &registry::GROUP].into_iter().find_map(|kind| only(kind, key));
    of_shard.map(|id| shard(&id.into())).or_else(|| of_group().map(|id| group(&id.into())))
}

/// Key of the features of a shard whose run was interrupted.
pub fn partial(shard: &ShardId) -> String {
    build(&registry::PARTIAL, [shard])
}

/// Key of the record of a [`partial`].
pub fn partial_record(shard: &ShardId) -> String {
    build(&registry::PARTIAL_RECORD, [shard])
}

/// Key of the record of a group of shards.
pub fn group(group: &GroupId) -> String {
    build(&registry::GROUP, [group])
}

/// Parses a key of [`group`]. None for other keys.
pub fn parse_group(key: &str) -> Option<GroupId> {
    only(&registry::GROUP, key).map(GroupId::from)
}

/// Key of the exact sums of a group of shards.
pub fn sums(group: &GroupId) -> String {
    build(&registry::SUMS, [group])
}

/// Key of total moments.
pub fn totals(id: &MomentsId) -> String {
    build(&registry::TOTALS, [id])
}

/// Parses a key of [`totals`]. None for other keys.
pub fn parse_totals(key: &str) -> Option<MomentsId> {
    only(&registry::TOTALS, key).map(MomentsId::from)
}

/// Key of a basis.
pub fn basis(id: &BasisId) -> String {
    build(&registry::BASIS, [id])
}

/// Key of the record of an extractor.
pub fn extractor(id: &ExtractorId) -> String {
    build(&registry::EXTRACTOR, [id])
}

/// Key of the list of the parts of a version's group; groups are numbered from 0 in key order.
pub fn part_list(version: Version, group: u64) -> String {
    build(&registry::PART_LIST, [&version, &group])
}

/// Folder of a version's scores, with `/` at its end.
pub fn pca(version: Version) -> String {
    format!("{PCA}v={version}/")
}

/// Key of a part of a version's scores. `label_folder` is a label in the form of
/// [`folder_value`](crate::dataset::partition::folder_value), for tables that are partitioned by label.
pub fn part(version: Version, label_folder: Option<&str>, part: u64) -> String {
    match label_folder {
        Some(label) => build(&registry::LABEL_PART, [&version, &label, &part]),
        None => build(&registry::PART, [&version, &part]),
    }
}

/// Parses a key of [`part`]: label folder and number. None for other keys, also those of other versions.
pub fn parse_part(version: Version, key: &str) -> Option<(Option<&str>, u64)> {
    let (of, label, part) = match (registry::PART.parse(key), registry::LABEL_PART.parse(key)) {
        (Some(values), _) => (*values.first()?, None, *values.get(1)?),
        (None, values) => {
            let values = values?;
            (*values.first()?, Some(*values.get(1)?), *values.get(2)?)
        }
    };
    (of.parse() == Ok(version.0)).then_some((label, part.parse().ok()?))
}

/// Folder of a version's features, with `/` at its end.
pub fn features_folder(version: Version) -> String {
    format!("{FEATURES}v={version}/")
}

/// Key of a file in the folder of a version's features.
pub fn features_part(version: Version, part: u64) -> String {
    build(&registry::FEATURES_PART, [&version, &part])
}

/// Key of the list of a version's files of features, in a bucket.
pub fn symlinks(version: Version) -> String {
    build(&registry::SYMLINKS, [&version])
}

/// Key of a version's scores as CSV. Not in the folder of the parts, because pandas and Athena read each file there as
/// Parquet.
pub fn csv(version: Version) -> String {
    build(&registry::CSV, [&version])
}

/// Key of the empty object by which Spark and Hadoop recognise complete tables, here the scores of a version.
pub fn success(version: Version) -> String {
    build(&registry::SUCCESS, [&version])
}

/// Key of a version's table of rejects.
pub fn rejects(version: Version) -> String {
    build(&registry::REJECTS, [&version])
}

/// Key of a file of a run.
pub fn run(run: &RunId, name: &str) -> String {
    format!("{}{name}", run_folder(run))
}

/// Key of the list of batches of a work list, whose key ends with `.jsonl`.
pub fn batches_of(work_list: &str) -> String {
    format!("{}-batches.jsonl", work_list.trim_end_matches(".jsonl"))
}

/// Prefix for the results of the maps of a run, which Step Functions writes.
pub fn map_results(id: &RunId) -> String {
    run(id, "maps")
}

/// Folder of a run, with `/` at its end.
pub fn run_folder(run: &RunId) -> String {
    format!("{RUNS}{run}/")
}

/// Key of the object that marks a run in progress: see [`lease`](crate::dataset::lease).
pub fn started(id: &RunId) -> String {
    build(&registry::RUN_STARTED, [id])
}

/// Parses a key of [`started`]: the name of the run. None for other keys.
pub fn parse_started(key: &str) -> Option<&str> {
    only(&registry::RUN_STARTED, key)
}

/// Key of a segment of a run's list of objects.
pub fn objects(id: &RunId, segment: usize) -> String {
    build(&registry::RUN_OBJECTS, [id, &segment])
}

/// Key of a segment of a run's list of planned shards.
pub fn shard_list(id: &RunId, segment: usize) -> String {
    build(&registry::RUN_SHARDS, [id, &segment])
}

/// Key of a run's record of a shard that it computed.
pub fn featurized(id: &RunId, shard: &ShardId) -> String {
    build(&registry::RUN_FEATURIZED, [id, shard])
}

/// Key of the added moments of a group of shards, in outputs of format 1.
pub fn merged(id: &RunId, group: u64) -> String {
    build(&registry::RUN_SUMS, [id, &group])
}

/// Key of a run's record of a group whose moments it added.
pub fn merge_record(id: &RunId, group: u64) -> String {
    build(&registry::RUN_MERGED, [id, &group])
}

/// Key of a run's record of a part that it projected.
pub fn projected(id: &RunId, part: u64) -> String {
    build(&registry::RUN_PROJECTED, [id, &part])
}

/// Key of the rows of a part as CSV, before all parts are joined.
pub fn csv_part(id: &RunId, part: u64) -> String {
    build(&registry::RUN_CSV, [id, &part])
}

/// Key of a run's copy of the manifest that it published.
pub fn kept_manifest(id: &RunId) -> String {
    build(&registry::RUN_MANIFEST, [id])
}

/// Key of a notice of uploads. `name` is a hash of its content.
pub fn notice(name: &str) -> String {
    build(&registry::NOTICE, [&name])
}

/// Key of the ticket of a run that uploads start.
pub fn ticket(number: u64) -> String {
    build(&registry::TICKET, [&number])
}

/// Parses a key of [`ticket`]. None for other keys.
pub fn parse_ticket(key: &str) -> Option<u64> {
    only(&registry::TICKET, key)?.parse().ok()
}

/// Key of the lock of a vacuum in progress.
pub const LOCK: &str = registry::LOCK.pattern;

/// Key of the claim of the process that breaks the dead lock with this content. `attempt` counts claimants that died.
pub(crate) fn broken_lock(lock: &[u8], attempt: u32) -> String {
    build(&registry::BROKEN_LOCK, [&short_hex(&Sha256::digest(lock)), &attempt])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn a_run() -> RunId {
        RunId::try_from("r-1".to_owned()).unwrap()
    }

    /// A key of each function, with the kind that it must have.
    fn keys() -> Vec<(String, FileKind)> {
        let (id, shard_id, group_id, v) = (a_run(), ShardId::from("ab"), GroupId::from("cd"), Version(3));
        vec![
            (crate::dataset::MARKER.to_owned(), registry::MARKER),
            (version(v), registry::VERSION),
            (claim(v), registry::CLAIM),
            (features(&shard_id), registry::FEATURES),
            (shard(&shard_id), registry::SHARD),
            (moments(&shard_id), registry::MOMENTS),
            (partial(&shard_id), registry::PARTIAL),
            (partial_record(&shard_id), registry::PARTIAL_RECORD),
            (sums(&group_id), registry::SUMS),
            (group(&group_id), registry::GROUP),
            (totals(&"f0".into()), registry::TOTALS),
            (basis(&"b1".into()), registry::BASIS),
            (extractor(&"e2".into()), registry::EXTRACTOR),
            (part_list(v, 0), registry::PART_LIST),
            (part(v, None, 0), registry::PART),
            (part(v, Some("x"), 0), registry::LABEL_PART),
            (success(v), registry::SUCCESS),
            (features_part(v, 0), registry::FEATURES_PART),
            (symlinks(v), registry::SYMLINKS),
            (csv(v), registry::CSV),
            (rejects(v), registry::REJECTS),
            (run(&id, "plan.json"), registry::RUN_PLAN),
            (started(&id), registry::RUN_STARTED),
            (objects(&id, 0), registry::RUN_OBJECTS),
            (shard_list(&id, 0), registry::RUN_SHARDS),
            (run(&id, "featurize.jsonl"), registry::RUN_WORK),
            (run(&id, "merge.jsonl"), registry::RUN_MERGES),
            (run(&id, "project.jsonl"), registry::RUN_PROJECTIONS),
            (featurized(&id, &shard_id), registry::RUN_FEATURIZED),
            (merge_record(&id, 0), registry::RUN_MERGED),
            (merged(&id, 0), registry::RUN_SUMS),
            (run(&id, "reduced.json"), registry::RUN_REDUCED),
            (projected(&id, 0), registry::RUN_PROJECTED),
            (csv_part(&id, 0), registry::RUN_CSV),
            (run(&id, "rejects.parquet"), registry::RUN_REJECTS),
            (kept_manifest(&id), registry::RUN_MANIFEST),
            (run(&id, "report.html"), registry::RUN_REPORT),
            (run(&id, "scree.png"), registry::RUN_SCREE),
            (run(&id, "scatter.png"), registry::RUN_SCATTER),
            (run(&id, "receipt.json"), registry::RUN_RECEIPT),
            (notice("0a"), registry::NOTICE),
            (ticket(1), registry::TICKET),
            (LOCK.to_owned(), registry::LOCK),
            (broken_lock(b"", 0), registry::BROKEN_LOCK),
        ]
    }

    #[test]
    fn each_key_is_known_to_the_registry_exactly_once_and_each_kind_has_a_key() {
        let keys = keys();
        for (key, kind) in &keys {
            let known: Vec<_> = KINDS.iter().filter(|kind| kind.parse(key).is_some()).collect();
            assert_eq!(known, [kind], "{key}");
        }
        assert_eq!(keys.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), KINDS);
    }

    #[test]
    fn the_folders_are_those_of_the_registry() {
        let named = [
            VERSIONS, SHARDS, PARTIALS, GROUPS, MOMENTS, BASES, EXTRACTORS, SCORES, PCA, FEATURES, CSV, REJECTS, RUNS,
            INBOX, TICKETS,
        ];
        assert_eq!(PREFIXES.iter().map(|prefix| prefix.name).collect::<Vec<_>>(), named);
        let kept: BTreeSet<&str> = PREFIXES.iter().filter(|prefix| !prefix.swept).map(|prefix| prefix.name).collect();
        assert_eq!(kept, BTreeSet::from([VERSIONS, INBOX, TICKETS]));
        assert_eq!(swept().count(), named.len() - 3);
        assert!(part(Version(1), None, 1).starts_with(&pca(Version(1))));
        assert!(features_part(Version(1), 1).starts_with(&features_folder(Version(1))));
        assert!(symlinks(Version(1)).starts_with(&features_folder(Version(1))));
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_what_was_built(number in 1u64..u64::MAX, label in "[^/]{1,12}", text in "[0-9a-f]{32}") {
            let v = Version(number);
            prop_assert_eq!(parse_version(&version(v)), Some((v, VersionFile::State)));
            prop_assert_eq!(parse_version(&claim(v)), Some((v, VersionFile::Claim)));
            prop_assert_eq!(parse_shard(&shard(&text.as_str().into())), Some(text.as_str().into()));
            prop_assert_eq!(parse_group(&group(&text.as_str().into())), Some(text.as_str().into()));
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
        assert_eq!(parse_group("groups/ab/sums.parquet"), None);
        assert_eq!(parse_part(Version(1), "pca/v=00000001/_SUCCESS"), None);
        assert_eq!(parse_part(Version(1), "pca/v=00000002/part-00000.parquet"), None);
        assert_eq!(parse_part(Version(1), "pca/v=00000002/label=a/part-00000.parquet"), None);
        assert_eq!(parse_started("runs/r/plan.json"), None);
    }
}
