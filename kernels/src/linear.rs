//! The inner loops of the PCA, in `f64`: products with the lower triangle of symmetric matrices, and scores.
//!
//! The code is compiled twice, for any processor and for AVX2. Products are not fused, and each sum has one order, so both
//! give the same bits. Functions panic if the lengths of their arguments do not match.

use std::ops::Range;

use rayon::join;

/// Interleaved partial sums of a scalar product.
const LANES: usize = 8;
/// Numbers of a row that stay in registers while all updates are applied to them.
const BLOCK: usize = 16;
/// Fewest rows of a triangle for which a second thread pays off.
const TWO_THREADS: usize = 256;
/// Rows of features that [`Loadings::scores`] processes together.
pub const ROWS: usize = 4;
/// Scores of each row that stay in registers during the loop over the columns.
const SCORES: usize = 8;
/// Vectors that [`reflect`] processes together.
pub const TOGETHER: usize = 16;

/// The symmetric rank-two update `v w' + w v'`, which a Householder reflection subtracts from a matrix.
#[derive(Debug)]
pub struct RankTwo {
    /// `[size]`; entries before the updated rows are not read.
    pub v: Vec<f64>,
    /// `[size]`; entries before the updated rows are not read.
    pub w: Vec<f64>,
}

compiled_twice!(
    /// The scalar product of two vectors, in eight interleaved sums that are added last.
    pub dot, dot_avx2, dot_body, (a: &[f64], b: &[f64]) -> f64
);
compiled_twice!(
    /// `x -= a v`
    pub subtract, subtract_avx2, subtract_body, (x: &mut [f64], a: f64, v: &[f64])
);
compiled_twice!(
    /// `x -= a v + b w`
    pub subtract_both, subtract_both_avx2, subtract_both_body, (x: &mut [f64], a: f64, v: &[f64], b: f64, w: &[f64])
);
compiled_twice!(
    /// Applies the reflection `I - scale v v'` to vectors, `[size, TOGETHER]`. Sums are in the order of the coordinates.
    pub reflect, reflect_avx2, reflect_body, (v: &[f64], scale: f64, vectors: &mut [[f64; TOGETHER]])
);
compiled_twice!(
    /// The products of one block of [`SCORES`] rows of weights with [`ROWS`] rows, each summed in the order of the columns.
    products, products_avx2, products_body, (rows: &[[f64; ROWS]], weights: &[f64]) -> [[f64; SCORES]; ROWS]
);
compiled_twice!(
    multiply_rows, multiply_rows_avx2, multiply_rows_body,
    (matrix: &[f64], size: usize, from: usize, v: &[f64], rows: Range<usize>) -> Vec<f64>
);
compiled_twice!(
    update_rows, update_rows_avx2, update_rows_body,
    (rows: &mut [f64], first: usize, size: usize, from: usize, updates: &[RankTwo])
);
compiled_twice!(
    /// Scores of [`ROWS`] rows, each summed in the order of the columns. For each block of components, `scores` has one
    /// entry per row.
    project, project_avx2, project_body, (rows: &[[f64; ROWS]], loadings: &Loadings, scores: &mut [[f64; SCORES]])
);

#[inline(always)]
fn total(sums: [f64; LANES]) -> f64 {
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

#[inline(always)]
fn dot_body(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y);
    let tail = tail.fold(0.0, |sum, product| sum + product);
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    total(sums) + tail
}

#[inline(always)]
fn subtract_body(x: &mut [f64], a: f64, v: &[f64]) {
    for (x, v) in x.iter_mut().zip(v) {
        *x -= a * v;
    }
}

#[inline(always)]
fn subtract_both_body(x: &mut [f64], a: f64, v: &[f64], b: f64, w: &[f64]) {
    for ((x, v), w) in x.iter_mut().zip(v).zip(w) {
        *x -= a * v + b * w;
    }
}

