//! Listing of a large input in rounds: the stage `plan` lists for some seconds, hands what is left to a map of listers, and
//! goes on when they have ended. Ranges that turn out long come back, and are divided for the next round.
//!
//! Reads and writes `runs/<run>/listing.json` and the work lists `list-*.jsonl`; reads `listed/`.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    CancellationToken, Monitor, STORE_CONCURRENCY,
    cut::Cutter,
    list::{ListWork, ListedRanges, PieceLines, keep, keep_finished, listed, read_finished},
    pieces::{Joiner, Piece},
    planner::{Listed, Planner},
    spans::Range,
    sweep::Sweep,
};
use crate::{
    Result,
    dataset::{self, FileRef, keys, labelling::Labelling, record::damaged, settings::Settings, timing::Timing},
    ids::{ExtractorId, RunId, ShardId, Version},
    store::{self, Store},
};

/// Pieces that are read at a time.
const PIECES_AT_A_TIME: usize = 4;

/// How much of an input one function lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Objects that the stage `plan` lists itself before it calls listers: those of some seconds.
    pub here: u64,
    /// Objects that a lister is meant to get.
    pub each: u64,
    /// Objects after which a lister stops. Its record then has about 12,000 shards.
    pub most: u64,
    /// Most listers of a round.
    pub listers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits::of(1_000_000)
    }
}

impl Limits {
    /// About this number of objects for each function.
    pub fn of(objects: u64) -> Self {
        Limits { here: objects, each: objects, most: objects.saturating_mul(3), listers: 100 }
    }
}

/// A round of listers: what the map of the state machine needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Id of the run.
    pub run: RunId,
    /// Number of the round, from 1: the stage itself was round 0.
    pub round: u32,
    /// Lines of the work list.
    pub listers: u64,
    /// Key of the work list: JSON lines, one [`ListWork`] each.
    pub work_list: String,
}

/// What the rounds hand to each other: `runs/<run>/listing.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rounds {
    run: RunId,
    /// Lines of the work list of each round.
    listers: Vec<u64>,
    /// The version that was current before the listing.
    pub(super) base: Option<Version>,
    /// The notices that were there before the listing.
    pub(super) notices: Vec<String>,
    finished: Option<FileRef>,
    pub(super) settings: Settings,
    extractor: ExtractorId,
    /// When the first round began, and the time of all of them without listers.
    pub(super) began: Timestamp,
    pub(super) milliseconds: u64,
}

/// What the listing of a run depends on, besides the input.
pub(super) struct Listing<'a> {
    pub(super) input: &'a dyn Store,
    pub(super) output: &'a dyn Store,
    pub(super) run: &'a RunId,
    pub(super) settings: &'a Settings,
    pub(super) labelling: Arc<Labelling>,
    pub(super) extractor: &'a ExtractorId,
    pub(super) limits: Limits,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) stop: &'a CancellationToken,
}

/// What is known when a round has ended.
pub(super) enum Progress {
    /// Listers are to be called.
    Round(Round),
    /// All keys are listed; the planner has the shards.
    Listed(Listed),
}

impl Rounds {
    fn key(run: &RunId) -> String {
        keys::run(run, "listing.json")
    }

    /// Reads the rounds of a run. None before the first.
    pub(super) async fn read(output: &dyn Store, run: &RunId) -> Result<Option<Rounds>> {
        let key = Rounds::key(run);
        let Some(record) = store::get_opt(output, &key).await? else { return Ok(None) };
        let rounds: Rounds = dataset::record::from_record(&record, &key)?;
        if rounds.run == *run { Ok(Some(rounds)) } else { Err(damaged("this is the record of another run", &key)) }
    }

    /// The last round.
    fn last(&self) -> Round {
        let round = self.listers.len().saturating_sub(1) as u32;
        let listers = self.listers.last().copied().unwrap_or(0);
        Round { run: self.run.clone(), round, listers, work_list: keys::ranges(&self.run, round) }
    }

    /// Reads what the listers of a round have listed. None if one of them has not ended.
    async fn of_round(&self, output: &dyn Store, round: u32) -> Result<Option<Vec<ListedRanges>>> {
        let listers = self.listers.get(round as usize).copied().unwrap_or(0);
        let reads: Vec<_> = (0..listers).map(|number| listed(output, &self.run, round, number)).collect();
        let read: Vec<_> = stream::iter(reads).buffered(STORE_CONCURRENCY).try_collect().await?;
        Ok(read.into_iter().collect())
    }

    /// Deletes the files of the rounds of a run that has nothing to do, and the results of their maps. The record goes
    /// first: without it, the run lists again.
    pub(super) async fn delete(output: &dyn Store, run: &RunId) -> Result<()> {
        output.delete(&Rounds::key(run)).await?;
        let mut files = vec![keys::run(run, "finished.jsonl")];
        for prefix in [keys::run(run, "listed/"), keys::run(run, "list-"), format!("{}/", keys::map_results(run))] {
            files.extend(store::list_all(output, &prefix).await?.into_iter().map(|object| object.key));
        }
        let deletes: Vec<_> = files.iter().map(|key| output.delete(key)).collect();
        stream::iter(deletes).buffer_unordered(STORE_CONCURRENCY).try_collect().await
    }
}

