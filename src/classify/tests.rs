//! The classifier against scikit-learn, against fits one by one, and against its own parts in other orders.

use nalgebra::{DMatrix, DVector};
use ndarray::{Array2, Axis};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const PER_UNIT: f64 = (1u64 << 20) as f64;

/// Images with labels and folds.
#[derive(Clone, Debug)]
struct Images {
    features: Array2<f32>,
    labels: Vec<Option<String>>,
    folds: Vec<u8>,
}

impl Images {
    fn sums(&self) -> ClassSums {
        ClassSums::from_rows(self.features.view(), &self.labels, &self.folds, PER_UNIT).unwrap()
    }

    fn rows(&self) -> Vec<TallyRow<'_>> {
        self.labels
            .iter()
            .zip(&self.folds)
            .map(|(label, fold)| TallyRow { label: label.as_deref(), fold: *fold })
            .collect()
    }

    fn select(&self, rows: &[usize]) -> Images {
        Images {
            features: self.features.select(Axis(0), rows),
            labels: rows.iter().map(|row| self.labels[*row].clone()).collect(),
            folds: rows.iter().map(|row| self.folds[*row]).collect(),
        }
    }
}

/// Random images: classes of different sizes around different means, some without a label, some constant columns.
fn images(rng: &mut fastrand::Rng, counts: &[usize], columns: usize) -> Images {
    let mut images = Images { features: Array2::zeros((0, columns)), labels: Vec::new(), folds: Vec::new() };
    let quantum = |x: f64| ((x.clamp(0.0, 7.9) * PER_UNIT).round() / PER_UNIT) as f32;
    for (class, count) in counts.iter().enumerate() {
        let centre: Vec<f64> = (0..columns).map(|_| rng.f64() * 3.0).collect();
        for _ in 0..*count {
            let common = rng.f64();
            let row: Vec<f32> = (0..columns)
                .map(|c| if c % 5 == 4 { 1.5 } else { quantum(centre[c] + common + rng.f64() * 2.0) })
                .collect();
            images.features.push_row(ndarray::aview1(&row)).unwrap();
            images.labels.push((class > 0).then(|| format!("class {class}")));
            images.folds.push(rng.u8(0..FOLDS as u8));
        }
    }
    let mut order: Vec<usize> = (0..images.folds.len()).collect();
    rng.shuffle(&mut order);
    images.select(&order)
}

#[derive(Deserialize)]
struct Case {
    labels: Vec<String>,
    quanta: Vec<Vec<i64>>,
    fits: Vec<Fit>,
}

#[derive(Deserialize)]
struct Fit {
    shrinkage: f64,
    coef: Vec<Vec<f64>>,
    intercept: Vec<f64>,
    decision: serde_json::Value,
}

/// The largest difference, as a share of the largest number.
fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

fn decisions(model: &Discriminant, features: &Array2<f32>) -> Array2<f64> {
    let products = features.mapv(f64::from).dot(&model.weights.t());
    products + ndarray::aview1(&model.bias)
}

#[test]
fn weights_and_decision_values_are_scikit_learns() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/lda.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let columns = case.quanta[0].len();
        let values = case.quanta.concat().iter().map(|units| (*units as f64 / PER_UNIT) as f32).collect();
        let features = Array2::from_shape_vec((case.labels.len(), columns), values).unwrap();
        let labels: Vec<_> = case.labels.iter().map(Some).collect();
        let folds: Vec<u8> = (0..labels.len()).map(|i| (i % FOLDS) as u8).collect();
        let sums = ClassSums::from_rows(features.view(), &labels, &folds, PER_UNIT).unwrap();
        let candidates = fit(sums.clone(), PER_UNIT, Priors::Counts).unwrap().unwrap();
        for (fit, ours) in case.fits.iter().zip(&candidates.all.discriminants) {
            assert!(SHRINKAGES.contains(&fit.shrinkage));
            let decided = decisions(ours, &features);
            if fit.coef.len() == 1 {
                let difference: Vec<f64> = (&ours.weights.row(1) - &ours.weights.row(0)).to_vec();
                assert!(relative(&difference, &fit.coef[0]) < 1e-9);
                assert!(relative(&[ours.bias[1] - ours.bias[0]], &fit.intercept) < 1e-9);
                let theirs: Vec<f64> = serde_json::from_value(fit.decision.clone()).unwrap();
                let difference = (&decided.column(1) - &decided.column(0)).to_vec();
                assert!(relative(&difference, &theirs) < 1e-8);
            } else {
                assert!(relative(ours.weights.as_slice().unwrap(), &fit.coef.concat()) < 1e-9);
                assert!(relative(&ours.bias, &fit.intercept) < 1e-9);
                let theirs: Vec<Vec<f64>> = serde_json::from_value(fit.decision.clone()).unwrap();
                assert!(relative(decided.as_slice().unwrap(), &theirs.concat()) < 1e-8);
            }
        }
    }
}