/// The product of a symmetric `[size, size]` matrix with `v`, for the part from row and column `from` on. `v` and the
/// product have `size - from` entries. Only the lower triangle is read.
pub fn multiply(matrix: &[f64], size: usize, from: usize, v: &[f64]) -> Vec<f64> {
    let count = v.len();
    let split = half(count);
    let rows = |rows| multiply_rows(matrix, size, from, v, rows);
    let (above, mut product) = join_if_large(count, || rows(0..split), || rows(split..count));
    for (sum, above) in product.iter_mut().zip(above) {
        *sum += above;
    }
    product
}

/// Subtracts the updates one after the other from the lower triangle of a `[size, size]` matrix, in the part from row and
/// column `from` on.
pub fn update(matrix: &mut [f64], size: usize, from: usize, updates: &[RankTwo]) {
    let split = from + half(size - from);
    let (above, below) = matrix.split_at_mut(split * size);
    join_if_large(
        size - from,
        || update_rows(&mut above[from * size..], from, size, from, updates),
        || update_rows(below, split, size, from, updates),
    );
}

/// The row that divides a lower triangle into two parts of about the same size. It depends only on the number of rows,
/// because it decides the order of sums.
pub fn half(rows: usize) -> usize {
    rows * 181 / 256
}

/// Runs both closures, in two threads if there are [`TWO_THREADS`] rows or more.
fn join_if_large<A: Send, B: Send>(rows: usize, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    if rows < TWO_THREADS { (a(), b()) } else { join(a, b) }
}

/// The part of the product that comes from these rows, and from the columns above the diagonal that equal them. The result
/// ends with the last of the rows.
#[inline(always)]
fn multiply_rows_body(matrix: &[f64], size: usize, from: usize, v: &[f64], rows: Range<usize>) -> Vec<f64> {
    let mut product = vec![0.0; rows.end];
    for i in rows {
        let row = &matrix[(from + i) * size + from..][..=i];
        // The row equals the column above the diagonal. One pass computes the products of both.
        let (row, diagonal) = (&row[..i], row[i]);
        let whole = i / LANES * LANES;
        let mut sums = [0.0; LANES];
        let columns = product[..whole].chunks_exact_mut(LANES);
        for ((a, v_part), p) in row.chunks_exact(LANES).zip(v.chunks_exact(LANES)).zip(columns) {
            for lane in 0..LANES {
                p[lane] += a[lane] * v[i];
                sums[lane] += a[lane] * v_part[lane];
            }
        }
        let mut tail = 0.0;
        for j in whole..i {
            product[j] += row[j] * v[i];
            tail += row[j] * v[j];
        }
        product[i] += total(sums) + tail + diagonal * v[i];
    }
    product
}

/// Subtracts the updates from `rows`, which start with row `first` of the matrix.
#[inline(always)]
fn update_rows_body(rows: &mut [f64], first: usize, size: usize, from: usize, updates: &[RankTwo]) {
    for (row, i) in rows.chunks_exact_mut(size).zip(first..) {
        let mut blocks = row[from..=i].chunks_exact_mut(BLOCK);
        let mut start = from;
        for block in &mut blocks {
            let mut values = [0.0; BLOCK];
            values.copy_from_slice(block);
            for RankTwo { v, w } in updates {
                let (vi, wi) = (v[i], w[i]);
                let (v, w) = (&v[start..start + BLOCK], &w[start..start + BLOCK]);
                for j in 0..BLOCK {
                    values[j] -= vi * w[j] + wi * v[j];
                }
            }
            block.copy_from_slice(&values);
            start += BLOCK;
        }
        for (value, j) in blocks.into_remainder().iter_mut().zip(start..) {
            for RankTwo { v, w } in updates {
                *value -= v[i] * w[j] + w[i] * v[j];
            }
        }
    }
}

#[inline(always)]
fn reflect_body(v: &[f64], scale: f64, vectors: &mut [[f64; TOGETHER]]) {
    let mut along = [0.0; TOGETHER];
    for (v, row) in v.iter().zip(vectors.iter()) {
        for lane in 0..TOGETHER {
            along[lane] += v * row[lane];
        }
    }
    for sum in &mut along {
        *sum *= scale;
    }
    for (v, row) in v.iter().zip(vectors) {
        for lane in 0..TOGETHER {
            row[lane] -= v * along[lane];
        }
    }
}

