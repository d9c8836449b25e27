//! The marker, and the chain of versions.
//!
//! A version replaces its parent. All numbers between the two were abandoned before it was published, so a record that is
//! missing or damaged can be told from its neighbours, from its copy, and from the tables.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Fault, Known, Survey, detail};
use crate::{
    Error, ErrorKind, Result,
    dataset::{self, MARKER, Manifest, VersionState, from_json, from_record, keys, record::has_seal, registry},
    ids::{RunId, Version},
    store::{self, Store},
};

/// The content of a claim.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) version: Version,
    pub(super) run: RunId,
}

/// Reads the marker and the records of all versions.
pub(super) async fn read(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    check_marker(survey, output).await?;
    let (mut decided, mut claimed) = (BTreeSet::new(), BTreeSet::new());
    for (number, file) in survey.listed.keys().filter_map(|key| keys::parse_version(key)) {
        match file {
            keys::VersionFile::State => decided.insert(number),
            keys::VersionFile::Claim => claimed.insert(number),
        };
    }
    for number in decided {
        let known = match dataset::state(output, number).await {
            Ok(state) => Known { state: Some(state), ..Known::default() },
            Err(e) if e.is(ErrorKind::DatasetCorrupt) => lost(Fault::Damaged, detail(&e)),
            Err(e) if e.is(ErrorKind::StoreNotFound) => lost(Fault::Missing, MISSING),
            Err(e) => return Err(e),
        };
        survey.versions.insert(number, known);
    }
    for number in missing(survey) {
        survey.versions.insert(number, lost(Fault::Missing, MISSING));
    }
    let claims = read_claims(survey, output, claimed).await?;
    find_copies(survey, output, &claims).await?;
    infer_abandoned(survey);
    report(survey, &claims);
    Ok(())
}

pub(super) const MISSING: &str = "this file is missing";

fn lost(fault: Fault, detail: impl Into<String>) -> Known {
    Known { problem: Some((fault, detail.into())), ..Known::default() }
}

async fn check_marker(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    match dataset::expect_output(output).await {
        Ok(()) => {
            survey.sound.insert(MARKER.to_owned());
            Ok(())
        }
        Err(e) if e.is(ErrorKind::OutputNoVersion) => {
            survey.report(MARKER, Fault::Missing, MISSING, &[]);
            Ok(())
        }
        Err(e) => survey.note(MARKER, e, Fault::Damaged),
    }
}

/// Whether there are records of versions, or claims on them.
pub(super) async fn has_versions(output: &dyn Store) -> Result<bool> {
    let listed = store::list_all(output, keys::VERSIONS).await?;
    Ok(listed.iter().any(|object| keys::parse_version(&object.key).is_some()))
}

/// Numbers that have no record and must have one: those below a published version, and those with a complete table.
fn missing(survey: &Survey) -> Vec<Version> {
    let was_published =
        |known: &Known| matches!(known.state, Some(VersionState::Published(_) | VersionState::Removed { .. }));
    let highest = survey.versions.iter().filter(|(_, known)| was_published(known)).map(|(number, _)| number.0).max();
    let complete = survey.listed.keys().filter_map(|key| registry::SUCCESS.parse(key)?.first()?.parse().ok());
    let expected: BTreeSet<Version> = (1..highest.unwrap_or(1)).chain(complete).map(Version).collect();
    expected.into_iter().filter(|number| !survey.versions.contains_key(number)).collect()
}

/// Reads the claims that can be read.
async fn read_claims(
    survey: &mut Survey,
    output: &dyn Store,
    claimed: BTreeSet<Version>,
) -> Result<BTreeMap<Version, RunId>> {
    let mut claims = BTreeMap::new();
    for number in claimed {
        let key = keys::claim(number);
        let Some(text) = store::get_opt(output, &key).await? else { continue };
        let claim = if has_seal(&text) {
            from_record(&text, &key)
        } else {
            from_json(&text, &key).map(|run| Claim { version: number, run })
        };
        // Claims of format 1 have no seal. An output that began with it has versions of it, or none.
        let sealed = has_seal(&text) || survey.versions.values().any(Known::is_released);
        match claim {
            Ok(claim) if claim.version == number && sealed => {
                survey.sound.insert(key);
                claims.insert(number, claim.run);
            }
            Ok(_) if !sealed => survey.report(&key, Fault::Damaged, "this record does not end with its checksum", &[]),
            Ok(_) => survey.report(&key, Fault::Wrong, "this is the claim on another version", &[]),
            Err(e) => survey.note(&key, e, Fault::Damaged)?,
        }
    }
    Ok(claims)
}

impl Known {
    fn is_released(&self) -> bool {
        match &self.state {
            Some(VersionState::Published(manifest)) => manifest.released.is_some(),
            // What an old version has left cannot be told from what a new one has left.
            Some(VersionState::Removed { .. }) => true,
            _ => false,
        }
    }
}

