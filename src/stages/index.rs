//! The segment of the search index of a group: rows of the base version's segment are copied, others come from the features
//! of their shards.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::MergeWork;
use crate::{
    Error, ErrorKind, Result,
    dataset::{Checksum, FileRef, GroupRecord, ShardEntry, blocking::run_blocking, contents, keys, tables},
    ids::{GroupId, ShardId},
    model::ExtractorInfo,
    search::segment::{SegmentWriter, ShardRows, Subject, WholeSegment},
    store::Store,
};

/// Tables of features that are read ahead.
const READ_AT_A_TIME: usize = 2;

/// The large segment that is made. It is in memory as a whole, up to 170 MB, so those of the other groups of the process wait.
static MADE: Semaphore = Semaphore::const_new(1);
/// Rows of a large segment: more than 16 MB.
const LARGE: u64 = 4_096;

/// Makes the segment of a group and writes it. None without rows.
pub(super) async fn write(output: &dyn Store, work: &MergeWork, record: &GroupRecord) -> Result<Option<Checksum>> {
    // The semaphore is never closed, so there is no error.
    let _turn = if record.rows > LARGE { MADE.acquire().await.ok() } else { None };
    let base = base_of(output, work).await?;
    let Some(file) = segment(output, &work.extractor, record, base).await? else { return Ok(None) };
    let (checksum, file) = run_blocking(move || Ok((Checksum::of(&file), file))).await?;
    output.put(&keys::index(&record.id), file).await?;
    Ok(Some(checksum))
}

/// The segment of the base version's group. None if there is none, or if it is damaged.
async fn base_of(output: &dyn Store, work: &MergeWork) -> Result<Option<WholeSegment>> {
    let Some((base, checksum)) = work.base.as_ref().zip(work.base_segment.clone()) else { return Ok(None) };
    let file = FileRef { key: keys::index(&base.id), checksum: Some(checksum) };
    let subject = subject(&work.extractor, &base.id);
    let read = async {
        let body = file.read(output).await?;
        run_blocking(move || WholeSegment::open(body, &subject)).await
    };
    match read.await {
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
        read => read.map(Some),
    }
}

/// The segment of a group, with rows of shards that are in the segment `base`, too. None without rows. Fails with
/// `Dataset.Corrupt`.
pub(crate) async fn segment(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    record: &GroupRecord,
    base: Option<WholeSegment>,
) -> Result<Option<Bytes>> {
    if record.rows == 0 {
        return Ok(None);
    }
    let rows = usize::try_from(record.rows)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "a group has too many rows").source(e))?;
    let mut writer = SegmentWriter::new(subject(extractor, &record.id), rows)?;
    let base = base.map(Arc::new);
    let reads: Vec<_> =
        record.shards.iter().filter_map(|shard| read(output, extractor, shard, base.as_deref())).collect();
    let mut reads = stream::iter(reads).buffered(READ_AT_A_TIME);
    while let Some((shard, table)) = reads.try_next().await? {
        let base = base.clone();
        let push = move || {
            if let Some(tables::LabelledFeatures { paths, labels, splits, features }) = &table {
                writer.push(ShardRows { shard: &shard, paths, labels, splits, features: features.view() })?;
            } else if let Some(base) = base {
                writer.copy(&shard, &base)?;
            }
            Ok(writer)
        };
        writer = run_blocking(push).await?;
    }
    run_blocking(move || writer.finish(base.as_deref())).await.map(Some)
}

fn subject(extractor: &ExtractorInfo, group: &GroupId) -> Subject {
    Subject {
        group: group.clone(),
        extractor: extractor.id.clone(),
        columns: extractor.columns,
        range: extractor.feature_range,
    }
}

/// The rows of a shard; without a table if they are in `base`. None without rows.
fn read<'a>(
    output: &'a dyn Store,
    extractor: &'a ExtractorInfo,
    shard: &'a ShardEntry,
    base: Option<&WholeSegment>,
) -> Option<impl Future<Output = Result<(ShardId, Option<tables::LabelledFeatures>)>> + use<'a>> {
    let file = shard.features()?;
    let is_known = base.is_some_and(|base| base.rows_of(&shard.id).is_some());
    Some(async move {
        let table = match is_known {
            true => None,
            false => Some(contents::labelled_features(output, extractor, &file).await?),
        };
        Ok((shard.id.clone(), table))
    })
}
