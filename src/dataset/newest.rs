//! `report.html` beside the folders of an output: the report of the newest version that has one.
//!
//! It is a copy of the report in the folder of the run. The page says in its head which version it is of, and a conditional
//! put writes it, so that a run that ends late never replaces the report of a newer version.

use bytes::Bytes;

use super::{Manifest, VersionState, commit, keys};
use crate::{
    Error, ErrorKind, Result,
    ids::Version,
    store::{self, Object, Store},
};

/// Attempts to write the page. Each one after the first follows another process that has written it in between.
const ATTEMPTS: u32 = 8;
/// Bytes at the start of the page that have its version.
const HEAD: u64 = 1_024;
/// The name of the `meta` element that has the version.
pub const META: &str = "pomona-version";

/// The page as it is now.
#[derive(Clone, Debug)]
pub struct Newest {
    /// The object of the listing.
    pub object: Object,
    /// The version that the page is of. None if it does not say so: it is damaged, or not of Pomona.
    pub version: Option<Version>,
}

/// Looks for the page. None if there is none.
pub async fn find(output: &dyn Store) -> Result<Option<Newest>> {
    for _ in 0..ATTEMPTS {
        let listed = store::list_all(output, keys::REPORT).await?;
        let Some(object) = listed.into_iter().find(|object| object.key == keys::REPORT) else { return Ok(None) };
        match output.get_part(&object, 0..object.size.min(HEAD)).await {
            Ok(head) => return Ok(Some(Newest { version: version_of(&head), object })),
            // It has been replaced since it was listed.
            Err(e) if e.is(ErrorKind::StoreNotFound) => {}
            Err(e) => return Err(e),
        }
    }
    Err(busy())
}

/// The version that a page says it is of.
fn version_of(page: &[u8]) -> Option<Version> {
    let head = String::from_utf8_lossy(page);
    let (_, value) = head.split_once(&format!("name=\"{META}\" content=\""))?;
    value.split('"').next()?.parse().ok().map(Version)
}

/// Writes the report of a version there, unless the page is of a newer version, or this version is removed. Returns whether
/// it was written.
pub async fn put(output: &dyn Store, version: Version, page: Bytes) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let written = match find(output).await? {
            None => output.put_if_absent(keys::REPORT, page.clone()).await?,
            Some(newest) if newest.version > Some(version) => return Ok(false),
            Some(newest) => output.replace(&newest.object, page.clone()).await?,
        };
        if !written {
            continue;
        }
        // Its version may have been erased in the meantime: then nothing else deletes the page.
        let kept = matches!(commit::state(output, version).await?, VersionState::Published(_));
        if !kept && find(output).await?.is_some_and(|newest| newest.version == Some(version)) {
            output.delete(keys::REPORT).await?;
        }
        return Ok(kept);
    }
    Err(busy())
}

/// Deletes the page unless it is of the current version or a newer one, and then copies the report of the newest version
/// that has one. Returns whether a page was deleted.
pub(crate) async fn renew(output: &dyn Store, current: &Manifest) -> Result<bool> {
    let found = find(output).await?;
    let outdated = found.is_some_and(|newest| newest.version < Some(current.version));
    if outdated {
        output.delete(keys::REPORT).await?;
    }
    let mut versions = commit::published(output).await?;
    while let Some(manifest) = versions.pop() {
        if let Some(page) = store::get_opt(output, &keys::run_report(&manifest.run)).await? {
            if version_of(&page) == Some(manifest.version) {
                put(output, manifest.version, page).await?;
            }
            break;
        }
    }
    Ok(outdated)
}

fn busy() -> Error {
    Error::new(ErrorKind::DatasetBusy, "other processes keep replacing the newest report").context("key", keys::REPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_which_version_it_is_of() {
        assert_eq!(version_of(b"<head><meta name=\"pomona-version\" content=\"12\"><title>x"), Some(Version(12)));
        for other in
            ["", "<meta name=\"pomona-version\" content=\"\">", "<meta name=\"version\" content=\"1\">", "\u{fffd}"]
        {
            assert_eq!(version_of(other.as_bytes()), None, "{other}");
        }
    }
}
