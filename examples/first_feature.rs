//! Loads the model and infers one file: what a start costs.
//!
//!     cargo run --release --example first_feature FILE.jpg
#![allow(clippy::unwrap_used)] // a benchmark that cannot run has nothing to say

use pomona::{model::Extractor, model::FeatureRange};

fn main() {
    let file = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let extractor = Extractor::embedded(FeatureRange::default()).unwrap();
    let features = extractor.features_of_file(&file).unwrap();
    println!("{}", features.iter().sum::<f32>());
}
