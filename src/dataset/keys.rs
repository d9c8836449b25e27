//! The keys of an output, relative to it. All keys are built and parsed in this file, by the table of the
//! [`registry`].

mod fitted;

use std::{fmt::Display, sync::LazyLock};

use sha2::{Digest, Sha256};

use super::{
    Checksum,
    registry::{self, FileKind, KINDS},
};
pub use fitted::{
    basis, classes, classifier, duplicates, duplicates_folder, index, outliers, outliers_folder, parse_classes,
    parse_index, parse_predictions, parse_totals, predictions, predictions_folder, sums, totals,
};

use crate::ids::{ContainerId, ExtractorId, GroupId, RunId, ShardId, Version, short_hex};

/// A top-level folder of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The name, with `/` at its end.
    pub name: &'static str,
    /// Whether a vacuum deletes the files below it that no kept version names.
    pub swept: bool,
}

/// All top-level folders that Pomona writes to, in the order of the registry. Only the marker, the
/// newest report, the reviewed labels and the locks of vacuums are beside them.
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

/// Key of the report of the newest version that has one. The report of each run is in the folder of the run.
pub const REPORT: &str = registry::REPORT.pattern;
/// Manifests and other states of versions, and claims on version numbers.
pub const VERSIONS: &str = "versions/";
/// Features and records of shards.
pub const SHARDS: &str = "shards/";
/// Features of shards whose run was interrupted.
pub const PARTIALS: &str = "partials/";
/// Members of archives of the input.
pub const CONTAINERS: &str = "containers/";
/// Records and sums of groups.
pub const GROUPS: &str = "groups/";
/// Total moments.
pub const MOMENTS: &str = "moments/";
/// Fitted bases.
pub const BASES: &str = "basis/";
/// Segments of the search index.
pub const INDEX: &str = "index/";
/// Classifiers.
pub const CLASSIFIER: &str = "classifier/";
/// Parts of the table of predictions.
pub const PREDICTED: &str = "predictions/";
/// Files of labels that runs were given.
pub const LABELS: &str = "labels/";
/// Records of extractors.
pub const EXTRACTORS: &str = "extractors/";
/// Folder of the visual words of extractors.
pub const VOCABULARIES: &str = "vocabularies/";
/// Prefix of models of the user's.
pub const MODELS: &str = "models/";
/// Lists of the parts of the scores.
pub const SCORES: &str = "scores/";
/// Parts of the table of scores.
pub const PCA: &str = "pca/";
/// Features by version, for readers.
pub const FEATURES: &str = "features/";
/// The Delta table of the features, and its log.
pub const DELTA: &str = "delta/";
/// The Delta log.
pub const DELTA_LOG: &str = "delta/_delta_log/";
/// Scores as CSV.
pub const CSV: &str = "csv/";
/// Tables of rejects.
pub const REJECTS: &str = "rejects/";
/// Tables of images that are there twice.
pub const DUPLICATES: &str = "duplicates/";
/// Tables of images that are unlike the others.
pub const OUTLIERS: &str = "outliers/";
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

