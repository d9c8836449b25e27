//! The search index of a version, opened once and asked many times.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rayon::prelude::*;
use tokio::sync::OnceCell;

use super::find::{Hit, Query};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{FileRef, GroupEntry, Manifest, blocking::run_blocking, get_checked},
    model::FeatureRange,
    search::{
        Ranking, RowOf,
        segment::{Filter, Prepared, Scanned, Segment, SegmentFile, Subject, TAIL},
    },
    store::{self, OpenFile, Store},
};

/// Segments that are opened at the same time.
const OPENED_AT_A_TIME: usize = 8;
/// Rows that are read together, from a file and from a store.
const ROWS_OF_FILE: usize = 512;
const ROWS_OF_STORE: usize = 64;
/// Concurrent requests for rows.
const REQUESTS: usize = 32;

/// The search index of a version. What bounds the distances of all rows is in memory, about 130 bytes per image and the
/// paths of those segments that have had answers. Rows are read when they are needed.
#[derive(Debug)]
pub struct Index {
    segments: Vec<Arc<Opened>>,
    columns: usize,
    range: FeatureRange,
}

/// An open segment.
#[derive(Debug)]
struct Opened {
    segment: Segment,
    source: Source,
    /// The first and the last key of the group.
    keys: [String; 2],
    paths: OnceCell<Bytes>,
}

/// Where the parts of a segment are read.
#[derive(Debug)]
struct Source {
    key: String,
    /// The file, in a folder.
    file: Option<OpenFile>,
}

impl Source {
    async fn read(&self, output: &dyn Store, range: Range<u64>) -> Result<Bytes> {
        let Some(file) = self.file.clone() else { return output.get_range(&self.key, range).await };
        run_blocking(move || file.read(range)).await
    }

    /// The error names the segment.
    fn of_this(&self, error: Error) -> Error {
        if error.is(ErrorKind::DatasetCorrupt) { error.context("key", &self.key) } else { error }
    }
}

impl Index {
    /// Opens the index of a version; None if it has none. An index of at most `copied` bytes that is not on this computer is
    /// copied to temporary files. Fails with `Dataset.Corrupt` if a segment is missing or damaged.
    #[compiled_once]
    pub async fn open(output: &dyn Store, version: &Manifest, copied: u64) -> Result<Option<Index>> {
        let Some(index) = &version.index else { return Ok(None) };
        let files: Vec<_> = index.files(&version.groups).collect();
        let copies = files.iter().map(|(_, file)| bytes_of(file)).sum::<u64>() <= copied;
        let opens: Vec<_> =
            files.into_iter().map(|(group, file)| open(output, version, (group, file), copies)).collect();
        let segments = stream::iter(opens).buffered(OPENED_AT_A_TIME).try_collect().await?;
        let (columns, range) = (version.extractor.columns, version.extractor.feature_range);
        Ok(Some(Index { segments, columns, range }))
    }

    /// The number of images.
    pub fn rows(&self) -> usize {
        self.segments.iter().map(|opened| opened.segment.rows()).sum()
    }

    /// The nearest images of a query, the nearest first; equally near ones by key. `output` is that of [`Index::open`].
    ///
    /// The answer is that of comparing all images. Fails with `Dataset.Corrupt`, and with `Input.Invalid` if the query has the
    /// features of another extractor.
    #[compiled_once]
    pub async fn search(&self, output: &dyn Store, query: &Query) -> Result<Vec<Hit>> {
        if query.features.len() != self.columns {
            let message = "the features of a query are those of another model";
            return Err(Error::new(ErrorKind::InputInvalid, message).context("columns", query.features.len()));
        }
        let prepared = Prepared::new(&query.features, self.range, query.metric)?;
        let scanned = self.scan(output, query, &prepared).await?;
        let mut ranking = Ranking::new(&prepared, query.count, scanned);
        let in_files = self.segments.iter().all(|opened| opened.source.file.is_some());
        let most = if in_files { ROWS_OF_FILE } else { ROWS_OF_STORE };
        while let Some(rows) = ranking.next(most) {
            let distances = self.distances(output, &prepared, &rows).await?;
            rows.into_iter().zip(distances).for_each(|(row, distance)| ranking.rank(row, distance));
        }
        let mut hits = Vec::new();
        for ranked in ranking.finish() {
            let Some(opened) = self.opened(ranked.row) else { continue };
            let path = opened.path(output, ranked.row.row).await?;
            let label = opened.segment.label(ranked.row.row).map(str::to_owned);
            hits.push(Hit { path, distance: ranked.distance, label });
        }
        Ok(hits)
    }

    /// The features of an image of the version; None for other keys.
    #[compiled_once]
    pub async fn features(&self, output: &dyn Store, path: &str) -> Result<Option<Vec<f32>>> {
        let Some(row) = self.row_of(output, path).await? else { return Ok(None) };
        let Some(opened) = self.opened(row) else { return Ok(None) };
        opened.row(output, row.row).await.map(|packed| Some(opened.segment.features(&packed)))
    }

    /// Bounds of the distances of all rows.
    async fn scan(&self, output: &dyn Store, query: &Query, prepared: &Prepared) -> Result<Vec<Scanned>> {
        let except = match &query.except {
            Some(path) => self.row_of(output, path).await?,
            None => None,
        };
        let (segments, query, prepared) = (self.segments.clone(), query.clone(), prepared.clone());
        run_blocking(move || {
            let scan = |(opened, number): (&Arc<Opened>, u32)| {
                let except = except.filter(|row| row.segment == number).map(|row| row.row);
                let filter = Filter { label: query.label.as_deref(), split: query.split.as_deref(), except };
                opened.segment.scan(&prepared, &filter)
            };
            let numbers = 0..segments.len() as u32;
            Ok(segments.par_iter().zip(numbers.into_par_iter()).map(scan).collect())
        })
        .await
    }

