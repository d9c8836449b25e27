//! How good predictions are: accuracy with an interval, results of each class, the confusion matrix, calibration.

use std::collections::BTreeMap;

use serde::Serialize;

/// 97.5 % of a normal distribution are below this.
const Z: f64 = 1.959_963_984_540_054;
/// Bins of the calibration.
const BINS: usize = 10;

/// A predicted image that has a label.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Its label.
    pub label: &'a str,
    /// The predicted class.
    pub predicted: &'a str,
    /// The probability of that class.
    pub probability: f64,
}

/// The results of a class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassResult {
    /// The label.
    pub label: String,
    /// Images with this label.
    pub images: u64,
    /// Images for which it was predicted.
    pub predicted: u64,
    /// Images of both kinds.
    pub correct: u64,
    /// Correct ones among those for which it was predicted. None without any.
    pub precision: Option<f64>,
    /// Correct ones among those with this label. None without any.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall, 0 if nothing is correct.
    pub f1: f64,
}

/// Images whose first probability is in a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// The lower end of the range, inclusive; the next bin begins at the upper end.
    pub from: f64,
    /// Number of images.
    pub images: u64,
    /// Their mean probability; 0 without images.
    pub probability: f64,
    /// The share of them that is correct; 0 without images.
    pub accuracy: f64,
}

/// How good predictions are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Images with a label.
    pub images: u64,
    /// Those whose label was predicted.
    pub correct: u64,
    /// Their share; 0 without images.
    pub accuracy: f64,
    /// The 95 % confidence interval of the accuracy (Wilson 1927), for images that are independent of each other.
    pub interval: [f64; 2],
    /// The mean F1 of the classes that have images.
    pub macro_f1: f64,
    /// The mean difference of probability and accuracy over the bins, weighted by images (expected calibration error).
    pub calibration_error: f64,
    /// Bins of the first probability.
    pub calibration: Vec<CalibrationBin>,
    /// Results by label, sorted by label.
    pub classes: Vec<ClassResult>,
    /// `[label, predicted]`: numbers of images, in the order of `classes`.
    pub confusion: Vec<Vec<u64>>,
}

/// Counts of predictions, of which an [`Evaluation`] is made.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By label and prediction.
    pairs: BTreeMap<String, BTreeMap<String, u64>>,
    /// Images, sums of probabilities and correct images of each bin.
    bins: [(u64, f64, u64); BINS],
}