/// The class that a model of all other folds gives an image, by dense formulas in another library.
fn refitted(images: &Images, shrinkage: f64, image: usize) -> String {
    let columns = images.features.ncols();
    let of = |i: usize| DVector::from_iterator(columns, images.features.row(i).iter().map(|x| f64::from(*x)));
    let training: Vec<usize> = (0..images.folds.len())
        .filter(|i| images.folds[*i] != images.folds[image] && images.labels[*i].is_some())
        .collect();
    let mut labels: Vec<&String> = training.iter().filter_map(|i| images.labels[*i].as_ref()).collect();
    labels.sort();
    labels.dedup();
    let mut scatter = DMatrix::<f64>::zeros(columns, columns);
    let mut classes = Vec::new();
    for label in labels {
        let rows: Vec<usize> = training.iter().copied().filter(|i| images.labels[*i].as_ref() == Some(label)).collect();
        let mean = rows.iter().fold(DVector::zeros(columns), |sum, i| sum + of(*i)) / rows.len() as f64;
        for i in &rows {
            let d = of(*i) - &mean;
            scatter += &d * d.transpose();
        }
        classes.push((label, mean, rows.len() as f64 / training.len() as f64));
    }
    scatter /= training.len() as f64;
    let target = scatter.trace() / columns as f64;
    let shrunk = scatter * (1.0 - shrinkage) + DMatrix::identity(columns, columns) * (shrinkage * target);
    let solver = shrunk.cholesky().unwrap();
    let scores = classes.iter().map(|(label, mean, prior)| {
        let weights = solver.solve(mean);
        (weights.dot(&of(image)) - 0.5 * weights.dot(mean) + prior.ln(), *label)
    });
    scores.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1.clone()
}

#[test]
fn cross_validation_is_that_of_refits_image_by_image() {
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let columns = 3 + rng.usize(0..12);
        let images = images(&mut rng, &[4, 30, 11, 1, 20], columns);
        let candidates = fit(images.sums(), PER_UNIT, Priors::Counts).unwrap().unwrap();
        let tally = candidates.tally(images.features.view(), &images.rows());
        for (s, shrinkage) in SHRINKAGES.into_iter().enumerate() {
            let mut correct = [0; FOLDS];
            for i in (0..images.labels.len()).filter(|i| images.labels[*i].is_some()) {
                let one = candidates.tally(images.select(&[i]).features.view(), &images.select(&[i]).rows());
                let refitted = refitted(&images, shrinkage, i);
                let is_correct = images.labels[i].as_ref() == Some(&refitted);
                assert_eq!(one.correct[s].iter().sum::<u64>() == 1, is_correct, "seed {seed}, image {i}");
                correct[usize::from(images.folds[i])] += u64::from(is_correct);
            }
            assert_eq!(tally.correct[s], correct);
        }
        // The same predictions, by the chosen models.
        let classifier = candidates.choose(&tally);
        let answers = classifier.answers(images.features.view(), &images.rows(), |row| images.labels[row].is_some());
        for (i, answer) in answers.iter().enumerate().filter(|(i, _)| images.labels[*i].is_some()) {
            let label = &classifier.classes[answer.first.class].label;
            assert_eq!(*label, refitted(&images, classifier.shrinkage, i), "seed {seed}, image {i}");
        }
    }
}

