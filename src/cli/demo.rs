//! `pomona demo`

use crate::{
    Error, ErrorKind, Result,
    demo::{self, SIDE, VARIETIES},
};

use super::{args::DemoArgs, format, out::note, progress::Bars, run};

pub(crate) async fn demo(args: DemoArgs) -> Result<()> {
    let (images, results) = (args.dir.join("images"), args.dir.join("results"));
    let threads = run::threads(args.options.engine.threads);
    let pictures = VARIETIES.len() as u64 * u64::from(args.views);
    let bars = Bars::new();
    bars.start("render", Some(pictures), None);
    let outcome = demo::write(&images, args.views, threads, &|| bars.step());
    bars.clear();
    outcome.map_err(|e| {
        Error::new(ErrorKind::StoreFailed, "the pictures could not be written")
            .context("folder", images.display())
            .source(e)
    })?;
    note(&format!(
        "{} of {SIDE} x {SIDE} pixels in {}: {} varieties, {} each",
        format::counted(pictures, "picture"),
        format::escape_invisible(&images.to_string_lossy()),
        VARIETIES.len(),
        format::counted(args.views.into(), "view"),
    ));
    if args.images_only {
        return Ok(());
    }
    run::execute((&images.to_string_lossy(), None), &results.to_string_lossy(), &args.options).await
}