#[inline(always)]
fn products_body(rows: &[[f64; ROWS]], weights: &[f64]) -> [[f64; SCORES]; ROWS] {
    let mut sums = [[0.0; SCORES]; ROWS];
    for (z, weights) in rows.iter().zip(weights.chunks_exact(SCORES)) {
        for (sums, z) in sums.iter_mut().zip(z) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += z * weight;
            }
        }
    }
    sums
}

#[inline(always)]
fn project_body(rows: &[[f64; ROWS]], loadings: &Loadings, scores: &mut [[f64; SCORES]]) {
    let blocks = loadings.packed.chunks_exact(SCORES * rows.len().max(1));
    for (block, scores) in blocks.zip(scores.chunks_exact_mut(ROWS)) {
        let mut sums = [[0.0; SCORES]; ROWS];
        for (z, loadings) in rows.iter().zip(block.chunks_exact(SCORES)) {
            for (sums, z) in sums.iter_mut().zip(z) {
                for (sum, loading) in sums.iter_mut().zip(loadings) {
                    *sum += z * loading;
                }
            }
        }
        scores.copy_from_slice(&sums);
    }
}

/// Loadings of components, or weights of classes, packed in the order in which the products read them.
#[derive(Clone, Debug)]
pub struct Loadings {
    /// For each block of [`SCORES`] components, the loadings of all columns, `[columns, SCORES]`.
    packed: Vec<f64>,
    kept: usize,
}

impl Loadings {
    /// Packs components `[kept, columns]`, row-major.
    pub fn new(components: &[f64], columns: usize) -> Self {
        let kept = components.len().checked_div(columns).unwrap_or(0);
        // The rest of the last block is zero.
        let mut packed = vec![0.0; kept.div_ceil(SCORES) * SCORES * columns];
        for (component, row) in components.chunks_exact(columns.max(1)).enumerate() {
            let (block, lane) = (component / SCORES, component % SCORES);
            for (column, loading) in row.iter().enumerate() {
                packed[(block * columns + column) * SCORES + lane] = *loading;
            }
        }
        Loadings { packed, kept }
    }

    /// Appends the scores of the first `count` of [`ROWS`] rows to `to`, row by row. `rows` is `[columns, ROWS]`.
    pub fn scores(&self, rows: &[[f64; ROWS]], count: usize, to: &mut Vec<f32>) {
        let mut sums = vec![[0.0; SCORES]; self.kept.div_ceil(SCORES) * ROWS];
        project(rows, self, &mut sums);
        for row in 0..count.min(ROWS) {
            let of_row = sums.iter().skip(row).step_by(ROWS).flatten();
            to.extend(of_row.take(self.kept).map(|score| *score as f32));
        }
    }

