//! `pomona demo`

use pomona::{
    Error, ErrorKind, Result,
    demo::{self, VARIETIES},
};

use crate::{args::DemoArgs, progress::Bars, run};

pub(crate) async fn demo(args: DemoArgs) -> Result<()> {
    let (images, results) = (args.dir.join("images"), args.dir.join("results"));
    let threads = run::threads(&args.options.engine);
    let bars = Bars::new();
    bars.start("render", Some(VARIETIES.len() as u64 * u64::from(args.views)), None);
    let outcome = demo::write(&images, args.views, threads, &|| bars.step());
    bars.clear();
    outcome.map_err(|e| {
        Error::new(ErrorKind::StoreFailed, "the pictures could not be written")
            .context("folder", images.display())
            .source(e)
    })?;
    eprintln!("{} varieties x {} views of 100 x 100 pixels in {}", VARIETIES.len(), args.views, images.display());
    if args.images_only {
        return Ok(());
    }
    run::execute(&images.to_string_lossy(), &results.to_string_lossy(), &args.options).await
}
