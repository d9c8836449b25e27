//! Outliers, near-duplicates and nearest neighbours among the scores of a sample.

/// Scores of a sample of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores<'a> {
    /// `[rows, kept]`, row-major.
    pub(super) values: &'a [f32],
    pub(super) kept: usize,
}

/// The distance of an outlier exceeds the median by this many median absolute deviations, which are scaled by
/// [`MAD_TO_DEVIATION`].
const OUTLYING: f64 = 5.0;
/// Ratio of standard deviation and median absolute deviation of a normal distribution.
const MAD_TO_DEVIATION: f64 = 1.4826;
/// The distance of near-duplicates is below this share of the median distance of two images.
const NEAR: f64 = 0.05;
/// Rows among which all pairs are compared.
const PAIRED: usize = 1_000;

/// Rows whose distance from the mean exceeds the threshold, in descending order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outliers {
    pub(super) threshold: f64,
    /// Row and distance.
    pub(super) rows: Vec<(usize, f64)>,
}

/// Pairs of rows whose distance is below the threshold, in ascending order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Duplicates {
    pub(super) threshold: f64,
    /// Two rows and their distance.
    pub(super) pairs: Vec<(usize, usize, f64)>,
    /// Number of rows that were compared with each other.
    pub(super) rows: usize,
}

impl<'a> Scores<'a> {
    pub(super) fn rows(&self) -> usize {
        self.values.len().checked_div(self.kept).unwrap_or(0)
    }

    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.kept..(i + 1) * self.kept]
    }

    /// Euclidean distance of two rows.
    pub(super) fn distance(&self, a: usize, b: usize) -> f64 {
        let squares = self.row(a).iter().zip(self.row(b)).map(|(x, y)| f64::from(x - y) * f64::from(x - y));
        squares.sum::<f64>().sqrt()
    }

    /// The distance of two rows if it is below `limit`. Stops early: a few components exclude most pairs.
    fn closer(&self, a: usize, b: usize, limit: f64) -> Option<f64> {
        let mut squares = 0.0;
        for (x, y) in self.row(a).chunks(8).zip(self.row(b).chunks(8)) {
            squares += x.iter().zip(y).map(|(x, y)| f64::from(x - y) * f64::from(x - y)).sum::<f64>();
            if squares >= limit * limit {
                return None;
            }
        }
        Some(squares.sqrt()).filter(|distance| *distance < limit)
    }

    /// Rows whose Mahalanobis distance from the mean exceeds a robust threshold. `variances` are those of the components.
    pub(super) fn outliers(&self, variances: &[f64]) -> Outliers {
        let weights: Vec<f64> = variances.iter().map(|v| if *v > 0.0 { 1.0 / v } else { 0.0 }).collect();
        let distance = |i: usize| {
            let squares = self.row(i).iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*x) * w);
            squares.sum::<f64>().sqrt()
        };
        let distances: Vec<f64> = (0..self.rows()).map(distance).collect();
        let centre = median(distances.clone());
        let deviation = MAD_TO_DEVIATION * median(distances.iter().map(|d| (d - centre).abs()).collect());
        let threshold = centre + OUTLYING * deviation;
        let mut rows: Vec<(usize, f64)> = distances.into_iter().enumerate().filter(|(_, d)| *d > threshold).collect();
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        Outliers { threshold, rows }
    }

    /// Near-duplicates among at most [`PAIRED`] rows.
    pub(super) fn duplicates(&self) -> Duplicates {
        let rows = evenly(self.rows(), PAIRED);
        // Rows that are a third of the sample apart are used as random pairs.
        let apart = rows.len() / 3 + 1;
        let any: Vec<f64> = (apart..rows.len()).map(|i| self.distance(rows[i], rows[i - apart])).collect();
        let threshold = NEAR * median(any);
        let mut pairs = Vec::new();
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[i + 1..] {
                if let Some(distance) = self.closer(*a, *b, threshold) {
                    pairs.push((*a, *b, distance));
                }
            }
        }
        pairs.sort_by(|a, b| a.2.total_cmp(&b.2));
        Duplicates { threshold, pairs, rows: rows.len() }
    }

    /// The `count` nearest neighbours of a row: row and distance, in ascending order.
    pub(super) fn nearest(&self, row: usize, count: usize) -> Vec<(usize, f64)> {
        let others = (0..self.rows()).filter(|other| *other != row);
        let mut all: Vec<(usize, f64)> = others.map(|other| (other, self.distance(row, other))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(count);
        all
    }
}

