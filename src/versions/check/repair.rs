//! The repair: makes damaged files again, first from the output, then from the images.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Checked, Depth, Fault, Known, Problem, Survey, check, named::damage, remake, timed};
use crate::{
    ErrorKind, Result, compiled_once,
    dataset::{
        FileRef, MARKER, Manifest, from_record, keys,
        lease::{self, Judge, Liveness, Lock},
        manifest::basis_id,
        registry::{self, FileKind, Remake},
        settings::{Mode, Refit},
    },
    ids::RunId,
    model::WorkerPool,
    pipeline::{self, Watcher},
    stages::{CancellationToken, PlanInput, Stores},
    store::Store,
};

/// Rounds after which a repair gives up. In each, what was made again in the round before lets other files be made.
const ROUNDS: u32 = 6;

/// The order of repairs: what others are made from comes first.
const ORDER: [FileKind; 28] = [
    registry::VERSION,
    registry::RUN_MANIFEST,
    registry::CLAIM,
    registry::FEATURES,
    registry::SHARD,
    registry::GROUP,
    registry::SUMS,
    registry::TOTALS,
    registry::BASIS,
    registry::CLASSES,
    registry::INDEX,
    registry::CLASSIFIER,
    registry::EXTRACTOR,
    registry::PART,
    registry::LABEL_PART,
    registry::PREDICTIONS,
    registry::PART_LIST,
    registry::REJECTS,
    registry::DUPLICATES,
    registry::OUTLIERS,
    registry::RUN_REJECTS,
    registry::CSV,
    registry::FEATURES_PART,
    registry::SYMLINKS,
    registry::DELTA_PART,
    registry::DELTA_COMMIT,
    registry::SUCCESS,
    registry::REPORT,
];
/// Files whose content has no checksum elsewhere. They prove themselves.
const SELF_SEALED: [FileKind; 6] = [
    registry::VERSION,
    registry::RUN_MANIFEST,
    registry::CLAIM,
    registry::EXTRACTOR,
    registry::SUCCESS,
    registry::DELTA_COMMIT,
];

/// How a repair works.
#[derive(Clone, Debug)]
pub struct RepairInput {
    /// Id of the run that computes damaged shards again, if there are some.
    pub run: RunId,
    /// Whether the input may have moved, and whether many images may be gone.
    pub mode: Mode,
    /// What is compared afterwards.
    pub depth: Depth,
}

/// What computing shards again needs. It is opened only if shards are damaged.
#[async_trait]
pub trait Tools: Send + Sync {
    /// Opens the input of the current version, and loads the model.
    async fn open(&self, current: &Manifest) -> Result<(Stores, WorkerPool)>;
}

/// Makes the damaged files of an output again, and checks it again. Deletes nothing but the marks of dead runs.
///
/// Problems that remain say why. Fails with `Dataset.Busy` while a run or a vacuum is in progress, and as [`check()`]
/// does.
#[compiled_once]
pub async fn repair<'a>(
    output: &'a dyn Store,
    input: RepairInput,
    tools: &dyn Tools,
    judge: Judge<'a>,
    watcher: &dyn Watcher,
    stop: &CancellationToken,
) -> Result<Checked> {
    let mut found = check(output, input.depth, judge, watcher).await?;
    let mut repair = Repair { output, seen: BTreeMap::new(), why: HashMap::new() };
    mend_marker(output, &found.survey).await?;
    let mut tried = false;
    for _ in 0..ROUNDS {
        repair.see(&found);
        let mending = timed(watcher, None, lease::exclusively(output, judge, |lock| repair.mend(lock, found.survey)));
        let Mended { files, again, current } = mending.await?;
        let mut changed = files > 0;
        if !again.is_empty() && !tried {
            tried = true;
            if let Some(current) = current {
                changed |= repair.compute(&current, again, &input, tools, watcher, stop).await?;
            }
        }
        found = check(output, Depth::Files, judge, watcher).await?;
        if !changed || found.problems.is_empty() {
            break;
        }
    }
    if input.depth == Depth::Numbers {
        found = check(output, Depth::Numbers, judge, watcher).await?;
    }
    Ok(repair.finish(found))
}

/// The marker comes first: without it, nothing can be locked.
async fn mend_marker(output: &dyn Store, survey: &Survey) -> Result<()> {
    if survey.problems.contains_key(MARKER)
        && let Some(marker) = remake::content(survey, output, MARKER).await?
    {
        output.put(MARKER, marker).await?;
    }
    Ok(())
}

struct Repair<'a> {
    output: &'a dyn Store,
    /// All problems of all rounds.
    seen: BTreeMap<String, Problem>,
    /// Why files could not be made again.
    why: HashMap<String, String>,
}

