//! The solver against the definition of eigenvectors, and against nalgebra's solver.

use nalgebra::{DMatrix, SymmetricEigen};
use proptest::prelude::*;

use super::*;

/// Asserts that values and vectors are those of the matrix: `A v = value v`, orthonormal vectors, and the trace.
fn check(matrix: &[f64], size: usize) {
    let eigen = decompose(matrix.to_vec(), size, |_| size).unwrap();
    let scale = norm(matrix).max(1e-300);
    assert!(eigen.values.windows(2).all(|pair| pair[0] >= pair[1]));
    let trace: f64 = (0..size).map(|i| matrix[i * size + i]).sum();
    assert!((eigen.values.iter().sum::<f64>() - trace).abs() <= 1e-12 * scale * size as f64);
    check_vectors(matrix, size, &eigen);
}

fn check_vectors(matrix: &[f64], size: usize, eigen: &Eigen) {
    let scale = norm(matrix).max(1e-300);
    for (i, (value, vector)) in eigen.values.iter().zip(eigen.vectors.chunks_exact(size)).enumerate() {
        for row in 0..size {
            let image = dot(&matrix[row * size..][..size], vector);
            assert!((image - value * vector[row]).abs() <= 1e-11 * scale, "value {i} of {size}, row {row}");
        }
        for (j, other) in eigen.vectors.chunks_exact(size).enumerate().take(i + 1) {
            let expected = f64::from(u8::from(i == j));
            assert!((dot(vector, other) - expected).abs() < 1e-11, "vectors {i} and {j} of {size}");
        }
    }
}

fn symmetric(size: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..size * size).map(|at| entry((at / size).max(at % size), (at / size).min(at % size))).collect()
}

#[test]
fn matrices_with_many_equal_eigenvalues_have_orthogonal_vectors() {
    for size in [1, 2, 3, 4, 9, 40] {
        check(&symmetric(size, |i, j| f64::from(u8::from(i == j))), size);
        check(&symmetric(size, |_, _| 0.0), size);
        check(&symmetric(size, |_, _| 1.0), size);
        check(&symmetric(size, |i, j| if i == j { i as f64 } else { 0.0 }), size);
        check(&symmetric(size, |i, j| if i / 3 == j / 3 { 0.5 } else { 0.0 }), size);
        check(&symmetric(size, |i, j| if i - j == 1 { 1.0 } else { 0.0 }), size);
    }
    // Wilkinson's matrix: pairs of eigenvalues that agree to many digits.
    check(&symmetric(21, |i, j| if i == j { (i as f64 - 10.0).abs() } else { f64::from(u8::from(i - j == 1)) }), 21);
}

#[test]
fn far_more_columns_than_rows_leave_many_eigenvalues_at_zero() {
    let (size, rank) = (400, 23);
    let mut random = Random(9);
    let rows: Vec<f64> = (0..rank * size).map(|_| random.next().max(0.0)).collect();
    let entry = |i: usize, j: usize| rows.chunks_exact(size).map(|row| row[i] * row[j]).sum::<f64>();
    let matrix = symmetric(size, entry);
    let eigen = decompose(matrix.clone(), size, |_| rank + 5).unwrap();
    assert!(eigen.values[rank - 1] > 1.0 && eigen.values[rank..].iter().all(|value| value.abs() < 1e-10));
    check_vectors(&matrix, size, &eigen);
}

/// Iterations of nalgebra, which otherwise may not end.
const ORACLE_STEPS: usize = 10_000;

