//! `pomona show`

use crate::{
    Result,
    dataset::{self, Classification, Manifest, contents, keys, tables, training::TRAIN},
    store::{self, Store},
};

use super::{
    args::{Format, ShowArgs},
    browse, format, open,
    out::out,
};

/// Width of the widest explained-variance bar, characters.
const BAR: f64 = 40.0;
/// Scores of a row to show.
const SCORES: usize = 5;

pub(crate) async fn show(args: ShowArgs) -> Result<()> {
    let (store, shown) = open::version(&args.output, args.version).await?;
    if args.open {
        return browse::report(store.as_ref(), &args.output, args.version.map(|_| &shown)).await;
    }
    if args.format.format() == Format::Json {
        return out(&String::from_utf8_lossy(&dataset::to_json(&shown)?));
    }
    let sections = [
        versions(&dataset::published(store.as_ref()).await?),
        settings(store.as_ref(), &shown).await?,
        labels(&shown, args.rows.max(20)),
        classifier(&shown),
        findings(&shown),
        variance(&shown, args.rows.max(10)),
        first_rows(store.as_ref(), &shown, args.rows).await?,
        rejects(store.as_ref(), &shown, args.rows).await?,
    ];
    out(&sections.concat())
}

fn versions(manifests: &[Manifest]) -> String {
    let head = ["version", "created", "images", "inferred", "rejects", "components", "explained"];
    let mut rows = vec![format::row(head)];
    for manifest in manifests {
        rows.push(vec![
            manifest.version.0.to_string(),
            format::time(manifest.created),
            format::count(manifest.images),
            format::count(manifest.figures.inferred),
            format::count(manifest.rejects),
            manifest.basis.components.to_string(),
            format::percent(manifest.basis.explained_variance_ratio.iter().sum()),
        ]);
    }
    format!("Versions\n{}\n", format::table(&rows, 2))
}

async fn settings(store: &dyn Store, manifest: &Manifest) -> Result<String> {
    let model = format!("{}, {} features", manifest.extractor.model, manifest.extractor.columns);
    let scaling = if manifest.settings.standardizes() { "standardised" } else { "centred only" };
    let shards = format!("{}, target size {} images", manifest.shards(), manifest.settings.shard_size());
    let mut rows = vec![
        format::row(["input", &manifest.input]),
        format::row(["model", &model]),
        format::row(["scaling", scaling]),
        format::row(["shards", &shards]),
        format::row(["index", &index(manifest)]),
    ];
    let report = keys::run_report(&manifest.run);
    if !store::list_all(store, &report).await?.is_empty() {
        rows.push(format::row(["report", &report]));
    }
    Ok(format!("Version {}\n{}\n", manifest.version.0, format::table(&rows, 2)))
}

/// The search index in one line.
fn index(manifest: &Manifest) -> String {
    let Some(index) = &manifest.index else { return "none, so a search reads all features".to_owned() };
    let segments: Vec<_> = index.segments.iter().flatten().collect();
    let size = format::bytes(segments.iter().map(|segment| segment.bytes).sum());
    format!("{size} in {}", format::counted(segments.len() as u64, "segment"))
}

fn labels(manifest: &Manifest, limit: usize) -> String {
    let mut rows: Vec<Vec<String>> = manifest
        .labels
        .iter()
        .take(limit)
        .map(|count| {
            let label = format::shorten(format::label_name(count.label.as_deref()), 50);
            vec![label, format::count(count.images)]
        })
        .collect();
    if manifest.labels.len() > limit {
        rows.push(vec![format!("… and {} more", manifest.labels.len() - limit)]);
    }
    format!("Images per label\n{}\n", format::table(&rows, 1))
}

/// The classifier and its results by split; nothing for versions of releases without classifiers.
fn classifier(manifest: &Manifest) -> String {
    let summary = match &manifest.classifier {
        None => return String::new(),
        Some(Classification::None { reason }) => return format!("No classifier: {}\n\n", reason.text()),
        Some(Classification::Fitted(summary)) => summary,
    };
    let mut rows = vec![format::row(["", "images", "accuracy", "suspects"])];
    for name in summary.split_names() {
        let split = summary.split(name);
        let name = if name == TRAIN { "training, out of fold".to_owned() } else { format::shorten(name, 40) };
        let accuracy = format::percent(split.accuracy());
        rows.push(vec![name, format::count(split.images), accuracy, format::count(split.suspects)]);
    }
    let mut head = format!("{} classes, shrinkage {}", format::count(summary.classes), summary.shrinkage);
    if let Some(grouped) = summary.grouped {
        let of = format::count(summary.images);
        head.push_str(&format!("; the fold pattern matches {} of {of} training images", format::count(grouped)));
    }
    format!("Classifier ({head})\n{}\n", format::table(&rows, 1))
}

