//! Comparison with golden files: pixels from Pillow, features from Keras, and tract.
//!
//! Pillow and TensorFlow have made `tests/golden` (`make golden`) and are not needed here. `tests/python` compares the PCA
//! with scikit-learn.

use std::{
    fs,
    path::{Path, PathBuf},
};

use arrow_array::{Array, cast::AsArray, types::Float32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pomona::{
    demo::{self, VARIETIES},
    image::{Limits, Pixels, decode, decode_scaled, resize},
    model::{Extractor, FeatureRange},
};
use sha2::{Digest, Sha256};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Paths and lists of floats of a Parquet file.
fn read_lists(file: &Path, column: &str) -> (Vec<String>, Vec<Vec<f64>>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).unwrap()).unwrap().build().unwrap();
    let (mut paths, mut lists) = (Vec::new(), Vec::new());
    for batch in reader {
        let batch = batch.unwrap();
        paths.extend(batch.column_by_name("path").unwrap().as_string::<i32>().iter().map(|p| p.unwrap().to_owned()));
        let column = batch.column_by_name(column).unwrap().as_list::<i32>();
        for i in 0..column.len() {
            let values = column.value(i);
            lists.push(values.as_primitive::<Float32Type>().values().iter().map(|v| f64::from(*v)).collect());
        }
    }
    (paths, lists)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Features of many files, computed on all processors.
