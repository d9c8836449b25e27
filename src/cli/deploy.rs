//! `pomona aws deploy`

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{IsTerminal as _, Write as _},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    Error, ErrorKind, Result,
    aws::{
        deployments::{Change, ChangeSet, Deployments},
        package::{Package, Parameter},
    },
};

use super::{
    args::{DeployArgs, Format},
    format,
    out::{is_quiet, note, out},
    print_json,
};

/// Longest value of an output that is printed whole, characters.
const VALUE: usize = 400;

pub(crate) async fn deploy(args: DeployArgs) -> Result<()> {
    let package = match &args.package {
        Some(folder) => Package::open(folder)?,
        None => Package::beside(&program()?)?,
    };
    let mut given = parameters(&args, &package)?;
    let asks = std::io::stdin().is_terminal();
    if !asks && (args.guided || !(args.yes || args.dry_run)) {
        let message = "there is no terminal to ask in: add --yes to deploy without a question, or --dry-run";
        return Err(Error::new(ErrorKind::InputInvalid, message));
    }
    let deployments = Deployments::connect(args.region.as_deref()).await;
    let account = deployments.account().await?;
    let known = deployments.parameters(&args.stack).await?;
    note(&format!(
        "Stack {} in {}, account {account}, for {}",
        args.stack,
        deployments.region(),
        package.architecture()
    ));
    if args.guided {
        guide(&package, known.as_ref(), &mut given)?;
    }
    note("Uploading the package and comparing it with what is deployed ...");
    let template = deployments.upload(&package, &account).await?;
    let change_set = deployments.change_set(&args.stack, &template, &given, known.as_ref()).await?;
    let is_text = args.format.format() == Format::Text;
    let nothing_new = change_set.changes.is_empty();
    if is_text && !nothing_new {
        out(&changes(&change_set))?;
    }
    let stays = if nothing_new {
        Some("Nothing to change\n")
    } else if args.dry_run {
        Some("Nothing was changed (--dry-run)\n")
    } else if !args.yes && !agreed(&format!("Deploy to {}? [y/N] ", args.stack))? {
        Some("Nothing was changed\n")
    } else {
        None
    };
    if let Some(text) = stays {
        deployments.discard(&change_set).await?;
        return if is_text { out(text) } else { print_json(&Answer { change_set, outputs: None }) };
    }
    let outputs = follow(&deployments, &change_set).await?;
    if is_text {
        return out(&deployed(&args.stack, &outputs));
    }
    print_json(&Answer { change_set, outputs: Some(outputs) })
}

/// The answer for programs.
#[derive(Serialize)]
struct Answer {
    change_set: ChangeSet,
    /// The outputs of the stack; none if nothing was changed.
    outputs: Option<BTreeMap<String, String>>,
}

/// Asks for the parameters that are not given.
fn guide(
    package: &Package,
    known: Option<&BTreeMap<String, String>>,
    given: &mut BTreeMap<String, String>,
) -> Result<()> {
    for parameter in package.parameters() {
        if let Entry::Vacant(unknown) = given.entry(parameter.name.clone()) {
            unknown.insert(ask(&parameter, known.and_then(|known| known.get(&parameter.name)))?);
        }
    }
    Ok(())
}

fn program() -> Result<std::path::PathBuf> {
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    program.map_err(|e| Error::new(ErrorKind::StackNoPackage, "this program does not know where it lies").source(e))
}

/// The given parameters. Fails with `Input.Invalid` if the template does not have one, or not this value.
fn parameters(args: &DeployArgs, package: &Package) -> Result<BTreeMap<String, String>> {
    let known = package.parameters();
    for (name, value) in &args.parameters {
        let Some(parameter) = known.iter().find(|parameter| parameter.name == *name) else {
            let nearest = known.iter().max_by(|a, b| {
                let like = |parameter: &Parameter| strsim::jaro_winkler(&parameter.name, name);
                like(a).total_cmp(&like(b))
            });
            let error = Error::new(ErrorKind::InputInvalid, "the stack has no such parameter").context("name", name);
            return Err(match nearest {
                Some(nearest) => error.context("the most similar one", &nearest.name),
                None => error,
            });
        };
        if !parameter.values.is_empty() && !parameter.values.contains(value) {
            return Err(Error::new(ErrorKind::InputInvalid, "a parameter cannot have this value")
                .context("parameter", name)
                .context("value", value)
                .context("possible", parameter.values.join(", ")));
        }
    }
    Ok(args.parameters.iter().cloned().collect())
}

