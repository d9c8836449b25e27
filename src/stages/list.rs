//! Listing of some ranges of keys in a function of its own, for inputs that are too large for one function.
//!
//! Reads a line of `runs/<run>/list-*.jsonl`, `finished.jsonl` and the input. Writes `objects-*.jsonl` and, in
//! `runs/<run>/listed/`, the shards between the ends of the ranges, the objects at the ends, and last a record of them.

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    CancellationToken, Monitor, Stores,
    cut::{Cutter, ListedShard},
    pieces::{Body, Joiner, Piece},
    records::LineRange,
    spans::Range,
    sweep::Sweep,
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, Checksum, FileRef, keys, labelling::Labelling, record::from_record, settings::Settings, timing::Timer,
    },
    ids::{ExtractorId, RunId, ShardId, short_hex},
    store::{self, Object, Store},
};

/// One line of a work list of listers, `runs/<run>/list-*.jsonl`: ranges of keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListWork {
    /// Id of the run.
    pub run: RunId,
    /// Number of the round of listers, and of the line in its work list.
    pub round: u32,
    /// Number of the line.
    pub number: u64,
    /// Extractor of the features, which the ids of shards depend on.
    pub extractor: ExtractorId,
    /// The settings that decide where shards end.
    pub settings: Settings,
    /// Ids of shards that are finished: `runs/<run>/finished.jsonl`.
    pub finished: Option<FileRef>,
    /// The function stops after this number of objects, and hands back what is left.
    pub most: u64,
    pub(super) ranges: Vec<Range>,
}

/// Answer of `list`: counts only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListDone {
    /// Id of the run.
    pub run: RunId,
    /// Objects that were listed.
    pub objects: u64,
    /// Ranges that are left for the next round.
    pub ranges_left: u64,
}

/// What was listed for a line of the work list: `runs/<run>/listed/<round>-<number>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListedRanges {
    pub(super) run: RunId,
    pub(super) round: u32,
    pub(super) number: u64,
    pub(super) objects: u64,
    pub(super) pieces: Vec<PieceLines>,
    /// Ranges that are still to be listed.
    pub(super) left: Vec<Range>,
    pub(super) milliseconds: u64,
}

/// A piece, whose objects and shards are lines of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PieceLines {
    pub(super) after: Option<String>,
    pub(super) until: Option<String>,
    objects: u64,
    ignored: u64,
    head: LineRange,
    /// The shards, and the objects behind them.
    body: Option<(LineRange, LineRange)>,
}

impl PieceLines {
    /// Reads the piece.
    pub(super) async fn read(self, output: &dyn Store) -> Result<Piece> {
        let head = lines(&self.head, output).await?;
        let body = match &self.body {
            None => None,
            Some((shards, tail)) => {
                Some(Body { shards: lines(shards, output).await?, tail: lines(tail, output).await? })
            }
        };
        let PieceLines { after, until, objects, ignored, .. } = self;
        Ok(Piece { after, until, head, body, objects, ignored })
    }
}

async fn lines<T: serde::de::DeserializeOwned>(range: &LineRange, output: &dyn Store) -> Result<Vec<T>> {
    if range.length == 0 { Ok(Vec::new()) } else { range.read(output).await }
}

