//! Publishing a version: the protocol that gives the chain of versions no forks and loses no update.
//!
//! A run claims a number before it writes under `pca/v=00000007/`, so no two runs ever write there. To publish, it first
//! gives up every number between the version that it started from and its own, then puts its manifest. If another run
//! published one of those numbers, that put fails and the run plans again. The chain of published versions has no
//! forks, and publishing is lock-free.

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{FORMAT, MARKER, Manifest, VersionState, from_json, keys, read_json, to_json};
use crate::{
    Error, ErrorKind, Result,
    ids::{RunId, Version},
    store::{self, Store},
};

/// The output's list of version numbers, rising: published or given up, and claimed.
#[derive(Debug, Default)]
pub struct Versions {
    /// Numbers whose state is decided.
    pub decided: Vec<Version>,
    /// The highest number that anything stands under.
    pub highest: u64,
}

/// Lists the versions of an output.
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

/// Reads the state of a number that [`versions`] listed.
pub async fn state(store: &dyn Store, version: Version) -> Result<VersionState> {
    read_json(store, &keys::version(version)).await
}

/// The newest published version, if there is one.
pub async fn current(store: &dyn Store) -> Result<Option<Manifest>> {
    for version in versions(store).await?.decided.into_iter().rev() {
        if let VersionState::Published(manifest) = state(store, version).await? {
            return Ok(Some(*manifest));
        }
    }
    Ok(None)
}

/// All published versions that have not been cleaned away, rising.
pub async fn published(store: &dyn Store) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for version in versions(store).await?.decided {
        if let VersionState::Published(manifest) = state(store, version).await? {
            manifests.push(*manifest);
        }
    }
    Ok(manifests)
}

/// A published version; the current one when no number is given. Fails with `Output.NoVersion`, saying which there are.
pub async fn version(store: &dyn Store, wanted: Option<u64>) -> Result<Manifest> {
    let missing =
        |message: String| Err(Error::new(ErrorKind::OutputNoVersion, message).context("output", store.location()));
    let Some(number) = wanted else {
        return match current(store).await? {
            Some(manifest) => Ok(manifest),
            None => missing("no run has been finished here".to_owned()),
        };
    };
    let decided = versions(store).await?.decided;
    let state = if decided.contains(&Version(number)) { Some(state(store, Version(number)).await?) } else { None };
    match state {
        Some(VersionState::Published(manifest)) => Ok(*manifest),
        Some(VersionState::Removed { .. }) => missing(format!("version {number} has been cleaned away")),
        Some(VersionState::Abandoned { .. }) => {
            missing(format!("number {number} was given up by its run; there is no such version"))
        }
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

/// Makes sure that the output is empty or ours, and marks it.
pub async fn open_output(store: &dyn Store) -> Result<()> {
    if let Some(marker) = store::get_opt(store, MARKER).await? {
        return check_marker(&marker, store);
    }
    let first = store.list("", None).try_next().await?;
    if let Some(object) = first.and_then(|page| page.into_iter().next()) {
        // The marker is the first thing that a run writes: another run may have begun since it was looked for.
        if let Some(marker) = store::get_opt(store, MARKER).await? {
            return check_marker(&marker, store);
        }
        return Err(Error::new(ErrorKind::OutputOccupied, "the output holds something that Pomona did not write")
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
    Err(Error::new(ErrorKind::OutputUnknownFormat, "this build cannot read that output")
        .context("output", store.location())
        .context("format", marker.format)
        .context("known", FORMAT))
}

/// Makes sure that there is an output of Pomona, without writing anything.
pub async fn expect_output(store: &dyn Store) -> Result<()> {
    match store::get_opt(store, MARKER).await? {
        Some(marker) => check_marker(&marker, store),
        None => Err(Error::new(ErrorKind::OutputNoVersion, "there is no output of Pomona here")
            .context("output", store.location())),
    }
}

/// Claims the next free version number for a run.
pub async fn claim(store: &dyn Store, run: &RunId) -> Result<Version> {
    loop {
        let mut next = versions(store).await?.highest + 1;
        while !store.put_if_absent(&keys::claim(Version(next)), to_json(run)?).await? {
            next += 1;
        }
        // Claims may have been cleaned away while outputs of a dead run were not: never write among them.
        if store::list_all(store, &keys::pca(Version(next))).await?.is_empty() {
            return Ok(Version(next));
        }
    }
}

/// Publishes a manifest, the last step of a run: see the module's text. Fails with `Dataset.Conflict` when another
/// run has published since `manifest.parent`.
pub async fn commit(store: &dyn Store, manifest: Manifest) -> Result<()> {
    let (version, parent, run) = (manifest.version, manifest.parent, manifest.run.clone());
    let conflict = |number: Version| {
        Error::new(ErrorKind::DatasetConflict, "another run published first").context("version", number)
    };
    for number in parent.map_or(1, |p| p.0 + 1)..version.0 {
        let number = Version(number);
        let given_up = to_json(&VersionState::Abandoned { version: number, by: run.clone() })?;
        if !store.put_if_absent(&keys::version(number), given_up).await?
            && !matches!(state(store, number).await?, VersionState::Abandoned { .. })
        {
            return Err(conflict(number));
        }
    }
    let body = to_json(&VersionState::Published(Box::new(manifest)))?;
    if store.put_if_absent(&keys::version(version), body).await? {
        return Ok(());
    }
    // A retry of a put that did succeed finds its own manifest there.
    match state(store, version).await? {
        VersionState::Published(found) if found.run == run => Ok(()),
        _ => Err(conflict(version)),
    }
}
