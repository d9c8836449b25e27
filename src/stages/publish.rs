//! Publishing: the tables of a whole version, and its manifest.
//!
//! Reads `runs/<run>/plan.json`, `reduced.json`, `rejects.parquet`, `projected/`, `csv/` and the records of the groups.
//! Writes the lists of parts, the folder of features, the record of the extractor, the tables of rejects, duplicates and
//! outliers and the CSV, then `versions/<number>.json`, which makes the version visible.

use std::pin::pin;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, try_join};

use super::{
    Plan, Published, Reduced, RunInput, STORE_CONCURRENCY, Stores,
    damage::noted,
    duplicates::{Earlier, Subject, duplicates},
    outliers::{Scored, outliers},
    project::csv_header,
    records::read_projected,
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        self, Classification, ClassifierSummary, Duplicates, FORMAT, FeaturesFolder, FileRef, GroupRecord, Manifest,
        Outliers, Outputs, Part, PartList, RunFigures, ShardEntry, SplitCount, VersionState,
        classification::add_splits,
        contents, delta, inbox, keys, lease,
        record::{Hasher, damaged},
        settings::Settings,
        timing::now,
    },
    ids::{RunId, Version},
    model::ExtractorRecord,
    store::Store,
};

/// Parts of a CSV that are read at a time.
const CSV_PARTS_AT_A_TIME: usize = 8;

/// Publishes a run whose parts are all written.
///
/// A second call gives the same answer. Fails with `Dataset.Conflict` if another run has published since this one was
/// planned; the tables of this run are then deleted. Fails with `Dataset.Corrupt` if a vacuum has ended the run, and with
/// `Dataset.Busy` during one.
#[compiled_once]
pub async fn publish(stores: &Stores, input: RunInput) -> Result<Published> {
    let output = stores.output.as_ref();
    noted(output, &input.run, publish_run(output, &input.run)).await
}

async fn publish_run(output: &dyn Store, run: &RunId) -> Result<Published> {
    let plan = Plan::read(output, run).await?;
    let reduced = Reduced::read(output, run).await?;
    let rest = Rest { output, run, parts: reduced.parts, has_csv: plan.settings.writes_csv() };
    let notices = plan.notices.clone();
    if let Some(manifest) = published_by(output, run, reduced.version).await? {
        // An earlier call was killed after its commit, or its answer was lost.
        return rest.finish(&manifest, &notices).await;
    }
    lease::expect_mark(output, run).await?;
    let manifest = manifest(output, plan, reduced).await?;
    match dataset::commit(output, manifest.clone()).await {
        Ok(()) => rest.finish(&manifest, &notices).await,
        Err(e) if e.is(ErrorKind::DatasetConflict) => {
            // Before the lists of parts, which name the other files.
            let mine = contents::files_of_version_only(output, &manifest).await?;
            delete(output, mine.into_iter().chain(rest.csv_parts())).await?;
            lease::leave(output, run).await?;
            Err(e)
        }
        Err(e) => Err(e),
    }
}