/// Finds the copies of manifests: those of versions that can be read, to compare them, and those of the others.
async fn find_copies(survey: &mut Survey, output: &dyn Store, claims: &BTreeMap<Version, RunId>) -> Result<()> {
    let of_run = |run: &RunId| keys::kept_manifest(run);
    let lost: Vec<Version> =
        survey.versions.iter().filter(|(_, k)| k.state.is_none()).map(|(number, _)| *number).collect();
    for number in lost {
        let claimed = claims.get(&number).map(of_run).filter(|key| survey.exists(key));
        let all = survey.listed.keys().filter(|key| registry::RUN_MANIFEST.parse(key).is_some()).cloned();
        let places: Vec<String> = claimed.into_iter().chain(all).collect();
        for key in places {
            let Some(copy) = store::get_opt(output, &key).await? else { continue };
            let Ok(VersionState::Published(manifest)) = from_record::<VersionState>(&copy, &key) else { continue };
            if manifest.version == number && was_published(survey, &manifest) {
                if let Some(known) = survey.versions.get_mut(&number) {
                    known.state = Some(VersionState::Published(manifest));
                    known.copy = Some(copy);
                }
                break;
            }
        }
    }
    Ok(())
}

/// Whether a run has published what it was about to. One that lost against another has deleted its tables.
fn was_published(survey: &Survey, manifest: &Manifest) -> bool {
    survey.exists(&manifest.outputs.rejects.key)
        || survey.exists(&keys::success(manifest.version))
        || survey.published().any(|other| other.parent == Some(manifest.version))
}

/// All numbers between a version and its parent were abandoned.
fn infer_abandoned(survey: &mut Survey) {
    let published: Vec<(u64, u64, RunId)> = survey
        .published()
        .map(|manifest| (manifest.parent.map_or(0, |parent| parent.0), manifest.version.0, manifest.run.clone()))
        .collect();
    for (number, known) in survey.versions.iter_mut().filter(|(_, known)| known.problem.is_some()) {
        let above = published.iter().find(|(parent, version, _)| (parent + 1..*version).contains(&number.0));
        if let Some((_, _, run)) = above {
            known.state = Some(VersionState::Abandoned { version: *number, by: run.clone() });
            known.copy = None;
        }
    }
}

/// Reports lost records, and versions that do not follow their parents.
fn report(survey: &mut Survey, claims: &BTreeMap<Version, RunId>) {
    let mut found = Vec::new();
    for (number, known) in &survey.versions {
        if let Some((fault, detail)) = &known.problem {
            found.push((keys::version(*number), *fault, detail.clone(), *number));
        }
    }
    for manifest in survey.published() {
        let mut wrong =
            |what: String| found.push((keys::version(manifest.version), Fault::Wrong, what, manifest.version));
        let parent = manifest.parent.unwrap_or(Version(0));
        if parent >= manifest.version {
            wrong(format!("its parent is version {}", parent.0));
            continue;
        }
        if let Some(VersionState::Abandoned { .. }) =
            survey.versions.get(&parent).and_then(|known| known.state.as_ref())
        {
            wrong(format!("its parent, version {}, was abandoned", parent.0));
        }
        for number in (parent.0 + 1..manifest.version.0).map(Version) {
            if let Some(VersionState::Published(_) | VersionState::Removed { .. }) =
                survey.versions.get(&number).and_then(|known| known.state.as_ref())
            {
                wrong(format!("its parent is version {}, not version {}", parent.0, number.0));
            }
        }
        if claims.get(&manifest.version).is_some_and(|run| *run != manifest.run) {
            wrong("another run has claimed this version".to_owned());
        }
        let claim = keys::claim(manifest.version);
        if manifest.released.is_none() && !survey.exists(&claim) {
            found.push((claim, Fault::Missing, MISSING.to_owned(), manifest.version));
        }
    }
    for (key, fault, detail, version) in found {
        survey.report(&key, fault, detail, &[version]);
    }
}

/// Forgets problems of versions that a vacuum has removed in the meantime.
pub(super) async fn forget_removed(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let concerned: BTreeSet<Version> =
        survey.problems.values().flat_map(|problem| &problem.versions).copied().collect();
    let mut removed = BTreeSet::new();
    for version in concerned {
        let state: std::result::Result<_, Error> = dataset::state(output, version).await;
        let is_removed = matches!(state, Ok(VersionState::Removed { .. }));
        let was_removed =
            matches!(survey.versions.get(&version), Some(Known { state: Some(VersionState::Removed { .. }), .. }));
        if is_removed && !was_removed {
            removed.insert(version);
        }
    }
    survey.problems.retain(|_, problem| {
        let before = problem.versions.len();
        problem.versions.retain(|version| !removed.contains(version));
        before == 0 || !problem.versions.is_empty()
    });
    Ok(())
}
