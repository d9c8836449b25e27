//! Whether a run may go on from the current version: the same input, settings and extractor, unless the run asks for others.

use crate::{
    Error, ErrorKind, Result,
    cost::{
        estimate::{self, Deployment, Workload},
        prices::{Architecture, Prices},
    },
    dataset::{
        Manifest,
        settings::{Mode, Refit, Settings},
    },
    model::ExtractorInfo,
    store,
};

/// Fails with `Input.Moved` if the images of `base` come from another place.
pub(crate) fn check_input(base: &Manifest, place: &str, identity: Option<&str>, mode: Mode) -> Result<()> {
    let same = match (base.input_identity.as_deref(), identity) {
        (Some(recorded), Some(found)) => recorded == found,
        // Release 0.1.0 recorded folders as they were written, perhaps relative to a folder that is unknown.
        _ => store::is_relative(&base.input) || store::place_of(&base.input) == place,
    };
    if same || mode.input_moved {
        return Ok(());
    }
    let message = if base.input == place {
        "the input is not the folder of the current version, but another one in the same place"
    } else {
        "the input is not that of the current version"
    };
    Err(Error::new(ErrorKind::InputMoved, message).context("input", place).context("recorded", &base.input))
}

/// Neither another model nor a new release may compute a data set again unasked. Other settings do so: what depends on them is
/// computed from the features. Omitted ones are those of the current version.
pub(super) fn check_same(base: &Manifest, extractor: &ExtractorInfo, settings: &Settings, mode: Mode) -> Result<()> {
    let is_revision = extractor.is_revision_of(&base.extractor);
    let refused =
        |message: String| Err(Error::new(ErrorKind::DatasetSettingsChanged, message).context("version", base.version));
    if base.extractor != *extractor && !is_revision {
        let name = |info: &ExtractorInfo| format!("{} ({})", info.model, info.id);
        let mut differences = vec![format!("extractor: {} -> {}", name(&base.extractor), name(extractor))];
        if base.extractor.decoding != extractor.decoding {
            let name = |info: &ExtractorInfo| if info.decoding.is_full() { "full" } else { "scaled" };
            differences.push(format!("decode: {} -> {}", name(&base.extractor), name(extractor)));
        }
        differences.extend(settings.differences(&base.settings));
        let differences = differences.join("; ");
        return refused(format!(
            "the current version was made with another model or decoding: {differences}. With --rebuild, the features of all {} \
             images are computed again",
            base.images
        ));
    }
    if mode.refit == Refit::Never && !settings.same_fit(&base.settings) {
        return refused(format!(
            "a run that keeps the basis (--refit never) cannot change it: {}",
            settings.differences(&base.settings).join("; ")
        ));
    }
    if is_revision && !mode.upgrade {
        return Err(Error::new(ErrorKind::DatasetUpgradeNeeded, upgrade(base.images)?).context("version", base.version));
    }
    Ok(())
}

/// What it costs to compute all features again.
fn upgrade(images: u64) -> Result<String> {
    let prices = Prices::new("us-east-1", Architecture::X86_64)?;
    let aws = estimate::estimate(Workload::new(images), Deployment::default(), prices)?;
    let minutes = images as f64 * estimate::MS_PER_IMAGE / 60_000.0;
    Ok(format!(
        "this release of Pomona gives other features than the one that made the current version; computing those of \
         {images} images again takes about {minutes:.1} minutes of one processor, or on AWS about {:.0} seconds and {:.2} \
         dollars",
        aws.seconds, aws.dollars.total
    ))
}