fn features(extractor: &Extractor, files: &[Vec<u8>]) -> Vec<Vec<f64>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = files
            .chunks(files.len().div_ceil(threads).max(1))
            .map(|files| {
                scope.spawn(move || {
                    let row = |file: &Vec<u8>| {
                        extractor.features_of_file(file).unwrap().iter().map(|v| f64::from(*v)).collect()
                    };
                    files.iter().map(row).collect::<Vec<Vec<f64>>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

fn embedded() -> Extractor {
    Extractor::embedded(FeatureRange::default()).unwrap()
}

/// The same synthetic image as in `tests/golden/pillow_pixels.py`.
fn formula(width: usize, height: usize) -> Pixels {
    let sample = |i: u64| match (i / 97) % 3 {
        0 => 0,
        1 => 255,
        _ => (i.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33) as u8,
    };
    Pixels { width, height, data: (0..(width * height * 3) as u64).map(sample).collect() }
}

#[test]
fn resizing_equals_pillow_in_every_bit() {
    let golden: serde_json::Value = serde_json::from_slice(&fs::read(golden("pillow/resize.json")).unwrap()).unwrap();
    let images = golden["images"].as_array().unwrap();
    assert!(images.len() >= 40);
    for image in images {
        let size = |name: &str| [0, 1].map(|i| image[name][i].as_u64().unwrap() as usize);
        let ([width, height], [to_width, to_height]) = (size("from"), size("to"));
        let resized = resize(formula(width, height), to_width, to_height);
        assert_eq!(
            sha256(&resized.data),
            image["sha256"].as_str().unwrap(),
            "{width} x {height} to {to_width} x {to_height}"
        );
    }
}

#[test]
fn every_format_is_decoded_as_by_pillow() {
    let mut seen = 0;
    for entry in fs::read_dir(golden("pillow/formats")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".expected.png") {
            continue;
        }
        let decoded = decode(&fs::read(&path).unwrap(), Limits::default());
        let decoded = decoded.unwrap_or_else(|reject| panic!("{name}: {reject:?}"));
        let expected = image::open(format!("{}.expected.png", path.display())).unwrap().into_rgb8();
        assert_eq!((decoded.width as u32, decoded.height as u32), expected.dimensions(), "{name}");
        let worst = decoded.data.iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        // Decoders of lossy WebP upsample chroma differently.
        let allowed = match name.as_str() {
            "lossy.webp" => 6,
            "cmyk.tiff" => 1,
            _ => 0,
        };
        assert!(worst <= allowed, "{name}: {worst} levels off, {allowed} allowed");
        seen += 1;
    }
    assert!(seen >= 26, "{seen} files");
}

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of all samplings, qualities and sizes, baseline and progressive, with and without restart markers; at full size, and at
/// the reduced sizes of Pillow's `draft`.
#[test]
fn jpegs_have_the_pixels_of_pillow() {
    let sums: serde_json::Value = serde_json::from_slice(&fs::read(golden("pillow/jpegs.json")).unwrap()).unwrap();
    let files = sums["files"].as_object().unwrap();
    assert!(files.len() >= 104, "{}", files.len());
    let target = |side: usize| sums["draft"][side].as_u64().unwrap() as usize / 2;
    let mut reduced = 0;
    for (name, pillow) in files {
        let file = fs::read(golden("pillow/jpegs").join(name)).unwrap();
        let same = |ours: &Pixels, size: &str, sum: &str| {
            let size = [0, 1].map(|side| pillow[size][side].as_u64().unwrap() as usize);
            assert_eq!([ours.width, ours.height], size, "{name}");
            assert_eq!(sha256(&ours.data), pillow[sum].as_str().unwrap(), "{name}");
        };
        let full = decode(&file, Limits::default()).unwrap();
        same(&full, "size", "sha256");
        let scaled = decode_scaled(&file, Limits::default(), target(0), target(1)).unwrap();
        same(&scaled, "draft", "draft_sha256");
        reduced += usize::from(scaled.width < full.width);
    }
    assert!(reduced >= 40, "{reduced}");
}

/// Damaged in 48 ways, baseline and progressive, and at random: what Pillow refuses is a reject, and what it decodes has its
/// pixels. `POMONA_BROKEN` names another folder of such files: see `tests/golden/pillow_pixels.py`.
#[test]
fn damaged_jpegs_are_decoded_or_rejected_as_by_pillow() {
    let folder = std::env::var_os("POMONA_BROKEN").map_or_else(|| golden("pillow"), PathBuf::from);
    let golden_file = fs::read(folder.join("broken.json")).unwrap();
    let sums: serde_json::Value = serde_json::from_slice(&golden_file).unwrap();
    let files = sums["files"].as_object().unwrap();
    let (mut decoded, mut refused, mut others) = (0, 0, Vec::new());
    for (name, pillow) in files {
        let ours = decode(&fs::read(folder.join("broken").join(name)).unwrap(), Limits::default());
        match (&ours, pillow.is_null()) {
            (Err(_), true) => refused += 1,
            (Ok(pixels), false) if sha256(&pixels.data) == pillow["sha256"].as_str().unwrap() => decoded += 1,
            _ => others.push(format!("{name}: {:?}", ours.map(|pixels| (pixels.width, pixels.height)))),
        }
    }
    assert!(others.is_empty(), "{} of {}: {others:#?}", others.len(), files.len());
    assert!(decoded >= 20 && refused >= 40, "{decoded} {refused}");
}

#[test]
fn samples_of_16_bits_are_reduced_to_their_high_byte() {
    let values = [0u16, 255, 256, 1_000, 40_000, 65_535];
    let grey = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(6, 1, values.to_vec()).unwrap();
    let mut file = std::io::Cursor::new(Vec::new());
    image::DynamicImage::ImageLuma16(grey).write_to(&mut file, image::ImageFormat::Png).unwrap();
    let decoded = decode(file.get_ref(), Limits::default()).unwrap();
    let expected: Vec<u8> = values.iter().flat_map(|v| [(v >> 8) as u8; 3]).collect();
    assert_eq!(decoded.data, expected);
}

#[test]
fn features_from_the_same_pixels_agree_with_keras() {
    let extractor = embedded();
    let (paths, keras) = read_lists(&golden("keras/features.parquet"), "features");
    let mut worst = 0.0f64;
    let mut compared = 0;
    for (path, keras) in paths.iter().zip(&keras) {
        let Ok(picture) = image::open(golden("keras/pixels").join(format!("{}.png", path.replace('/', "__")))) else {
            continue;
        };
        let pixels = Pixels { width: 224, height: 224, data: picture.into_rgb8().into_raw() };
        let ours = extractor.features(&pixels).unwrap();
        worst = ours.iter().zip(keras).map(|(a, b)| (f64::from(*a) - b).abs()).fold(worst, f64::max);
        compared += 1;
    }
    eprintln!("largest difference to Keras from the same pixels: {worst:.2e}, {compared} images");
    assert_eq!(compared, 2 * VARIETIES.len());
    assert!(worst <= 1e-4, "{worst}");
}

#[test]
fn features_from_files_agree_with_keras() {
    let (paths, keras) = read_lists(&golden("keras/features.parquet"), "features");
    assert_eq!(paths.len(), VARIETIES.len() * demo::DEFAULT_VIEWS as usize);
    let files: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| {
            let (name, file) = path.split_once('/').unwrap();
            let variety = VARIETIES.iter().find(|v| v.name == name).unwrap();
            let view = file.strip_suffix("_100.jpg").unwrap().parse().unwrap();
            demo::jpeg(variety, view, demo::DEFAULT_VIEWS).unwrap()
        })
        .collect();
    let ours = features(&embedded(), &files);
    let cosines: Vec<f64> = ours.iter().zip(&keras).map(|(a, b)| cosine(a, b)).collect();
    let (worst, mean) =
        (cosines.iter().copied().fold(1.0, f64::min), cosines.iter().sum::<f64>() / cosines.len() as f64);
    eprintln!("cosine to Keras from the file: {worst:.6} at worst, {mean:.6} on average");
    assert!(worst >= 0.99999 && mean >= 0.999999, "{worst} {mean}");
}

#[test]
fn the_kernels_agree_with_tract() {
    let kernels = Extractor::embedded(FeatureRange::default()).unwrap();
    let tract = Extractor::embedded_on_tract(FeatureRange::default()).unwrap();
    assert!(kernels.network().is_some() && tract.network().is_none());
    assert_ne!(kernels.info().id, tract.info().id);
    assert_eq!(*kernels.info(), pomona::model::embedded_info(FeatureRange::default(), pomona::model::Decoding::Full));
    let mut largest = 0.0f32;
    for seed in 0..6u32 {
        let sample = |i: u32| match seed {
            0 => 0,
            1 => 255,
            // Noise, then noise on a gradient.
            2..=3 => (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8,
            _ => ((i / 672) as u8 / 2).wrapping_add((i.wrapping_mul(seed * 40_503) >> 28) as u8),
        };
        let pixels = Pixels { width: 224, height: 224, data: (0..224 * 224 * 3).map(sample).collect() };
        let (ours, theirs) = (kernels.features(&pixels).unwrap(), tract.features(&pixels).unwrap());
        assert!(ours.iter().any(|value| *value > 0.1));
        for (a, b) in ours.iter().zip(&theirs) {
            largest = largest.max((a - b).abs());
        }
    }
    println!("largest difference to tract: {largest:e}");
    assert!(largest < 1e-4, "{largest}");
}
