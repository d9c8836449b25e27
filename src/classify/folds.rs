//! Folds of the cross-validation.

use sha2::{Digest, Sha256};

/// Number of folds.
pub const FOLDS: usize = 5;

/// The fold of an image, 0 to [`FOLDS`] - 1: a hash of its key, or of what images of one object have in common. It depends
/// on nothing else, so that an image stays in its fold whatever is added or removed.
pub fn fold_of(group: &str) -> u8 {
    let digest = Sha256::new().chain_update("fold 1\0").chain_update(group).finalize();
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    (number % FOLDS as u64) as u8
}