    /// The products of rows with all components, in `f64`: `to` is `[rows, kept]`. Each entry of `rows` is `[columns, ROWS]`,
    /// and the last may have unused rows. One block of components stays in the cache for all rows.
    pub fn products(&self, rows: &[Vec<[f64; ROWS]>], to: &mut [f64]) {
        let columns = rows.first().map_or(1, Vec::len).max(1);
        for (block, first) in self.packed.chunks_exact(SCORES * columns).zip((0..).step_by(SCORES)) {
            let used = SCORES.min(self.kept - first);
            for (rows, to) in rows.iter().zip(to.chunks_mut(ROWS * self.kept)) {
                let sums = products(rows, block);
                for (sums, to) in sums.iter().zip(to.chunks_exact_mut(self.kept)) {
                    to[first..first + used].copy_from_slice(&sums[..used]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize) -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(-1e3..1e3, count)
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn both_compilations_give_the_same_bits(
            (size, from, kept) in (1usize..70, 0usize..20, 1usize..60),
            seed in numbers(70 * 70 + 4 * 70 + 70 * 60),
        ) {
            let from = from.min(size - 1);
            let (matrix, rest) = seed.split_at(size * size);
            let change = |at: usize| RankTwo { v: rest[at..at + size].to_vec(), w: rest[at + size..at + 2 * size].to_vec() };
            let changes = [change(0), change(2 * size)];
            let v = &rest[from..size];
            prop_assert_eq!(dot(v, &matrix[..v.len()]).to_bits(), dot_body(v, &matrix[..v.len()]).to_bits());
            let (mut chosen, mut plain) = (v.to_vec(), v.to_vec());
            subtract(&mut chosen, rest[0], &matrix[..v.len()]);
            subtract_body(&mut plain, rest[0], &matrix[..v.len()]);
            subtract_both(&mut chosen, rest[1], v, rest[2], &rest[size..size + v.len()]);
            subtract_both_body(&mut plain, rest[1], v, rest[2], &rest[size..size + v.len()]);
            prop_assert_eq!(bits(&chosen), bits(&plain));

            let all = 0..size - from;
            let plain = multiply_rows_body(matrix, size, from, v, all.clone());
            prop_assert_eq!(bits(&multiply_rows(matrix, size, from, v, all)), bits(&plain));
            // Computed in two parts, the sums have another order.
            for (a, b) in multiply(matrix, size, from, v).iter().zip(&plain) {
                prop_assert!((a - b).abs() <= 1e-9 * 1e6 * size as f64, "{} {}", a, b);
            }

            let (mut chosen, mut plain) = (matrix.to_vec(), matrix.to_vec());
            update(&mut chosen, size, from, &changes);
            update_rows_body(&mut plain[from * size..], from, size, from, &changes);
            prop_assert_eq!(bits(&chosen), bits(&plain));

            let mut together: Vec<[f64; TOGETHER]> =
                (0..size).map(|i| std::array::from_fn(|lane| matrix[(i * 3 + lane * 5) % matrix.len()])).collect();
            let (mut plain, expected) = (together.clone(), together.clone());
            reflect(&rest[..size], rest[size] / 1e6, &mut together);
            reflect_body(&rest[..size], rest[size] / 1e6, &mut plain);
            prop_assert_eq!(bits(together.as_flattened()), bits(plain.as_flattened()));
            for lane in 0..TOGETHER {
                let along: f64 = (0..size).map(|i| rest[i] * expected[i][lane]).sum::<f64>() * rest[size] / 1e6;
                for i in 0..size {
                    let difference = plain[i][lane] - (expected[i][lane] - rest[i] * along);
                    prop_assert!(difference.abs() <= 1e-7 * size as f64, "{}", difference);
                }
            }

            let kept = kept.min(rest.len() / size);
            let loadings = Loadings::new(&rest[..size * kept], size);
            let rows: Vec<[f64; ROWS]> = (0..size).map(|c| std::array::from_fn(|row| matrix[(c + row * 7) % matrix.len()])).collect();
            let (mut chosen, mut plain) = (Vec::new(), vec![[0.0; SCORES]; kept.div_ceil(SCORES) * ROWS]);
            loadings.scores(&rows, ROWS, &mut chosen);
            project_body(&rows, &loadings, &mut plain);
            let mut wide = vec![0.0; (ROWS + 1) * kept];
            loadings.products(&[rows.clone(), rows.clone()], &mut wide);
            for row in 0..ROWS {
                for k in 0..kept {
                    // The reference: sums in the order of the columns.
                    let sum = (0..size).fold(0.0, |sum, c| sum + rows[c][row] * rest[k * size + c]);
                    prop_assert_eq!(sum.to_bits(), plain[k / SCORES * ROWS + row][k % SCORES].to_bits());
                    prop_assert_eq!(chosen[row * kept + k], sum as f32);
                    prop_assert_eq!(wide[row * kept + k].to_bits(), sum.to_bits());
                }
            }
        }
    }
}
