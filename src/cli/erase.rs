//! `pomona erase`

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    Error, ErrorKind, Result, dataset,
    ids::RunId,
    stages::{CancellationToken, Stores},
    store,
    versions::{
        erase::{self, EraseInput, Erased},
        vacuum::Action,
    },
};

use super::{
    args::{EraseArgs, Format},
    format, open,
    out::{note, out},
    print_json,
    progress::Bars,
    run,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 200;

pub(crate) async fn erase(args: EraseArgs) -> Result<()> {
    let keys = keys(args.keys, args.from_file)?;
    let output = open::output(&args.output).await?;
    let input = match args.input {
        Some(input) => input,
        None => recorded_input(dataset::version(output.as_ref(), None).await?.input)?,
    };
    let stores = Stores::new(store::open_input(&input, &args.output).await?, output);
    let workers = run::workers(&args.engine, &stores).await?;
    let stop = CancellationToken::new();
    run::listen(stop.clone());
    let bars = Bars::new();
    let action = if args.dry_run { Action::DryRun } else { Action::Delete };
    let input = EraseInput { run: RunId::now(), keys, mode: args.input_options.mode(), action };
    let outcome = erase::erase(&stores, &workers, input, args.locks.judge(), &bars, &stop).await;
    bars.clear();
    let erased = outcome?;
    if let Some(error) = &erased.report_error {
        note(&format!("warning: the report of the new version could not be written: {error}"));
    }
    if args.format.format() == Format::Json {
        return print_json(&erased);
    }
    let mut text = text(&erased, action);
    if args.output.starts_with("s3://") {
        text.push_str("A bucket with versioning keeps deleted objects: see docs/operations.md.\n");
    }
    out(&text)
}

/// The keys of the arguments and of the file, without empty lines.
fn keys(mut keys: Vec<String>, file: Option<PathBuf>) -> Result<BTreeSet<String>> {
    if let Some(file) = file {
        let unreadable = |e| {
            Error::new(ErrorKind::InputInvalid, "the list cannot be read").context("file", file.display()).source(e)
        };
        let mut text = String::new();
        if file == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
        } else {
            text = std::fs::read_to_string(&file).map_err(unreadable)?;
        }
        keys.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if keys.is_empty() {
        return Err(Error::new(ErrorKind::InputInvalid, "the list names no images"));
    }
    Ok(keys.into_iter().collect())
}

/// The input of a version. Release 0.1.0 recorded folders as they were written; a relative one may mean another folder
/// here.
pub(crate) fn recorded_input(input: String) -> Result<String> {
    if !store::is_relative(&input) {
        return Ok(input);
    }
    let message = "the output records its input relative to an unknown folder; name the input with --input";
    Err(Error::new(ErrorKind::InputMoved, message).context("recorded", input))
}

fn text(erased: &Erased, action: Action) -> String {
    let version = erased.version.0;
    let mut text = match (action, erased.rewritten) {
        (Action::DryRun, _) => "Nothing was deleted (dry run).\n".to_owned(),
        (Action::Delete, true) => format!("Version {version} was made without the images.\n"),
        (Action::Delete, false) => format!("Version {version} does not hold the images.\n"),
    };
    let (removed, deleted) = match action {
        Action::DryRun => ("Versions that would be removed", "Would delete"),
        Action::Delete => ("Removed versions", "Deleted"),
    };
    text.push_str(&format!("{removed}: {}\n", format::versions(&erased.removed_versions)));
    text.push_str(&format!("{deleted} {}\n", format::counted(erased.deleted.len() as u64, "file")));
    let lines =
        |keys: &[String]| -> String { keys.iter().map(|key| format!("  {}\n", format::shorten(key, KEY))).collect() };
    text.push_str(&lines(&erased.deleted));
    if action == Action::Delete {
        let files = format::counted(erased.checked.len() as u64, "file");
        text.push_str(&format!(
            "Searched all {files} of the output for paths and features; none holds the images (--json names them)\n"
        ));
        for file in &erased.not_searched {
            text.push_str(&format!("Not searched: {} ({})\n", format::shorten(&file.file, KEY), file.reason));
        }
    }
    text
}
