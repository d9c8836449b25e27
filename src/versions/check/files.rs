//! Files against their checksums.

use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Depth, Fault, Named, Survey, detail, states::MISSING};
use crate::{
    ErrorKind, Result,
    dataset::{
        Checksum, Manifest,
        blocking::run_blocking,
        from_json, from_record, keys,
        record::{Hasher, damaged, sha256},
        registry::{self, FileKind},
        tables,
    },
    model::ExtractorRecord,
    pipeline::Watcher,
    store::{self, Store},
};

/// Files that are read at a time.
const CONCURRENCY: usize = 6;
/// Bytes of a file that are in memory at a time.
const BLOCK: u64 = 32 << 20;

/// A file to read.
pub(super) struct Left {
    key: String,
    named: Named,
    /// Its size in the listing.
    listed: Option<u64>,
}

/// The files that are not read yet.
pub(super) fn left(survey: &Survey, depth: Depth) -> Vec<Left> {
    let later = |key: &str, named: &Named| {
        depth == Depth::Numbers && !named.released && registry::FEATURES.parse(key).is_some()
    };
    let named = survey
        .named
        .iter()
        .filter(|(key, named)| !survey.is_sound(key) && !survey.problems.contains_key(*key) && !later(key, named));
    let left = named.map(|(key, named)| Left {
        key: key.clone(),
        named: named.clone(),
        listed: survey.listed.get(key).copied(),
    });
    left.collect()
}

/// Reads files, and notes those that are not as they should be.
pub(super) async fn read(
    survey: &mut Survey,
    output: &dyn Store,
    files: Vec<Left>,
    watcher: &dyn Watcher,
) -> Result<()> {
    let manifests: Vec<Manifest> = survey.published().cloned().collect();
    let manifests = &manifests;
    let reads = stream::iter(files).map(|file| async move {
        let manifest = manifests.iter().find(|manifest| file.named.versions.contains(&manifest.version));
        let found = look(output, &file, manifest).await;
        watcher.part_done();
        (file.key, found)
    });
    let mut reads = pin!(reads.buffer_unordered(CONCURRENCY));
    while let Some((key, found)) = reads.next().await {
        match found? {
            None => drop(survey.sound.insert(key)),
            Some((fault, detail)) => survey.report(&key, fault, detail, &[]),
        }
    }
    Ok(())
}

type Finding = Option<(Fault, String)>;

/// What is wrong with a file.
async fn look(output: &dyn Store, file: &Left, manifest: Option<&Manifest>) -> Result<Finding> {
    let Left { key, named, listed } = file;
    let size = match listed {
        Some(size) => Some(*size),
        // A run may have written it after it was looked for.
        None => size_of(output, key).await?,
    };
    let Some(size) = size else { return Ok(Some((Fault::Missing, MISSING.to_owned()))) };
    let outcome = match &named.checksum {
        Some(checksum) => compare(output, key, size, checksum).await,
        None => prove(output, key, size, named, manifest).await,
    };
    match outcome {
        Ok(()) => Ok(None),
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(Some((Fault::Damaged, detail(&e)))),
        Err(e) if e.is(ErrorKind::StoreNotFound) => Ok(Some((Fault::Missing, MISSING.to_owned()))),
        Err(e) => Err(e),
    }
}

async fn size_of(output: &dyn Store, key: &str) -> Result<Option<u64>> {
    let listed = store::list_all(output, key).await?;
    Ok(listed.into_iter().find(|object| object.key == key).map(|object| object.size))
}

/// Compares a file with its checksum, one block at a time.
pub(super) async fn compare(output: &dyn Store, key: &str, size: u64, checksum: &Checksum) -> Result<()> {
    checksum.check_length(size, key)?;
    if size <= BLOCK {
        return checksum.check(&output.get(key).await?, key);
    }
    let mut hasher = Hasher::default();
    for start in (0..size).step_by(BLOCK as usize) {
        let block = output.get_range(key, start..size.min(start + BLOCK)).await?;
        hasher = run_blocking(move || {
            hasher.push(&block);
            Ok(hasher)
        })
        .await?;
    }
    checksum.check_same(&hasher.finish(), key)
}

/// Reads a file without a checksum: one that proves itself, an empty one, or one of format 1.
async fn prove(output: &dyn Store, key: &str, size: u64, named: &Named, manifest: Option<&Manifest>) -> Result<()> {
    let kind = registry::kind_of(key);
    if kind == Some(&registry::SUCCESS) {
        return if size == 0 { Ok(()) } else { Err(damaged("this file should be empty", key)) };
    }
    let body = output.get(key).await?;
    if kind == Some(&registry::EXTRACTOR) {
        let record: ExtractorRecord = from_record(&body, key)?;
        let is_own = keys::extractor(&record.info.id) == key && manifest.is_none_or(|m| m.extractor == record.info);
        return if is_own { Ok(()) } else { Err(damaged("this is the record of another extractor", key)) };
    }
    // Files that are named by their content.
    let own_key = match kind {
        Some(kind) if kind == &registry::VOCABULARY => Some(keys::vocabulary(&sha256(&body))),
        Some(kind) if kind == &registry::MODEL => Some(keys::model(&sha256(&body))),
        _ => None,
    };
    if let Some(own_key) = own_key {
        return if own_key == key { Ok(()) } else { Err(damaged("this is another file", key)) };
    }
    match (kind, manifest) {
        (Some(kind), Some(manifest)) if named.released => decode(*kind, body, manifest.clone(), key.to_owned()).await,
        _ => Ok(()),
    }
}

/// Decodes a file of format 1.
async fn decode(kind: FileKind, body: Bytes, manifest: Manifest, key: String) -> Result<()> {
    run_blocking(move || {
        let columns = manifest.extractor.columns;
        match kind {
            registry::FEATURES => tables::read_features(body, &manifest.extractor, &key).map(drop),
            registry::MOMENTS | registry::TOTALS => tables::read_sums(body, columns, &key).map(drop),
            registry::BASIS => tables::read_basis(body, columns, &key).map(drop),
            registry::PART | registry::LABEL_PART => {
                tables::read_scores(body, manifest.basis.components, &key).map(drop)
            }
            registry::REJECTS => tables::read_rejects(body, &key).map(drop),
            registry::SHARD => from_json::<serde_json::Value>(&body, &key).map(drop),
            _ => Ok(()),
        }
    })
    .await
}
