//! Locations as users write them: `photos/`, `/data/photos`, `s3://bucket/prefix/`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::TryStreamExt;

use super::{FolderStore, Store};
use crate::{Error, ErrorKind, Result, compiled_once};

/// A parsed location.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Location<'a> {
    Folder(&'a Path),
    S3 { bucket: &'a str, prefix: &'a str },
}

fn parse(location: &str) -> Result<Location<'_>> {
    let invalid = |message: String| Err(Error::new(ErrorKind::InputInvalid, message).context("location", location));
    if location.is_empty() {
        return invalid("the location is empty".to_owned());
    }
    match location.split_once("://") {
        None => Ok(Location::Folder(Path::new(location))),
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if bucket.len() < 3 || !bucket.chars().all(legal) {
                return invalid(format!("{bucket:?} is not a bucket name; write s3://BUCKET/PREFIX/"));
            }
            if bucket.ends_with("--x-s3") {
                return invalid(format!(
                    "{bucket:?} is a directory bucket, which does not list its keys in order; use a general purpose bucket"
                ));
            }
            Ok(Location::S3 { bucket, prefix: prefix.trim_matches('/') })
        }
        Some((scheme, _)) => invalid(format!("{scheme}:// is not supported; use a folder or s3://BUCKET/PREFIX/")),
    }
}

/// Bucket and prefix of an S3 location. The prefix is empty or ends with `/`. Fails with `Input.Invalid` for a folder.
pub fn bucket_and_prefix(location: &str) -> Result<(String, String)> {
    match parse(location)? {
        Location::S3 { bucket, prefix: "" } => Ok((bucket.to_owned(), String::new())),
        Location::S3 { bucket, prefix } => Ok((bucket.to_owned(), format!("{prefix}/"))),
        Location::Folder(_) => {
            Err(Error::new(ErrorKind::InputInvalid, "this is not an S3 location").context("location", location))
        }
    }
}

/// A store in a bucket. One client serves the whole process, so that connections are reused.
#[cfg(feature = "aws")]
async fn open_bucket(bucket: &str, prefix: &str) -> Result<Arc<dyn Store>> {
    use tokio::sync::OnceCell;

    static CLIENT: OnceCell<aws_sdk_s3::Client> = OnceCell::const_new();
    let client = CLIENT.get_or_init(super::s3_client).await.clone();
    Ok(Arc::new(super::S3Store::new(client, bucket, prefix)))
}

#[cfg(not(feature = "aws"))]
async fn open_bucket(bucket: &str, _prefix: &str) -> Result<Arc<dyn Store>> {
    let message = "this build cannot read from S3; build it with the feature `aws`";
    Err(Error::new(ErrorKind::InputInvalid, message).context("bucket", bucket))
}

/// Opens the store at a location. A folder need not exist. Fails with `Input.Invalid` if the location is not valid.
#[compiled_once]
pub async fn open(location: &str) -> Result<Arc<dyn Store>> {
    let store: Arc<dyn Store> = match parse(location)? {
        Location::Folder(path) => Arc::new(FolderStore::new(path)),
        Location::S3 { bucket, prefix } => open_bucket(bucket, prefix).await?,
    };
    Ok(store)
}

/// Reads one file: a path, or `s3://bucket/key`. Fails with `Input.NotFound` if there is none, and with `Input.Invalid` if it
/// has more than `most` bytes.
#[compiled_once]
pub async fn read_file(location: &str, most: u64) -> Result<Bytes> {
    let error = |kind, message: String| Error::new(kind, message).context("file", location);
    let too_large =
        |bytes: u64| error(ErrorKind::InputInvalid, format!("the file has {bytes} bytes; at most {most} are read"));
    match parse(location)? {
        Location::Folder(path) => {
            let failed = |e: std::io::Error| match e.kind() {
                std::io::ErrorKind::NotFound => error(ErrorKind::InputNotFound, "there is no such file".to_owned()),
                std::io::ErrorKind::PermissionDenied => {
                    error(ErrorKind::StoreDenied, "the file cannot be read".to_owned()).source(e)
                }
                _ => error(ErrorKind::StoreFailed, "the file cannot be read".to_owned()).source(e),
            };
            let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
            if !metadata.is_file() {
                return Err(error(ErrorKind::InputInvalid, "this is not a file".to_owned()));
            }
            if metadata.len() > most {
                return Err(too_large(metadata.len()));
            }
            tokio::fs::read(path).await.map(Bytes::from).map_err(failed)
        }
        Location::S3 { bucket, prefix: key } => {
            let bucket = open_bucket(bucket, "").await?;
            let page = super::ascending(bucket.as_ref(), key, None).try_next().await?;
            let found = page.and_then(|page| page.into_iter().next()).filter(|object| object.key == key);
            match found {
                None => Err(error(ErrorKind::InputNotFound, "there is no such object".to_owned())),
                Some(object) if object.size > most => Err(too_large(object.size)),
                Some(object) => bucket.get_listed(&object).await,
            }
        }
    }
}

