//! Eigenvalues and eigenvectors of a real symmetric matrix, with the same bits on every processor.
//!
//! Libraries choose instructions at run time (fused multiplications, wider sums), which change the last bits. Here, every
//! sum has one order and no product is fused. The method is that of LAPACK's `dsyevx`: Householder reflections reduce the
//! matrix to tridiagonal form, implicit QL computes all eigenvalues, and inverse iteration computes only the requested
//! eigenvectors, which is fast if few are kept (Golub and Van Loan, *Matrix Computations*, 8.3 and 8.4; Dhillon 1998 on
//! inverse iteration).

use pomona_kernels::linear::{self, RankTwo, dot};
use rayon::join;

use crate::{Error, ErrorKind, Result};

/// Most QL steps for one eigenvalue; usually three suffice.
const QL_STEPS: usize = 60;
/// Most steps of inverse iteration for one vector; usually two suffice.
const INVERSE_STEPS: usize = 8;
/// The vectors of eigenvalues that are closer than this share of the matrix's norm are orthogonalised explicitly.
const CLOSE: f64 = 1e-3;
/// Reflections that are applied in one pass over the matrix.
const PANEL: usize = 16;

/// Eigenvalues and eigenvectors of a symmetric matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    /// `[size]`: all eigenvalues, descending.
    pub values: Vec<f64>,
    /// `[kept, size]` row-major: eigenvectors of the largest eigenvalues, of unit length.
    pub vectors: Vec<f64>,
}

/// Eigenvalues and eigenvectors of a symmetric `[size, size]` matrix, row-major. `keep` gets all eigenvalues, descending,
/// and returns the number of vectors to compute.
///
/// Only the lower triangle is read. Fails with `Pca.NotConverged` if the matrix is not square and finite, or if the
/// iterations do not converge.
pub fn decompose(matrix: Vec<f64>, size: usize, keep: impl FnOnce(&[f64]) -> usize) -> Result<Eigen> {
    if matrix.len() != size * size || matrix.iter().any(|value| !value.is_finite()) {
        return Err(failed("the matrix is not square and finite"));
    }
    let (tridiagonal, reflectors) = tridiagonalize(matrix, size);
    let values = tridiagonal.values()?;
    let kept = keep(&values).min(size);
    let mut vectors = tridiagonal.vectors(&values[..kept])?;
    let back_transform = |vectors: &mut [f64]| {
        // Reflections are undone in reverse order.
        for reflector in reflectors.iter().rev() {
            for vector in vectors.chunks_exact_mut(size) {
                reflector.apply(vector);
            }
        }
    };
    let (first, second) = vectors.split_at_mut(kept / 2 * size);
    join(|| back_transform(first), || back_transform(second));
    Ok(Eigen { values, vectors })
}

fn failed(message: &str) -> Error {
    Error::new(ErrorKind::PcaNotConverged, message)
}

fn norm(vector: &[f64]) -> f64 {
    let largest = vector.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    // Scaling keeps squares of very small numbers from underflowing.
    let scaled: Vec<f64> = vector.iter().map(|x| x / largest).collect();
    largest * dot(&scaled, &scaled).sqrt()
}

/// The Householder reflection `I - scale v v'` on the coordinates from `start` on.
pub(crate) struct Reflector {
    start: usize,
    v: Vec<f64>,
    scale: f64,
}

impl Reflector {
    /// The reflection that maps `x` to a multiple of the first axis, and that multiple.
    fn from_column(x: &[f64], start: usize) -> (Self, f64) {
        let mut v = x.to_vec();
        let length = norm(&v);
        if length == 0.0 || v[1..].iter().all(|value| *value == 0.0) {
            let first = v[0];
            v.fill(0.0);
            return (Reflector { start, v, scale: 0.0 }, first);
        }
        for value in &mut v {
            *value /= length;
        }
        let sign = if v[0] < 0.0 { -1.0 } else { 1.0 };
        // |v + sign e|^2 is 2 (1 + |v0|), as v has unit length. This form avoids cancellation.
        let scale = 1.0 / (1.0 + v[0].abs());
        v[0] += sign;
        (Reflector { start, v, scale }, -sign * length)
    }

