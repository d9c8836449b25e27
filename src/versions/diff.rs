//! Comparison of two versions: their keys, and the principal angles between their components.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    pin::pin,
};

use futures::TryStreamExt;
use nalgebra::{DMatrix, SVD};
use serde::Serialize;

use crate::{
    Error, ErrorKind, Result, compiled_once,
    dataset::{
        Manifest, contents,
        tables::{self, PredictionRow},
    },
    pca::Basis,
    store::Store,
};

/// Most iterations of the singular value decomposition; a few per component are usual.
const SVD_STEPS: usize = 10_000;

/// The changes from one version to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Keys that only the second version has, sorted and relative to the input, like all keys here.
    pub added: Vec<String>,
    /// Keys that both versions have, with different etags.
    pub changed: Vec<String>,
    /// Keys that only the first version has.
    pub removed: Vec<String>,
    /// Principal angles between the subspaces that the components span, in degrees, ascending. Their number is the smaller
    /// number of components. `None` if the versions have different extractors.
    pub angles: Option<Vec<f64>>,
    /// Keys that both versions have, with different predicted classes. `None` if one of them has no classifier.
    pub predictions: Option<Vec<String>>,
}

/// Compares two versions of an output.
///
/// Reads the shards that only one version has, and the two bases. Fails with `Pca.NotConverged` if the angles cannot be
/// computed.
#[compiled_once]
pub async fn diff(output: &dyn Store, from: &Manifest, to: &Manifest) -> Result<Diff> {
    let (before, after) = (rows_without(output, from, to).await?, rows_without(output, to, from).await?);
    let mut diff =
        Diff { added: Vec::new(), changed: Vec::new(), removed: Vec::new(), angles: None, predictions: None };
    for (key, etag) in &after {
        match before.get(key) {
            None => diff.added.push(key.clone()),
            Some(old) if old != etag => diff.changed.push(key.clone()),
            Some(_) => {}
        }
    }
    diff.removed = before.keys().filter(|key| !after.contains_key(*key)).cloned().collect();
    if from.extractor.columns == to.extractor.columns && from.extractor.id == to.extractor.id {
        diff.angles = Some(angles(&read_basis(output, from).await?, &read_basis(output, to).await?)?);
    }
    let fitted = |version: &Manifest| version.classifier.as_ref().is_some_and(|found| found.fitted().is_some());
    if fitted(from) && fitted(to) {
        diff.predictions = Some(predictions(output, from, to).await?);
    }
    Ok(diff)
}

/// Keys of images of both versions whose predicted classes differ. Both tables are in key order, and are read side by side.
async fn predictions(output: &dyn Store, from: &Manifest, to: &Manifest) -> Result<Vec<String>> {
    let mut before = pin!(contents::predictions(output, from).await?);
    let mut after = pin!(contents::predictions(output, to).await?);
    let mut earlier: VecDeque<PredictionRow> = VecDeque::new();
    let mut changed = Vec::new();
    while let Some(rows) = after.try_next().await? {
        for row in rows {
            loop {
                while earlier.front().is_some_and(|first| first.path < row.path) {
                    earlier.pop_front();
                }
                if !earlier.is_empty() {
                    break;
                }
                match before.try_next().await? {
                    Some(more) => earlier.extend(more),
                    None => break,
                }
            }
            if earlier.front().is_some_and(|first| first.path == row.path && first.predicted != row.predicted) {
                changed.push(row.path);
            }
        }
    }
    Ok(changed)
}

/// Etags by key of the rows in shards that `other` does not have.
async fn rows_without(output: &dyn Store, version: &Manifest, other: &Manifest) -> Result<BTreeMap<String, String>> {
    let (shards, others) = (contents::shards(output, version).await?, contents::shards(output, other).await?);
    let shared: HashSet<_> = others.iter().map(|shard| &shard.id).collect();
    let mut rows = BTreeMap::new();
    for shard in shards.iter().filter(|shard| shard.rows > 0 && !shared.contains(&shard.id)) {
        rows.extend(tables::etags(output, shard).await?);
    }
    Ok(rows)
}

async fn read_basis(output: &dyn Store, version: &Manifest) -> Result<Basis> {
    version.basis.file.decode(output, version.basis.columns, tables::read_basis).await
}

/// The principal angles between two subspaces, in degrees, ascending.
///
/// The cosines are the singular values of the product of the two orthonormal bases (Björck and Golub 1973). The cosine of
/// a small angle rounds to 1, so small angles are computed from their sines: the singular values of the part of one basis
/// that is orthogonal to the other (Knyazev and Argentati 2002).
fn angles(a: &Basis, b: &Basis) -> Result<Vec<f64>> {
    let (a, b) = if a.kept() >= b.kept() { (a, b) } else { (b, a) };
    let columns = |basis: &Basis| {
        DMatrix::from_iterator(basis.columns(), basis.kept(), basis.components.outer_iter().flatten().copied())
    };
    let (a, b) = (columns(a), columns(b));
    let product = a.transpose() * &b;
    let mut sines = singular_values(&b - &a * &product)?;
    sines.reverse();
    let cosines = singular_values(product)?;
    let angle = |(cosine, sine): (&f64, &f64)| {
        if cosine * cosine >= 0.5 { sine.clamp(0.0, 1.0).asin() } else { cosine.clamp(0.0, 1.0).acos() }
    };
    Ok(cosines.iter().zip(&sines).map(angle).map(f64::to_degrees).collect())
}

/// In descending order. Fails with `Pca.NotConverged`.
fn singular_values(matrix: DMatrix<f64>) -> Result<Vec<f64>> {
    let svd = SVD::try_new(matrix, false, false, f64::EPSILON, SVD_STEPS);
    let svd =
        svd.ok_or_else(|| Error::new(ErrorKind::PcaNotConverged, "the angles between two bases did not converge"))?;
    let mut values: Vec<f64> = svd.singular_values.iter().copied().collect();
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    fn basis(components: Array2<f64>) -> Basis {
        let (kept, columns) = components.dim();
        Basis {
            mean: vec![0.0; columns],
            scale: vec![1.0; columns],
            explained_variance: vec![1.0; kept],
            explained_variance_ratio: vec![0.1; kept],
            total_variance: 1.0,
            spectrum: vec![1.0; columns],
            rows: 10,
            components,
        }
    }

    #[test]
    fn angles_of_all_sizes_are_exact() {
        let plane = basis(array![[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]);
        for degrees in [0.0f64, 1e-9, 1e-4, 0.5, 30.0, 45.0, 89.0, 90.0] {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            let rotated = basis(array![[1.0, 0.0, 0.0, 0.0], [0.0, cosine, sine, 0.0]]);
            let found = angles(&plane, &rotated).unwrap();
            assert!(found[0].abs() < 1e-12, "{found:?}");
            assert!((found[1] - degrees).abs() <= 1e-12 * degrees.max(1e-3), "{degrees}: {found:?}");
            assert_eq!(angles(&rotated, &plane).unwrap().len(), 2);
        }
        let line = basis(array![[0.0, 0.0, 0.0, 1.0]]);
        assert_eq!(angles(&plane, &line).unwrap(), [90.0]);
        assert_eq!(angles(&line, &plane).unwrap(), [90.0]);
    }
}