/// Key of a file of labels.
pub fn labels(file: &Checksum) -> String {
    build(&registry::LABELS, [&file.sha256])
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
    let of_shard =
        [&registry::FEATURES, &registry::SHARD, &registry::DELTA_PART].into_iter().find_map(|kind| only(kind, key));
    let of_group = || {
        [&registry::SUMS, &registry::GROUP, &registry::CLASSES, &registry::INDEX]
            .into_iter()
            .find_map(|kind| only(kind, key))
    };
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

/// Key of the list of members of an archive.
pub fn container(id: &ContainerId) -> String {
    build(&registry::CONTAINER, [id])
}

/// Parses a key of [`container`]. None for other keys.
pub fn parse_container(key: &str) -> Option<ContainerId> {
    only(&registry::CONTAINER, key).map(ContainerId::from)
}

/// Key of the record of a group of shards.
pub fn group(group: &GroupId) -> String {
    build(&registry::GROUP, [group])
}

/// Parses a key of [`group`]. None for other keys.
pub fn parse_group(key: &str) -> Option<GroupId> {
    only(&registry::GROUP, key).map(GroupId::from)
}

/// Key of the visual words whose file has this SHA-256.
pub fn vocabulary(sha256: &str) -> String {
    build(&registry::VOCABULARY, [&sha256])
}

/// Key of the model whose file has this SHA-256.
pub fn model(sha256: &str) -> String {
    build(&registry::MODEL, [&sha256])
}

/// Key of the record of the model whose file has this SHA-256.
pub fn model_record(sha256: &str) -> String {
    build(&registry::MODEL_RECORD, [&sha256])
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

/// Key of the features of a shard in the Delta table.
pub fn delta_part(shard: &ShardId) -> String {
    build(&registry::DELTA_PART, [shard])
}

/// Key of a commit of the Delta log.
pub fn delta_commit(number: u64) -> String {
    build(&registry::DELTA_COMMIT, [&number])
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

/// Key of the report of a run.
pub fn run_report(run: &RunId) -> String {
    build(&registry::RUN_REPORT, [run])
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

/// Key of a segment of a run's list of objects. `segment` is a hash of its content: listers side by side do not know how many
/// segments come before theirs. Outputs of earlier builds have numbers there.
pub fn objects(id: &RunId, segment: &str) -> String {
    build(&registry::RUN_OBJECTS, [id, &segment])
}

/// Key of the work list of a round of listers; rounds are numbered from 0.
pub fn ranges(id: &RunId, round: u32) -> String {
    build(&registry::RUN_RANGES, [id, &round])
}

/// Key of the record of what a lister has listed: its round, and the number of its line in the work list of the round.
pub fn listed(id: &RunId, round: u32, number: u64) -> String {
    build(&registry::RUN_LISTED, [id, &round, &number])
}

/// Key of shards and objects that a lister has listed. `name` is a hash of the content.
pub fn pieces(id: &RunId, name: &str) -> String {
    build(&registry::RUN_PIECES, [id, &name])
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

/// Key of a run's record of a group for which it made a segment of the search index.
pub fn index_record(id: &RunId, group: u64) -> String {
    build(&registry::RUN_INDEXED, [id, &group])
}

/// Key of a run's record of a part that it projected.
pub fn projected(id: &RunId, part: u64) -> String {
    build(&registry::RUN_PROJECTED, [id, &part])
}

/// Key of the rows of a part as CSV, before all parts are joined.
pub fn csv_part(id: &RunId, part: u64) -> String {
    build(&registry::RUN_CSV, [id, &part])
}

/// Key of a run's note that a shard is damaged, or a group, whichever the damaged file belongs to. None for other files.
pub(crate) fn damaged(id: &RunId, file: &str) -> Option<String> {
    let record = record_of(file)?;
    let of_shard = parse_shard(&record).map(|shard| build(&registry::RUN_DAMAGED_SHARD, [id, &shard]));
    of_shard.or_else(|| parse_group(&record).map(|group| build(&registry::RUN_DAMAGED_GROUP, [id, &group])))
}

/// Folder of a run's notes of damage, with `/` at its end.
pub(crate) fn damage_folder(id: &RunId) -> String {
    run(id, "damaged/")
}

/// Parses a key of [`damaged`]: the key of the record of the shard or group. None for other keys.
pub(crate) fn parse_damaged(key: &str) -> Option<String> {
    let of_shard = || Some(shard(&(*registry::RUN_DAMAGED_SHARD.parse(key)?.get(1)?).into()));
    let of_group = || Some(group(&(*registry::RUN_DAMAGED_GROUP.parse(key)?.get(1)?).into()));
    of_shard().or_else(of_group)
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

/// Key of the labels that people accepted or corrected.
pub const REVIEW: &str = registry::REVIEW.pattern;

/// Key of the lock of a vacuum in progress.
pub const LOCK: &str = registry::LOCK.pattern;

/// Key of the claim of the process that breaks the dead lock with this content. `attempt` counts claimants that died.
pub(crate) fn broken_lock(lock: &[u8], attempt: u32) -> String {
    build(&registry::BROKEN_LOCK, [&short_hex(&Sha256::digest(lock)), &attempt])
}

#[cfg(test)]
mod tests;
