//! `pomona erase`

use pomona::{
    Result, dataset,
    ids::Version,
    stages::{CancellationToken, Stores},
    store,
    versions::erase::{self, EraseInput},
};

use crate::{args::EraseArgs, format, print_json, progress::Bars, run};

pub(crate) async fn erase(args: EraseArgs) -> Result<()> {
    let output = store::open(&args.output).await?;
    dataset::expect_output(output.as_ref()).await?;
    let input = dataset::version(output.as_ref(), None).await?.input;
    let stores = Stores { input: store::open_input(&input).await?, output };
    let workers = run::workers(&args.engine)?;
    let stop = CancellationToken::new();
    run::listen(stop.clone());
    let bars = Bars::new();
    let input = EraseInput { run: run::run_id()?, keys: args.keys.into_iter().collect() };
    let outcome = erase::erase(&stores, &workers, input, &bars, &stop).await;
    bars.clear();
    let erased = outcome?;
    if args.json {
        return print_json(&erased);
    }
    let version = erased.version.0;
    let how = if erased.rewritten { "was made without them" } else { "does not hold them" };
    println!("Version {version} {how}");
    let names = |versions: &[Version]| versions.iter().map(|v| v.0.to_string()).collect::<Vec<_>>().join(", ");
    match erased.removed_versions.as_slice() {
        [] => println!("No version held them"),
        versions => println!("Removed versions: {}", names(versions)),
    }
    println!("Deleted {}:", format::counted(erased.deleted.len() as u64, "file"));
    for key in &erased.deleted {
        println!("  {}", format::shorten(key, 200));
    }
    println!(
        "Read again to see that they hold none of them: {}",
        format::counted(erased.checked.len() as u64, "table")
    );
    for key in &erased.checked {
        println!("  {}", format::shorten(key, 200));
    }
    if args.output.starts_with("s3://") {
        println!(
            "A versioned bucket keeps deleted objects until its lifecycle rule removes them (docs/operations.md)."
        );
    }
    Ok(())
}
