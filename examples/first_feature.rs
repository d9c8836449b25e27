//! Loads the model and computes the features of one file. `bench/kernels.py` measures how long the process takes.
//!
//!     cargo run --release --example first_feature FILE.jpg
#![allow(clippy::unwrap_used)] // a benchmark may panic

use pomona::model::{Extractor, FeatureRange};

fn main() {
    let file = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let extractor = Extractor::embedded(FeatureRange::default()).unwrap();
    let features = extractor.features_of_file(&file).unwrap();
    println!("{}", features.iter().sum::<f32>());
}
