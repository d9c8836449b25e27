//! ONNX files that would take all memory or all time are refused within seconds, before anything large is allocated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test is a panic

#[path = "common/memory.rs"]
mod memory;

use std::time::{Duration, Instant};

use pomona::{
    ErrorKind,
    image::Pixels,
    model::{Extractor, FeatureRange, Runtime},
};

/// Most time and memory for the refusal of a model. The largest file below has 4 MiB.
const SECONDS: u64 = 5;
const BYTES: usize = 256 << 20;

fn load(onnx: Vec<u8>, runtime: Runtime) -> pomona::Result<Extractor> {
    Extractor::from_onnx(onnx.into(), "hostile.onnx", FeatureRange::default(), runtime)
}

/// Asserts that a model is refused with a message that has all of `words`, on both runtimes, soon and with little memory.
fn refused(onnx: &[u8], words: &[&str]) {
    let _alone = memory::alone();
    for runtime in [Runtime::Auto, Runtime::Tract] {
        let start = Instant::now();
        let (outcome, peak) = memory::peak_of(|| load(onnx.to_vec(), runtime));
        let error = outcome.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelInvalid, "{error}");
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} are not in: {message}");
        assert!(start.elapsed() < Duration::from_secs(SECONDS), "{:?}: {message}", start.elapsed());
        assert!(peak < BYTES, "{peak} bytes: {message}");
    }
}

// An encoder for `onnx.proto`.

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    [varint((field << 3) | 2), varint(content.as_ref().len() as u64), content.as_ref().to_vec()].concat()
}

fn integer(name: &str, value: i64) -> Vec<u8> {
    [bytes(1, name), number(3, value), number(20, 2)].concat()
}

fn integers(name: &str, values: &[i64]) -> Vec<u8> {
    let values = values.iter().flat_map(|value| number(8, *value));
    [bytes(1, name), values.collect(), number(20, 7)].concat()
}

fn node(kind: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|input| bytes(1, input)).collect();
    let attributes = attributes.iter().flat_map(|attribute| bytes(5, attribute)).collect();
    [inputs, bytes(2, output), bytes(3, output), bytes(4, kind), attributes].concat()
}

/// A tensor of the type FLOAT (1) or INT64 (7).
fn tensor(name: &str, kind: i64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let dims = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    [dims, number(2, kind), bytes(8, name), bytes(9, raw)].concat()
}

fn list(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, 7, &[values.len() as i64], &raw)
}

fn value(name: &str, dims: &[i64]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| bytes(1, number(1, *dim))).collect();
    let tensor_type = [number(1, 1), bytes(2, dims)].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor_type))].concat()
}

/// A model with an input `x` of this shape and an output `y`.
fn model_of(shape: &[i64], nodes: &[Vec<u8>], constants: &[Vec<u8>]) -> Vec<u8> {
    let nodes = nodes.iter().flat_map(|node| bytes(1, node)).collect();
    let constants = constants.iter().flat_map(|constant| bytes(5, constant)).collect();
    let graph: Vec<u8> =
        [nodes, bytes(2, "hostile"), constants, bytes(11, value("x", shape)), bytes(12, value("y", &[1, 3]))].concat();
    [number(1, 8), bytes(8, number(2, 13)), bytes(7, graph)].concat()
}

fn model(nodes: &[Vec<u8>], constants: &[Vec<u8>]) -> Vec<u8> {
    model_of(&[1, 3, 32, 32], nodes, constants)
}

/// The features of `map`: its mean for each channel.
fn features(map: &str) -> [Vec<u8>; 2] {
    [node("GlobalAveragePool", &[map], "pool", &[]), node("Flatten", &["pool"], "y", &[])]
}

/// Nodes whose output is `x` plus the mean of `big`, so that `big` is needed.
fn with_mean_of_big(big: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mean = node("ReduceMean", &["big"], "mean", &[integer("keepdims", 0)]);
    [big, vec![mean, node("Add", &["x", "mean"], "sum", &[])], features("sum").to_vec()].concat()
}

fn one() -> Vec<u8> {
    tensor("one", 1, &[1], &1f32.to_le_bytes())
}

#[test]
fn the_encoder_makes_models_that_load() {
    let _alone = memory::alone();
    let expand = with_mean_of_big(vec![node("Expand", &["one", "shape"], "big", &[])]);
    for onnx in [model(&features("x"), &[]), model(&expand, &[one(), list("shape", &[1, 3, 32, 32])])] {
        let extractor = load(onnx, Runtime::Auto).unwrap();
        assert_eq!(extractor.columns(), 3);
        let white = Pixels { width: 32, height: 32, data: vec![255; 32 * 32 * 3] };
        let found = extractor.features(&white).unwrap();
        assert!(found.iter().all(|value| (0.999..=2.001).contains(value)), "{found:?}");
    }
}

