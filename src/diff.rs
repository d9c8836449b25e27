//! What lies between two versions: keys, and the angle between the subspaces of their components.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::{
    Result,
    dataset::{Manifest, keys},
    eigen,
    pca::Basis,
    shard::ShardId,
    store::Store,
    tables,
};

/// From the first version to the second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Keys, relative to the input, in order.
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    /// Principal angles between the subspaces that the components span, in degrees, rising; as many as the version with
    /// fewer components has. None when their features are not those of one extractor.
    pub angles: Option<Vec<f64>>,
}

/// Compares two versions of an output. Reads the shards that only one of them has, and the two bases.
pub async fn diff(output: &dyn Store, from: &Manifest, to: &Manifest) -> Result<Diff> {
    let (before, after) = (rows_beside(output, from, to).await?, rows_beside(output, to, from).await?);
    let mut diff = Diff { added: Vec::new(), changed: Vec::new(), removed: Vec::new(), angles: None };
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
    Ok(diff)
}

/// Etags by key of the rows in shards that `other` has not.
async fn rows_beside(output: &dyn Store, version: &Manifest, other: &Manifest) -> Result<BTreeMap<String, String>> {
    let shared: HashSet<_> = other.shards.iter().map(|shard| &shard.id).collect();
    let mut rows = BTreeMap::new();
    for shard in version.shards.iter().filter(|shard| shard.rows > 0 && !shared.contains(&shard.id)) {
        rows.extend(etags(output, &shard.id).await?);
    }
    Ok(rows)
}

/// Key and etag of each row of a shard.
pub(crate) async fn etags(output: &dyn Store, shard: &ShardId) -> Result<Vec<(String, String)>> {
    let key = keys::features(shard);
    tables::read_etags(output.get(&key).await?, &key)
}

async fn read_basis(output: &dyn Store, version: &Manifest) -> Result<Basis> {
    let key = &version.basis.key;
    tables::read_basis(output.get(key).await?, version.basis.columns, key)
}

/// Björck and Golub 1973: the cosines are the singular values of the product of the two orthonormal bases, here taken
/// from the eigenvalues of its Gram matrix.
fn angles(a: &Basis, b: &Basis) -> Result<Vec<f64>> {
    let (a, b) = if a.kept() <= b.kept() { (a, b) } else { (b, a) };
    let columns = a.columns();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let cosines: Vec<Vec<f64>> = a
        .components
        .chunks_exact(columns)
        .map(|x| b.components.chunks_exact(columns).map(|y| dot(x, y)).collect())
        .collect();
    let size = a.kept();
    let mut gram = vec![0.0; size * size];
    for i in 0..size {
        for j in 0..=i {
            let value = dot(&cosines[i], &cosines[j]);
            (gram[i * size + j], gram[j * size + i]) = (value, value);
        }
    }
    let squares = eigen::values(gram, size)?;
    Ok(squares.iter().map(|square| square.clamp(0.0, 1.0).sqrt().acos().to_degrees()).collect())
}
