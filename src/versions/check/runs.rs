//! The folders of the runs that have published a version: records, work lists, and the lines that they name.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
};

use futures::{StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};

use super::{Fault, Survey, copy_of, states::MISSING};
use crate::{
    ErrorKind, Result,
    dataset::{
        self, Checksum, Manifest, from_json_lines, from_record, from_sealed_lines, keys, newest,
        record::{damaged, has_seal},
        registry::{self, FileKind},
    },
    ids::{RunId, ShardId},
    stages::{
        Featurized, Indexed, LineRange, Makes, MergeWork, Merged, PartWork, Plan, PlannedShard, Projected, Reduced,
        ShardWork,
    },
    store::{self, Object, Store},
};

/// Concurrent reads of records.
const CONCURRENCY: usize = 16;

/// Checks the folders of all published versions of format 2.
pub(super) async fn check(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    for manifest in survey.manifests() {
        let run = Folder { output, manifest: &manifest };
        run.check(survey).await?;
    }
    check_newest(survey, output).await
}

/// The newest report must be the report of the newest version that has one.
async fn check_newest(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let manifests = survey.manifests();
    let reports = manifests.iter().rev().map(|manifest| (manifest.version, keys::run_report(&manifest.run)));
    let newest =
        reports.into_iter().find_map(|(version, key)| Some((version, survey.named.get(&key)?.checksum.clone()?)));
    let Some((version, checksum)) = newest else {
        if newest::find(output).await?.is_some_and(|newest| newest.version.is_none()) {
            survey.report(keys::REPORT, Fault::Damaged, "this page does not say which version it is of", &[]);
        }
        return Ok(());
    };
    let named = super::Named { checksum: Some(checksum), versions: [version].into(), released: false };
    survey.named.insert(keys::REPORT.to_owned(), named);
    Ok(())
}

/// The folder of a run.
struct Folder<'a> {
    output: &'a dyn Store,
    manifest: &'a Manifest,
}