/// All numbers of a classifier, as bits.
fn bits(classifier: &Classifier) -> Vec<u64> {
    let models = std::iter::once(&classifier.model).chain(classifier.without.iter().flatten());
    let numbers = models.flat_map(|model| model.weights.iter().chain(&model.bias)).copied();
    let others = [classifier.shrinkage, classifier.temperature, classifier.log_loss, classifier.familiar];
    numbers.chain(others).map(f64::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_split_and_history_gives_the_same_bits(seed in 0u64..1_000_000, parts in 1usize..9) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let images = images(&mut rng, &[3, 12, 7, 5], 9);
        let whole = images.sums();
        let candidates = fit(whole.clone(), PER_UNIT, Priors::Counts).unwrap();
        let Ok(candidates) = candidates else { return Ok(()) };
        let tally = candidates.tally(images.features.view(), &images.rows());
        let expected = bits(&candidates.choose(&tally));

        let mut order: Vec<usize> = (0..images.labels.len()).collect();
        rng.shuffle(&mut order);
        let pieces: Vec<Images> = order.chunks(order.len().div_ceil(parts)).map(|rows| images.select(rows)).collect();
        // Images that come and go leave nothing behind.
        let visitors = super::tests::images(&mut rng, &[1, 2, 2, 2, 9], 9);
        let mut sums = visitors.sums();
        for piece in &pieces {
            sums.add(&piece.sums()).unwrap();
        }
        sums.subtract(&visitors.sums()).unwrap();
        prop_assert_eq!(&sums, &whole);
        let mut shuffled = candidates.no_tally();
        for piece in pieces.iter().rev() {
            shuffled.add(candidates.tally(piece.features.view(), &piece.rows()));
        }
        prop_assert_eq!(&shuffled, &tally);
        let again = fit(sums.clone(), PER_UNIT, Priors::Counts).unwrap().unwrap();
        prop_assert_eq!(bits(&again.choose(&shuffled)), expected);
        prop_assert!(ClassSums::zero(9).subtract(&whole).is_err());
    }
}

/// Rows that wait, and rows beyond the size of a product.
#[test]
fn sums_of_many_rows_are_those_of_each_class() {
    let rows = 3_000;
    let features = Array2::from_shape_fn((rows, 3), |(row, column)| ((row * 7 + column * 13) % 64) as f32 / 8.0);
    let labels: Vec<_> = (0..rows).map(|row| (row % 5 > 0).then(|| ["a", "b"][row % 2])).collect();
    let folds: Vec<u8> = (0..rows).map(|row| u8::from(row % 9 == 0)).collect();
    let sums = ClassSums::from_rows(features.view(), &labels, &folds, PER_UNIT).unwrap();
    let units = |row: usize, column: usize| (f64::from(features[[row, column]]) * PER_UNIT) as i128;
    for (number, fold) in sums.folds().iter().enumerate() {
        let of_fold = || (0..rows).filter(move |row| row % 5 > 0 && usize::from(row % 9 == 0) == number);
        let product: i128 = of_fold().map(|row| units(row, 0) * units(row, 2)).sum();
        assert_eq!(fold.moments.product(0, 2), product);
        for label in ["a", "b"] {
            let of_class = || of_fold().filter(|row| labels[*row] == Some(label));
            assert_eq!(fold.classes.get(label).map_or(0, |class| class.rows), of_class().count() as u64);
            let sum: i128 = of_class().map(|row| units(row, 1)).sum();
            assert_eq!(fold.classes.get(label).map_or(0, |class| class.sums[1]), sum);
        }
    }
    assert_eq!(sums.rows(), 2_400);
}