impl Counts {
    /// Adds an image.
    pub fn add(&mut self, Judged { label, predicted, probability }: Judged<'_>) {
        if !self.pairs.contains_key(label) {
            self.pairs.insert(label.to_owned(), BTreeMap::new());
        }
        if let Some(of_label) = self.pairs.get_mut(label) {
            match of_label.get_mut(predicted) {
                Some(count) => *count += 1,
                None => drop(of_label.insert(predicted.to_owned(), 1)),
            }
        }
        let bin = &mut self.bins[((probability * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += 1;
        bin.1 += probability;
        bin.2 += u64::from(label == predicted);
    }

    /// The evaluation of all images.
    pub fn finish(&self) -> Evaluation {
        let names = self.pairs.iter().flat_map(|(label, of)| of.keys().chain([label]));
        let mut numbers: BTreeMap<&str, usize> = names.map(|name| (name.as_str(), 0)).collect();
        numbers.values_mut().zip(0..).for_each(|(number, i)| *number = i);
        let mut confusion = vec![vec![0; numbers.len()]; numbers.len()];
        for (label, of_label) in &self.pairs {
            for (predicted, count) in of_label {
                confusion[numbers[label.as_str()]][numbers[predicted.as_str()]] = *count;
            }
        }
        let classes: Vec<ClassResult> = numbers.iter().map(|(label, i)| of_class(label, *i, &confusion)).collect();
        let images: u64 = classes.iter().map(|class| class.images).sum();
        let correct: u64 = classes.iter().map(|class| class.correct).sum();
        let calibration = self.calibration();
        let off = |bin: &CalibrationBin| bin.images as f64 * (bin.probability - bin.accuracy).abs();
        let with_images = classes.iter().filter(|class| class.images > 0);
        Evaluation {
            images,
            correct,
            accuracy: share(correct, images),
            interval: wilson(correct, images),
            macro_f1: with_images.clone().map(|class| class.f1).sum::<f64>() / with_images.count().max(1) as f64,
            calibration_error: calibration.iter().map(off).sum::<f64>() / images.max(1) as f64,
            calibration,
            classes,
            confusion,
        }
    }

    fn calibration(&self) -> Vec<CalibrationBin> {
        let bins = self.bins.iter().enumerate();
        bins.map(|(i, (images, sum, correct))| CalibrationBin {
            from: i as f64 / BINS as f64,
            images: *images,
            probability: if *images == 0 { 0.0 } else { sum / *images as f64 },
            accuracy: share(*correct, *images),
        })
        .collect()
    }
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn of_class(label: &str, i: usize, confusion: &[Vec<u64>]) -> ClassResult {
    let (images, correct) = (confusion[i].iter().sum(), confusion[i][i]);
    let predicted: u64 = confusion.iter().map(|row| row[i]).sum();
    let of = |all: u64| (all > 0).then(|| share(correct, all));
    ClassResult {
        label: label.to_owned(),
        images,
        predicted,
        correct,
        precision: of(predicted),
        recall: of(images),
        f1: 2.0 * correct as f64 / (images + predicted).max(1) as f64,
    }
}

/// The 95 % confidence interval of a share. Everything without images.
fn wilson(correct: u64, images: u64) -> [f64; 2] {
    if images == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (images as f64, correct as f64 / images as f64);
    let middle = p + Z * Z / (2.0 * n);
    let width = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((middle - width) / scale).max(0.0), ((middle + width) / scale).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged<'a>(label: &'a str, predicted: &'a str, probability: f64) -> Judged<'a> {
        Judged { label, predicted, probability }
    }

    #[test]
    fn results_of_classes_are_those_of_the_confusion_matrix() {
        let mut images = vec![judged("a", "a", 0.95); 6];
        images.extend([judged("a", "b", 0.55), judged("a", "b", 0.65), judged("b", "b", 1.0), judged("c", "a", 0.55)]);
        let mut counts = Counts::default();
        images.into_iter().for_each(|image| counts.add(image));
        let found = counts.finish();
        assert_eq!((found.images, found.correct, found.accuracy), (10, 7, 0.7));
        assert_eq!(found.confusion, [[6, 2, 0], [0, 1, 0], [1, 0, 0]]);
        let a = &found.classes[0];
        assert_eq!((a.precision, a.recall, a.f1), (Some(6.0 / 7.0), Some(0.75), 12.0 / 15.0));
        let c = &found.classes[2];
        assert_eq!((c.label.as_str(), c.precision, c.recall, c.f1), ("c", None, Some(0.0), 0.0));
        assert!((found.macro_f1 - (0.8 + 0.5) / 3.0).abs() < 1e-12);
        // Bins: two of 0.55, one of 0.65, six of 0.95 and one of 1.
        let expected = (2.0 * 0.55 + 0.65 + (7.0 - (6.0 * 0.95 + 1.0))) / 10.0;
        assert!((found.calibration_error - expected).abs() < 1e-12, "{}", found.calibration_error);
        assert_eq!(found.calibration.iter().map(|bin| bin.images).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 2, 1, 0, 0, 7]);
    }

    /// The values of R's `prop.test(correct, images, correct = FALSE)`.
    #[test]
    fn the_interval_is_wilsons() {
        for (correct, images, low, high) in [
            (7, 10, 0.396_778, 0.892_209),
            (0, 10, 0.0, 0.277_533),
            (10, 10, 0.722_467, 1.0),
            (450, 500, 0.870_578, 0.923_322),
        ] {
            let [a, b] = wilson(correct, images);
            assert!((a - low).abs() < 2e-6 && (b - high).abs() < 2e-6, "{correct}/{images}: {a} {b}");
        }
        assert_eq!(Counts::default().finish().interval, [0.0, 1.0]);
    }
}
