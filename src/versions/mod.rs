//! Operations on published versions: check them, compare two, delete old ones, erase images from all of them; evaluate their
//! predictions, list their duplicates and outliers, find images that are like others, and predict other images.
//!
//! None of them changes a version: versions are immutable, and only whole ones are deleted.

pub mod check;
pub mod diff;
pub mod erase;
pub mod evaluate;
mod exhaustive;
pub mod find;
pub mod findings;
pub mod index;
mod nearest;
pub mod neighbours;
pub mod predict;
mod search;
pub mod vacuum;

pub use search::Unsearched;
