//! `pomona list`

use pomona::{
    Result, dataset, store,
    versions::{
        neighbours::Neighbour,
        predict::{self, Suspect},
    },
};

use crate::{
    args::{Format, ListArgs, ListCommand, SuspectsArgs},
    format,
    out::out,
    print_json,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 60;
/// Similar images of each class.
const NEAR: usize = 3;

pub(crate) async fn list(args: ListArgs) -> Result<()> {
    match args.what {
        ListCommand::Suspects(args) => suspects(args).await,
    }
}

async fn suspects(args: SuspectsArgs) -> Result<()> {
    let store = store::open(&args.output).await?;
    dataset::expect_output(store.as_ref()).await?;
    let version = dataset::version(store.as_ref(), args.version).await?;
    let found = predict::suspects(store.as_ref(), &version, args.rows, NEAR).await?;
    match args.format.format() {
        Format::Json => print_json(&found),
        Format::Text => out(&text(&found, args.rows)),
    }
}

fn text(suspects: &[Suspect], limit: usize) -> String {
    if suspects.is_empty() {
        return "No suspects\n".to_owned();
    }
    let mut text = format!("{}, the most suspect first\n", format::counted(suspects.len() as u64, "suspect"));
    for suspect in suspects.iter().take(limit) {
        let name = |label: &str| format::shorten(label, KEY);
        text.push_str(&format!(
            "  {}\n    label {} {}; predicted {} {}\n",
            format::shorten(&suspect.path, KEY * 2),
            name(&suspect.label),
            format::percent(suspect.label_probability),
            name(&suspect.predicted),
            format::percent(suspect.probability),
        ));
        for near in [&suspect.nearest_of_label, &suspect.nearest_of_predicted] {
            text.push_str(&nearest(near));
        }
    }
    if suspects.len() > limit {
        text.push_str(&format!("  … and {} more; --json prints all\n", format::count((suspects.len() - limit) as u64)));
    }
    text
}

fn nearest(near: &[Neighbour]) -> String {
    let Some(first) = near.first() else { return String::new() };
    let paths: Vec<String> =
        near.iter().map(|n| format!("{} ({:.3})", format::shorten(&n.path, KEY), n.similarity)).collect();
    let label = format::shorten(first.label.as_deref().unwrap_or_default(), KEY);
    format!("    nearest of {label}: {}\n", paths.join(", "))
}
