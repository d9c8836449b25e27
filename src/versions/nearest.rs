//! Keys that resemble a key which does not exist.

use std::cmp::Ordering;

use crate::{
    Result,
    dataset::{self, contents, tables},
    store::Store,
};

/// Keys that are named.
const COUNT: usize = 3;
/// Similarity from which a key is worth naming, 0 to 1.
const SIMILAR: f64 = 0.7;

/// The keys of the current version that are most similar to `key`, the best first.
pub(super) async fn keys(output: &dyn Store, key: &str) -> Result<Vec<String>> {
    let manifest = dataset::version(output, None).await?;
    let mut best: Vec<(f64, String)> = Vec::new();
    let rejects = contents::rejects(output, &manifest).await?.into_iter().map(|reject| reject.path);
    let mut add = |paths: &mut dyn Iterator<Item = String>| {
        best.extend(paths.map(|path| (similarity(key, &path), path)));
        best.retain(|(similarity, _)| *similarity >= SIMILAR);
        best.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(&b.1)));
        best.truncate(COUNT);
    };
    add(&mut rejects.into_iter());
    for shard in contents::shards(output, &manifest).await?.iter().filter(|shard| shard.rows > 0) {
        add(&mut tables::etags(output, shard).await?.into_iter().map(|(path, _)| path));
    }
    Ok(best.into_iter().map(|(_, path)| path).collect())
}

/// 1 for equal keys, 0 for keys without a common letter. Case counts less than other differences.
fn similarity(a: &str, b: &str) -> f64 {
    let exact = strsim::normalized_levenshtein(a, b);
    let folded = strsim::normalized_levenshtein(&a.to_lowercase(), &b.to_lowercase());
    0.9 * folded + 0.1 * exact
}
