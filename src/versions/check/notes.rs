//! Findings that are no damage: unknown files, files of no version, and marks. And the inbox.

use std::collections::{BTreeSet, HashSet};

use super::{Fault, FoundMark, Orphans, Survey};
use crate::{
    ErrorKind, Result,
    dataset::{
        inbox, keys,
        lease::{Judge, Liveness},
        registry, review,
    },
    store::{self, Store},
};

/// Files that Pomona did not write.
pub(super) fn unknown(survey: &Survey) -> Vec<String> {
    survey.listed.keys().filter(|key| registry::kind_of(key).is_none()).cloned().collect()
}

/// Files that a vacuum deletes: no version names them, and they are not of a run in progress.
pub(super) fn orphans(survey: &Survey) -> Orphans {
    let mut runs: HashSet<String> = survey.published().map(|manifest| keys::run_folder(&manifest.run)).collect();
    for mark in survey.marks.iter().filter(|mark| mark.holder != Liveness::Dead) {
        runs.extend(mark.file.rsplit_once('/').map(|(folder, _)| format!("{folder}/")));
    }
    let kept = |key: &str| {
        // The name of a run has no slash.
        let folder = key.match_indices('/').nth(1).map(|(at, _)| &key[..=at]);
        survey.named.contains_key(key) || folder.is_some_and(|folder| runs.contains(folder))
    };
    let mut orphans = Orphans::default();
    for (key, bytes) in &survey.listed {
        if registry::kind_of(key).is_some_and(|kind| kind.swept) && !kept(key) {
            orphans.files += 1;
            orphans.bytes += bytes;
        }
    }
    orphans
}

/// Judges all marks of runs and locks of vacuums.
pub(super) async fn marks(survey: &Survey, output: &dyn Store, judge: Judge<'_>) -> Result<Vec<FoundMark>> {
    let kinds = [&registry::RUN_STARTED, &registry::LOCK, &registry::BROKEN_LOCK];
    let mut marks = Vec::new();
    for key in survey.listed.keys().filter(|key| kinds.iter().any(|kind| kind.parse(key).is_some())) {
        if let Some(holder) = judge.liveness(output, key).await? {
            marks.push(FoundMark { file: key.clone(), holder });
        }
    }
    Ok(marks)
}

/// Reads the notices of uploads.
pub(super) async fn check_inbox(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let notices: Vec<String> =
        survey.listed.keys().filter(|key| registry::NOTICE.parse(key).is_some()).cloned().collect();
    for key in notices {
        // A run deletes the notices that it has read.
        let Some(body) = store::get_opt(output, &key).await? else { continue };
        let names_images = serde_json::from_slice::<BTreeSet<String>>(&body).is_ok();
        if !names_images || inbox::name_of(&body) != key {
            survey.report(&key, Fault::Damaged, "this notice has another content than when it was written", &[]);
        }
    }
    Ok(())
}

/// Reads the labels that people accepted or corrected: the next run would refuse another file.
pub(super) async fn check_review(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    match review::read(output).await {
        Err(error) if error.is(ErrorKind::InputInvalid) => {
            survey.report(keys::REVIEW, Fault::Damaged, error.to_string(), &[]);
            Ok(())
        }
        read => read.map(drop),
    }
}
