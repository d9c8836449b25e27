//! `pomona descriptors`

use crate::{
    Error, ErrorKind, Result,
    dataset::MARKER,
    orb::Orb,
    stages::{self, CancellationToken, Monitor, Stores},
    store,
};

use super::{
    args::{DescriptorsArgs, Format},
    format,
    out::{note, out},
    print_json,
    progress::Bars,
    run,
};

/// Rejects that are printed.
const REJECTS: usize = 5;

/// One bar for all images.
struct Progress(Bars);

impl Monitor for Progress {
    fn listed(&self, objects: u64) {
        self.0.start("keypoints", Some(objects), None);
    }

    fn image_done(&self) {
        self.0.step();
    }
}

/// Fails with `Output.Occupied` inside of an output: an erasure would leave the keypoints of the image there.
async fn check_place(location: &str) -> Result<()> {
    for place in store::above(location)? {
        // What cannot be read is not known to be an output.
        let marker = store::get_opt(store::open(&place).await?.as_ref(), MARKER).await;
        if matches!(marker, Ok(Some(_))) {
            let message = "the table would be inside of an output, where `pomona erase` does not know it; \
                           choose a folder that is in none";
            return Err(Error::new(ErrorKind::OutputOccupied, message).context("output", place));
        }
    }
    Ok(())
}

pub(crate) async fn descriptors(args: DescriptorsArgs) -> Result<()> {
    let DescriptorsArgs { images, output, keypoints, scale, levels, border, threshold, format: of_answer } = args;
    let orb = Orb { keypoints, scale, levels, border, threshold };
    let stores = Stores::open(&images, &output).await?;
    check_place(&output).await?;
    let stop = CancellationToken::new();
    run::listen(stop.clone());
    let progress = Progress(Bars::new());
    let done = stages::descriptors(stores.input.as_ref(), stores.output.as_ref(), orb, &progress, &stop).await;
    progress.0.clear();
    let done = done?;
    for (path, why) in done.rejects.iter().take(REJECTS) {
        note(&format!("rejected: {}: {}", format::shorten(path, 100), format::escape_invisible(why)));
    }
    match of_answer.format() {
        Format::Json => print_json(&done),
        Format::Text => {
            let (keypoints, images) =
                (format::counted(done.keypoints, "keypoint"), format::counted(done.images, "image"));
            let rejects = format::counted(done.rejects.len() as u64, "reject");
            out(&format!("{keypoints} of {images} in {}; {rejects}\n", format::escape_invisible(&output)))
        }
    }
}