/// The answer to a question; empty at the end of the input.
fn answer(question: &str) -> Result<String> {
    let failed = |e| Error::new(ErrorKind::StoreFailed, "the terminal cannot be used for questions").source(e);
    let mut terminal = std::io::stderr().lock();
    write!(terminal, "{question}").and_then(|()| terminal.flush()).map_err(failed)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    Ok(line.trim().to_owned())
}

/// Asks for a parameter until the answer is possible. An empty answer keeps the value of the stack, or the default.
fn ask(parameter: &Parameter, before: Option<&String>) -> Result<String> {
    let usual = before.unwrap_or(&parameter.default);
    let values =
        if parameter.values.is_empty() { String::new() } else { format!(" ({})", parameter.values.join(", ")) };
    loop {
        let given = answer(&format!("\n{}{values}\n{} [{usual}]: ", parameter.description, parameter.name))?;
        if given.is_empty() {
            return Ok(usual.clone());
        }
        if parameter.values.is_empty() || parameter.values.contains(&given) {
            return Ok(given);
        }
        note(&format!("{} is none of {}", format::escape_invisible(&given), parameter.values.join(", ")));
    }
}

fn agreed(question: &str) -> Result<bool> {
    Ok(["y", "yes"].contains(&answer(question)?.to_lowercase().as_str()))
}

/// What a change set does, one line per resource.
fn changes(change_set: &ChangeSet) -> String {
    let row = |change: &Change| {
        let replaced = change.replacement.as_deref().is_some_and(|replacement| replacement != "False");
        let action = change.action.to_lowercase() + if replaced { ", replaced" } else { "" };
        vec![action, change.resource.clone(), change.kind.clone()]
    };
    let rows: Vec<_> = change_set.changes.iter().map(row).collect();
    let what = if change_set.is_new { "A new stack" } else { "Changes of the stack" };
    let resources = format::counted(change_set.changes.len() as u64, "resource");
    format!("{what} {}: {resources}\n{}\n", change_set.stack, format::table(&rows, 3))
}

/// Executes a change set, with a bar of the resources that have come to their end.
async fn follow(deployments: &Deployments, change_set: &ChangeSet) -> Result<BTreeMap<String, String>> {
    let bar = if is_quiet() { ProgressBar::hidden() } else { ProgressBar::new(change_set.changes.len() as u64) };
    let style = ProgressStyle::with_template("deploying  {wide_bar} {human_pos}/{human_len}  {elapsed}  {msg:24!}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    let mut ended = std::collections::HashSet::new();
    let outcome = deployments
        .execute(change_set, |progress| {
            bar.set_message(format::escape_invisible(&progress.resource).into_owned());
            if progress.ended && ended.insert(progress.resource.clone()) {
                bar.set_position(ended.len().min(change_set.changes.len()) as u64);
            }
            if progress.status.ends_with("_FAILED") {
                bar.suspend(|| note(&format!("{}: {}", format::escape_invisible(&progress.resource), progress.status)));
            }
        })
        .await;
    bar.finish_and_clear();
    outcome
}

/// What was deployed, and what to do next.
fn deployed(stack: &str, outputs: &BTreeMap<String, String>) -> String {
    let rows = outputs.iter().map(|(name, value)| vec![name.clone(), format::shorten(value, VALUE)]);
    let rows = format::table(&rows.collect::<Vec<_>>(), 2);
    let place = |name: &str| outputs.get(name).cloned().unwrap_or_default();
    let (images, results) = (place("Images"), place("Results"));
    let next = [
        vec!["upload".to_owned(), format!("aws s3 sync photos/ {images}")],
        vec!["run".to_owned(), format!("pomona aws start {stack} {images} {results}first/ --follow")],
        vec!["show".to_owned(), format!("pomona show {results}first/")],
    ];
    format!("Deployed {stack}\n{rows}\nNext\n{}", format::table(&next, 2))
}