    /// The distances of rows, in their order.
    async fn distances(&self, output: &dyn Store, query: &Prepared, rows: &[RowOf]) -> Result<Vec<f64>> {
        let wanted: Option<Vec<(Arc<Opened>, u32)>> =
            rows.iter().map(|row| Some((Arc::clone(self.opened(*row)?), row.row))).collect();
        let wanted = wanted.ok_or_else(|| Error::new(ErrorKind::InternalBug, "a row is in no segment"))?;
        if wanted.iter().all(|(opened, _)| opened.source.file.is_some()) {
            let query = query.clone();
            let distance = move |(opened, row): &(Arc<Opened>, u32)| Ok(query.distance(&opened.row_of_file(*row)?));
            return run_blocking(move || wanted.par_iter().map(distance).collect()).await;
        }
        let reads: Vec<_> = wanted
            .iter()
            .map(|(opened, row)| async move { Ok::<_, Error>(query.distance(&opened.row(output, *row).await?)) })
            .collect();
        stream::iter(reads).buffered(REQUESTS).try_collect().await
    }

    fn opened(&self, row: RowOf) -> Option<&Arc<Opened>> {
        self.segments.get(row.segment as usize)
    }

    /// The row of an image.
    async fn row_of(&self, output: &dyn Store, path: &str) -> Result<Option<RowOf>> {
        let inside = |opened: &Arc<Opened>| opened.keys[0].as_str() <= path && path <= opened.keys[1].as_str();
        let Some(segment) = self.segments.iter().position(inside) else { return Ok(None) };
        let opened = &self.segments[segment];
        let row = opened.segment.row_of(opened.paths(output).await?, path).map_err(|e| opened.source.of_this(e))?;
        Ok(row.map(|row| RowOf { segment: segment as u32, row }))
    }
}

impl Opened {
    async fn paths(&self, output: &dyn Store) -> Result<&Bytes> {
        let read = || async {
            let paths = self.source.read(output, self.segment.file().paths()).await?;
            self.segment.check_paths(&paths).map_err(|e| self.source.of_this(e))?;
            Ok(paths)
        };
        self.paths.get_or_try_init(read).await
    }

    async fn path(&self, output: &dyn Store, row: u32) -> Result<String> {
        let paths = self.paths(output).await?;
        self.segment.path(paths, row).map(str::to_owned).map_err(|e| self.source.of_this(e))
    }

    fn range_of(&self, row: u32) -> Result<Range<u64>> {
        self.segment.row(row).ok_or_else(|| Error::new(ErrorKind::InternalBug, "a segment does not have this row"))
    }

    /// A packed row.
    async fn row(&self, output: &dyn Store, row: u32) -> Result<Bytes> {
        let packed = self.source.read(output, self.range_of(row)?).await?;
        self.segment.check_row(row, &packed).map_err(|e| self.source.of_this(e))?;
        Ok(packed)
    }

    /// The same, of a segment in a folder.
    fn row_of_file(&self, row: u32) -> Result<Bytes> {
        let Some(file) = &self.source.file else {
            return Err(Error::new(ErrorKind::InternalBug, "a segment is in no folder"));
        };
        let packed = file.read(self.range_of(row)?)?;
        self.segment.check_row(row, &packed).map_err(|e| self.source.of_this(e))?;
        Ok(packed)
    }
}

fn bytes_of(file: &FileRef) -> u64 {
    file.checksum.as_ref().map_or(0, |checksum| checksum.bytes)
}

async fn open(
    output: &dyn Store,
    version: &Manifest,
    (group, file): (&GroupEntry, FileRef),
    copies: bool,
) -> Result<Arc<Opened>> {
    let bytes = bytes_of(&file);
    let opened = match output.open(&file.key).await {
        Ok(None) if copies => store::copy(output, &file.key, bytes).await.map_err(shorter)?,
        Ok(opened) => opened,
        // The error names the missing file as one of the data set.
        Err(e) if e.is(ErrorKind::StoreNotFound) => {
            return get_checked(output, &file.key, file.checksum.as_ref()).await.and(Err(e));
        }
        Err(e) => return Err(e),
    };
    let source = Source { key: file.key, file: opened };
    let subject = Subject {
        group: group.id.clone(),
        extractor: version.extractor.id.clone(),
        columns: version.extractor.columns,
        range: version.extractor.feature_range,
    };
    let read = async {
        let mut tail = source.read(output, bytes.saturating_sub(TAIL)..bytes).await?;
        let needed = SegmentFile::tail_bytes(&tail)?;
        if needed > tail.len() as u64 && needed <= bytes {
            tail = source.read(output, bytes - needed..bytes).await?;
        }
        let head = SegmentFile::open(&tail, bytes, &subject)?;
        let body = source.read(output, head.body()).await?;
        run_blocking(move || Segment::open(head, body)).await
    };
    let segment = read.await.map_err(|e| source.of_this(shorter(e)))?;
    let keys = [group.first.clone(), group.last.clone()];
    Ok(Arc::new(Opened { segment, source, keys, paths: OnceCell::new() }))
}

/// A file that ends too early, or is gone, is damage.
fn shorter(error: Error) -> Error {
    if error.is(ErrorKind::StoreFailed) || error.is(ErrorKind::StoreNotFound) {
        return Error::new(ErrorKind::DatasetCorrupt, "a segment of the index cannot be read").source(error);
    }
    error
}
