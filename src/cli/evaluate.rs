//! `pomona evaluate`

use crate::{
    Result,
    classify::{ClassResult, Evaluation},
    versions::evaluate::{self, SplitEvaluation},
};

use super::{
    args::{EvaluateArgs, Format},
    format, open,
    out::out,
    print_json,
};

/// Longest label that is printed whole, characters.
const LABEL: usize = 40;
/// Width of the widest bar, characters.
const BAR: f64 = 30.0;

pub(crate) async fn evaluate(args: EvaluateArgs) -> Result<()> {
    let (store, version) = open::version(&args.output, args.version).await?;
    let found = evaluate::evaluate(store.as_ref(), &version, args.split.as_deref()).await?;
    match args.format.format() {
        Format::Json => print_json(&found),
        Format::Text => {
            let numbers = &found.numbers;
            let sections =
                [headline(&found), classes(numbers, args.rows), confusions(numbers, args.rows), calibration(numbers)];
            out(&sections.join("\n"))
        }
    }
}

fn headline(found: &SplitEvaluation) -> String {
    let numbers = &found.numbers;
    let [low, high] = numbers.interval.map(format::percent);
    let how = match (found.held_out, found.optimistic) {
        (true, _) => "images that the classifier was not trained on",
        (false, false) => "training images, each predicted by a model without its fold",
        (false, true) => {
            "training images, each predicted by a model without its fold; optimistic if views of one object are in \
             different folds (--fold-pattern keeps them together)"
        }
    };
    let unknown = match found.of_unknown_classes {
        0 => String::new(),
        images => {
            let images = format::counted(images, "image");
            format!("  {images} of them with a label that the classifier has not learned; they count as wrong\n")
        }
    };
    format!(
        "Version {}, split {}: {how}\n  accuracy {} ({} of {}), 95 % interval {low} to {high}, macro F1 {:.3}\n{unknown}",
        found.version,
        format::escape_invisible(&found.split),
        format::percent(numbers.accuracy),
        format::count(numbers.correct),
        format::counted(numbers.images, "image"),
        numbers.macro_f1,
    )
}

fn share(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), format::percent)
}

fn classes(numbers: &Evaluation, limit: usize) -> String {
    let mut classes: Vec<&ClassResult> = numbers.classes.iter().collect();
    classes.sort_by(|a, b| a.f1.total_cmp(&b.f1).then(a.label.cmp(&b.label)));
    let mut rows = vec![format::row(["class", "images", "precision", "recall", "F1"])];
    for class in classes.iter().take(limit) {
        rows.push(vec![
            format::shorten(&class.label, LABEL),
            format::count(class.images),
            share(class.precision),
            share(class.recall),
            format!("{:.3}", class.f1),
        ]);
    }
    if classes.len() > limit {
        rows.push(vec![format!("… and {} more", classes.len() - limit)]);
    }
    format!("Classes, the hardest first\n{}", format::table(&rows, 1))
}

fn confusions(numbers: &Evaluation, limit: usize) -> String {
    let label = |i: usize| format::shorten(&numbers.classes[i].label, LABEL);
    let pairs = numbers.confusion.iter().enumerate().flat_map(|(i, row)| {
        row.iter().enumerate().filter(move |(j, count)| *j != i && **count > 0).map(move |(j, count)| (*count, i, j))
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    if pairs.is_empty() {
        return "No confusions\n".to_owned();
    }
    let mut rows = vec![format::row(["label", "predicted", "images"])];
    rows.extend(pairs.iter().take(limit).map(|(count, i, j)| vec![label(*i), label(*j), format::count(*count)]));
    if pairs.len() > limit {
        rows.push(vec![format!("… and {} more; --json has the matrix", pairs.len() - limit)]);
    }
    format!("Confusions, the largest first\n{}", format::table(&rows, 2))
}

fn calibration(numbers: &Evaluation) -> String {
    let mut rows = vec![format::row(["probability", "images", "mean", "correct", ""])];
    for bin in numbers.calibration.iter().filter(|bin| bin.images > 0) {
        rows.push(vec![
            format!("from {:.1}", bin.from),
            format::count(bin.images),
            format::percent(bin.probability),
            format::percent(bin.accuracy),
            format!("{:<width$}", "█".repeat((bin.accuracy * BAR).round() as usize), width = BAR as usize),
        ]);
    }
    format!(
        "Calibration: probabilities are off by {} on average\n{}",
        format::percent(numbers.calibration_error),
        format::table(&rows, 1)
    )
}