    fn apply(&self, vector: &mut [f64]) {
        let part = &mut vector[self.start..];
        let along = self.scale * dot(&self.v, part);
        linear::subtract(part, along, &self.v);
    }

    /// The same for [`linear::TOGETHER`] vectors, `[size, TOGETHER]`.
    pub(crate) fn apply_to_all(&self, vectors: &mut [[f64; linear::TOGETHER]]) {
        if self.scale != 0.0 {
            linear::reflect(&self.v, self.scale, &mut vectors[self.start..]);
        }
    }
}

/// A symmetric tridiagonal matrix.
pub(crate) struct Tridiagonal {
    /// `[size]`
    pub(crate) diagonal: Vec<f64>,
    /// `[size - 1]`
    pub(crate) off_diagonal: Vec<f64>,
}

/// Reduces the matrix A to tridiagonal form T: `A = Q T Q'`, where Q is the product of the reflections. As in LAPACK's `dsytrd`, [`PANEL`] reflections are collected and applied to the
/// matrix in one pass. Until then, each column and each product with the matrix is corrected for the pending ones.
pub(crate) fn tridiagonalize(mut matrix: Vec<f64>, size: usize) -> (Tridiagonal, Vec<Reflector>) {
    let mut diagonal = Vec::with_capacity(size);
    let mut off_diagonal = Vec::with_capacity(size.saturating_sub(1));
    let mut reflectors = Vec::with_capacity(size.saturating_sub(2));
    let mut pending: Vec<RankTwo> = Vec::with_capacity(PANEL);
    for column in 0..size {
        let mut below: Vec<f64> = (column..size).map(|row| matrix[row * size + column]).collect();
        for RankTwo { v, w } in &pending {
            let (v, w) = (&v[column..], &w[column..]);
            linear::subtract_both(&mut below, w[0], v, v[0], w);
        }
        diagonal.push(below[0]);
        let from = column + 1;
        match &below[1..] {
            [] => break,
            [last] => {
                off_diagonal.push(*last);
                continue;
            }
            below => {
                let (reflector, entry) = Reflector::from_column(below, from);
                off_diagonal.push(entry);
                let w = companion(&matrix, size, &reflector, &pending);
                let padded = |part: &[f64]| [&vec![0.0; from][..], part].concat();
                pending.push(RankTwo { v: padded(&reflector.v), w: padded(&w) });
                reflectors.push(reflector);
            }
        }
        if pending.len() == PANEL {
            linear::update(&mut matrix, size, from, &pending);
            pending.clear();
        }
    }
    (Tridiagonal { diagonal, off_diagonal }, reflectors)
}

/// `w` such that the reflection of the matrix A on both sides is `A - v w' - w v'`: `p - (scale / 2) (v . p) v` with
/// `p = scale A v`.
fn companion(matrix: &[f64], size: usize, reflector: &Reflector, pending: &[RankTwo]) -> Vec<f64> {
    let Reflector { start, v, scale } = reflector;
    let mut p = linear::multiply(matrix, size, *start, v);
    for change in pending {
        let (before_v, before_w) = (&change.v[*start..], &change.w[*start..]);
        let (along_v, along_w) = (dot(before_v, v), dot(before_w, v));
        linear::subtract_both(&mut p, along_w, before_v, along_v, before_w);
    }
    for value in &mut p {
        *value *= scale;
    }
    let half = 0.5 * scale * dot(v, &p);
    linear::subtract(&mut p, half, v);
    p
}

impl Tridiagonal {
    fn size(&self) -> usize {
        self.diagonal.len()
    }

