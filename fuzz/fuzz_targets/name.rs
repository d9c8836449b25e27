//! Uses a text as label, key, location and run name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pomona_fuzz::name(data));
