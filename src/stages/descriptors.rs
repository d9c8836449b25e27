//! The table of ORB keypoints of all images of an input. It is no part of a data set.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{CancellationToken, Monitor, check};
use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{blocking::run_blocking, tables},
    image::{self, Limits, MAX_FILE_BYTES, Reason, Reject, guarded},
    orb::{Keypoint, Orb},
    store::{self, Object, Store, is_ignored},
};

/// Images of a part of the table: at most about 30 MB with 500 keypoints each.
const IMAGES: usize = 1_000;
/// Images that are read and searched at a time.
const AT_A_TIME: usize = 16;

/// Marks a table whose parts are all there, as Spark and Hadoop do.
const SUCCESS: &str = "_SUCCESS";

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DescriptorsDone {
    /// Images that were read.
    pub images: u64,
    /// Their keypoints: rows of the table.
    pub keypoints: u64,
    /// Files that are no usable images, and why.
    pub rejects: Vec<(String, String)>,
    /// Keys of the parts of the table.
    pub files: Vec<String>,
}

/// Writes `part-*.parquet` into an empty store: path, x, y, octave, angle, response and descriptor of the keypoints of each image,
/// in key order. `_SUCCESS` is written last.
///
/// Fails with `Output.Occupied` if the store is not empty, with `Input.Empty` without images, and with `Run.Interrupted` after
/// `stop` is cancelled.
#[compiled_once]
pub async fn descriptors(
    input: &dyn Store,
    output: &dyn Store,
    orb: Orb,
    monitor: &dyn Monitor,
    stop: &CancellationToken,
) -> Result<DescriptorsDone> {
    if let Some(object) = store::ascending(output, "", None).try_next().await?.and_then(|page| page.into_iter().next())
    {
        let message = "the folder for the table is not empty";
        return Err(Error::new(ErrorKind::OutputOccupied, message)
            .context("output", output.location())
            .context("found", object.key));
    }
    let objects: Vec<Object> =
        store::list_all(input, "").await?.into_iter().filter(|object| !is_ignored(&object.key)).collect();
    if objects.is_empty() {
        return Err(Error::new(ErrorKind::InputEmpty, "there are no images").context("input", input.location()));
    }
    monitor.listed(objects.len() as u64);
    let mut done = DescriptorsDone::default();
    for part in objects.chunks(IMAGES) {
        let described: Vec<_> = part.iter().map(|object| keypoints(input, object, orb, stop)).collect();
        let mut described = stream::iter(part).zip(stream::iter(described).buffered(AT_A_TIME));
        let mut images: Vec<(String, Vec<Keypoint>)> = Vec::new();
        while let Some((object, found)) = described.next().await {
            monitor.image_done();
            match found? {
                Ok(keypoints) => {
                    done.images += 1;
                    done.keypoints += keypoints.len() as u64;
                    images.push((object.key.clone(), keypoints));
                }
                Err(reject) => done.rejects.push((object.key.clone(), format!("{}: {}", reject.reason, reject.detail))),
            }
        }
        let file = run_blocking(move || tables::write_descriptors(&images)).await?;
        let key = format!("part-{:05}.parquet", done.files.len());
        output.put(&key, file).await?;
        done.files.push(key);
    }
    output.put(SUCCESS, Bytes::new()).await?;
    Ok(done)
}

type Found = std::result::Result<Vec<Keypoint>, Reject>;

/// The keypoints of an image, or why it has none. Fails if the store does.
pub(super) async fn keypoints(input: &dyn Store, object: &Object, orb: Orb, stop: &CancellationToken) -> Result<Found> {
    check(stop)?;
    if object.size > MAX_FILE_BYTES {
        let detail = format!("{} bytes; at most {MAX_FILE_BYTES} are taken", object.size);
        return Ok(Err(Reject::new(Reason::TooLarge, detail)));
    }
    let file = match input.get_listed(object).await {
        Ok(file) => file,
        Err(e) if e.kind().retryable() || e.kind().of_credentials() => return Err(e.context("key", &object.key)),
        Err(e) => return Ok(Err(Reject::new(Reason::of(e.kind()), e.without_request()))),
    };
    run_blocking(move || Ok(guarded(|| image::decode(&file, Limits::default()).map(|pixels| orb.detect(&pixels)))))
        .await
}
