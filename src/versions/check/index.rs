//! Segments of the search index against the features of their groups.

use std::collections::HashSet;

use super::{Fault, Survey};
use crate::{
    ErrorKind, Result,
    dataset::{Checksum, Manifest},
    stages::segment,
    store::Store,
};

/// Makes the segments of all versions again, and compares them.
pub(super) async fn check(survey: &mut Survey, output: &dyn Store) -> Result<()> {
    let mut compared = HashSet::new();
    for manifest in survey.manifests() {
        let Manifest { index: Some(index), groups, extractor, .. } = &manifest else { continue };
        for (group, file) in index.files(groups) {
            let Some(record) = survey.groups.get(&group.id).cloned() else { continue };
            let is_whole = record.shards.iter().all(|shard| survey.is_whole(shard));
            if !is_whole || survey.problems.contains_key(&file.key) || !compared.insert(file.key.clone()) {
                continue;
            }
            match segment(output, extractor, &record).await {
                Ok(made) if made.as_ref().map(|made| Checksum::of(made)) == file.checksum => {}
                Ok(_) => survey.report(&file.key, Fault::Wrong, "these are not the features of its shards", &[]),
                // The damaged table is reported where it is read.
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
