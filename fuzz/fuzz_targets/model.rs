//! Loads ONNX files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pomona_fuzz::model(data));