/// Opens a location to read images from. In a folder, nothing below `output` is read, even if a link leads there.
///
/// Fails with `Input.NotFound` for a path that is not a folder, and with `Store.Denied` for one that cannot be accessed.
/// Does not access a bucket.
#[compiled_once]
pub async fn open_input(location: &str, output: &str) -> Result<Arc<dyn Store>> {
    if let Location::Folder(path) = parse(location)? {
        let error = |kind, message: &str| Error::new(kind, message.to_owned()).context("input", location);
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(error(ErrorKind::InputNotFound, "the input is a file, not a folder")),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(error(ErrorKind::StoreDenied, "access was refused").source(e));
            }
            Err(_) => return Err(error(ErrorKind::InputNotFound, "there is no such folder")),
        }
        let input = FolderStore::new(path);
        let input: Arc<dyn Store> = match parse(output)? {
            Location::Folder(output) => Arc::new(input.excluding(output)),
            Location::S3 { .. } => Arc::new(input),
        };
        return Ok(input);
    }
    open(location).await
}

/// Fails with `Input.Overlap` if the locations are equal or one contains the other.
pub fn check_apart(input: &str, output: &str) -> Result<()> {
    let inside = |a: &str, b: &str| a == b || b.is_empty() || a.starts_with(&format!("{b}/"));
    let overlap = match (parse(input)?, parse(output)?) {
        (Location::Folder(a), Location::Folder(b)) => {
            let (a, b) = (resolved(a), resolved(b));
            a.starts_with(&b) || b.starts_with(&a)
        }
        (Location::S3 { bucket: a, prefix: p }, Location::S3 { bucket: b, prefix: q }) => {
            a == b && (inside(p, q) || inside(q, p))
        }
        _ => false,
    };
    if overlap {
        return Err(Error::new(ErrorKind::InputOverlap, "input and output overlap")
            .context("input", input)
            .context("output", output));
    }
    Ok(())
}

/// Whether a location is a path that means another folder in another working directory.
pub fn is_relative(location: &str) -> bool {
    matches!(parse(location), Ok(Location::Folder(path)) if path.is_relative())
}

/// The locations that contain this one, the nearest first. Fails with `Input.Invalid`.
pub fn above(location: &str) -> Result<Vec<String>> {
    Ok(match parse(location)? {
        Location::Folder(path) => {
            resolved(path).ancestors().skip(1).map(|folder| folder.display().to_string()).collect()
        }
        Location::S3 { bucket, prefix } => prefix
            .char_indices()
            .rev()
            .filter(|(_, character)| *character == '/')
            .map(|(end, _)| format!("s3://{bucket}/{}", &prefix[..=end]))
            .chain((!prefix.is_empty()).then(|| format!("s3://{bucket}/")))
            .collect(),
    })
}

/// The [`Store::place`] of a location.
pub fn place_of(location: &str) -> String {
    match parse(location) {
        Ok(Location::Folder(path)) => resolved(path).display().to_string(),
        _ => location.to_owned(),
    }
}

/// The absolute path, with links and dots resolved in the part that exists.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            // Joining nothing would add a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_folders_or_buckets() {
        assert_eq!(parse("photos/").unwrap(), Location::Folder(Path::new("photos/")));
        assert_eq!(parse("s3://fruit/a/b/").unwrap(), Location::S3 { bucket: "fruit", prefix: "a/b" });
        assert_eq!(parse("s3://fruit").unwrap(), Location::S3 { bucket: "fruit", prefix: "" });
        for bad in ["", "s3://", "s3:///x", "s3://b@d/x", "gs://fruit/", "http://x/y"] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InputInvalid, "{bad:?}");
        }
    }

    #[test]
    fn directory_buckets_are_refused_with_the_reason() {
        for location in ["s3://fruit--use1-az4--x-s3/images/", "s3://fruit--use1-az4--x-s3"] {
            let refused = parse(location).unwrap_err();
            assert!(refused.is(ErrorKind::InputInvalid), "{refused}");
            assert!(refused.to_string().contains("does not list its keys in order"), "{refused}");
        }
        assert!(parse("s3://x-s3--fruit/").is_ok());
    }

    #[test]
    fn the_places_above_a_location_end_with_the_bucket_or_the_root() {
        assert_eq!(above("s3://one/a/b/c/").unwrap(), ["s3://one/a/b/", "s3://one/a/", "s3://one/"]);
        assert_eq!(above("s3://one").unwrap(), [""; 0]);
        assert_eq!(above("/no-such-folder/a").unwrap(), ["/no-such-folder", "/"]);
    }

    #[test]
    fn prefixes_overlap_by_whole_names() {
        let apart = |a: &str, b: &str| check_apart(a, b).is_ok();
        assert!(apart("s3://one/images/", "s3://two/images/"));
        assert!(apart("s3://one/images/", "s3://one/images-out/"));
        assert!(!apart("s3://one/images/", "s3://one/images/out/"));
        assert!(!apart("s3://one/", "s3://one/out/"));
        assert!(!apart("s3://one/a", "s3://one/a/"));
        assert!(apart("s3://one/a", "a"));
    }
}
