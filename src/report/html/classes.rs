//! The classifier on the page: accuracy, confusion matrix, calibration, hardest classes.

use maud::{Markup, html};

use super::{Content, shown};
use crate::{
    classify::{ClassResult, Evaluation},
    report::{
        Learned,
        text::{count, counted, percent},
    },
};

/// Classes in the confusion matrix.
const MATRIX: usize = 150;
/// Most cells that are drawn.
const CELLS: usize = 4_000;
/// Classes in the table of the hardest.
const HARDEST: usize = 12;

pub(super) fn classifier(content: &Content<'_>) -> Markup {
    let Some(learned) = &content.learned else {
        return html! {};
    };
    let found = &learned.evaluation;
    html! {
        section #classifier {
            h2 { "Classifier" }
            (headline(learned))
            h3 { "Hardest classes" }
            (hardest(found))
            h3 { "Confusion matrix" }
            (matrix(found))
            h3 { "Calibration" }
            (calibration(found))
        }
    }
}

fn headline(learned: &Learned) -> Markup {
    let (found, [low, high]) = (&learned.evaluation, learned.evaluation.interval.map(percent));
    html! {
        p {
            strong { (percent(found.accuracy)) } " of " (counted(found.images, "image")) " are predicted as they are labelled (95 % "
            "interval " (low) " to " (high) "). "
            @if learned.split == "train" {
                "Each image is predicted by a model that has not seen it: cross-validation with five folds. "
                @if learned.optimistic {
                    "Where views of one object are in different folds, this is optimistic; "
                    code { "--fold-pattern" } " keeps them together. "
                }
            } @else {
                "These are the images of the split " bdi { (shown(&learned.split)) } ", which were not trained on. "
            }
            @if learned.of_unknown_classes > 0 {
                (counted(learned.of_unknown_classes, "image")) " of them have a label that the classifier has not learned; they "
                "count as wrong. "
            }
            "Linear discriminant analysis, shrinkage " (learned.shrinkage) ", " (counted(learned.images, "training image")) "."
        }
    }
}

fn by_difficulty(found: &Evaluation) -> Vec<(usize, &ClassResult)> {
    let mut classes: Vec<(usize, &ClassResult)> = found.classes.iter().enumerate().collect();
    classes.sort_by(|a, b| a.1.f1.total_cmp(&b.1.f1).then(a.0.cmp(&b.0)));
    classes
}

fn hardest(found: &Evaluation) -> Markup {
    let share = |share: Option<f64>| share.map_or("–".to_owned(), percent);
    html! {
        table {
            thead { tr { th { "class" } th .number { "images" } th .number { "precision" } th .number { "recall" } th { "most often taken for" } } }
            tbody {
                @for (i, class) in by_difficulty(found).into_iter().take(HARDEST) {
                    tr {
                        th scope="row" { bdi { (shown(&class.label)) } }
                        td .number { (count(class.images)) }
                        td .number { (share(class.precision)) } td .number { (share(class.recall)) }
                        td { @if let Some((other, images)) = taken_for(found, i) { bdi { (shown(other)) } " (" (count(images)) ")" } }
                    }
                }
            }
        }
    }
}

/// The class that images of a class are most often taken for.
fn taken_for(found: &Evaluation, class: usize) -> Option<(&str, u64)> {
    let others = found.confusion[class].iter().enumerate().filter(|(other, images)| *other != class && **images > 0);
    let (other, images) = others.max_by_key(|(other, images)| (**images, usize::MAX - other))?;
    Some((&found.classes[other].label, *images))
}

/// Pixels of a cell, and of the names beside the matrix.
fn sizes(classes: usize, longest: usize) -> (usize, usize) {
    let cell = (900 / classes.max(1)).clamp(9, 36);
    let letter = cell.min(13) * 11 / 20;
    (cell, (longest.min(28) + 1) * letter)
}