/// Asserts that eigenvalues and subspaces are those that nalgebra computes.
fn check_with_nalgebra(matrix: &[f64], size: usize) {
    let eigen = decompose(matrix.to_vec(), size, |_| size).unwrap();
    let scale = norm(matrix).max(f64::MIN_POSITIVE);
    // nalgebra compares entries with their neighbours on the diagonal. The shift moves eigenvalues away from zero.
    let shifted = DMatrix::from_row_slice(size, size, matrix) / scale + DMatrix::identity(size, size);
    let oracle = SymmetricEigen::try_new(shifted, f64::EPSILON, ORACLE_STEPS).unwrap();
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|a, b| oracle.eigenvalues[*b].total_cmp(&oracle.eigenvalues[*a]));
    let expected: Vec<f64> = order.iter().map(|i| oracle.eigenvalues[*i] - 1.0).collect();
    for (i, (value, expected)) in eigen.values.iter().zip(&expected).enumerate() {
        assert!((value / scale - expected).abs() <= 1e-13 * size as f64, "value {i} of {size}: {value} {expected}");
    }
    // Vectors of close eigenvalues are not unique. The subspace of all vectors above a gap is: compare projections.
    let mut difference = DMatrix::<f64>::zeros(size, size);
    for k in 1..=size {
        let ours = DMatrix::from_column_slice(size, 1, &eigen.vectors[(k - 1) * size..k * size]);
        let theirs = oracle.eigenvectors.column(order[k - 1]);
        difference += &ours * ours.transpose() - theirs * theirs.transpose();
        let gap = if k < size { expected[k - 1] - expected[k] } else { 1.0 };
        if gap > 1e-6 {
            // The angle is at most rounding errors divided by the gap.
            assert!(difference.amax() <= 1e-13 * size as f64 / gap, "first {k} of {size}: {}", difference.amax());
        }
    }
}

/// A matrix with the given eigenvalues and random eigenvectors.
fn with_eigenvalues(values: &[f64], random: &mut Random) -> Vec<f64> {
    let size = values.len();
    let q = DMatrix::from_fn(size, size, |_, _| random.next()).qr().q();
    let entry = |i: usize, j: usize| (0..size).map(|k| q[(i, k)] * values[k] * q[(j, k)]).sum::<f64>();
    symmetric(size, entry)
}

#[test]
fn what_has_no_answer_is_an_error() {
    assert!(decompose(vec![f64::NAN], 1, |_| 1).is_err());
    assert!(decompose(vec![1.0, f64::INFINITY, f64::INFINITY, 1.0], 2, |_| 1).is_err());
    assert!(decompose(vec![1.0; 3], 2, |_| 1).is_err());
    assert_eq!(decompose(Vec::new(), 0, |_| 1).unwrap(), Eigen { values: vec![], vectors: vec![] });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Gram matrices of few vectors, as of a data set with fewer images than features.
    #[test]
    fn values_and_vectors_are_those_of_the_matrix(
        size in 1usize..40, rank in 1usize..40, seed in any::<u64>(), scale in -30i32..30,
    ) {
        let mut random = Random(seed);
        let rows: Vec<f64> = (0..rank * size).map(|_| random.next()).collect();
        let scale = 10f64.powi(scale);
        let entry = |i: usize, j: usize| scale * rows.chunks_exact(size).map(|row| row[i] * row[j]).sum::<f64>();
        check(&symmetric(size, entry), size);
        check_with_nalgebra(&symmetric(size, entry), size);
    }

    /// Indefinite matrices of any magnitude.
    #[test]
    fn values_and_subspaces_are_those_of_nalgebra(size in 1usize..40, seed in any::<u64>(), exponent in -150i32..150) {
        let mut random = Random(seed);
        let scale = 10f64.powi(exponent);
        let entries: Vec<f64> = (0..size * size).map(|_| scale * random.next()).collect();
        check_with_nalgebra(&symmetric(size, |i, j| entries[i * size + j]), size);
    }

    /// Few distinct eigenvalues, and pairs that differ in the tenth digit.
    #[test]
    fn degenerate_subspaces_are_those_of_nalgebra(
        levels in prop::collection::vec(-2i32..3, 1..30), split in any::<bool>(), seed in any::<u64>(),
    ) {
        let offset = |i: usize| if split && i % 2 == 1 { 1e-10 } else { 0.0 };
        let values: Vec<f64> = levels.iter().enumerate().map(|(i, level)| f64::from(*level) + offset(i)).collect();
        let matrix = with_eigenvalues(&values, &mut Random(seed));
        check(&matrix, values.len());
        check_with_nalgebra(&matrix, values.len());
    }
}
