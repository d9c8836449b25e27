//! The commit protocol: publishing a version without forks and without lost updates.
//!
//! A run claims a version number before it writes below `pca/v=00000007/`, so that no two runs write there. To publish, it
//! first marks each number between its parent version and its own as abandoned, and then puts its manifest. Both are
//! conditional puts. If another run published one of those numbers, the put fails and the run plans again. Publishing is
//! lock-free: of runs that conflict, one succeeds.

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{FORMAT, MARKER, Manifest, VersionState, from_json, keys, read_json, to_json};
use crate::{
    Error, ErrorKind, Result,
    ids::{RunId, Version},
    store::{self, Store},
};

/// The version numbers of an output.
#[derive(Debug, Default)]
pub struct Versions {
    /// Numbers with a [`VersionState`], ascending.
    pub decided: Vec<Version>,
    /// The highest number that has a state or a claim; 0 without one.
    pub highest: u64,
}

/// Lists the version numbers of an output.
pub async fn versions(store: &dyn Store) -> Result<Versions> {
    let mut versions = Versions::default();
    for object in store::list_all(store, keys::VERSIONS).await? {
        let Some((number, kind)) = keys::parse_version(&object.key) else { continue };
        versions.highest = versions.highest.max(number.0);
        if kind == keys::VersionFile::State {
            versions.decided.push(number);
        }
    }
    Ok(versions)
}

/// Reads the state of a decided version. Fails with `Store.NotFound` for other numbers.
pub async fn state(store: &dyn Store, version: Version) -> Result<VersionState> {
    read_json(store, &keys::version(version)).await
}

/// The manifest of the newest published version. None without one.
pub async fn current(store: &dyn Store) -> Result<Option<Manifest>> {
    for version in versions(store).await?.decided.into_iter().rev() {
        if let VersionState::Published(manifest) = state(store, version).await? {
            return Ok(Some(*manifest));
        }
    }
    Ok(None)
}

/// The manifests of all published versions, ascending. Removed versions are left out.
pub async fn published(store: &dyn Store) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for version in versions(store).await?.decided {
        if let VersionState::Published(manifest) = state(store, version).await? {
            manifests.push(*manifest);
        }
    }
    Ok(manifests)
}

/// The manifest of a published version, of the newest one without a number. Fails with `Output.NoVersion`, which lists the
/// published versions.
pub async fn version(store: &dyn Store, wanted: Option<u64>) -> Result<Manifest> {
    let missing =
        |message: String| Err(Error::new(ErrorKind::OutputNoVersion, message).context("output", store.location()));
    let Some(number) = wanted else {
        return match current(store).await? {
            Some(manifest) => Ok(manifest),
            None => missing("there is no published version".to_owned()),
        };
    };
    let decided = versions(store).await?.decided;
    let state = if decided.contains(&Version(number)) { Some(state(store, Version(number)).await?) } else { None };
    match state {
        Some(VersionState::Published(manifest)) => Ok(*manifest),
        Some(VersionState::Removed { .. }) => missing(format!("version {number} has been removed")),
        Some(VersionState::Abandoned { .. }) => missing(format!("version {number} was abandoned by its run")),
        None => {
            let numbers: Vec<String> = published(store).await?.iter().map(|m| m.version.0.to_string()).collect();
            missing(format!("there is no version {number}; there are: {}", numbers.join(", ")))
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    what: String,
    format: u32,
}

/// Marks an empty store as an output of Pomona. Does nothing if it is one.
///
/// Fails with `Output.Occupied` if it has other objects, and with `Output.UnknownFormat`.
pub async fn open_output(store: &dyn Store) -> Result<()> {
    if let Some(marker) = store::get_opt(store, MARKER).await? {
        return check_marker(&marker, store);
    }
    let first = store::ascending(store, "", None).try_next().await?;
    if let Some(object) = first.and_then(|page| page.into_iter().next()) {
        // Another run may have started since the first look. The marker is the first object that it writes.
        if let Some(marker) = store::get_opt(store, MARKER).await? {
            return check_marker(&marker, store);
        }
        return Err(Error::new(ErrorKind::OutputOccupied, "the output contains objects that Pomona did not write")
            .context("output", store.location())
            .context("found", object.key));
    }
    let marker =
        Marker { what: "output of Pomona; see docs/file-formats.md of its repository".to_owned(), format: FORMAT };
    if !store.put_if_absent(MARKER, to_json(&marker)?).await? {
        check_marker(&store.get(MARKER).await?, store)?;
    }
    Ok(())
}

fn check_marker(marker: &[u8], store: &dyn Store) -> Result<()> {
    let marker: Marker = from_json(marker, MARKER)?;
    if marker.format == FORMAT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::OutputUnknownFormat, "this build does not support the format of the output")
        .context("output", store.location())
        .context("format", marker.format)
        .context("supported", FORMAT))
}

/// Checks that a store is an output of Pomona, without writing. Fails with `Output.NoVersion` or `Output.UnknownFormat`.
pub async fn expect_output(store: &dyn Store) -> Result<()> {
    match store::get_opt(store, MARKER).await? {
        Some(marker) => check_marker(&marker, store),
        None => Err(Error::new(ErrorKind::OutputNoVersion, "this is not an output of Pomona")
            .context("output", store.location())),
    }
}

/// Claims the next free version number for a run. No other run gets it.
pub async fn claim(store: &dyn Store, run: &RunId) -> Result<Version> {
    loop {
        let mut next = versions(store).await?.highest + 1;
        while !store.put_if_absent(&keys::claim(Version(next)), to_json(run)?).await? {
            next += 1;
        }
        // A vacuum may have removed the claim of a crashed run but not yet its scores. Such a number is skipped.
        if store::list_all(store, &keys::pca(Version(next))).await?.is_empty() {
            return Ok(Version(next));
        }
    }
}

/// Publishes a manifest, the last step of a run: see the [module](mod@crate::dataset::commit). Fails with
/// `Dataset.Conflict` if another run has published since `manifest.parent`.
pub async fn commit(store: &dyn Store, manifest: Manifest) -> Result<()> {
    let (version, parent, run) = (manifest.version, manifest.parent, manifest.run.clone());
    let conflict = |number: Version| {
        Error::new(ErrorKind::DatasetConflict, "another run published first").context("version", number)
    };
    for number in parent.map_or(1, |p| p.0 + 1)..version.0 {
        let number = Version(number);
        let abandoned = to_json(&VersionState::Abandoned { version: number, by: run.clone() })?;
        if !store.put_if_absent(&keys::version(number), abandoned).await?
            && !matches!(state(store, number).await?, VersionState::Abandoned { .. })
        {
            return Err(conflict(number));
        }
    }
    let body = to_json(&VersionState::Published(Box::new(manifest)))?;
    if store.put_if_absent(&keys::version(version), body).await? {
        return Ok(());
    }
    // The key exists: with this run's manifest, if an earlier attempt of the put succeeded.
    match state(store, version).await? {
        VersionState::Published(found) if found.run == run => Ok(()),
        _ => Err(conflict(version)),
    }
}