/// The matrix as a picture: rows are labels, columns are predictions; the darker, the larger the share of the label's images.
fn matrix(found: &Evaluation) -> Markup {
    let mut picked: Vec<usize> = by_difficulty(found).into_iter().take(MATRIX).map(|(i, _)| i).collect();
    picked.sort_unstable();
    let longest = picked.iter().map(|i| shown(&found.classes[*i].label).chars().count()).max().unwrap_or(0);
    let (cell, margin) = sizes(picked.len(), longest);
    let side = margin + cell * picked.len() + 2;
    let letters = cell.min(13);
    let least = least(found, &picked);
    html! {
        p {
            "Rows are labels, columns are predictions. A cell is the darker, the larger its share of the row; red cells are "
            "mistakes. Move the pointer over a cell for its numbers. "
            @if picked.len() < found.classes.len() {
                "The " (picked.len()) " hardest of " (count(found.classes.len() as u64)) " classes. "
            }
            @if least > 1 { "Cells with fewer than " (count(least)) " images are left out." }
        }
        div .wide {
            svg .matrix width=(side) height=(side) viewBox=(format!("0 0 {side} {side}")) role="img" aria-label="Confusion matrix"
                style=(format!("font-size:{letters}px")) {
                @for (row, i) in picked.iter().enumerate() {
                    (name(&found.classes[*i].label, margin, row * cell + cell / 2))
                    @for (column, j) in picked.iter().enumerate() {
                        @if found.confusion[*i][*j] >= least { (entry(found, (*i, *j), [margin + column * cell, margin + row * cell], cell)) }
                    }
                }
                rect .frame x=(margin) y=(margin) width=(cell * picked.len()) height=(cell * picked.len()) {}
            }
        }
    }
}

/// The smallest number of images of a cell that is drawn, so that there are at most [`CELLS`].
fn least(found: &Evaluation, picked: &[usize]) -> u64 {
    let cells = picked.iter().flat_map(|i| picked.iter().map(|j| found.confusion[*i][*j]));
    let mut images: Vec<u64> = cells.filter(|images| *images > 0).collect();
    images.sort_unstable_by(|a, b| b.cmp(a));
    images.get(CELLS).map_or(1, |images| images + 1)
}

/// The name of a class beside its row and above its column.
fn name(label: &str, margin: usize, middle: usize) -> Markup {
    let label = crate::report::text::shorten(label, 28);
    let (end, middle) = (margin - 4, margin + middle);
    html! {
        text x=(end) y=(middle) text-anchor="end" dominant-baseline="central" { (label) }
        text transform=(format!("translate({middle} {end}) rotate(-90)")) dominant-baseline="central" { (label) }
    }
}

fn entry(found: &Evaluation, (i, j): (usize, usize), [x, y]: [usize; 2], cell: usize) -> Markup {
    let (images, class) = (found.confusion[i][j], &found.classes[i]);
    let share = images as f64 / class.images.max(1) as f64;
    let title = format!("{} taken for {}: {} of {}", class.label, found.classes[j].label, images, class.images);
    let kind = if i == j { "right" } else { "wrong" };
    html! {
        rect class=(kind) x=(x) y=(y) width=(cell) height=(cell) fill-opacity=(format!("{:.2}", 0.1 + 0.38 * share)) {
            title { (shown(&title)) }
        }
        @if cell >= 18 {
            text .cell x=(x + cell / 2) y=(y + cell / 2) text-anchor="middle" dominant-baseline="central" { (images) }
        }
    }
}

fn calibration(found: &Evaluation) -> Markup {
    html! {
        p {
            "Of images with a probability of 90 %, nine in ten should be right. Here, probabilities are off by "
            (percent(found.calibration_error)) " on average."
        }
        table .bars {
            thead { tr { th { "probability" } th .number { "images" } th .number { "mean" } th .number { "right" } th {} } }
            tbody {
                @for bin in found.calibration.iter().filter(|bin| bin.images > 0) {
                    tr {
                        th scope="row" { "from " (format!("{:.1}", bin.from)) }
                        td .number { (count(bin.images)) } td .number { (percent(bin.probability)) }
                        td .number { (percent(bin.accuracy)) }
                        td { i style=(format!("width:{:.1}%", bin.accuracy * 100.0)) {} }
                    }
                }
            }
        }
    }
}
