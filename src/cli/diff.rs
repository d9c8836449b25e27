//! `pomona diff`

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Error, ErrorKind, Result,
    dataset::{self, BasisSummary, Classification, Manifest},
    store::Store,
    versions::diff::{self, Diff},
};
use serde::Serialize;

use super::{
    args::{DiffArgs, Format},
    format, open,
    out::out,
    print_json,
};

/// Longest key that is printed whole, characters.
const KEY: usize = 100;

/// The comparison for programs, with all keys and angles.
#[derive(Serialize)]
struct Json<'a> {
    from: u64,
    to: u64,
    explained_variance_ratio: [&'a [f64]; 2],
    /// Share of the images with a label whose label is predicted, by split, as `train` for training images out of fold.
    accuracy: [BTreeMap<&'a str, f64>; 2],
    #[serde(flatten)]
    diff: &'a Diff,
}

pub(crate) async fn diff(args: DiffArgs) -> Result<()> {
    let store = open::output(&args.output).await?;
    let to = dataset::version(store.as_ref(), args.to).await?;
    let from = match args.from {
        Some(number) => dataset::version(store.as_ref(), Some(number)).await?,
        None => before(store.as_ref(), &to).await?,
    };
    let diff = diff::diff(store.as_ref(), &from, &to).await?;
    match args.format.format() {
        Format::Json => print_json(&Json {
            from: from.version.0,
            to: to.version.0,
            explained_variance_ratio: [&from, &to].map(|m| m.basis.explained_variance_ratio.as_slice()),
            accuracy: [&from, &to].map(accuracy),
            diff: &diff,
        }),
        Format::Text => {
            let versions = [&from, &to];
            let mut sections = vec![images(&diff, versions, args.rows), variance(versions, args.rows), angles(&diff)];
            sections.extend(diff.predictions.as_ref().map(|changed| predictions(changed, versions, args.rows)));
            out(&sections.join("\n"))
        }
    }
}

/// The published version before another one. Fails with `Output.NoVersion` if there is none.
async fn before(output: &dyn Store, version: &Manifest) -> Result<Manifest> {
    let published = dataset::published(output).await?.into_iter();
    let earlier = published.filter(|other| other.version < version.version).max_by_key(|other| other.version);
    earlier.ok_or_else(|| {
        let error = Error::new(ErrorKind::OutputNoVersion, "there is no earlier version to compare with");
        error.context("version", version.version)
    })
}

fn images(diff: &Diff, [from, to]: [&Manifest; 2], limit: usize) -> String {
    let mut text = format!("Images, version {} to {}\n", from.version.0, to.version.0);
    for (name, sign, keys) in
        [("added", '+', &diff.added), ("changed", '~', &diff.changed), ("removed", '-', &diff.removed)]
    {
        text.push_str(&format!("  {} {name}\n", format::count(keys.len() as u64)));
        for key in keys.iter().take(limit) {
            text.push_str(&format!("    {sign} {}\n", format::shorten(key, KEY)));
        }
        if keys.len() > limit {
            let more = format::count((keys.len() - limit) as u64);
            text.push_str(&format!("    … and {more} more; --json prints all\n"));
        }
    }
    text
}

fn accuracy(manifest: &Manifest) -> BTreeMap<&str, f64> {
    let summary = manifest.classifier.as_ref().and_then(Classification::fitted);
    let splits =
        summary.into_iter().flat_map(|summary| summary.split_names().into_iter().map(move |name| (name, summary)));
    splits.map(|(name, summary)| (name, summary.split(name).accuracy())).collect()
}

fn predictions(changed: &[String], versions: [&Manifest; 2], limit: usize) -> String {
    let [from, to] = versions.map(accuracy);
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(versions.map(|manifest| format!("version {}", manifest.version.0)));
    let names: BTreeSet<&str> = from.keys().chain(to.keys()).copied().collect();
    for name in names {
        let cell = |accuracy: &BTreeMap<&str, f64>| accuracy.get(name).map_or(String::new(), |a| format::percent(*a));
        rows.push(vec![format!("accuracy, {}", format::shorten(name, 40)), cell(&from), cell(&to)]);
    }
    let mut text = format!("Classifier\n{}", format::table(&rows, 1));
    text.push_str(&format!("  {} with another prediction\n", format::counted(changed.len() as u64, "image")));
    for key in changed.iter().take(limit) {
        text.push_str(&format!("    ~ {}\n", format::shorten(key, KEY)));
    }
    if changed.len() > limit {
        let more = format::count((changed.len() - limit) as u64);
        text.push_str(&format!("    … and {more} more; --json prints all\n"));
    }
    text
}

fn variance(versions: [&Manifest; 2], limit: usize) -> String {
    let row = |name: &str, cell: &dyn Fn(&BasisSummary) -> String| {
        let [from, to] = versions.map(|manifest| cell(&manifest.basis));
        vec![name.to_owned(), from, to]
    };
    let [from, to] = versions.map(|manifest| format!("version {}", manifest.version.0));
    let mut rows = vec![vec![String::new(), from, to]];
    let [from, to] = versions.map(|manifest| format::count(manifest.images));
    rows.push(vec!["images".to_owned(), from, to]);
    rows.push(row("components", &|basis| basis.components.to_string()));
    rows.push(row("explained", &|basis| format::percent(basis.explained_variance_ratio.iter().sum())));
    let most = versions.map(|manifest| manifest.basis.components).into_iter().max().unwrap_or(0);
    for i in 0..limit.min(most) {
        let share = |basis: &BasisSummary| basis.explained_variance_ratio.get(i).map(|share| format::percent(*share));
        rows.push(row(&format!("pc_{i}"), &|basis| share(basis).unwrap_or_default()));
    }
    format!("Explained variance\n{}", format::table(&rows, 1))
}

fn angles(diff: &Diff) -> String {
    let angles = match diff.angles.as_deref() {
        None => "not comparable: the versions have features of different models".to_owned(),
        Some(angles) => {
            let largest = angles.last().copied().unwrap_or(0.0);
            let mean = angles.iter().sum::<f64>() / angles.len().max(1) as f64;
            let number = format::counted(angles.len() as u64, "angle");
            format!("{number}: largest {largest:.2} degrees, mean {mean:.2} degrees")
        }
    };
    format!("Principal angles between the subspaces\n  {angles}\n")
}
