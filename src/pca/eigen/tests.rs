use proptest::prelude::*;

use super::*;

/// Fails unless values and vectors are those of the matrix.
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

#[test]
fn what_has_no_answer_is_an_error() {
    assert!(decompose(vec![f64::NAN], 1, |_| 1).is_err());
    assert!(decompose(vec![1.0, f64::INFINITY, f64::INFINITY, 1.0], 2, |_| 1).is_err());
    assert!(decompose(vec![1.0; 3], 2, |_| 1).is_err());
    assert_eq!(decompose(Vec::new(), 0, |_| 1).unwrap(), Eigen { values: vec![], vectors: vec![] });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Gram matrices of few vectors, as those of a data set with fewer images than features are.
    #[test]
    fn values_and_vectors_are_those_of_the_matrix(
        size in 1usize..40, rank in 1usize..40, seed in any::<u64>(), scale in -30i32..30,
    ) {
        let mut random = Random(seed);
        let rows: Vec<f64> = (0..rank * size).map(|_| random.next()).collect();
        let scale = 10f64.powi(scale);
        let entry = |i: usize, j: usize| scale * rows.chunks_exact(size).map(|row| row[i] * row[j]).sum::<f64>();
        check(&symmetric(size, entry), size);
    }
}
