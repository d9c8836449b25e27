//! The folders of the runs that have published a version: records, work lists, and the lines that they name.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use super::{Fault, Survey, copy_of, states::MISSING};
use crate::{
    ErrorKind, Result,
    dataset::{
        self, Checksum, Manifest, from_record, from_sealed_lines, keys,
        record::has_seal,
        registry::{self, FileKind},
    },
    ids::RunId,
    stages::{LineRange, MergeWork, PartWork, Plan, Reduced, ShardWork},
    store::{self, Store},
};

/// Checks the folders of all published versions of format 2.
pub(super) async fn check(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    for manifest in survey.manifests() {
        let run = Folder { output, manifest: &manifest };
        run.check(survey).await?;
    }
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
        let plan: Option<Plan> = self.record(survey, &Plan::key(self.run())).await?;
        let reduced: Option<Reduced> = self.record(survey, &Reduced::key(self.run())).await?;
        let work: Vec<ShardWork> = self.lines(survey, &self.key("featurize.jsonl")).await?;
        self.lines::<MergeWork>(survey, &self.key("merge.jsonl")).await?;
        self.lines::<PartWork>(survey, &self.key("project.jsonl")).await?;
        let mut ranges: BTreeMap<String, Vec<LineRange>> = BTreeMap::new();
        let lists = plan.iter().flat_map(|plan| plan.groups.iter().map(|group| &group.list));
        for range in lists.chain(work.iter().map(|work| &work.objects)) {
            ranges.entry(range.key.clone()).or_default().push(range.clone());
        }
        for (key, ranges) in ranges {
            self.ranges(survey, &key, &ranges).await?;
        }
        for number in plan.iter().flat_map(Plan::merges) {
            self.exists(survey, &keys::merge_record(self.run(), number));
        }
        if let Some(reduced) = &reduced {
            (0..reduced.parts).for_each(|part| self.exists(survey, &keys::projected(self.run(), part)));
            let table = &reduced.rejects_table;
            survey.named.entry(table.key.clone()).or_insert_with(|| super::Named {
                checksum: table.checksum.clone(),
                versions: [self.manifest.version].into(),
                released: false,
            });
        }
        self.seals(survey).await?;
        self.report(survey).await
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

    async fn record<T: DeserializeOwned>(&self, survey: &mut Survey, key: &str) -> Result<Option<T>> {
        let Some(body) = self.get(survey, key).await? else { return Ok(None) };
        self.decoded(survey, key, from_record(&body, key))
    }

    async fn lines<T: DeserializeOwned + Serialize>(&self, survey: &mut Survey, key: &str) -> Result<Vec<T>> {
        let Some(body) = self.get(survey, key).await? else { return Ok(Vec::new()) };
        Ok(self.decoded(survey, key, from_sealed_lines(&body, key))?.unwrap_or_default())
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

    /// Compares the lines of a list with their checksums, and its end with that of the last line.
    async fn ranges(&self, survey: &mut Survey, key: &str, ranges: &[LineRange]) -> Result<()> {
        let Some(body) = self.get(survey, key).await? else { return Ok(()) };
        let whole = ranges.iter().try_for_each(|range| {
            let lines = usize::try_from(range.offset).ok().zip(usize::try_from(range.offset + range.length).ok());
            let lines = lines.and_then(|(start, end)| body.get(start..end)).unwrap_or_default();
            Checksum { sha256: range.sha256.clone(), bytes: range.length }.check(lines, key)
        });
        let end = ranges.iter().map(|range| range.offset + range.length).max().unwrap_or(0);
        let whole = whole.and_then(|()| {
            if end == body.len() as u64 {
                Ok(())
            } else {
                Err(dataset::record::damaged("this file has another length than when it was written", key))
            }
        });
        self.decoded(survey, key, whole).map(drop)
    }

    /// Checks the seals of all other records in the folder.
    async fn seals(&self, survey: &mut Survey) -> Result<()> {
        const SEALED: [FileKind; 3] = [registry::RUN_FEATURIZED, registry::RUN_MERGED, registry::RUN_PROJECTED];
        let folder = keys::run_folder(self.run());
        let files: Vec<String> = survey
            .listed
            .range(folder.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&folder))
            .filter(|key| SEALED.iter().any(|kind| kind.parse(key).is_some()))
            .cloned()
            .collect();
        for key in files {
            self.record::<serde_json::Value>(survey, &key).await?;
        }
        Ok(())
    }

    /// Checks the receipt, if there is one, and the files that it names.
    async fn report(&self, survey: &mut Survey) -> Result<()> {
        let key = self.key("receipt.json");
        let Some(body) = store::get_opt(self.output, &key).await? else { return Ok(()) };
        let read = if has_seal(&body) { from_record(&body, &key) } else { dataset::from_json(&body, &key) };
        let Some(receipt) = self.decoded::<serde_json::Value>(survey, &key, read)? else { return Ok(()) };
        let files = receipt.get("files").cloned().unwrap_or_default();
        let files: BTreeMap<String, Checksum> = serde_json::from_value(files).unwrap_or_default();
        for (name, checksum) in files {
            let key = self.key(&name);
            let Some(body) = self.get(survey, &key).await? else { continue };
            self.decoded(survey, &key, checksum.check(&body, &key))?;
        }
        Ok(())
    }
}
