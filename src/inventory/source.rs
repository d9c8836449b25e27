//! The files of an inventory, by its location.

use std::{path::Path, sync::Arc};

use futures::TryStreamExt;
use serde::Deserialize;

use super::rows::Form;
use crate::{
    Error, ErrorKind, Result,
    store::{self, Object, Store},
};

/// Largest manifest: S3 Inventory writes 300 bytes for each file.
const MAX_MANIFEST: u64 = 64 << 20;

/// A file of an inventory.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub(super) store: Arc<dyn Store>,
    pub(super) object: Object,
    pub(super) format: Format,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Parquet,
}

/// `manifest.json` of S3 Inventory.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    source_bucket: String,
    destination_bucket: String,
    file_format: String,
    file_schema: String,
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    key: String,
    size: u64,
}

fn invalid(message: impl Into<String>, location: &str) -> Error {
    Error::new(ErrorKind::InputInvalid, message).context("inventory", location)
}

/// The format of a file by its name.
fn format_of(name: &str) -> Option<Format> {
    let name = name.to_ascii_lowercase();
    if name.ends_with(".csv") || name.ends_with(".csv.gz") {
        Some(Format::Csv)
    } else {
        name.ends_with(".parquet").then_some(Format::Parquet)
    }
}

/// Splits a location into a folder or prefix and the name of a file in it; an empty name if it is a folder itself.
async fn split(location: &str) -> Result<(Arc<dyn Store>, String)> {
    let is_bucket = location.contains("://");
    if location.ends_with('/') || !is_bucket && Path::new(location).is_dir() {
        return Ok((store::open(location).await?, String::new()));
    }
    let (folder, name) = location.rsplit_once('/').unwrap_or((".", location));
    // The root, or a bucket.
    let folder = if folder.is_empty() { "/" } else { folder };
    Ok((store::open(folder).await?, name.to_owned()))
}

async fn find(store: &dyn Store, key: &str) -> Result<Option<Object>> {
    let page = store.list(key, None).try_next().await?;
    Ok(page.and_then(|page| page.into_iter().find(|object| object.key == key)))
}

/// The files of an inventory. `bucket` is that of the input, or None for a folder.
pub(super) async fn files(location: &str, mut form: Form) -> Result<(Vec<SourceFile>, Form)> {
    let (folder, name) = split(location).await?;
    if name.ends_with(".json") {
        let manifest = read_manifest(folder.as_ref(), &name, location).await?;
        if form.bucket.as_ref().is_some_and(|bucket| *bucket != manifest.source_bucket) {
            let message =
                format!("this is the inventory of the bucket {}, and not of the input", manifest.source_bucket);
            return Err(invalid(message, location));
        }
        let format = match manifest.file_format.as_str() {
            "CSV" => Format::Csv,
            "Parquet" => Format::Parquet,
            "ORC" => {
                let message = "inventories in ORC are not read; choose Parquet or CSV as the inventory's format";
                return Err(invalid(message, location));
            }
            other => return Err(invalid(format!("inventories in {other} are not read"), location)),
        };
        if format == Format::Csv {
            form.schema = Some(manifest.file_schema.split(',').map(|name| name.trim().to_owned()).collect());
        }
        return Ok((manifest_files(&manifest, location, format).await?, form));
    }
    let found: Vec<Object> = if name.is_empty() {
        store::list_all(folder.as_ref(), "")
            .await?
            .into_iter()
            .filter(|object| format_of(&object.key).is_some())
            .collect()
    } else {
        find(folder.as_ref(), &name).await?.into_iter().collect()
    };
    let files = found
        .into_iter()
        .filter_map(|object| Some(SourceFile { store: folder.clone(), format: format_of(&object.key)?, object }));
    let files: Vec<SourceFile> = files.collect();
    if files.is_empty() {
        let message = "there is no inventory here: a manifest.json of S3 Inventory, or files .parquet, .csv or .csv.gz";
        return Err(Error::new(ErrorKind::InputNotFound, message).context("inventory", location));
    }
    Ok((files, form))
}

async fn read_manifest(folder: &dyn Store, name: &str, location: &str) -> Result<Manifest> {
    let Some(object) = find(folder, name).await? else {
        return Err(Error::new(ErrorKind::InputNotFound, "there is no such manifest").context("inventory", location));
    };
    if object.size > MAX_MANIFEST {
        return Err(invalid(format!("a manifest of {} bytes", object.size), location));
    }
    let text = folder.get_listed(&object).await?;
    serde_json::from_slice(&text).map_err(|e| invalid("this is no manifest of S3 Inventory", location).source(e))
}

/// The files of a manifest. Their keys are those of the bucket that S3 writes the inventory to. In a copy in a folder they
/// are searched for as in that bucket, and else in `data/` beside the folder of the manifest, or in it.
async fn manifest_files(manifest: &Manifest, location: &str, format: Format) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let bucket = manifest.destination_bucket.rsplit(':').next().unwrap_or_default();
    let root = match location.starts_with("s3://") {
        true => Some(store::open(&format!("s3://{bucket}")).await?),
        false => None,
    };
    for file in &manifest.files {
        let place = match &root {
            Some(root) => Some((root.clone(), file.key.clone())),
            None => local_file(location, &file.key).await?,
        };
        let found = match place {
            Some((store, key)) => find(store.as_ref(), &key).await?.map(|object| (store, object)),
            None => None,
        };
        let Some((store, object)) = found else {
            let message = "a file of the inventory is missing";
            return Err(Error::new(ErrorKind::InputNotFound, message)
                .context("inventory", location)
                .context("file", &file.key));
        };
        if object.size != file.size {
            let message = format!("a file of the inventory has {} bytes instead of {}", object.size, file.size);
            return Err(invalid(message, location).context("file", &file.key));
        }
        files.push(SourceFile { store, object, format });
    }
    Ok(files)
}

/// A file of a manifest in a folder, and its name there; None if it is not where it is searched for.
async fn local_file(manifest: &str, key: &str) -> Result<Option<(Arc<dyn Store>, String)>> {
    let name = key.rsplit('/').next().unwrap_or(key);
    let unsafe_part = |part: &str| part.is_empty() || part == "." || part == "..";
    // A relative path does not name the folders above the working directory.
    let Ok(manifest) = std::path::absolute(manifest) else { return Ok(None) };
    let folders = manifest.ancestors().skip(1);
    let in_bucket = folders.clone().filter(|_| !key.split('/').any(unsafe_part)).map(|folder| folder.join(key));
    let beside = folders.take(2).flat_map(|folder| [folder.join("data").join(name), folder.join(name)]);
    let path = in_bucket.chain(beside).find(|path| path.is_file() && !unsafe_part(name));
    match path.as_deref().and_then(Path::parent) {
        Some(folder) => Ok(Some((store::open(&folder.to_string_lossy()).await?, name.to_owned()))),
        None => Ok(None),
    }
}
