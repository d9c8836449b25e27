//! The Delta log, against what the manifests say.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{Fault, Survey, remake::tables_of, states::MISSING};
use crate::{
    Result,
    dataset::delta::{self, Snapshot},
    store::{self, Store},
};

/// Compares the commits of the log.
pub(super) async fn check(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let newest = survey.published().rfind(|manifest| delta::has(manifest)).cloned();
    let Some(newest) = newest else { return Ok(()) };
    // Without it, a group is damaged, and the log is compared when that is made again.
    let expected = log(survey)?;
    for key in delta::commits(&newest) {
        let named = super::Named { checksum: None, versions: [newest.version].into(), released: false };
        survey.named.insert(key.clone(), named);
        let Some(expected) = expected.as_ref().and_then(|log| log.get(&key)) else {
            survey.sound.insert(key);
            continue;
        };
        match store::get_opt(output, &key).await? {
            None => survey.report(&key, Fault::Missing, MISSING, &[newest.version]),
            Some(found) if found != *expected => {
                let what = "this commit is not the one of the versions that the output has";
                survey.report(&key, Fault::Damaged, what, &[newest.version]);
            }
            Some(_) => drop(survey.sound.insert(key)),
        }
    }
    Ok(())
}

/// The commits of the log by key. None if the shards of a version are not known.
pub(super) fn log(survey: &Survey) -> Result<Option<HashMap<String, Bytes>>> {
    let mut versions = BTreeMap::new();
    for manifest in survey.published().filter(|manifest| delta::has(manifest)) {
        let Some(groups) = tables_of(survey, manifest) else { return Ok(None) };
        versions.insert(manifest.version, Snapshot::new(manifest, &groups.concat())?);
    }
    Ok(Some(delta::log(&versions)?.into_iter().collect()))
}