    /// The infinity norm: the largest sum of absolute values of a row.
    fn norm(&self) -> f64 {
        let off_diagonal = |i: usize| self.off_diagonal.get(i).map_or(0.0, |e| e.abs());
        (0..self.size())
            .map(|i| self.diagonal[i].abs() + off_diagonal(i) + if i > 0 { off_diagonal(i - 1) } else { 0.0 })
            .fold(0.0, f64::max)
    }

    /// All eigenvalues, descending, by implicit QL with Wilkinson's shift.
    fn values(&self) -> Result<Vec<f64>> {
        let size = self.size();
        let mut d = self.diagonal.clone();
        let mut e = self.off_diagonal.clone();
        e.push(0.0);
        // Between eigenvalues near zero, the neighbouring diagonal entries are no scale for an off-diagonal entry. Entries
        // below the rounding error of the whole matrix count as zero.
        let floor = f64::EPSILON * self.norm();
        for l in 0..size {
            let mut steps = 0;
            loop {
                let small = |m: usize| e[m].abs() <= (f64::EPSILON * (d[m].abs() + d[m + 1].abs())).max(floor);
                let m = (l..size - 1).find(|m| small(*m)).unwrap_or(size - 1);
                if m == l {
                    break;
                }
                steps += 1;
                if steps > QL_STEPS {
                    return Err(failed("the QL iteration for the eigenvalues did not converge"));
                }
                let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
                let mut r = hypotenuse(g, 1.0);
                g = d[m] - d[l] + e[l] / (g + if g < 0.0 { -r } else { r });
                let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
                let mut split = false;
                for i in (l..m).rev() {
                    let (f, b) = (s * e[i], c * e[i]);
                    r = hypotenuse(f, g);
                    e[i + 1] = r;
                    if r == 0.0 {
                        d[i + 1] -= p;
                        e[m] = 0.0;
                        split = true;
                        break;
                    }
                    s = f / r;
                    c = g / r;
                    g = d[i + 1] - p;
                    r = (d[i] - g) * s + 2.0 * c * b;
                    p = s * r;
                    d[i + 1] = g + p;
                    g = c * r - b;
                }
                if !split {
                    d[l] -= p;
                    e[l] = g;
                    e[m] = 0.0;
                }
            }
        }
        d.sort_by(|a, b| b.total_cmp(a));
        Ok(d)
    }

    /// Unit eigenvectors of the given eigenvalues, `[values, size]`, by inverse iteration.
    fn vectors(&self, values: &[f64]) -> Result<Vec<f64>> {
        let size = self.size();
        let norm_of_all = self.norm();
        let mut vectors: Vec<f64> = Vec::with_capacity(values.len() * size);
        let mut random = Random(1);
        let (mut group, mut last) = (0, f64::INFINITY);
        for (i, value) in values.iter().enumerate() {
            if i > 0 && values[i - 1] - value > CLOSE * norm_of_all {
                group = i;
            }
            // Equal eigenvalues get slightly different shifts, which gives linearly independent vectors.
            let shift = value.min(last - 10.0 * f64::EPSILON * norm_of_all.max(f64::MIN_POSITIVE));
            last = shift;
            let solver = Shifted::new(self, shift, norm_of_all);
            let mut vector: Vec<f64> = (0..size).map(|_| random.next()).collect();
            let mut left = f64::INFINITY;
            for _ in 0..INVERSE_STEPS {
                solver.solve(&mut vector);
                // Gram-Schmidt; twice is enough (Parlett 1980).
                for _ in 0..2 {
                    for other in vectors[group * size..].chunks_exact(size) {
                        let along = dot(other, &vector);
                        linear::subtract(&mut vector, along, other);
                    }
                }
                let length = norm(&vector);
                if !(length.is_finite() && length > 0.0) {
                    vector = (0..size).map(|_| random.next()).collect();
                    continue;
                }
                for x in &mut vector {
                    *x /= length;
                }
                let now = self.residual(&vector, *value);
                if now <= 4.0 * f64::EPSILON * norm_of_all || now > 0.5 * left {
                    left = left.min(now);
                    break;
                }
                left = now;
            }
            if left > 1e-10 * norm_of_all {
                return Err(failed("the inverse iteration for an eigenvector did not converge"));
            }
            vectors.extend(vector);
        }
        Ok(vectors)
    }

