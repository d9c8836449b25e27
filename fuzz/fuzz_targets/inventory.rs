//! Lists the objects of inventories.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pomona_fuzz::inventory(data));
