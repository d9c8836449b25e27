//! `pomona list`

use crate::{
    Result,
    dataset::{
        Manifest, RejectedObject,
        tables::{OutlierRow, csv},
    },
    versions::{
        findings::{self, DuplicateGroup},
        neighbours::Neighbour,
        predict::{self, Suspect},
    },
};

use super::{
    args::{
        AnswerFormat, DuplicatesArgs, Format, ListArgs, ListCommand, ListOptions, OutliersArgs, RejectsArgs,
        SuspectsArgs,
    },
    format, open,
    out::{note, out},
    print_json,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 60;
/// Similar images of each class.
const NEAR: usize = 3;
/// Images of a group that are printed as text.
const IMAGES: usize = 12;

pub(crate) async fn list(args: ListArgs) -> Result<()> {
    match args.what {
        ListCommand::Duplicates(args) => duplicates(args).await,
        ListCommand::Suspects(args) => suspects(args).await,
        ListCommand::Outliers(OutliersArgs { list }) => outliers(list).await,
        ListCommand::Rejects(RejectsArgs { list }) => rejects(list).await,
    }
}

async fn duplicates(args: DuplicatesArgs) -> Result<()> {
    let (store, version) = open::version(&args.list.output, args.list.version).await?;
    let mut groups = findings::duplicates(store.as_ref(), &version).await?;
    groups.retain(|group| (!args.across_labels || group.across_labels) && (!args.across_splits || group.across_splits));
    let limited = version.duplicates.as_ref().map_or("", format::limited);
    match args.list.answer_format() {
        AnswerFormat::Text => return out(&duplicates_text(&groups, &version, args.list.rows)),
        AnswerFormat::Json => print_json(&groups)?,
        AnswerFormat::Csv => {
            let rows = groups.iter().flat_map(DuplicateGroup::rows).map(|row| row.cells());
            print_csv(csv::DUPLICATES, rows)?;
        }
    }
    if !limited.is_empty() {
        note(&format!("note: only equal bytes{limited}"));
    }
    Ok(())
}

fn duplicates_text(groups: &[DuplicateGroup], version: &Manifest, limit: usize) -> String {
    let Some(summary) = &version.duplicates else { return String::new() };
    let mut text = format!("{}\n", format::duplicates(summary));
    if summary.groups > 0 {
        let mut near = format!("near-duplicates are at most {} apart", summary.distance);
        if summary.levels > 0.0 {
            near.push_str(&format!(", or {} levels in brightness and colour", summary.levels));
        }
        text.push_str(&format!("Printed: {}; {near}\n", format::counted(groups.len() as u64, "group")));
    }
    for group in groups.iter().take(limit) {
        let mut flags = vec![if group.same_bytes { "same bytes" } else { "near-duplicates" }];
        flags.extend(group.across_labels.then_some("different labels"));
        flags.extend(group.across_splits.then_some("different splits"));
        text.push_str(&format!("  {}: {}\n", format::counted(group.paths.len() as u64, "image"), flags.join(", ")));
        let name = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), |t| format::shorten(t, KEY));
        let rows = group.paths.iter().zip(&group.labels).zip(&group.splits).zip(&group.distances);
        for (((path, label), split), distance) in rows.take(IMAGES) {
            let path = format::shorten(path, KEY * 2);
            text.push_str(&format!("    {distance:.3}  {path}  label {}, split {}\n", name(label), name(split)));
        }
        if group.paths.len() > IMAGES {
            text.push_str(&format!("    … and {} more\n", format::count((group.paths.len() - IMAGES) as u64)));
        }
    }
    text + &more(groups.len(), limit)
}

/// A line about what is not printed.
fn more(all: usize, limit: usize) -> String {
    if all <= limit {
        return String::new();
    }
    format!("  … and {} more; --json prints all\n", format::count((all - limit) as u64))
}

/// Prints rows as CSV.
fn print_csv<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<()> {
    out(&String::from_utf8(csv::write(columns, rows)).unwrap_or_default())
}

async fn outliers(list: ListOptions) -> Result<()> {
    let (store, version) = open::version(&list.output, list.version).await?;
    let found = findings::outliers(store.as_ref(), &version).await?;
    match list.answer_format() {
        AnswerFormat::Json => print_json(&found),
        AnswerFormat::Csv => print_csv(csv::OUTLIERS, found.iter().map(OutlierRow::cells)),
        AnswerFormat::Text => {
            let images = format::counted(version.images, "image");
            if found.is_empty() {
                return out(&format!("No outliers among {images}\n"));
            }
            let threshold = version.outliers.as_ref().and_then(|summary| summary.threshold).unwrap_or_default();
            let head = format::counted(found.len() as u64, "outlier");
            let mut text = format!("{head} among {images}, farther than {threshold:.2} from the mean\n");
            let rows = found.iter().take(list.rows).map(|row| {
                let label = format::shorten(row.label.as_deref().unwrap_or("-"), KEY);
                vec![format::shorten(&row.path, KEY * 2), label, format!("{:.2}", row.distance)]
            });
            text.push_str(&format::table(&rows.collect::<Vec<_>>(), 2));
            out(&(text + &more(found.len(), list.rows)))
        }
    }
}

async fn rejects(list: ListOptions) -> Result<()> {
    let (store, version) = open::version(&list.output, list.version).await?;
    let found = findings::rejects(store.as_ref(), &version).await?;
    match list.answer_format() {
        AnswerFormat::Json => print_json(&found),
        AnswerFormat::Csv => print_csv(csv::REJECTS, found.iter().map(RejectedObject::cells)),
        AnswerFormat::Text => {
            if found.is_empty() {
                return out("No rejects\n");
            }
            let rows =
                found.iter().take(list.rows).map(RejectedObject::cells).map(|[path, reason, detail]| {
                    vec![format::shorten(&path, KEY), reason, format::shorten(&detail, KEY)]
                });
            let head = format!("{} without features\n", format::counted(found.len() as u64, "image"));
            out(&(head + &format::table(&rows.collect::<Vec<_>>(), 3) + &more(found.len(), list.rows)))
        }
    }
}

async fn suspects(args: SuspectsArgs) -> Result<()> {
    let (store, version) = open::version(&args.output, args.version).await?;
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
    text + &more(suspects.len(), limit)
}

fn nearest(near: &[Neighbour]) -> String {
    let Some(first) = near.first() else { return String::new() };
    let paths: Vec<String> =
        near.iter().map(|n| format!("{} ({:.3})", format::shorten(&n.path, KEY), n.similarity)).collect();
    let label = format::shorten(first.label.as_deref().unwrap_or_default(), KEY);
    format!("    nearest of {label}: {}\n", paths.join(", "))
}
