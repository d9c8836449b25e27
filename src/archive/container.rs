//! Lists of members, which are made once for each content of an archive and kept in the output.
//!
//! A list only saves time: if it is missing or damaged, the archive is read again.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    index::{Index, Problem},
    names::{self, Kind},
    table, tar, zip,
};
use crate::{
    Error, ErrorKind, Result,
    dataset::{
        blocking::run_blocking,
        keys,
        tables::{self, ArchiveRef, Container},
    },
    ids::{ContainerId, short_hex},
    image::Reason,
    store::{self, Object, Store},
};

/// The id of the list of an archive. The number changes if this code finds other members, or names them differently.
fn id_of(archive: &Object) -> ContainerId {
    let mut sha = Sha256::new();
    sha.update("container 1");
    for text in [archive.key.as_str(), archive.etag.as_str()] {
        sha.update((text.len() as u64).to_le_bytes());
        sha.update(text);
    }
    sha.update(archive.size.to_le_bytes());
    short_hex(&sha.finalize()).into()
}

fn archive_ref(archive: &Object) -> ArchiveRef {
    ArchiveRef { key: archive.key.clone(), etag: archive.etag.clone(), size: archive.size }
}

/// The objects of an archive in key order: from its list, or else from the archive, whose list is then written.
///
/// `archive` has its key in `store`. Fails if `store` fails in a way that a retry may mend.
pub(super) async fn objects(store: &dyn Store, cache: &dyn Store, archive: &Object, kind: Kind) -> Result<Vec<Object>> {
    if let Kind::Closed(extension) = kind {
        let detail = format!("{extension}: archives of this kind cannot be read in parts; repack it as .tar or .zip");
        return Ok(unusable(archive, Problem::new(Reason::UnsupportedFormat, detail)));
    }
    let key = keys::container(&id_of(archive));
    if let Some(file) = store::get_opt(cache, &key).await?
        && let Some(objects) = read(file, archive, &key).await?
    {
        return Ok(objects);
    }
    let mut index = Index::default();
    let read = match kind {
        Kind::Tar => tar::read(store, archive, &mut index).await,
        Kind::Zip => zip::read(store, archive, &mut index).await,
        Kind::Parquet | Kind::Closed(_) => table::read(store, archive, &mut index).await,
    };
    match read {
        Ok(()) => {}
        Err(e) if e.kind().retryable() || e.kind().of_credentials() => return Err(e),
        // The archive has no list; the next run tries again.
        Err(e) => return Ok(unusable(archive, unreadable(e))),
    }
    let container = Container { archive: archive_ref(archive), objects: index.into_objects(archive) };
    let (file, objects) = run_blocking(move || Ok((tables::write_container(&container)?, container.objects))).await?;
    cache.put(&key, file).await?;
    Ok(objects)
}

/// The objects of a list. None if it is damaged.
async fn read(file: Bytes, archive: &Object, key: &str) -> Result<Option<Vec<Object>>> {
    let key = key.to_owned();
    let read = run_blocking(move || match tables::read_container(file, &key) {
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
        read => read.map(Some),
    });
    Ok(read.await?.filter(|read| read.archive == archive_ref(archive)).map(|read| read.objects))
}

/// The object that stands for an archive without members.
fn unusable(archive: &Object, problem: Problem) -> Vec<Object> {
    let mut index = Index::default();
    index.fail(problem);
    index.into_objects(archive)
}

fn unreadable(error: Error) -> Problem {
    Problem::new(Reason::of(error.kind()), error.without_request().to_string())
}

/// The archive of a list, as a key of the listing, and when the list was made; None if the file is damaged.
pub(crate) async fn archive_of(file: Bytes, key: &str) -> Result<Option<String>> {
    let key = key.to_owned();
    run_blocking(move || match tables::read_container(file, &key) {
        Err(e) if e.is(ErrorKind::DatasetCorrupt) => Ok(None),
        read => read.map(|read| Some(names::of_object(&read.archive.key))),
    })
    .await
}
