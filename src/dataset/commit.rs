//! The commit protocol: publishing a version without forks and without lost updates.
//!
//! A run claims a version number before it writes below `pca/v=00000007/`, so that no two runs write there. To publish, it
//! first marks each number between its parent version and its own as abandoned, and then puts its manifest. Both are
//! conditional puts. If another run published one of those numbers, the put fails and the run plans again. Publishing is
//! lock-free: of runs that conflict, one succeeds.

use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT, MARKER, Manifest, VersionState, from_json, keys,
    record::{damaged, from_record, has_seal, to_record},
    released::{self, RELEASED},
    to_json,
};
use crate::{
    Error, ErrorKind, Result, compiled_once,
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
#[compiled_once]
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

/// Reads the state of a decided version. Fails with `Store.NotFound` for other numbers, and with `Dataset.Corrupt`.
#[compiled_once]
pub async fn state(store: &dyn Store, version: Version) -> Result<VersionState> {
    let key = keys::version(version);
    let text = store.get(&key).await?;
    let state = if has_seal(&text) { from_record(&text, &key)? } else { released::version_state(&text, &key)? };
    let number = match &state {
        VersionState::Published(manifest) => manifest.version,
        VersionState::Abandoned { version, .. } | VersionState::Removed { version } => *version,
    };
    if number == version { Ok(state) } else { Err(damaged("this is the record of another version", &key)) }
}

/// The manifest of the newest published version. None without one.
#[compiled_once]
pub async fn current(store: &dyn Store) -> Result<Option<Manifest>> {
    for version in versions(store).await?.decided.into_iter().rev() {
        if let VersionState::Published(manifest) = state(store, version).await? {
            return Ok(Some(*manifest));
        }
    }
    Ok(None)
}

/// The manifests of all published versions, ascending. Removed versions are left out.
#[compiled_once]
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
#[compiled_once]
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

impl Marker {
    fn new() -> Self {
        Marker { what: "output of Pomona; see docs/file-formats.md of its repository".to_owned(), format: FORMAT }
    }

    fn record() -> Result<Bytes> {
        to_record(&Marker::new())
    }
}

/// The marker of an output; of one that has only versions of format 1 if it `is_old`.
pub(crate) fn marker(is_old: bool) -> Result<Bytes> {
    if !is_old {
        return Marker::record();
    }
    to_json(&Marker { format: RELEASED, ..Marker::new() })
}

/// Marks an empty store as an output of Pomona. Does nothing if it is one.
///
/// Fails with `Output.Occupied` if it has other objects, and with `Output.UnknownFormat`.
#[compiled_once]
pub async fn open_output(store: &dyn Store) -> Result<()> {
    if let Some(marker) = store::get_opt(store, MARKER).await? {
        return format_of(&marker, store).map(drop);
    }
    let first = store::ascending(store, "", None).try_next().await?;
    if let Some(object) = first.and_then(|page| page.into_iter().next()) {
        // Another run may have started since the first look. The marker is the first object that it writes.
        if let Some(marker) = store::get_opt(store, MARKER).await? {
            return format_of(&marker, store).map(drop);
        }
        return Err(Error::new(ErrorKind::OutputOccupied, "the output contains objects that Pomona did not write")
            .context("output", store.location())
            .context("found", object.key));
    }
    if !store.put_if_absent(MARKER, Marker::record()?).await? {
        format_of(&store.get(MARKER).await?, store)?;
    }
    Ok(())
}

/// Marks an output of an older format with this format. Releases that know only the older one refuse it from then on.
pub(crate) async fn upgrade_output(store: &dyn Store) -> Result<()> {
    if format_of(&store.get(MARKER).await?, store)? < FORMAT {
        store.put(MARKER, Marker::record()?).await?;
    }
    Ok(())
}

/// The format of an output. Fails with `Output.UnknownFormat`.
fn format_of(marker: &[u8], store: &dyn Store) -> Result<u32> {
    let parsed: Marker = if has_seal(marker) { from_record(marker, MARKER)? } else { from_json(marker, MARKER)? };
    match parsed.format {
        RELEASED => Ok(RELEASED),
        FORMAT if has_seal(marker) => Ok(FORMAT),
        FORMAT => Err(damaged("this record does not end with its checksum", MARKER)),
        format => {
            Err(Error::new(ErrorKind::OutputUnknownFormat, "this build does not support the format of the output")
                .context("output", store.location())
                .context("format", format)
                .context("supported", format!("{RELEASED}, {FORMAT}")))
        }
    }
}

/// Checks that a store is an output of Pomona, without writing. Fails with `Output.NoVersion` or `Output.UnknownFormat`.
#[compiled_once]
pub async fn expect_output(store: &dyn Store) -> Result<()> {
    match store::get_opt(store, MARKER).await? {
        Some(marker) => format_of(&marker, store).map(drop),
        None => Err(Error::new(ErrorKind::OutputNoVersion, "this is not an output of Pomona")
            .context("output", store.location())),
    }
}

/// The content of a claim.
#[derive(Serialize)]
struct Claim<'a> {
    version: Version,
    run: &'a RunId,
}

/// Claims the next free version number for a run. No other run gets it.
#[compiled_once]
pub async fn claim(store: &dyn Store, run: &RunId) -> Result<Version> {
    loop {
        let mut next = versions(store).await?.highest + 1;
        let claimed = |next| to_record(&Claim { version: Version(next), run });
        while !store.put_if_absent(&keys::claim(Version(next)), claimed(next)?).await? {
            next += 1;
        }
        // A vacuum may have removed the claim of a crashed run but not yet its scores. Such a number is skipped.
        if store::list_all(store, &keys::pca(Version(next))).await?.is_empty() {
            return Ok(Version(next));
        }
    }
}

/// Publishes a manifest, the last step of a run: see the [module](mod@crate::dataset::commit). A copy of the manifest is in
/// the folder of the run. Fails with `Dataset.Conflict` if another run has published since `manifest.parent`.
#[compiled_once]
pub async fn commit(store: &dyn Store, manifest: Manifest) -> Result<()> {
    let (version, parent, run) = (manifest.version, manifest.parent, manifest.run.clone());
    let body = to_record(&VersionState::Published(Box::new(manifest)))?;
    store.put(&keys::kept_manifest(&run), body.clone()).await?;
    let conflict = |number: Version| {
        Error::new(ErrorKind::DatasetConflict, "another run published first").context("version", number)
    };
    for number in parent.map_or(1, |p| p.0 + 1)..version.0 {
        let number = Version(number);
        let abandoned = to_record(&VersionState::Abandoned { version: number, by: run.clone() })?;
        if !store.put_if_absent(&keys::version(number), abandoned).await?
            && !matches!(state(store, number).await?, VersionState::Abandoned { .. })
        {
            return Err(conflict(number));
        }
    }
    if store.put_if_absent(&keys::version(version), body).await? {
        return Ok(());
    }
    // The key exists: with this run's manifest, if an earlier attempt of the put succeeded.
    match state(store, version).await? {
        VersionState::Published(found) if found.run == run => Ok(()),
        _ => Err(conflict(version)),
    }
}