#[test]
fn the_built_in_model_and_those_of_the_tests_load_as_before() {
    let _alone = memory::alone();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, columns, on_kernels) in [("tiny", 24, true), ("nhwc", 24, true), ("log", 3, false), ("large", 24, true)]
    {
        let onnx = std::fs::read(root.join(format!("tests/models/{name}.onnx"))).unwrap();
        let extractor = load(onnx.clone(), Runtime::Auto).unwrap();
        assert_eq!((extractor.columns(), extractor.network().is_some()), (columns, on_kernels), "{name}");
        assert_eq!(load(onnx, Runtime::Tract).unwrap().columns(), columns, "{name}");
    }
    let onnx = std::fs::read(root.join("models/mobilenetv2_1.00_224.onnx")).unwrap();
    let grey = Pixels { width: 224, height: 224, data: vec![127; 224 * 224 * 3] };
    let embedded = Extractor::embedded(FeatureRange::default()).unwrap();
    let read = load(onnx.clone(), Runtime::Auto).unwrap();
    assert_eq!(read.info().id, embedded.info().id);
    assert_eq!(read.features(&grey).unwrap(), embedded.features(&grey).unwrap());
    let embedded = Extractor::embedded_on_tract(FeatureRange::default()).unwrap();
    assert_eq!(load(onnx, Runtime::Tract).unwrap().features(&grey).unwrap(), embedded.features(&grey).unwrap());
}

#[test]
fn padding_of_two_to_the_thirty_is_refused() {
    let weights = tensor("w", 1, &[8, 3, 1, 1], &[0; 8 * 3 * 4]);
    let conv = node("Conv", &["x", "w"], "wide", &[integers("pads", &[1 << 30; 4])]);
    let onnx = model(&[vec![conv], features("wide").to_vec()].concat(), &[weights]);
    refused(&onnx, &["\"wide\"", "1073741824", "16777216"]);
}

#[test]
fn twenty_thousand_nodes_are_refused() {
    let names: Vec<String> = (0..=20_000).map(|i| if i == 0 { "x".to_owned() } else { format!("n{i}") }).collect();
    let chain: Vec<Vec<u8>> = names.windows(2).map(|pair| node("Relu", &[&pair[0]], &pair[1], &[])).collect();
    refused(&model(&[chain, features("n20000").to_vec()].concat(), &[]), &["20002 nodes", "8192"]);
}

#[test]
fn twenty_thousand_initializers_are_refused() {
    let constants: Vec<Vec<u8>> = (0..20_000).map(|i| tensor(&format!("c{i}"), 1, &[1], &[0; 4])).collect();
    refused(&model(&features("x"), &constants), &["20000 initializers", "8192"]);
}

#[test]
fn operators_that_make_43_gigabytes_are_refused() {
    let numbers = "268435456";
    let pads = list("pads", &[0, 0, 50_000, 50_000, 0, 0, 50_000, 50_000]);
    let pad = node("Pad", &["x", "pads"], "padded", &[]);
    let onnx = model(&[vec![pad], features("padded").to_vec()].concat(), &[pads]);
    refused(&onnx, &["\"padded\"", "100032", numbers]);

    let shape = list("shape", &[10, 1_024, 1_024, 1_024]);
    for (kind, inputs) in [
        ("Expand", &["one", "shape"][..]),
        ("ConstantOfShape", &["shape"]),
        ("Tile", &["one4", "shape"]),
        // An image instead of a constant.
        ("Tile", &["x", "shape"]),
    ] {
        let one4 = tensor("one4", 1, &[1, 1, 1, 1], &1f32.to_le_bytes());
        let nodes = with_mean_of_big(vec![node(kind, inputs, "big", &[])]);
        refused(&model(&nodes, &[one(), one4, shape.clone()]), &["\"big\"", numbers]);
    }

    // A product of two vectors of 4 MiB is a matrix of 4 TiB.
    let vector = |name, dims: [i64; 2]| tensor(name, 1, &dims, &vec![0; 4 << 20]);
    let nodes = with_mean_of_big(vec![node("Mul", &["row", "column"], "big", &[])]);
    let onnx = model(&nodes, &[vector("row", [1, 1 << 20]), vector("column", [1 << 20, 1])]);
    refused(&onnx, &["\"big\"", numbers]);
}

#[test]
fn a_size_that_is_hidden_behind_other_nodes_is_refused() {
    let end = list("end", &[i64::MAX, 1, 1, 1]);
    let hidden = vec![node("Identity", &["end"], "size", &[]), node("Tile", &["x", "size"], "big", &[])];
    refused(&model(&with_mean_of_big(hidden), &[end]), &["\"big\""]);

    // 2^20 x 2^20 is within the range of an integer and wraps around in a product of sizes.
    let factor = list("factor", &[1 << 20; 4]);
    let square = vec![node("Mul", &["factor", "factor"], "size", &[]), node("Tile", &["x", "size"], "big", &[])];
    refused(&model(&with_mean_of_big(square), &[factor]), &["\"big\""]);
}

