//! The Delta log: the versions of an output as those of a Delta table, if the setting `delta` asks for it.
//!
//! The table is the folder `delta/`: hard links to the tables of features (copies, in a bucket), named by their shards, and the
//! log. Version 7 of the table is version 7 of the output; version 0 has no rows. A number without such a version changes
//! nothing. The log follows from the manifests, so it can be written again at any time. It has no statistics, which would hold
//! paths. Nothing else is in the folder, so that Delta's own VACUUM deletes nothing that another reader needs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::{
    Manifest, ShardEntry, VersionState, commit, contents, keys,
    record::{damaged, sha256},
};
use crate::{
    Result,
    ids::{ShardId, Version},
    store::{self, Store},
};

/// Concurrent requests.
const CONCURRENCY: usize = 16;
/// What VACUUM and other writers of Delta ask for; readers of any release understand it.
const READER: u32 = 1;
const WRITER: u32 = 2;

/// The shards of a version with rows, and when it was published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Sizes of the tables of features, by shard.
    shards: BTreeMap<ShardId, u64>,
    /// Milliseconds since 1970.
    finished: i64,
}

impl Snapshot {
    /// Fails with `Dataset.Corrupt` if a shard has no checksum.
    pub(crate) fn new(version: &Manifest, shards: &[ShardEntry]) -> Result<Self> {
        let tables = shards.iter().filter(|shard| shard.rows > 0);
        let sizes = tables.map(|shard| match &shard.features {
            Some(checksum) => Ok((shard.id.clone(), checksum.bytes)),
            None => Err(damaged("a table of features has no checksum", &keys::features(&shard.id))),
        });
        Ok(Snapshot { shards: sizes.collect::<Result<_>>()?, finished: version.finished.as_millisecond() })
    }
}

/// Whether a version is one of the Delta table.
pub(crate) fn has(version: &Manifest) -> bool {
    version.settings.delta() && version.released.is_none()
}