#[test]
fn too_few_images_or_labels_are_a_stated_result() {
    let mut rng = fastrand::Rng::with_seed(1);
    let reason = |images: &Images| fit(images.sums(), PER_UNIT, Priors::Counts).unwrap().unwrap_err();
    assert_eq!(reason(&images(&mut rng, &[9], 3)), NoClassifier::NoLabels);
    assert_eq!(reason(&images(&mut rng, &[2, 9], 3)), NoClassifier::OneLabel);
    assert_eq!(reason(&images(&mut rng, &[0, 1, 1, 1], 3)), NoClassifier::NoVariance);
    let mut alike = images(&mut rng, &[0, 6, 6], 4);
    alike.features.fill(1.0);
    assert_eq!(reason(&alike), NoClassifier::NoVariance);
    // One fold has all images, so that nothing is left without it.
    let mut together = images(&mut rng, &[0, 6, 6], 4);
    together.folds.fill(2);
    assert_eq!(reason(&together), NoClassifier::NoVariance);
}

#[test]
fn probabilities_are_calibrated_and_equal_priors_move_the_bias_only() {
    let mut rng = fastrand::Rng::with_seed(5);
    let images = images(&mut rng, &[0, 60, 15, 30], 20);
    let by_counts = fit(images.sums(), PER_UNIT, Priors::Counts).unwrap().unwrap();
    let equal = fit(images.sums(), PER_UNIT, Priors::Equal).unwrap().unwrap();
    for (a, b) in by_counts.all.discriminants.iter().zip(&equal.all.discriminants) {
        assert_eq!(a.weights, b.weights);
        let moved: Vec<f64> = a.bias.iter().zip(&b.bias).map(|(a, b)| (a - b).exp() / 3.0).collect();
        for (share, count) in moved.iter().zip([60.0, 15.0, 30.0]) {
            assert!((share - count / 105.0).abs() < 1e-9, "{share}");
        }
    }
    let tally = by_counts.tally(images.features.view(), &images.rows());
    let classifier = by_counts.choose(&tally);
    let answers = classifier.answers(images.features.view(), &images.rows(), |_| true);
    let loss = answers.iter().map(|answer| -answer.label.unwrap().ln()).sum::<f64>() / answers.len() as f64;
    assert!((loss - classifier.log_loss).abs() < 1e-8, "{loss} {}", classifier.log_loss);
    let hits = answers.iter().zip(&images.labels);
    let hits = hits.filter(|(a, label)| Some(&classifier.classes[a.first.class].label) == label.as_ref()).count();
    assert_eq!((hits as u64, 105), (classifier.accuracy.correct, classifier.accuracy.images));
    // One image in a thousand may be farther: of 105, none.
    let largest = classifier.distances(images.features.view()).into_iter().fold(0.0, f64::max);
    assert!(classifier.familiar > 0.5 * largest && classifier.familiar.is_finite());
    assert!(answers.iter().all(|a| a.margin() >= 0.0 && a.first.probability <= 1.0));
}

#[test]
fn an_image_of_a_fold_that_was_empty_is_predicted_by_the_model_of_all() {
    let mut rng = fastrand::Rng::with_seed(8);
    let mut images = images(&mut rng, &[0, 20, 20], 6);
    images.folds.iter_mut().for_each(|fold| *fold %= 4);
    let candidates = fit(images.sums(), PER_UNIT, Priors::Counts).unwrap().unwrap();
    let classifier = candidates.choose(&candidates.tally(images.features.view(), &images.rows()));
    assert!(classifier.without[4].is_none() && classifier.without[3].is_some());
    let later = vec![TallyRow { fold: 4, label: None }; images.labels.len()];
    let answers = classifier.answers(images.features.view(), &later, |_| true);
    assert_eq!(answers, classifier.predict(images.features.view()));
}

#[test]
fn a_fold_is_a_fact_about_the_key_and_folds_are_of_equal_size() {
    let mut counts = [0; FOLDS];
    for i in 0..5_000 {
        counts[usize::from(fold_of(&format!("apple/{i}.jpg")))] += 1;
    }
    assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
}