#[test]
fn a_tensor_that_has_another_shape_than_data_is_refused() {
    let nodes = [vec![node("Add", &["x", "c"], "sum", &[])], features("sum").to_vec()].concat();
    let onnx = |constant: Vec<u8>| model(&nodes, &[constant]);
    refused(&onnx(tensor("c", 1, &[1 << 20, 1 << 20], &[])), &["\"c\"", "268435456"]);
    refused(&onnx(tensor("c", 1, &[i64::MAX, i64::MAX], &[0; 4])), &["\"c\"", "268435456"]);
    refused(&onnx(tensor("c", 1, &[-1], &[0; 4])), &["\"c\"", "[-1]"]);
    refused(&onnx(tensor("c", 1, &[1; 9], &[0; 4])), &["\"c\"", "9 dimensions"]);
    refused(&onnx(tensor("c", 1, &[1 << 24], &[0; 4])), &["Raw tensor data length"]);
}

#[test]
fn data_in_another_file_is_refused() {
    let location = [bytes(1, "location"), bytes(2, "../../etc/passwd")].concat();
    let outside = [number(1, 1), number(2, 1), bytes(8, "w"), bytes(13, location), number(14, 1)].concat();
    let nodes = [vec![node("Add", &["x", "w"], "sum", &[])], features("sum").to_vec()].concat();
    refused(&model(&nodes, &[outside]), &["\"w\"", "another file"]);
}

#[test]
fn windows_and_shapes_in_attributes_are_bounded() {
    let pool = node("MaxPool", &["x"], "pooled", &[integers("kernel_shape", &[65_535, 65_535])]);
    let onnx = model(&[vec![pool], features("pooled").to_vec()].concat(), &[]);
    refused(&onnx, &["\"pooled\"", "kernel_shape", "65536"]);

    let constant = node("ConstantLike", &[], "big", &[integers("shape", &[1 << 20, 1 << 20])]);
    refused(&model(&with_mean_of_big(vec![constant]), &[]), &["\"big\"", "shape", "268435456"]);
}

#[test]
fn graphs_inside_of_nodes_are_refused() {
    let mut graph = bytes(1, node("Identity", &["x"], "y", &[]));
    for _ in 0..200 {
        let branch = [bytes(1, "then_branch"), bytes(6, graph), number(20, 5)].concat();
        graph = bytes(1, node("If", &["x"], "y", &[branch]));
    }
    let onnx = [number(1, 8), bytes(8, number(2, 13)), bytes(7, graph)].concat();
    refused(&onnx, &["contains a graph"]);
}

#[test]
fn more_operations_than_a_limit_are_refused() {
    let nodes = vec![
        node("ReduceMean", &["x"], "mean1", &[integer("keepdims", 1)]),
        node("Expand", &["mean1", "shape"], "square", &[]),
        node("MatMul", &["square", "square"], "big", &[]),
    ];
    let onnx = model(&with_mean_of_big(nodes), &[list("shape", &[1, 1, 8_192, 8_192])]);
    refused(&onnx, &["\"big\"", "274877906944 operations"]);
}

#[test]
fn more_memory_than_a_limit_is_refused() {
    let mut nodes = vec![node("ReduceMean", &["x"], "mean1", &[integer("keepdims", 1)])];
    let names: Vec<String> = (0..6).map(|i| format!("e{i}")).collect();
    nodes.extend(names.iter().map(|name| node("Expand", &["mean1", "shape"], name, &[])));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    nodes.push(node("Sum", &names, "big", &[]));
    let onnx = model(&with_mean_of_big(nodes), &[list("shape", &[1, 1, 16_384, 16_384])]);
    refused(&onnx, &["bytes of memory", "4294967296"]);
}

#[test]
fn weights_that_many_nodes_read_are_counted_for_each() {
    let names: Vec<String> = (0..=600).map(|i| if i == 0 { "x".to_owned() } else { format!("n{i}") }).collect();
    let chain: Vec<Vec<u8>> = names.windows(2).map(|pair| node("Add", &[&pair[0], "w"], &pair[1], &[])).collect();
    let weights = tensor("w", 1, &[1 << 20], &vec![0; 4 << 20]);
    let onnx = model(&[chain, features("n600").to_vec()].concat(), &[weights]);
    refused(&onnx, &["\"n513\"", "2147483648 bytes of weights"]);
}

#[test]
fn nodes_in_a_loop_are_refused() {
    let nodes = [vec![node("Add", &["x", "b"], "a", &[]), node("Relu", &["a"], "b", &[])], features("b").to_vec()];
    refused(&model(&nodes.concat(), &[]), &[]);
}

#[test]
fn an_image_of_two_to_the_forty_pixels_a_side_is_refused() {
    let weights = tensor("w", 1, &[8, 3, 1, 1], &[0; 8 * 3 * 4]);
    let bias = tensor("b", 1, &[8], &[0; 8 * 4]);
    let nodes = [vec![node("Conv", &["x", "w", "b"], "c", &[])], features("c").to_vec()].concat();
    for side in [1i64 << 40, 4_096] {
        let onnx = model_of(&[1, 3, side, side], &nodes, &[weights.clone(), bias.clone()]);
        refused(&onnx, &[&format!("{side} x {side}"), "2048"]);
    }
}

#[test]
fn files_that_are_no_messages_are_refused() {
    for file in [vec![0; 2 << 20], vec![0xff; 2 << 20], vec![0x3a; 2 << 20], b"not a model".to_vec(), Vec::new()] {
        refused(&file, &[]);
    }
}