/// The commit of a number: what changes from the version of the table before it. `after` is None if the number changes nothing.
fn changes(number: u64, before: Option<&Snapshot>, after: Option<&Snapshot>) -> Result<Bytes> {
    let none = Snapshot::default();
    let before = before.unwrap_or(&none);
    let mut lines = Vec::new();
    let (operation, finished) = match (number, after) {
        (0, _) => ("CREATE TABLE", 0),
        (_, Some(after)) => ("WRITE", after.finished),
        (_, None) => ("NONE", before.finished),
    };
    lines.push(json!({"commitInfo": {
        "timestamp": finished, "operation": operation, "operationParameters": {}, "engineInfo": "pomona",
    }}));
    if number == 0 {
        lines.push(json!({"protocol": {"minReaderVersion": READER, "minWriterVersion": WRITER}}));
        lines.push(json!({"metaData": metadata()}));
    }
    if let Some(after) = after {
        let file = |shard: &ShardId| format!("{shard}.parquet");
        for shard in before.shards.keys().filter(|shard| !after.shards.contains_key(*shard)) {
            lines.push(json!({"remove": {
                "path": file(shard), "deletionTimestamp": after.finished, "dataChange": true,
            }}));
        }
        for (shard, bytes) in after.shards.iter().filter(|(shard, _)| !before.shards.contains_key(*shard)) {
            lines.push(json!({"add": {
                "path": file(shard), "partitionValues": {}, "size": bytes, "modificationTime": after.finished,
                "dataChange": true,
            }}));
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Ok(text.into())
}

/// The columns of the features. The id is that of every such table: it tells readers that a table was exchanged for another one,
/// which a data set never is.
fn metadata() -> serde_json::Value {
    let field = |name: &str, kind: serde_json::Value, nullable: bool| json!({"name": name, "type": kind, "nullable": nullable, "metadata": {}});
    let features = json!({"type": "array", "elementType": "float", "containsNull": false});
    let fields = [
        field("path", "string".into(), false),
        field("label", "string".into(), true),
        field("split", "string".into(), true),
        field("modified", "timestamp".into(), false),
        field("length", "long".into(), false),
        field("etag", "string".into(), false),
        field("content_sha256", "string".into(), false),
        field("features", features.clone(), false),
        // Tables of earlier releases have none.
        field("thumbnail", features, true),
    ];
    let schema = json!({"type": "struct", "fields": fields}).to_string();
    let hash = sha256(b"the features of an output of Pomona");
    let id = [&hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32]].join("-");
    json!({
        "id": id, "format": {"provider": "parquet", "options": {}}, "schemaString": schema, "partitionColumns": [],
        "configuration": {},
    })
}

/// All commits up to the newest version of the table, as keys and contents; none without such a version.
pub(crate) fn log(versions: &BTreeMap<Version, Snapshot>) -> Result<Vec<(String, Bytes)>> {
    let Some(newest) = versions.keys().next_back() else { return Ok(Vec::new()) };
    part_of_log(0, newest.0, versions)
}

/// The commits from `first` to `last`.
fn part_of_log(first: u64, last: u64, versions: &BTreeMap<Version, Snapshot>) -> Result<Vec<(String, Bytes)>> {
    (first..=last)
        .map(|number| {
            let before = versions.range(..Version(number)).next_back().map(|(_, snapshot)| snapshot);
            Ok((keys::delta_commit(number), changes(number, before, versions.get(&Version(number)))?))
        })
        .collect()
}

/// Keys of the commits that a version of the table needs.
pub(crate) fn commits(version: &Manifest) -> impl Iterator<Item = String> {
    let last = if has(version) { Some(version.version.0) } else { None };
    last.into_iter().flat_map(|last| 0..=last).map(keys::delta_commit)
}

/// Links the tables of features of these shards in the folder of the table.
pub(crate) async fn link(output: &dyn Store, shards: impl Iterator<Item = &ShardEntry>) -> Result<()> {
    // A copy in a bucket does not change; a link in a folder may be to a table that was written again.
    let listed = if output.links() { Vec::new() } else { store::list_all(output, keys::DELTA).await? };
    let known: BTreeSet<String> = listed.into_iter().map(|object| object.key).collect();
    let links: Vec<_> = shards
        .filter(|shard| shard.rows > 0)
        .map(|shard| (keys::features(&shard.id), keys::delta_part(&shard.id)))
        .filter(|(_, part)| !known.contains(part))
        .map(|(table, part)| async move { output.link(&table, &part).await })
        .collect();
    stream::iter(links).buffer_unordered(CONCURRENCY).try_collect().await
}

/// Writes the commits up to this version that are missing, after its run has published it. Delta's own VACUUM may have written a
/// commit with the number of this version, which has no effect and is replaced.
pub(crate) async fn extend(output: &dyn Store, version: &Manifest) -> Result<()> {
    if !has(version) {
        return Ok(());
    }
    let listed: BTreeSet<String> =
        store::list_all(output, keys::DELTA_LOG).await?.into_iter().map(|object| object.key).collect();
    let newest = version.version.0;
    let missing = (0..newest).find(|number| !listed.contains(&keys::delta_commit(*number)));
    let first = missing.unwrap_or(newest);
    let versions = snapshots_from(output, first, newest).await?;
    put_changed(output, part_of_log(first, newest, &versions)?).await
}

async fn put_changed(output: &dyn Store, commits: Vec<(String, Bytes)>) -> Result<()> {
    for (key, body) in commits {
        if store::get_opt(output, &key).await?.as_ref() != Some(&body) {
            output.put(&key, body).await?;
        }
    }
    Ok(())
}

/// The versions of the table from `first` to `newest`, and the one before them.
async fn snapshots_from(output: &dyn Store, first: u64, newest: u64) -> Result<BTreeMap<Version, Snapshot>> {
    let mut found = BTreeMap::new();
    for number in commit::versions(output).await?.decided.into_iter().rev().filter(|number| number.0 <= newest) {
        let VersionState::Published(manifest) = commit::state(output, number).await? else { continue };
        if has(&manifest) {
            found.insert(number, Snapshot::new(&manifest, &contents::shards(output, &manifest).await?)?);
            if number.0 < first {
                break;
            }
        }
    }
    Ok(found)
}

/// Writes the log again, after versions were removed: their numbers change nothing now. Deletes what other writers have added to
/// it: a checkpoint of theirs would name files that are gone.
pub(crate) async fn rewrite(output: &dyn Store) -> Result<()> {
    let mut versions = BTreeMap::new();
    for manifest in commit::published(output).await?.iter().filter(|manifest| has(manifest)) {
        versions.insert(manifest.version, Snapshot::new(manifest, &contents::shards(output, manifest).await?)?);
    }
    let log = log(&versions)?;
    if log.is_empty() {
        return Ok(());
    }
    let own: BTreeSet<&String> = log.iter().map(|(key, _)| key).collect();
    for object in store::list_all(output, keys::DELTA_LOG).await?.iter().filter(|object| !own.contains(&object.key)) {
        output.delete(&object.key).await?;
    }
    put_changed(output, log).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(shards: &[&str], finished: i64) -> Snapshot {
        let shards = shards.iter().map(|shard| (ShardId::from(*shard), 10)).collect();
        Snapshot { shards, finished }
    }

    /// The files of the table after the commits up to a number, as a reader of Delta finds them.
    fn replay(log: &[(String, Bytes)], last: usize) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        for (_, body) in &log[..=last] {
            for line in std::str::from_utf8(body).unwrap().lines() {
                let action: serde_json::Value = serde_json::from_str(line).unwrap();
                if let Some(path) = action["add"]["path"].as_str() {
                    assert!(files.insert(path.to_owned()), "{path} is added twice");
                }
                if let Some(path) = action["remove"]["path"].as_str() {
                    assert!(files.remove(path), "{path} was not there");
                }
            }
        }
        files
    }

    #[test]
    fn each_version_of_the_table_has_the_shards_of_that_version() {
        let versions = [(2, &["a", "b"][..]), (3, &["a", "c"]), (6, &["c"])];
        let map = |of: &[(u64, &[&str])]| {
            of.iter().map(|(n, shards)| (Version(*n), snapshot(shards, *n as i64))).collect::<BTreeMap<_, _>>()
        };
        let names = |shards: &[&str]| shards.iter().map(|shard| format!("{shard}.parquet")).collect::<BTreeSet<_>>();
        let written = log(&map(&versions)).unwrap();
        assert_eq!(written.len(), 7);
        assert_eq!(written[6].0, "delta/_delta_log/00000000000000000006.json");
        for (number, shards) in [(1, &[][..]), (2, &["a", "b"]), (3, &["a", "c"]), (5, &["a", "c"]), (6, &["c"])] {
            assert_eq!(replay(&written, number), names(shards), "{number}");
        }
        // A removed version changes nothing, and the ones behind it stay as they were.
        let written = log(&map(&versions[1..])).unwrap();
        assert_eq!(replay(&written, 2), names(&[]));
        assert_eq!(replay(&written, 3), names(&["a", "c"]));
        // What a run adds is what all of it would be.
        assert_eq!(part_of_log(3, 6, &map(&versions)).unwrap(), log(&map(&versions)).unwrap()[3..]);
        assert!(log(&BTreeMap::new()).unwrap().is_empty());
    }
}
