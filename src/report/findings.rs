//! What stands out among the scores: images unlike the rest, all but equal ones, and the nearest of some.

/// Scores of a sample of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores<'a> {
    /// `[rows, kept]`, row-major.
    pub values: &'a [f32],
    pub kept: usize,
}

/// So many median absolute deviations above the median, a distance is that of an outlier; 1.4826 makes them standard
/// deviations where the distances are normal.
const OUTLYING: f64 = 5.0;
const MAD_TO_DEVIATION: f64 = 1.4826;
/// Two images are near-duplicates when their distance is below this share of the median distance of two images.
const NEAR: f64 = 0.05;
/// Rows of which all pairs are looked at.
const PAIRED: usize = 1_000;

/// Rows whose distance from the centre is beyond the threshold, the farthest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outliers {
    pub threshold: f64,
    /// Row and distance.
    pub rows: Vec<(usize, f64)>,
}

/// Pairs of rows that lie closer than the threshold, the closest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Duplicates {
    pub threshold: f64,
    pub pairs: Vec<(usize, usize, f64)>,
    /// Rows whose pairs were looked at.
    pub looked_at: usize,
}

impl<'a> Scores<'a> {
    pub(super) fn rows(&self) -> usize {
        self.values.len().checked_div(self.kept).unwrap_or(0)
    }

    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.kept..(i + 1) * self.kept]
    }

    /// Euclidean.
    pub(super) fn distance(&self, a: usize, b: usize) -> f64 {
        let squares = self.row(a).iter().zip(self.row(b)).map(|(x, y)| f64::from(x - y) * f64::from(x - y));
        squares.sum::<f64>().sqrt()
    }

    /// The distance of two rows when it is below `limit`. Most that are farther apart show it in a few components.
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

    /// Distance from the centre in standard deviations of each component (Mahalanobis), against a robust threshold.
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

    pub(super) fn duplicates(&self) -> Duplicates {
        let rows = evenly(self.rows(), PAIRED);
        // Pairs of rows that lie a third of the sample apart stand for any two images.
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
        Duplicates { threshold, pairs, looked_at: rows.len() }
    }

    /// The `count` nearest rows to a row, itself left out; row and distance.
    pub(super) fn nearest(&self, row: usize, count: usize) -> Vec<(usize, f64)> {
        let others = (0..self.rows()).filter(|other| *other != row);
        let mut all: Vec<(usize, f64)> = others.map(|other| (other, self.distance(row, other))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(count);
        all
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// At most `count` of the numbers below `n`, evenly spread, rising.
pub(super) fn evenly(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| i * n / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows on a circle, so that none lies farther out than the others.
    fn circle(n: usize) -> Vec<f32> {
        (0..n).flat_map(|i| [(i as f32).cos() * (1.0 + 0.01 * (i % 7) as f32), (i as f32).sin()]).collect()
    }

    #[test]
    fn an_image_far_out_is_an_outlier() {
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
        assert_eq!(duplicates.looked_at, 61);
        assert!(duplicates.pairs.iter().all(|pair| pair.2 < duplicates.threshold));
    }

    /// Whatever is left early: the pairs are all those below the threshold, with their distances.
    #[test]
    fn near_duplicates_are_all_pairs_below_the_threshold() {
        let kept = 19;
        let number = |row: usize, i: usize| ((row + 1) * (i + 3) * 37 % 101) as f32 * 0.1;
        // Every third row is another one moved a little, by more and more.
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