impl Folder<'_> {
    fn run(&self) -> &RunId {
        &self.manifest.run
    }

    fn key(&self, name: &str) -> String {
        keys::run(self.run(), name)
    }

    async fn check(&self, survey: &mut Survey) -> Result<()> {
        self.check_copy(survey).await?;
        let own = |run: &RunId| run == self.run();
        let plan = self.record(survey, &Plan::key(self.run()), |plan: &Plan| own(&plan.run)).await?;
        let is_own = |reduced: &Reduced| own(&reduced.run) && reduced.version == self.manifest.version;
        let reduced = self.record(survey, &Reduced::key(self.run()), is_own).await?;
        if let Some(plan) = &plan {
            self.check_work(survey, plan).await?;
        }
        if let Some(reduced) = &reduced {
            let all = |lines: &[PartWork]| {
                lines.len() as u64 == reduced.parts_to_project && lines.iter().all(|line| own(&line.run))
            };
            self.lines(survey, &self.key("project.jsonl"), all).await?;
            (0..reduced.parts).for_each(|part| self.exists(survey, &keys::projected(self.run(), part)));
            let table = &reduced.rejects_table;
            survey.named.entry(table.key.clone()).or_insert_with(|| super::Named {
                checksum: table.checksum.clone(),
                versions: [self.manifest.version].into(),
                released: false,
            });
        }
        self.check_records(survey).await?;
        self.check_report(survey).await
    }

    /// Checks the lists of shards and objects, and the work lists that follow from them.
    async fn check_work(&self, survey: &mut Survey, plan: &Plan) -> Result<()> {
        let lists = plan.groups.iter().map(|group| &group.list);
        let Some(shards) = self.ranges::<PlannedShard>(survey, lists).await? else { return Ok(()) };
        let expected: HashMap<&ShardId, &LineRange> =
            shards.iter().filter_map(|shard| Some((&shard.id, shard.objects.as_ref()?))).collect();
        let all = |lines: &[ShardWork]| {
            // On AWS, the lines have another order than the shards.
            let planned: HashMap<_, _> = lines.iter().map(|line| (&line.shard, &line.objects)).collect();
            lines.len() == expected.len() && planned == expected && lines.iter().all(|line| line.run == *self.run())
        };
        let work = self.lines(survey, &self.key("featurize.jsonl"), all).await?;
        self.ranges::<Object>(survey, work.iter().map(|line| &line.objects)).await?;
        let groups: HashMap<u64, &LineRange> = (0..).zip(&plan.groups).map(|(n, group)| (n, &group.list)).collect();
        let all = |lines: &[MergeWork]| {
            let merged = lines.iter().filter(|line| line.makes != Makes::Segment);
            merged.map(|line| line.group).eq(plan.merges())
                && lines.iter().all(|line| groups.get(&line.group) == Some(&&line.shards) && line.run == *self.run())
        };
        let merges = self.lines(survey, &self.key("merge.jsonl"), all).await?;
        let indexed = merges.iter().filter(|line| line.makes == Makes::Segment);
        indexed.for_each(|line| self.exists(survey, &keys::index_record(self.run(), line.group)));
        plan.merges().for_each(|number| self.exists(survey, &keys::merge_record(self.run(), number)));
        self.check_featurized(survey, &work);
        Ok(())
    }

    /// Shards without a record are those whose function failed, which have no record in their groups.
    fn check_featurized(&self, survey: &mut Survey, work: &[ShardWork]) {
        for (entry, number) in self.manifest.groups.iter().zip(0..) {
            let Some(group) = survey.groups.get(&entry.id) else { continue };
            let failed = group.shards.iter().filter(|shard| shard.record.is_none()).count();
            let keys =
                work.iter().filter(|work| work.group == number).map(|work| keys::featurized(self.run(), &work.shard));
            let missing: Vec<String> = keys.filter(|key| !survey.exists(key)).collect();
            if missing.len() > failed {
                missing.iter().for_each(|key| self.exists(survey, key));
            }
        }
    }

    /// Notes a problem of a file of this run.
    fn bad(&self, survey: &mut Survey, key: &str, fault: Fault, detail: impl Into<String>) {
        survey.report(key, fault, detail, &[self.manifest.version]);
    }

    fn exists(&self, survey: &mut Survey, key: &str) {
        if !survey.exists(key) {
            self.bad(survey, key, Fault::Missing, MISSING);
        }
    }

    async fn get(&self, survey: &mut Survey, key: &str) -> Result<Option<bytes::Bytes>> {
        let body = store::get_opt(self.output, key).await?;
        if body.is_none() {
            self.bad(survey, key, Fault::Missing, MISSING);
        }
        Ok(body)
    }

    /// Notes an error of decoding.
    fn decoded<T>(&self, survey: &mut Survey, key: &str, decoded: Result<T>) -> Result<Option<T>> {
        match decoded {
            Ok(value) => {
                survey.sound.insert(key.to_owned());
                Ok(Some(value))
            }
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => {
                self.bad(survey, key, Fault::Damaged, super::detail(&e));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Reads a record that belongs to its key.
    async fn record<T: DeserializeOwned>(
        &self,
        survey: &mut Survey,
        key: &str,
        belongs: impl Fn(&T) -> bool,
    ) -> Result<Option<T>> {
        let Some(body) = self.get(survey, key).await? else { return Ok(None) };
        self.decoded(survey, key, own(&body, key, belongs))
    }

    /// Reads a work list that has all of its lines.
    async fn lines<T: DeserializeOwned + Serialize>(
        &self,
        survey: &mut Survey,
        key: &str,
        all: impl Fn(&[T]) -> bool,
    ) -> Result<Vec<T>> {
        let Some(body) = self.get(survey, key).await? else { return Ok(Vec::new()) };
        let lines = from_sealed_lines::<T>(&body, key).and_then(|lines| {
            if all(&lines) { Ok(lines) } else { Err(damaged("these are not the lines of the plan", key)) }
        });
        Ok(self.decoded(survey, key, lines)?.unwrap_or_default())
    }

    /// The copy of the manifest must be the manifest.
    async fn check_copy(&self, survey: &mut Survey) -> Result<()> {
        let (key, original) = (copy_of(self.manifest), keys::version(self.manifest.version));
        let Some(copy) = self.get(survey, &key).await? else { return Ok(()) };
        let known = survey.versions.get(&self.manifest.version);
        if known.is_some_and(|known| known.problem.is_some()) {
            survey.sound.insert(key);
            return Ok(());
        }
        if store::get_opt(self.output, &original).await?.is_some_and(|original| original == copy) {
            survey.sound.insert(key);
        } else {
            self.bad(survey, &key, Fault::Damaged, "this copy differs from the manifest of the version");
        }
        Ok(())
    }

    /// Reads lines, and compares them with their checksums, and the ends of the files with those of their last lines. None if
    /// one is damaged.
    async fn ranges<'r, T: DeserializeOwned>(
        &self,
        survey: &mut Survey,
        ranges: impl Iterator<Item = &'r LineRange>,
    ) -> Result<Option<Vec<T>>> {
        let mut files: BTreeMap<&str, Vec<&LineRange>> = BTreeMap::new();
        ranges.for_each(|range| files.entry(&range.key).or_default().push(range));
        let mut lines: Option<Vec<T>> = Some(Vec::new());
        for (key, ranges) in files {
            let Some(body) = self.get(survey, key).await? else {
                lines = None;
                continue;
            };
            let found = self.decoded(survey, key, lines_of(&body, key, &ranges))?;
            lines = lines.zip(found).map(|(mut lines, found)| {
                lines.extend(found);
                lines
            });
        }
        Ok(lines)
    }

    /// Checks the records of shards, groups and parts.
    async fn check_records(&self, survey: &mut Survey) -> Result<()> {
        const KINDS: [FileKind; 3] = [registry::RUN_FEATURIZED, registry::RUN_MERGED, registry::RUN_PROJECTED];
        let folder = keys::run_folder(self.run());
        let files: Vec<String> = survey
            .listed
            .range(folder.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&folder))
            .filter(|key| KINDS.iter().any(|kind| kind.parse(key).is_some()))
            .cloned()
            .collect();
        let reads = stream::iter(files).map(|key| async move {
            let body = store::get_opt(self.output, &key).await;
            (key, body)
        });
        let mut reads = pin!(reads.buffered(CONCURRENCY));
        while let Some((key, body)) = reads.next().await {
            match body? {
                Some(body) => self.decoded(survey, &key, self.record_of_piece(&body, &key)).map(drop)?,
                None => self.bad(survey, &key, Fault::Missing, MISSING),
            }
        }
        Ok(())
    }

    /// Decodes the record of a shard, a group or a part.
    fn record_of_piece(&self, body: &[u8], key: &str) -> Result<()> {
        let run = self.run();
        if registry::RUN_FEATURIZED.parse(key).is_some() {
            own(body, key, |made: &Featurized| keys::featurized(run, &made.planned) == key).map(drop)
        } else if registry::RUN_MERGED.parse(key).is_some() {
            own(body, key, |m: &Merged| m.run == *run && keys::merge_record(run, m.group) == key).map(drop)
        } else if registry::RUN_INDEXED.parse(key).is_some() {
            own(body, key, |i: &Indexed| i.run == *run && keys::index_record(run, i.group) == key).map(drop)
        } else {
            own(body, key, |p: &Projected| p.run == *run && keys::projected(run, p.part.part) == key).map(drop)
        }
    }

    /// Checks the receipt, if there is one, and the files that it names.
    async fn check_report(&self, survey: &mut Survey) -> Result<()> {
        let key = self.key("receipt.json");
        let Some(body) = store::get_opt(self.output, &key).await? else { return Ok(()) };
        // The first release wrote receipts without a seal.
        let is_plain = self.manifest.released.is_some() && !has_seal(&body);
        let read = if is_plain { dataset::from_json(&body, &key) } else { from_record(&body, &key) };
        let Some(receipt) = self.decoded::<serde_json::Value>(survey, &key, read)? else { return Ok(()) };
        let files = receipt.get("files").cloned().unwrap_or_default();
        let files: BTreeMap<String, Checksum> = serde_json::from_value(files).unwrap_or_default();
        for (name, checksum) in files {
            let key = self.key(&name);
            if key == keys::run_report(self.run()) {
                let versions = [self.manifest.version].into();
                let named = super::Named { checksum: Some(checksum.clone()), versions, released: false };
                survey.named.insert(key.clone(), named);
            }
            let Some(body) = self.get(survey, &key).await? else { continue };
            self.decoded(survey, &key, checksum.check(&body, &key))?;
        }
        Ok(())
    }
}

/// Decodes a record that belongs to its key.
fn own<T: DeserializeOwned>(body: &[u8], key: &str, belongs: impl Fn(&T) -> bool) -> Result<T> {
    let record = from_record(body, key)?;
    if belongs(&record) { Ok(record) } else { Err(damaged("this is the record of something else", key)) }
}

/// Decodes the lines of a list, which must be all of the file.
fn lines_of<T: DeserializeOwned>(body: &[u8], key: &str, ranges: &[&LineRange]) -> Result<Vec<T>> {
    let mut lines = Vec::new();
    for range in ranges {
        let ends = usize::try_from(range.offset).ok().zip(usize::try_from(range.offset + range.length).ok());
        let text = ends.and_then(|(start, end)| body.get(start..end)).unwrap_or_default();
        Checksum { sha256: range.sha256.clone(), bytes: range.length }.check(text, key)?;
        lines.extend(from_json_lines::<T>(text, key)?);
    }
    let end = ranges.iter().map(|range| range.offset + range.length).max().unwrap_or(0);
    if end != body.len() as u64 {
        return Err(damaged("this file has another length than when it was written", key));
    }
    Ok(lines)
}