/// Lists ranges of keys, and writes what was found. A second call for the same line changes nothing.
///
/// Fails with `Input.Invalid` if a label cannot be a folder, and with `Dataset.Corrupt`.
#[compiled_once]
pub async fn list(
    stores: &Stores,
    work: ListWork,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<ListDone> {
    let timer = Timer::start();
    let output = stores.output.as_ref();
    if let Some(done) = listed(output, &work.run, work.round, work.number).await? {
        return Ok(done.answer());
    }
    let finished = Arc::new(read_finished(output, work.finished.as_ref()).await?);
    let labelling = Arc::new(Labelling::open(output, &work.settings).await?);
    let cutter = Cutter::new((output, &work.run), &work.settings, &work.extractor, labelling, finished)?;
    let input = stores.input.as_ref();
    let joiner = Joiner::new(&cutter, None);
    let sweep = Sweep::new(input, &joiner, work.most, monitor, stop);
    let left = sweep.list(work.ranges, input.listers()).await?;
    let pieces = joiner.take();
    let done = keep(output, (&work.run, work.round, work.number), pieces, left, timer.read().milliseconds).await?;
    Ok(done.answer())
}

impl ListedRanges {
    fn answer(&self) -> ListDone {
        ListDone { run: self.run.clone(), objects: self.objects, ranges_left: self.left.len() as u64 }
    }
}

/// Writes what was listed for a line of the work list, unless it was written before. Returns what is there afterwards.
pub(super) async fn keep(
    output: &dyn Store,
    (run, round, number): (&RunId, u32, u64),
    pieces: Vec<Piece>,
    left: Vec<Range>,
    milliseconds: u64,
) -> Result<ListedRanges> {
    let objects = pieces.iter().map(|piece| piece.objects).sum();
    let (pieces, text) = to_lines(run, pieces)?;
    if let Some(piece) = pieces.first() {
        output.put(&piece.head.key, text.into()).await?;
    }
    let done = ListedRanges { run: run.clone(), round, number, objects, pieces, left, milliseconds };
    // Of two calls for the same line, which may have seen different objects, the first counts.
    if output.put_if_absent(&keys::listed(run, round, number), dataset::to_record(&done)?).await? {
        return Ok(done);
    }
    let other = listed(output, run, round, number).await?;
    other.ok_or_else(|| Error::new(ErrorKind::StoreFailed, "a record that exists was not found"))
}

/// The lines of pieces, and the text of their file.
fn to_lines(run: &RunId, pieces: Vec<Piece>) -> Result<(Vec<PieceLines>, Vec<u8>)> {
    fn push<T: Serialize>(text: &mut Vec<u8>, lines: &[T]) -> Result<LineRange> {
        let offset = text.len();
        lines.iter().try_for_each(|line| dataset::push_json_line(text, line))?;
        let Checksum { sha256, bytes } = Checksum::of(&text[offset..]);
        Ok(LineRange { key: String::new(), offset: offset as u64, length: bytes, sha256 })
    }
    let (mut text, mut written) = (Vec::new(), Vec::with_capacity(pieces.len()));
    for Piece { after, until, head, body, objects, ignored } in pieces {
        let head = push::<Object>(&mut text, &head)?;
        let body = match body {
            None => None,
            Some(Body { shards, tail }) => {
                Some((push::<ListedShard>(&mut text, &shards)?, push::<Object>(&mut text, &tail)?))
            }
        };
        written.push(PieceLines { after, until, objects, ignored, head, body });
    }
    let key = keys::pieces(run, &short_hex(Checksum::of(&text).sha256.as_bytes()));
    for piece in &mut written {
        let ranges = piece.body.iter_mut().flat_map(|(shards, tail)| [shards, tail]);
        ranges.chain([&mut piece.head]).for_each(|range| range.key.clone_from(&key));
    }
    Ok((written, text))
}

/// The record of a line of a work list. None if it was not listed yet.
pub(super) async fn listed(output: &dyn Store, run: &RunId, round: u32, number: u64) -> Result<Option<ListedRanges>> {
    let key = keys::listed(run, round, number);
    let Some(record) = store::get_opt(output, &key).await? else { return Ok(None) };
    let listed: ListedRanges = from_record(&record, &key)?;
    if (&listed.run, listed.round, listed.number) == (run, round, number) {
        return Ok(Some(listed));
    }
    Err(dataset::record::damaged("this is the record of something else", &key))
}

/// Writes the ids of finished shards for listers. None without shards.
pub(super) async fn keep_finished(
    output: &dyn Store,
    run: &RunId,
    finished: &HashSet<ShardId>,
) -> Result<Option<FileRef>> {
    if finished.is_empty() {
        return Ok(None);
    }
    let mut text = Vec::new();
    finished.iter().try_for_each(|shard| dataset::push_json_line(&mut text, shard))?;
    let file = FileRef::of(keys::run(run, "finished.jsonl"), &text);
    output.put(&file.key, text.into()).await?;
    Ok(Some(file))
}

/// Reads what [`keep_finished`] wrote. Fails with `Dataset.Corrupt`.
pub(super) async fn read_finished(output: &dyn Store, file: Option<&FileRef>) -> Result<HashSet<ShardId>> {
    let Some(file) = file else { return Ok(HashSet::new()) };
    let ids: Vec<ShardId> = dataset::from_json_lines(&file.read(output).await?, &file.key)?;
    Ok(ids.into_iter().collect())
}