/// The upper median; 0 without values.
fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// At most `count` of the numbers below `n`, evenly spread and ascending.
pub(super) fn evenly(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| i * n / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows close to a circle: none of them is an outlier.
    fn circle(n: usize) -> Vec<f32> {
        (0..n).flat_map(|i| [(i as f32).cos() * (1.0 + 0.01 * (i % 7) as f32), (i as f32).sin()]).collect()
    }

    #[test]
    fn a_distant_image_is_an_outlier() {
        let mut values = circle(100);
        values.extend([50.0, 0.0]);
        let outliers = Scores { values: &values, kept: 2 }.outliers(&[1.0, 1.0]);
        assert_eq!(outliers.rows.len(), 1, "{outliers:?}");
        assert_eq!(outliers.rows[0].0, 100);
        assert!(outliers.threshold < 2.0);
    }

    #[test]
    fn the_same_image_twice_is_a_near_duplicate() {
        let mut values = circle(60);
        values.extend_from_within(20..22);
        let duplicates = Scores { values: &values, kept: 2 }.duplicates();
        assert_eq!(duplicates.pairs.first().map(|pair| (pair.0, pair.1)), Some((10, 60)), "{duplicates:?}");
        assert_eq!(duplicates.rows, 61);
        assert!(duplicates.pairs.iter().all(|pair| pair.2 < duplicates.threshold));
    }

    /// Stopping early changes nothing: all pairs below the threshold are found, with their distances.
    #[test]
    fn near_duplicates_are_all_pairs_below_the_threshold() {
        let kept = 19;
        let number = |row: usize, i: usize| ((row + 1) * (i + 3) * 37 % 101) as f32 * 0.1;
        // Every third row is its predecessor, shifted by a growing amount.
        let value = |row: usize, i: usize| match row % 3 {
            0 if row > 0 => number(row - 1, i) + row as f32 * 0.02,
            _ => number(row, i),
        };
        let values: Vec<f32> = (0..60 * kept).map(|at| value(at / kept, at % kept)).collect();
        let scores = Scores { values: &values, kept };
        let found = scores.duplicates();
        let pairs = (0..60).flat_map(|a| (a + 1..60).map(move |b| (a, b)));
        let near: Vec<_> = pairs.filter(|(a, b)| scores.distance(*a, *b) < found.threshold).collect();
        assert!((3..18).contains(&near.len()), "{near:?}");
        let mut pairs: Vec<_> = found.pairs.iter().map(|(a, b, _)| (*a, *b)).collect();
        pairs.sort_unstable();
        assert_eq!(pairs, near);
        for (a, b, distance) in found.pairs {
            assert!((distance - scores.distance(a, b)).abs() < 1e-9);
        }
    }

    #[test]
    fn the_nearest_come_first() {
        let values = [0.0, 1.0, 3.0, -0.5];
        assert_eq!(Scores { values: &values, kept: 1 }.nearest(0, 2), [(3, 0.5), (1, 1.0)]);
    }

    #[test]
    fn too_few_rows_have_no_findings() {
        for values in [&[][..], &[1.0][..]] {
            let scores = Scores { values, kept: 1 };
            assert!(scores.outliers(&[1.0]).rows.is_empty() && scores.duplicates().pairs.is_empty());
        }
        assert_eq!(evenly(10, 3), [0, 3, 6]);
        assert_eq!(evenly(2, 5), [0, 1]);
    }
}
