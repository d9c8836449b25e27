//! Parses S3 events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pomona_fuzz::event(data));