/// Duplicates and outliers; nothing for versions of releases without them.
fn findings(manifest: &Manifest) -> String {
    let Some(duplicates) = &manifest.duplicates else { return String::new() };
    let mut rows = vec![vec![format::duplicates(duplicates)]];
    rows.extend(manifest.outliers.iter().map(|found| vec![format::outliers(found)]));
    if duplicates.across_labels > 0 {
        rows.push(format::row(["`pomona list duplicates --across-labels` prints the groups with different labels"]));
    }
    format!("Findings\n{}\n", format::table(&rows, 1))
}

fn variance(manifest: &Manifest, limit: usize) -> String {
    let basis = &manifest.basis;
    let largest = basis.explained_variance_ratio.first().copied().unwrap_or(1.0);
    let mut cumulative = 0.0;
    let mut rows = vec![format::row(["", "variance", "share", "cumulative"])];
    for (i, (variance, ratio)) in basis.explained_variance.iter().zip(&basis.explained_variance_ratio).enumerate() {
        cumulative += ratio;
        if i < limit {
            let bar = "█".repeat((ratio / largest * BAR).round() as usize);
            rows.push(vec![
                format!("pc_{i}"),
                format!("{variance:.3}"),
                format::percent(*ratio),
                format::percent(cumulative),
                bar,
            ]);
        }
    }
    // Padded on the right: the table aligns this column to the right.
    let widest = rows.iter().filter_map(|row| row.get(4)).map(|bar| bar.chars().count()).max().unwrap_or(0);
    for bar in rows.iter_mut().filter_map(|row| row.get_mut(4)) {
        bar.push_str(&" ".repeat(widest - bar.chars().count()));
    }
    format!(
        "Explained variance ({} of {} columns are constant)\n{}  {} explain {}; 90 % needs {}, 99 % needs {}\n\n",
        basis.constant_columns,
        basis.columns,
        format::table(&rows, 1),
        format::counted(basis.components as u64, "component"),
        format::percent(cumulative),
        basis.components_for_90_percent,
        basis.components_for_99_percent,
    )
}

async fn first_rows(store: &dyn Store, manifest: &Manifest, limit: usize) -> Result<String> {
    let parts = contents::parts(store, manifest).await?;
    let Some(file) = parts.iter().find_map(|part| part.scores.first()) else { return Ok(String::new()) };
    let (kept, key) = (manifest.basis.components, file.key.as_str());
    let rows = tables::read_scores(file.read(store).await?, kept, key)?;
    let mut lines = vec![format::row(["path", "label", "pca_features"])];
    for (i, (path, label)) in rows.paths.iter().zip(&rows.labels).enumerate().take(limit) {
        let shown: Vec<String> = rows.scores.row(i).iter().take(SCORES).map(|score| format!("{score:.3}")).collect();
        let more = if kept > SCORES { ", …" } else { "" };
        lines.push(vec![
            format::shorten(path, 48),
            label.as_deref().map_or(String::new(), |label| format::shorten(label, 24)),
            format!("[{}{more}]", shown.join(", ")),
        ]);
    }
    Ok(format!("First rows of {}\n{}\n", format::escape_invisible(key), format::table(&lines, 3)))
}

async fn rejects(store: &dyn Store, manifest: &Manifest, limit: usize) -> Result<String> {
    let file = &manifest.outputs.rejects;
    if manifest.rejects == 0 {
        return Ok("No rejects\n".to_owned());
    }
    let rows = tables::read_rejects(file.read(store).await?, &file.key)?;
    let mut lines = vec![format::row(["path", "reason", "detail"])];
    for [path, reason, detail] in rows.iter().take(limit) {
        lines.push(vec![format::shorten(path, 48), reason.clone(), format::shorten(detail, 60)]);
    }
    if rows.len() > limit {
        lines.push(vec![format!("… and {} more in {}", rows.len() - limit, file.key)]);
    }
    Ok(format!("Rejects\n{}", format::table(&lines, 3)))
}
