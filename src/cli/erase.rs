//! `pomona erase`

use pomona::{
    Result, dataset,
    stages::{CancellationToken, Stores},
    store,
    versions::erase::{self, EraseInput, Erased},
};

use crate::{
    args::{EraseArgs, Format},
    format,
    out::out,
    print_json,
    progress::Bars,
    run,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 200;

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
    if args.format.format() == Format::Json {
        return print_json(&erased);
    }
    let mut text = text(&erased);
    if args.output.starts_with("s3://") {
        text.push_str("A bucket with versioning keeps deleted objects: see docs/operations.md.\n");
    }
    out(&text)
}

fn text(erased: &Erased) -> String {
    let version = erased.version.0;
    let mut text = if erased.rewritten {
        format!("Version {version} was made without the images.\n")
    } else {
        format!("Version {version} does not hold the images.\n")
    };
    text.push_str(&match erased.removed_versions.as_slice() {
        [] => "No version held them.\n".to_owned(),
        versions => format!("Removed versions: {}\n", format::versions(versions)),
    });
    text.push_str(&format!("Deleted {}\n", format::counted(erased.deleted.len() as u64, "file")));
    text.extend(erased.deleted.iter().map(|key| format!("  {}\n", format::shorten(key, KEY))));
    let tables = format::counted(erased.checked.len() as u64, "table");
    text.push_str(&format!("Checked {tables}; none holds the images\n"));
    text.extend(erased.checked.iter().map(|key| format!("  {}\n", format::shorten(key, KEY))));
    text
}
