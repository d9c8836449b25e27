//! The segment of the search index of a group, from the features of its shards.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use crate::{
    Error, ErrorKind, Result,
    dataset::{Checksum, GroupRecord, ShardEntry, blocking::run_blocking, contents, keys, tables},
    ids::ShardId,
    model::ExtractorInfo,
    search::segment::{SegmentWriter, ShardRows, Subject},
    store::Store,
};

/// Tables of features that are read ahead.
const READ_AT_A_TIME: usize = 2;

/// The large segment that is made. It is in memory as a whole, up to 170 MB, so those of the other groups of the process wait.
static MADE: Semaphore = Semaphore::const_new(1);
/// Rows of a large segment: more than 16 MB.
const LARGE: u64 = 4_096;

/// Makes the segment of a group and writes it. None without rows.
pub(super) async fn write(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    record: &GroupRecord,
) -> Result<Option<Checksum>> {
    // The semaphore is never closed, so there is no error.
    let _turn = if record.rows > LARGE { MADE.acquire().await.ok() } else { None };
    let Some(file) = segment(output, extractor, record).await? else { return Ok(None) };
    let (checksum, file) = run_blocking(move || Ok((Checksum::of(&file), file))).await?;
    output.put(&keys::index(&record.id), file).await?;
    Ok(Some(checksum))
}

/// The segment of a group. None without rows. Fails with `Dataset.Corrupt`.
pub(crate) async fn segment(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    record: &GroupRecord,
) -> Result<Option<Bytes>> {
    if record.rows == 0 {
        return Ok(None);
    }
    let rows = usize::try_from(record.rows)
        .map_err(|e| Error::new(ErrorKind::InternalBug, "a group has too many rows").source(e))?;
    let mut writer = SegmentWriter::new(subject(extractor, record), rows)?;
    let reads: Vec<_> = record.shards.iter().filter_map(|shard| read(output, extractor, shard)).collect();
    let mut reads = stream::iter(reads).buffered(READ_AT_A_TIME);
    while let Some((shard, table)) = reads.try_next().await? {
        let push = move || {
            let tables::LabelledFeatures { paths, labels, splits, features } = &table;
            writer.push(ShardRows { shard: &shard, paths, labels, splits, features: features.view() })?;
            Ok(writer)
        };
        writer = run_blocking(push).await?;
    }
    run_blocking(move || writer.finish()).await.map(Some)
}

fn subject(extractor: &ExtractorInfo, record: &GroupRecord) -> Subject {
    Subject {
        group: record.id.clone(),
        extractor: extractor.id.clone(),
        columns: extractor.columns,
        range: extractor.feature_range,
    }
}

/// The rows of a shard. None without rows.
fn read<'a>(
    output: &'a dyn Store,
    extractor: &'a ExtractorInfo,
    shard: &'a ShardEntry,
) -> Option<impl Future<Output = Result<(ShardId, tables::LabelledFeatures)>> + use<'a>> {
    let file = shard.features()?;
    Some(async move { Ok((shard.id.clone(), contents::labelled_features(output, extractor, &file).await?)) })
}