/// The manifest of the version, if this run has published it.
async fn published_by(output: &dyn Store, run: &RunId, version: Version) -> Result<Option<Manifest>> {
    match dataset::state(output, version).await {
        Ok(VersionState::Published(manifest)) if manifest.run == *run => Ok(Some(*manifest)),
        Ok(_) => Ok(None),
        Err(e) if e.is(ErrorKind::StoreNotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a run leaves to do after its commit.
struct Rest<'a> {
    output: &'a dyn Store,
    run: &'a RunId,
    parts: u64,
    has_csv: bool,
}

impl Rest<'_> {
    /// Keys of the parts of the CSV, which are no longer needed.
    fn csv_parts(&self) -> impl Iterator<Item = String> {
        let parts = if self.has_csv { self.parts } else { 0 };
        (0..parts).map(|part| keys::csv_part(self.run, part))
    }

    /// Each step can be repeated. The mark is last: without it, a vacuum may take the folder of the run.
    async fn finish(&self, manifest: &Manifest, notices: &[String]) -> Result<Published> {
        self.output.put_if_absent(&keys::success(manifest.version), Bytes::new()).await?;
        delta::extend(self.output, manifest).await?;
        delete(self.output, self.csv_parts()).await?;
        inbox::clear(self.output, notices).await?;
        lease::leave(self.output, self.run).await?;
        Ok(answer(manifest))
    }
}

async fn delete(output: &dyn Store, keys: impl IntoIterator<Item = String>) -> Result<()> {
    let keys: Vec<String> = keys.into_iter().collect();
    let deletes: Vec<_> = keys.iter().map(|key| output.delete(key)).collect();
    stream::iter(deletes).buffer_unordered(STORE_CONCURRENCY).try_collect().await
}

/// Writes the tables of the version; returns its manifest.
async fn manifest(output: &dyn Store, plan: Plan, reduced: Reduced) -> Result<Manifest> {
    let (run, version) = (&plan.run, reduced.version);
    let mut figures = reduced.figures.clone();
    let groups = contents::groups(output, &reduced.groups).await?;
    let ((Parts { scores, milliseconds, csv, splits, .. }, outliers), duplicates, features, rejects, ()) = try_join!(
        async {
            let parts = parts(output, run, &reduced, &groups).await?;
            let outliers = find_outliers(output, &plan, &reduced, &parts.list).await?;
            Ok((parts, outliers))
        },
        find_duplicates(output, &plan, version, &groups),
        link_features(output, version, &groups, &plan.settings),
        copy_rejects(output, &reduced),
        keep_extractor(output, &plan, &figures),
    )?;
    figures.project_ms += milliseconds;
    let csv = if plan.settings.writes_csv() { Some(join_csv(output, &reduced, csv).await?) } else { None };
    Ok(Manifest {
        format: FORMAT,
        version,
        parent: plan.base,
        created: plan.timing.began,
        finished: now(),
        pomona: env!("CARGO_PKG_VERSION").to_owned(),
        input: plan.input,
        input_identity: plan.input_identity,
        settings: plan.settings,
        extractor: plan.extractor,
        images: reduced.images,
        rejects: reduced.rejects,
        ignored: plan.ignored,
        labels_unused: plan.labels_unused,
        labels: reduced.labels,
        basis: reduced.basis,
        moments: reduced.moments,
        classifier: reduced.classifier.map(|classifier| with_splits(classifier, splits)),
        duplicates: Some(duplicates),
        outliers: Some(outliers),
        index: reduced.index,
        outputs: Outputs { features: Some(features), scores, csv, rejects },
        groups: reduced.groups,
        figures,
        run: plan.run,
        released: None,
    })
}

/// All parts of a version.
#[derive(Default)]
struct Parts {
    /// The lists of parts, one per group.
    scores: Vec<FileRef>,
    /// All parts, in key order.
    list: Vec<Part>,
    /// Milliseconds of their projection.
    milliseconds: u64,
    /// Their rows as CSV.
    csv: Vec<FileRef>,
    /// Their predictions, by split.
    splits: Vec<SplitCount>,
}

fn with_splits(classifier: Classification, splits: Vec<SplitCount>) -> Classification {
    match classifier {
        Classification::Fitted(summary) => Classification::Fitted(Box::new(ClassifierSummary { splits, ..*summary })),
        none => none,
    }
}

/// The base version and its shards. None if it has no duplicates, is gone or damaged: it is not needed.
async fn earlier(output: &dyn Store, base: Version) -> Result<Option<(Box<Manifest>, Vec<ShardEntry>)>> {
    let found = async {
        let VersionState::Published(manifest) = dataset::state(output, base).await? else {
            return Ok::<_, Error>(None);
        };
        if manifest.duplicates.is_none() {
            return Ok(None);
        }
        let shards = contents::shards(output, &manifest).await?;
        Ok(Some((manifest, shards)))
    };
    match found.await {
        Err(e) if e.is(ErrorKind::DatasetCorrupt) || e.is(ErrorKind::StoreNotFound) => Ok(None),
        found => found,
    }
}

/// Writes the table of outliers.
async fn find_outliers(output: &dyn Store, plan: &Plan, reduced: &Reduced, parts: &[Part]) -> Result<Outliers> {
    let (version, extractor, settings) = (reduced.version, &plan.extractor.id, &plan.settings);
    let (found, files) =
        outliers(output, Scored { version, extractor, basis: &reduced.basis, settings, parts }).await?;
    put_all(output, files).await.map(|()| found)
}

/// Writes the table of duplicates.
async fn find_duplicates(
    output: &dyn Store,
    plan: &Plan,
    version: Version,
    groups: &[GroupRecord],
) -> Result<Duplicates> {
    let shards: Vec<_> = groups.iter().flat_map(|group| group.shards.iter().cloned()).collect();
    let base = match plan.base {
        Some(base) => earlier(output, base).await?,
        None => None,
    };
    let base = base.as_ref().and_then(|(base, shards)| {
        let duplicates = base.duplicates.as_ref()?;
        Some(Earlier { shards, extractor: &base.extractor.id, duplicates })
    });
    let (extractor, settings) = (&plan.extractor, &plan.settings);
    let (found, files) = duplicates(output, Subject { version, shards: &shards, extractor, settings, base }).await?;
    put_all(output, files).await.map(|()| found)
}

async fn put_all(output: &dyn Store, files: Vec<(String, Bytes)>) -> Result<()> {
    for (key, body) in files {
        output.put(&key, body).await?;
    }
    Ok(())
}

/// Writes the lists of parts.
async fn parts(output: &dyn Store, run: &RunId, reduced: &Reduced, groups: &[GroupRecord]) -> Result<Parts> {
    let mut parts = Parts::default();
    let mut projected = pin!(read_projected(output, run, reduced.parts));
    for (group, number) in groups.iter().zip(0..) {
        let mut list = PartList { version: reduced.version, group: number, parts: Vec::new() };
        for shard in group.shards.iter().filter(|shard| shard.rows > 0) {
            let Some(part) = projected.try_next().await? else { break };
            if (&part.part.shard, part.part.rows) != (&shard.id, shard.rows) {
                return Err(damaged(
                    "this is the record of a part of another shard",
                    &keys::projected(run, part.part.part),
                ));
            }
            parts.milliseconds += part.timing.map_or(0, |timing| timing.milliseconds);
            parts.csv.extend(part.csv);
            add_splits(&mut parts.splits, part.part.predictions.as_ref().map_or(&[], |part| part.splits.as_slice()));
            list.parts.push(part.part);
        }
        let (key, file) = (keys::part_list(reduced.version, number), dataset::to_record(&list)?);
        parts.list.append(&mut list.parts);
        parts.scores.push(FileRef::of(key.clone(), &file));
        output.put(&key, file).await?;
    }
    Ok(parts)
}

/// Makes the folder of the version's features: links to the tables of its shards, copies of them, or a list.
async fn link_features(
    output: &dyn Store,
    version: Version,
    groups: &[GroupRecord],
    settings: &Settings,
) -> Result<FeaturesFolder> {
    if settings.delta() {
        delta::link(output, groups.iter().flat_map(|group| &group.shards)).await?;
    }
    let folder = keys::features_folder(version);
    let tables = groups.iter().flat_map(|group| &group.shards).filter_map(|shard| shard.features());
    if output.links() || settings.materialize_features {
        let links: Vec<_> = tables
            .zip(0..)
            .map(|(table, part)| async move { output.link(&table.key, &keys::features_part(version, part)).await })
            .collect();
        stream::iter(links).buffer_unordered(STORE_CONCURRENCY).try_collect::<()>().await?;
        return Ok(FeaturesFolder { folder, list: None });
    }
    let list = contents::symlinks(output, tables.map(|table| table.key));
    let file = FileRef::of(keys::symlinks(version), &list);
    output.put(&file.key, list).await?;
    Ok(FeaturesFolder { folder, list: Some(file) })
}

async fn copy_rejects(output: &dyn Store, reduced: &Reduced) -> Result<FileRef> {
    let table = reduced.rejects_table.read(output).await?;
    let rejects = FileRef::of(keys::rejects(reduced.version), &table);
    output.put(&rejects.key, table).await.map(|()| rejects)
}

async fn keep_extractor(output: &dyn Store, plan: &Plan, figures: &RunFigures) -> Result<()> {
    let record = ExtractorRecord::new(&plan.extractor, figures.milliseconds_per_image());
    output.put_if_absent(&keys::extractor(&plan.extractor.id), dataset::to_record(&record)?).await.map(drop)
}

fn answer(manifest: &Manifest) -> Published {
    Published {
        run: manifest.run.clone(),
        version: manifest.version,
        images: manifest.images,
        rejects: manifest.rejects,
        components: manifest.basis.components,
        explained: manifest.basis.explained_variance_ratio.iter().sum(),
        manifest: keys::version(manifest.version),
        features: keys::features_folder(manifest.version),
        basis: manifest.basis.file.key.clone(),
        pca: keys::pca(manifest.version),
        rejects_table: manifest.outputs.rejects.key.clone(),
        csv: manifest.outputs.csv.as_ref().map(|csv| csv.key.clone()),
    }
}

/// Writes one CSV file: the header, then the rows of all parts. Its checksum is that of all bytes, so they come here.
async fn join_csv(output: &dyn Store, reduced: &Reduced, parts: Vec<FileRef>) -> Result<FileRef> {
    let key = keys::csv(reduced.version);
    let mut written = Hasher::default();
    let reads: Vec<_> = parts.iter().map(|part| part.read(output)).collect();
    let parts = stream::iter(reads).buffered(CSV_PARTS_AT_A_TIME);
    let header = csv_header(reduced.basis.components);
    let body = stream::once(async { Ok::<_, Error>(header) }).chain(parts).inspect_ok(|piece| written.push(piece));
    output.put_stream(&key, body.boxed()).await?;
    Ok(FileRef { key, checksum: Some(written.finish()) })
}
