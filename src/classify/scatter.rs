//! The covariance within classes, from exact sums.

use pomona_kernels::linear::{self, RankTwo};

use super::ClassSum;
use crate::pca::moments::TotalMoments;

/// Classes that are subtracted in one pass over the matrix.
const TOGETHER: usize = 16;

/// `[columns, columns]`, row-major, lower triangle: the mean over all rows of `(x - m) (x - m)'`, where m is the mean of the
/// row's class (divisor n).
///
/// The products are first taken about the mean of all rows, rounded to a whole quantum. That is exact in integers, and
/// leaves numbers of the size of the scatter, without the cancellation of `sum x x' - n m m'`; a constant column gets
/// zeros. The scatter between the classes is then subtracted in `f64`, in the order of the classes.
pub(super) fn within(moments: &TotalMoments, classes: &[ClassSum], per_unit: f64) -> Vec<f64> {
    let (columns, n) = (moments.columns(), i128::from(moments.rows()).max(1));
    let sums: Vec<i128> = moments.sums().iter().collect();
    let middle: Vec<i128> = sums.iter().map(|sum| (2 * sum + n).div_euclid(2 * n)).collect();
    // (x - c) (y - d) summed over n rows is Sxy - (Sx - n c) d - c Sy.
    let rest: Vec<i128> = sums.iter().zip(&middle).map(|(sum, middle)| sum - n * middle).collect();
    let mut matrix = vec![0.0; columns * columns];
    let mut products = moments.products().iter();
    for i in 0..columns {
        for (j, product) in (i..columns).zip(&mut products) {
            matrix[j * columns + i] = (product - rest[i] * middle[j] - middle[i] * sums[j]) as f64;
        }
    }
    for some in classes.chunks(TOGETHER) {
        let updates: Vec<RankTwo> = some.iter().map(|class| between(class, &middle)).collect();
        linear::update(&mut matrix, columns, 0, &updates);
    }
    let divisor = n as f64 * per_unit * per_unit;
    for value in &mut matrix {
        *value /= divisor;
    }
    matrix
}

/// `s s' / n` of a class as an update, where s is the sum of its rows about `middle`.
fn between(class: &ClassSum, middle: &[i128]) -> RankTwo {
    let rows = i128::from(class.rows);
    let w: Vec<f64> = class.sums.iter().zip(middle).map(|(sum, middle)| (sum - rows * middle) as f64).collect();
    let v = w.iter().map(|value| value / (2.0 * class.rows as f64)).collect();
    RankTwo { v, w }
}
