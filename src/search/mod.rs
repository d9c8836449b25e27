//! Search among features: which images are there twice?
//!
//! Features are multiples of a quantum, so the squared distance of two images is an integer, and so is the decision whether
//! they are near-duplicates. Everything else only excludes pairs that are certainly too far apart:
//!
//! 1. A [`Sketcher`] projects features onto a few orthonormal directions. A projection never enlarges a distance.
//! 2. A [`PairSearch`] finds all pairs of sketches within the limit, with boxes around rows that are close to each other.
//! 3. The caller computes the exact distance of each candidate, and [connects](PairSearch::connect) the near ones.
//!
//! The connected components are the groups. They do not depend on the directions, the order of the search or the number of
//! threads. `docs/duplicates.md` has the proof that no pair is missed.

mod components;
mod directions;
mod limit;
mod metric;
mod pairs;
mod ranking;
pub mod segment;
mod sketch;
mod tree;

pub use components::Components;
pub use limit::{Limit, squared_quanta};
pub use metric::Metric;
pub use pairs::PairSearch;
pub use ranking::{Ranked, Ranking, RowOf};
pub use sketch::{Sketcher, Sketches};

#[cfg(test)]
mod tests;