/// The result of one round.
struct Mended {
    /// Number of files that were made again.
    files: u64,
    /// Records of shards and groups of the current version that only a run can make again.
    again: BTreeSet<String>,
    current: Option<Manifest>,
}

impl Repair<'_> {
    fn see(&mut self, found: &Checked) {
        for problem in &found.problems {
            self.seen.entry(problem.file.clone()).or_insert_with(|| problem.clone());
        }
    }

    /// Makes again what can be made from the output.
    async fn mend(&mut self, mut lock: Lock<'_>, mut survey: Survey) -> Result<Mended> {
        for mark in survey.marks.iter().filter(|mark| mark.holder == Liveness::Dead && mark.file != keys::LOCK) {
            self.output.delete(&mark.file).await?;
        }
        let mut files = 0;
        let twins = twins(&survey);
        self.explain(&survey);
        let rank = |key: &str| ORDER.iter().position(|kind| kind.parse(key).is_some());
        let mut problems: Vec<(usize, String, Fault)> = survey
            .problems
            .values()
            .filter_map(|problem| Some((rank(&problem.file)?, problem.file.clone(), problem.problem)))
            .collect();
        problems.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, key, fault) in problems {
            lock.renew().await?;
            if fault == Fault::Wrong {
                let why = "its content is the one on record, so it is not known which of the two is right";
                self.why.insert(key, why.to_owned());
                continue;
            }
            match self.make(&survey, &twins, &key).await {
                Ok(Some(body)) => {
                    files += 1;
                    learn(&mut survey, &key, body);
                }
                Ok(None) => {
                    self.why.entry(key).or_insert_with(|| "nothing in the output tells its content".to_owned());
                }
                Err(e) => {
                    let why = damage(&e).map(|what| format!("{}: {what}", e.context_value("key").unwrap_or_default()));
                    self.why.insert(key, why.ok_or(e)?);
                }
            }
        }
        let current = survey.published().next_back().cloned();
        let again = self.again(&survey, current.as_ref());
        Ok(Mended { files, again, current })
    }

    /// Says why files are not made again that no repair makes.
    fn explain(&mut self, survey: &Survey) {
        for key in survey.problems.keys().filter(|key| ORDER.iter().all(|kind| kind.parse(key).is_none())) {
            let why = match registry::kind_of(key).map(|kind| kind.remake) {
                Some(Remake::Record) => "it is a record of a run, and no result depends on it",
                Some(Remake::Listing) => "the next run lists the whole input, and deletes it",
                _ => "nothing in the output tells its content",
            };
            self.why.insert(key.clone(), why.to_owned());
        }
    }

    /// Makes one file again. Returns its content, or none if it cannot be made; an empty one for a file that was streamed.
    async fn make(
        &mut self,
        survey: &Survey,
        twins: &HashMap<(String, u64), Vec<String>>,
        key: &str,
    ) -> Result<Option<Bytes>> {
        if let Some(body) = self.copy(survey, twins, key).await? {
            return Ok(Some(body));
        }
        if registry::CSV.parse(key).is_some() {
            return Ok(remake::csv(survey, self.output, key).await?.then(Bytes::new));
        }
        let Some(body) = remake::content(survey, self.output, key).await? else { return Ok(None) };
        let has_checksum = survey.named.get(key).is_some_and(|named| named.checksum.is_some());
        let proves_itself = SELF_SEALED.iter().any(|kind| kind.parse(key).is_some());
        if !(has_checksum || proves_itself) || !remake::fits(survey, key, &body) {
            let why = "what is made again has another content than the file on record";
            self.why.insert(key.to_owned(), why.to_owned());
            return Ok(None);
        }
        self.output.put(key, body.clone()).await?;
        Ok(Some(body))
    }

    /// Copies the file from another one with the same content.
    async fn copy(
        &self,
        survey: &Survey,
        twins: &HashMap<(String, u64), Vec<String>>,
        key: &str,
    ) -> Result<Option<Bytes>> {
        let Some(checksum) = survey.named.get(key).and_then(|named| named.checksum.clone()) else { return Ok(None) };
        let others = twins.get(&(checksum.sha256.clone(), checksum.bytes)).into_iter().flatten();
        for other in others.filter(|other| *other != key) {
            let file = FileRef { key: other.clone(), checksum: Some(checksum.clone()) };
            let body = match file.read(self.output).await {
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => continue,
                body => body?,
            };
            let both = [registry::FEATURES, registry::FEATURES_PART, registry::DELTA_PART];
            let linked = |key: &str| both.iter().any(|kind| kind.parse(key).is_some());
            if self.output.links() && linked(key) && linked(other) {
                self.output.link(other, key).await?;
            } else {
                self.output.put(key, body.clone()).await?;
            }
            return Ok(Some(body));
        }
        Ok(None)
    }

    /// Records of shards and groups of the current version that are still damaged. Says of other shards that their images
    /// are gone.
    fn again(&mut self, survey: &Survey, current: Option<&Manifest>) -> BTreeSet<String> {
        let mut again = BTreeSet::new();
        for problem in survey.problems.values().filter(|problem| problem.problem != Fault::Wrong) {
            let Some(record) = keys::record_of(&problem.file) else { continue };
            let is_current =
                |manifest: &&Manifest| manifest.released.is_none() && problem.versions.contains(&manifest.version);
            if current.filter(is_current).is_some() {
                again.insert(record);
            } else {
                let why = "it is not of the newest version, so its images are not known to exist; restore it from a backup, \
                           or delete its versions with `pomona vacuum`";
                self.why.insert(problem.file.clone(), why.to_owned());
            }
        }
        again
    }

    /// Computes shards again from the images. Returns whether a run has done so.
    async fn compute(
        &mut self,
        current: &Manifest,
        again: BTreeSet<String>,
        input: &RepairInput,
        tools: &dyn Tools,
        watcher: &dyn Watcher,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let records = again.clone();
        let run = async {
            let (stores, workers) = tools.open(current).await?;
            let fitted = basis_id(&current.extractor.id, &current.settings, &current.moments.id)?;
            // A run must not fit a basis again that the last run has kept.
            let refit = if fitted == current.basis.id { Refit::Always } else { Refit::Never };
            let mode = Mode { refit, ..input.mode };
            let settings = current.settings.clone();
            let plan = PlanInput { settings, mode, again, ..PlanInput::new(input.run.clone()) };
            pipeline::run(&stores, &workers, &plan, watcher, stop).await
        };
        let (ran, why) = match run.await {
            Ok(summary) => {
                let made = if summary.up_to_date {
                    String::new()
                } else {
                    format!(", and version {} was made of those that it has", summary.manifest.version.0)
                };
                let why = format!(
                    "the input no longer has these images as they were{made}; restore the file from a backup, or delete its \
                     versions with `pomona vacuum`"
                );
                (true, why)
            }
            Err(e) if e.is(ErrorKind::RunInterrupted) => return Err(e),
            Err(e) => (false, format!("the images could not be read again: error[{}]: {e}", e.kind())),
        };
        for problem in self
            .seen
            .values()
            .filter(|problem| keys::record_of(&problem.file).is_some_and(|record| records.contains(&record)))
        {
            self.why.insert(problem.file.clone(), why.clone());
        }
        Ok(ran)
    }

    /// The last check, with the problems that are gone marked as repaired, and the reasons of the others.
    fn finish(mut self, mut found: Checked) -> Checked {
        for problem in &mut found.problems {
            if let Some(why) = self.why.get(&problem.file) {
                problem.detail = format!("{}; not made again: {why}", problem.detail);
            }
            self.seen.remove(&problem.file);
        }
        found.problems.extend(self.seen.into_values().map(|problem| Problem { repaired: true, ..problem }));
        found.problems.sort_by(|a, b| a.file.cmp(&b.file));
        found
    }
}