impl Listing<'_> {
    fn cutter(&self, finished: Arc<HashSet<ShardId>>) -> Result<Cutter<'_>> {
        Cutter::new((self.output, self.run), self.settings, self.extractor, self.labelling.clone(), finished)
    }

    fn sweep<'s>(&'s self, joiner: &'s Joiner<'s>) -> Sweep<'s, Joiner<'s>> {
        Sweep::new(self.input, joiner, self.limits.here, self.monitor, self.stop)
    }

    /// Lists for some seconds. If that was all, the planner has the shards; otherwise listers are to be called.
    pub(super) async fn begin(
        &self,
        planner: &mut Planner<'_>,
        finished: Arc<HashSet<ShardId>>,
        (base, notices): (Option<Version>, &[String]),
        timing: impl Fn() -> Timing,
    ) -> Result<Progress> {
        let cutter = self.cutter(finished.clone())?;
        let joiner = Joiner::new(&cutter, None);
        let left = self.sweep(&joiner).list(vec![Range::default()], self.input.listers()).await?;
        if left.is_empty() {
            let pieces = stream::iter(joiner.take().into_iter().map(Ok));
            return join(&cutter, pieces, planner).await.map(Progress::Listed);
        }
        let mut rounds = Rounds {
            run: self.run.clone(),
            listers: vec![1],
            base,
            notices: notices.to_vec(),
            finished: keep_finished(self.output, self.run, &finished).await?,
            settings: self.settings.clone(),
            extractor: self.extractor.clone(),
            began: timing().began,
            milliseconds: 0,
        };
        // An earlier call that did not reach its last write has perhaps kept another record of this round.
        let done = keep(self.output, (self.run, 0, 0), joiner.take(), left, 0).await?;
        self.next(&mut rounds, done.left, timing).await
    }

    /// Goes on after a round of listers.
    pub(super) async fn go_on(
        &self,
        mut rounds: Rounds,
        planner: &mut Planner<'_>,
        timing: impl Fn() -> Timing,
    ) -> Result<Progress> {
        let last = rounds.last();
        let Some(done) = rounds.of_round(self.output, last.round).await? else {
            // An answer was lost: the same round again. Listers that have ended do nothing.
            return Ok(Progress::Round(last));
        };
        let left: Vec<Range> = done.into_iter().flat_map(|done| done.left).collect();
        if !left.is_empty() {
            return self.next(&mut rounds, left, timing).await;
        }
        let (mut pieces, mut milliseconds): (Vec<PieceLines>, _) = (Vec::new(), 0);
        for round in 0..=last.round {
            let done = rounds.of_round(self.output, round).await?;
            let done = done.ok_or_else(|| damaged("a record of this round is missing", &Rounds::key(self.run)))?;
            milliseconds += done.iter().map(|done| done.milliseconds).sum::<u64>();
            pieces.extend(done.into_iter().flat_map(|done| done.pieces));
        }
        pieces.sort_by(|a, b| a.after.cmp(&b.after));
        let cutter = self.cutter(Arc::new(read_finished(self.output, rounds.finished.as_ref()).await?))?;
        let reads: Vec<_> = pieces.into_iter().map(|piece| piece.read(self.output)).collect();
        let listed = join(&cutter, stream::iter(reads).buffered(PIECES_AT_A_TIME), planner).await?;
        let earlier = Some((rounds.began, rounds.milliseconds + milliseconds));
        Ok(Progress::Listed(Listed { earlier, ..listed }))
    }

    /// Writes the work list of the next round.
    async fn next(&self, rounds: &mut Rounds, left: Vec<Range>, timing: impl Fn() -> Timing) -> Result<Progress> {
        let cutter = self.cutter(Arc::default())?;
        let joiner = Joiner::new(&cutter, None);
        let expected = left.iter().map(|range| range.expected).fold(0, u64::saturating_add);
        let most = self.limits.listers.max(1);
        let listers = usize::try_from(expected / self.limits.each.max(1) + 1).unwrap_or(most).min(most);
        let left = self.sweep(&joiner).spread(left, listers).await?;
        let round = rounds.listers.len() as u32;
        let each = left.len().div_ceil(listers);
        let work: Vec<ListWork> = left
            .chunks(each)
            .zip(0..)
            .map(|(ranges, number)| ListWork {
                run: self.run.clone(),
                round,
                number,
                extractor: rounds.extractor.clone(),
                settings: rounds.settings.clone(),
                finished: rounds.finished.clone(),
                most: self.limits.most,
                ranges: ranges.to_vec(),
            })
            .collect();
        self.output.put(&keys::ranges(self.run, round), dataset::to_sealed_lines(&work)?).await?;
        rounds.listers.push(work.len() as u64);
        rounds.milliseconds += timing().milliseconds;
        // Last: without this record, the round has not begun.
        self.output.put(&Rounds::key(self.run), dataset::to_record(rounds)?).await?;
        Ok(Progress::Round(rounds.last()))
    }
}

/// Joins the pieces of a whole listing, in key order, and passes their shards to the planner. Fails with `Dataset.Corrupt`
/// if a range of keys is missing.
async fn join(
    cutter: &Cutter<'_>,
    pieces: impl stream::Stream<Item = Result<Piece>>,
    planner: &mut Planner<'_>,
) -> Result<Listed> {
    let mut pieces = std::pin::pin!(pieces);
    let mut whole = Piece::new(None);
    let mut first = true;
    while let Some(piece) = pieces.try_next().await? {
        if if first { piece.after.is_some() } else { piece.after.is_none() || piece.after != whole.until } {
            return Err(damaged("a range of keys was not listed, or twice", &Rounds::key(planner.run)));
        }
        first = false;
        whole = whole.join(piece, cutter).await?;
        planner.add_all(whole.shards()).await?;
    }
    if first || whole.until.is_some() {
        return Err(damaged("the end of the input was not listed", &Rounds::key(planner.run)));
    }
    let (objects, ignored) = (whole.objects, whole.ignored);
    planner.add_all(whole.finish(cutter).await?).await?;
    Ok(Listed { objects, ignored: Some(ignored), earlier: None })
}