    /// The length of `T v - value v`.
    fn residual(&self, v: &[f64], value: f64) -> f64 {
        let row = |i: usize| {
            let mut sum = (self.diagonal[i] - value) * v[i];
            if i > 0 {
                sum += self.off_diagonal[i - 1] * v[i - 1];
            }
            if i + 1 < v.len() {
                sum += self.off_diagonal[i] * v[i + 1];
            }
            sum
        };
        norm(&(0..v.len()).map(row).collect::<Vec<_>>())
    }
}

/// `sqrt(a^2 + b^2)` with the same bits everywhere; `hypot` of the C library differs between systems.
fn hypotenuse(a: f64, b: f64) -> f64 {
    let (a, b) = (a.abs(), b.abs());
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    if large == 0.0 {
        return 0.0;
    }
    let ratio = small / large;
    large * (1.0 + ratio * ratio).sqrt()
}

/// Generates start vectors, with Knuth's MMIX generator. Another generator would change bits of the vectors.
struct Random(u64);

impl Random {
    /// The next number, in [-1, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// The LU decomposition of `T - shift I` with partial pivoting.
struct Shifted {
    /// The diagonal of U and the two diagonals above it.
    u0: Vec<f64>,
    u1: Vec<f64>,
    u2: Vec<f64>,
    /// Multipliers, and whether rows i and i + 1 were exchanged.
    l: Vec<f64>,
    swapped: Vec<bool>,
}

impl Shifted {
    fn new(t: &Tridiagonal, shift: f64, norm: f64) -> Self {
        let size = t.size();
        let tiny = (f64::EPSILON * norm).max(f64::MIN_POSITIVE);
        let off_diagonal = |i: usize| t.off_diagonal.get(i).copied().unwrap_or(0.0);
        let mut lu = Shifted {
            u0: vec![0.0; size],
            u1: vec![0.0; size],
            u2: vec![0.0; size],
            l: vec![0.0; size],
            swapped: vec![false; size],
        };
        let (mut pivot, mut right) = (t.diagonal[0] - shift, off_diagonal(0));
        for i in 0..size {
            if i + 1 == size {
                lu.u0[i] = if pivot.abs() < tiny { tiny } else { pivot };
                break;
            }
            let (below, diagonal, next) = (t.off_diagonal[i], t.diagonal[i + 1] - shift, off_diagonal(i + 1));
            if below.abs() > pivot.abs() {
                lu.swapped[i] = true;
                lu.l[i] = pivot / below;
                (lu.u0[i], lu.u1[i], lu.u2[i]) = (below, diagonal, next);
                pivot = right - lu.l[i] * diagonal;
                right = -lu.l[i] * next;
            } else {
                let safe = if pivot.abs() < tiny { tiny } else { pivot };
                lu.l[i] = below / safe;
                (lu.u0[i], lu.u1[i]) = (safe, right);
                pivot = diagonal - lu.l[i] * right;
                right = next;
            }
        }
        lu
    }

    fn solve(&self, x: &mut [f64]) {
        let size = x.len();
        for i in 0..size - 1 {
            if self.swapped[i] {
                x.swap(i, i + 1);
            }
            x[i + 1] -= self.l[i] * x[i];
        }
        for i in (0..size).rev() {
            let mut sum = x[i];
            if i + 1 < size {
                sum -= self.u1[i] * x[i + 1];
            }
            if i + 2 < size {
                sum -= self.u2[i] * x[i + 2];
            }
            x[i] = sum / self.u0[i];
            // Near an eigenvalue, the solution grows without limit. Only its direction matters.
            if x[i].abs() > 1e200 {
                x.iter_mut().for_each(|value| *value *= 1e-200);
            }
        }
    }
}

#[cfg(test)]
mod tests;
