//! Milliseconds per image of the embedded model with one thread, on the kernels and on tract; JSON on standard output.
//!
//!     cargo run --release --example kernel_time [IMAGES [FILE.jpg ...]]
//!
//! Without files, the images are noise. The time depends a little on the images, because products with zero are left out.
//! `bench/kernels.py` compares these figures with ONNX Runtime, OpenVINO and a matrix product.
#![allow(clippy::unwrap_used)] // a benchmark may panic

use std::time::Instant;

use pomona::{
    image::{Limits, Pixels, decode},
    model::{Extractor, FeatureRange},
};

/// Floating-point operations of MobileNetV2 1.00 at 224 x 224 without its classifier.
const FLOP: f64 = 2.0 * 299.5e6;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Pictures as the model gets them, or noise if there are none.
fn pictures(extractor: &Extractor, files: &[String]) -> Vec<Pixels> {
    let noise = |seed: usize| Pixels {
        width: 224,
        height: 224,
        data: (0..224 * 224 * 3).map(|i| (((i + seed) * 2_654_435_761) >> 13) as u8).collect(),
    };
    let read = |file: &String| decode(&std::fs::read(file).unwrap(), Limits::default()).unwrap();
    match files {
        [] => (0..8).map(noise).collect(),
        files => files.iter().map(|file| extractor.prepared(read(file)).unwrap()).collect(),
    }
}

/// Milliseconds of each image, after three images to warm up.
fn time(extractor: &Extractor, pictures: &[Pixels], images: usize) -> Vec<f64> {
    (0..images + 3)
        .map(|i| {
            let started = Instant::now();
            std::hint::black_box(extractor.features(&pictures[i % pictures.len()]).unwrap());
            started.elapsed().as_secs_f64() * 1e3
        })
        .skip(3)
        .collect()
}

fn main() {
    let images = std::env::args().nth(1).map_or(60, |n| n.parse().unwrap());
    let files: Vec<String> = std::env::args().skip(2).collect();
    let started = Instant::now();
    let kernels = Extractor::embedded(FeatureRange::default()).unwrap();
    let load = started.elapsed().as_secs_f64() * 1e3;
    let pictures = pictures(&kernels, &files);
    let times = time(&kernels, &pictures, images);
    let started = Instant::now();
    let tract = Extractor::embedded_on_tract(FeatureRange::default()).unwrap();
    let tract_load = started.elapsed().as_secs_f64() * 1e3;
    let tract_times = time(&tract, &pictures, images.div_ceil(4));
    let ms = median(times.clone());
    println!(
        "{}",
        serde_json::json!({
            "load_ms": load,
            "ms_per_image": ms,
            "ms_fastest": times.iter().copied().fold(f64::INFINITY, f64::min),
            "gflop_per_s": FLOP / ms / 1e6,
            "tract_load_ms": tract_load,
            "tract_ms_per_image": median(tract_times),
        })
    );
}