/// Sound files by their content.
fn twins(survey: &Survey) -> HashMap<(String, u64), Vec<String>> {
    let mut twins: HashMap<(String, u64), Vec<String>> = HashMap::new();
    for (key, named) in survey.named.iter().filter(|(key, _)| survey.is_sound(key)) {
        if let Some(checksum) = &named.checksum {
            twins.entry((checksum.sha256.clone(), checksum.bytes)).or_default().push(key.clone());
        }
    }
    twins
}

/// Takes a file that was made again for sound, so that others can be made from it.
fn learn(survey: &mut Survey, key: &str, body: Bytes) {
    survey.problems.remove(key);
    survey.sound.insert(key.to_owned());
    if let Some((number, keys::VersionFile::State)) = keys::parse_version(key) {
        survey
            .versions
            .entry(number)
            .and_modify(|known| *known = Known { state: known.state.take(), ..Known::default() });
    } else if let Some(id) = keys::parse_group(key)
        && let Ok(record) = from_record::<crate::dataset::GroupRecord>(&body, key)
    {
        survey.groups.insert(id, std::sync::Arc::new(record));
    }
    survey.listed.insert(key.to_owned(), body.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_can_be_made_again_has_its_place_in_the_order() {
        let known: Vec<&str> = ORDER.iter().map(|kind| kind.name).collect();
        let remakable = registry::KINDS.iter().filter(|kind| {
            use registry::Remake::{Groups, Manifest, Scores, Shards, ShardsAndBasis, Sums};
            matches!(kind.remake, Groups | Manifest | Scores | Shards | ShardsAndBasis | Sums)
        });
        for kind in remakable.filter(|kind| **kind != registry::MOMENTS) {
            assert!(known.contains(&kind.name), "{}", kind.name);
        }
    }
}
