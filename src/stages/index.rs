//! The segment of the search index of a group: rows of the base version's segment are copied, others come from the features
//! of their shards.

use std::sync::Arc;

use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::Semaphore;

use super::{MergeWork, classes};
use crate::{
    ErrorKind, Result,
    dataset::{
        Checksum, FileRef, GroupRecord, ShardEntry, blocking::run_blocking, contents, keys, record::Hasher, tables,
    },
    ids::{GroupId, ShardId},
    model::ExtractorInfo,
    search::segment::{SegmentSample, SegmentWriter, ShardRows, Subject, WholeSegment},
    store::Store,
};

/// Tables of features that are read ahead.
const READ_AT_A_TIME: usize = 2;

/// Rows of a large segment, whose tables are read twice: a few bytes of each row and a table or two are in memory, and with a base
/// version, the whole segment of that, up to 170 MB. The tables of a smaller one take up to 21 MB, and stay in memory.
const LARGE: u64 = 4_096;
/// The large segment that is made from one of a base version; those of the other groups of the process wait.
static MADE: Semaphore = Semaphore::const_new(1);

/// Makes the segment of a group and writes it. None without rows.
pub(super) async fn write(output: &dyn Store, work: &MergeWork, record: &GroupRecord) -> Result<Option<Checksum>> {
    // Beside a base version, the sums of the group are made at the same time.
    let _turn = match (record.rows > LARGE, &work.base) {
        (false, _) => None,
        (true, None) => classes::turn().await,
        // The semaphore is never closed, so there is no error.
        (true, Some(_)) => MADE.acquire().await.ok(),
    };
    let base = base_of(output, work).await?;
    let Some(pieces) = pieces(output, &work.extractor, record, base).await? else { return Ok(None) };
    let mut written = Hasher::default();
    let body = pieces.inspect_ok(|piece| written.push(piece));
    output.put_stream(&keys::index(&record.id), body.boxed()).await?;
    Ok(Some(written.finish()))
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

/// The segment of a group. None without rows. Fails with `Dataset.Corrupt`.
pub(crate) async fn segment(
    output: &dyn Store,
    extractor: &ExtractorInfo,
    record: &GroupRecord,
) -> Result<Option<Bytes>> {
    let Some(pieces) = pieces(output, extractor, record, None).await? else { return Ok(None) };
    let pieces: Vec<Bytes> = pieces.try_collect().await?;
    Ok(Some(pieces.concat().into()))
}

/// The bytes of the segment of a group, with rows of shards that are in the segment `base`, too. None without rows. Fails with
/// `Dataset.Corrupt`.
async fn pieces<'a>(
    output: &'a dyn Store,
    extractor: &'a ExtractorInfo,
    record: &'a GroupRecord,
    base: Option<WholeSegment>,
) -> Result<Option<BoxStream<'a, Result<Bytes>>>> {
    if record.rows == 0 {
        return Ok(None);
    }
    let base = base.map(Arc::new);
    let mut sample = SegmentSample::new(subject(extractor, &record.id))?;
    let mut held = Vec::new();
    let mut reads = reads(output, extractor, record, base.clone());
    while let Some((shard, table)) = reads.try_next().await? {
        let (from, of_shard, rows) = (base.clone(), shard.clone(), table.clone());
        let look = move || {
            match (&rows, &from) {
                (Some(table), _) => sample.push(&table.paths, table.features.view())?,
                (None, Some(from)) => drop(sample.copy(&of_shard, from)?),
                (None, None) => {}
            }
            Ok(sample)
        };
        sample = run_blocking(look).await?;
        if record.rows <= LARGE {
            held.push(Ok((shard, table)));
        }
    }
    let reads =
        if held.is_empty() { self::reads(output, extractor, record, base.clone()) } else { stream::iter(held).boxed() };
    let from = base.clone();
    let writer = run_blocking(move || SegmentWriter::new(sample, from.as_deref())).await?;
    let rest = stream::try_unfold(Some((writer, reads)), move |state| next_piece(state, base.clone()));
    Ok(Some(stream::iter([Ok(Bytes::from(SegmentWriter::head()))]).chain(rest).boxed()))
}

/// A shard, and its table unless its rows are copied.
type Shard = (ShardId, Option<Arc<tables::LabelledFeatures>>);
type Shards<'a> = BoxStream<'a, Result<Shard>>;

/// The rows of the next shard; after the last one, the rest of the segment.
async fn next_piece<'a>(
    state: Option<(SegmentWriter, Shards<'a>)>,
    base: Option<Arc<WholeSegment>>,
) -> Result<Option<(Bytes, Option<(SegmentWriter, Shards<'a>)>)>> {
    let Some((mut writer, mut reads)) = state else { return Ok(None) };
    let Some((shard, table)) = reads.try_next().await? else {
        return Ok(Some((run_blocking(move || writer.finish()).await?.into(), None)));
    };
    let push = move || {
        let rows = match (&table, &base) {
            (Some(table), _) => {
                let tables::LabelledFeatures { paths, labels, splits, features } = &**table;
                Some(writer.push(ShardRows { shard: &shard, paths, labels, splits, features: features.view() })?)
            }
            (None, Some(base)) => writer.copy(&shard, base)?,
            (None, None) => None,
        };
        Ok((writer, rows.unwrap_or_default()))
    };
    let (writer, rows) = run_blocking(push).await?;
    Ok(Some((rows.into(), Some((writer, reads)))))
}

/// The shards with rows, in key order.
fn reads<'a>(
    output: &'a dyn Store,
    extractor: &'a ExtractorInfo,
    record: &'a GroupRecord,
    base: Option<Arc<WholeSegment>>,
) -> Shards<'a> {
    let reads: Vec<_> =
        record.shards.iter().filter_map(|shard| read(output, extractor, shard, base.as_deref())).collect();
    stream::iter(reads).buffered(READ_AT_A_TIME).boxed()
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
) -> Option<impl Future<Output = Result<Shard>> + use<'a>> {
    let file = shard.features()?;
    let is_known = base.is_some_and(|base| base.rows_of(&shard.id).is_some());
    Some(async move {
        let table = match is_known {
            true => None,
            false => Some(Arc::new(contents::labelled_features(output, extractor, &file).await?)),
        };
        Ok((shard.id.clone(), table))
    })
}
