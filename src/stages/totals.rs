//! The sums of all rows of a version, for the stage `reduce`, and their file.

use std::collections::HashSet;

use super::{
    Plan,
    sums::{KnownSums, read_sums},
};
use crate::{
    ErrorKind, Result,
    dataset::{FileRef, GroupEntry, Manifest, Moments, blocking::run_blocking, keys, manifest::moments_id, tables},
    ids::GroupId,
    pca::moments::TotalMoments,
    store::Store,
};

/// The sums over all groups. From the sums of the base version, if fewer files are read then. Sums are exact, so both ways
/// give the same bits.
pub(super) async fn total(
    output: &dyn Store,
    plan: &Plan,
    groups: &[GroupEntry],
    base: Option<&Manifest>,
    known: KnownSums<TotalMoments>,
) -> Result<TotalMoments> {
    let columns = plan.extractor.columns;
    let base = base.filter(|base| base.extractor.id == plan.extractor.id && base.released.is_none());
    let unknown: Vec<_> = groups.iter().filter(|group| !known.groups.contains(&group.id)).collect();
    if let Some(base) = base {
        let (old, new) = (ids(base.groups.iter()), ids(groups.iter()));
        let added: Vec<_> = unknown.iter().copied().filter(|group| !old.contains(&group.id)).collect();
        let dropped: Vec<_> = base.groups.iter().filter(|group| !new.contains(&group.id)).collect();
        // The base has the rows of a group that was made again because it was damaged.
        let usable = !known.groups.iter().any(|group| old.contains(group));
        if usable && 1 + added.len() + dropped.len() < unknown.len() {
            match from_base(output, base, &added, &dropped, known.total.as_ref()).await {
                Err(e) if e.is(ErrorKind::DatasetCorrupt) => {}
                totals => return totals,
            }
        }
    }
    let mut totals = known.total.unwrap_or_else(|| TotalMoments::zero(columns));
    add_groups(output, &mut totals, unknown.into_iter()).await?;
    Ok(totals)
}

/// The sums over groups. Fails with `Dataset.Corrupt`.
pub(crate) async fn sum_of_groups(output: &dyn Store, groups: &[GroupEntry], columns: usize) -> Result<TotalMoments> {
    let mut totals = TotalMoments::zero(columns);
    add_groups(output, &mut totals, groups.iter()).await?;
    Ok(totals)
}

async fn add_groups<'a>(
    output: &dyn Store,
    totals: &mut TotalMoments,
    groups: impl Iterator<Item = &'a GroupEntry>,
) -> Result<()> {
    for sums in groups.filter_map(GroupEntry::sums) {
        totals.add(&read_sums(output, &sums, totals.columns()).await?)?;
    }
    Ok(())
}

fn ids<'a>(groups: impl Iterator<Item = &'a GroupEntry>) -> HashSet<&'a GroupId> {
    groups.map(|group| &group.id).collect()
}

async fn from_base(
    output: &dyn Store,
    base: &Manifest,
    added: &[&GroupEntry],
    dropped: &[&GroupEntry],
    known: Option<&TotalMoments>,
) -> Result<TotalMoments> {
    let columns = base.extractor.columns;
    let mut totals = read_sums(output, &base.moments.file, columns).await?;
    if let Some(sums) = known {
        totals.add(sums)?;
    }
    add_groups(output, &mut totals, added.iter().copied()).await?;
    for sums in dropped.iter().filter_map(|group| group.sums()) {
        totals.subtract(&read_sums(output, &sums, columns).await?)?;
    }
    Ok(totals)
}

/// Stores the total sums, unless they are those of the only group. Returns them, too.
pub(super) async fn keep(
    output: &dyn Store,
    plan: &Plan,
    totals: TotalMoments,
    groups: &[GroupEntry],
) -> Result<(TotalMoments, Moments)> {
    let extractor = plan.extractor.id.clone();
    let only = if let [group] = groups { group.sums() } else { None };
    let written = run_blocking(move || {
        let id = moments_id(&totals);
        let (file, body) = match only {
            Some(file) => (file, None),
            None => {
                let body = tables::write_total_sums(&totals, extractor.as_str())?;
                (FileRef::of(keys::totals(&id), &body), Some(body))
            }
        };
        Ok((totals, Moments { id, file }, body))
    });
    let (totals, moments, body) = written.await?;
    if let Some(body) = body {
        output.put(&moments.file.key, body).await?;
    }
    Ok((totals, moments))
}
