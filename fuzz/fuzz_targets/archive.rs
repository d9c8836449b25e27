//! Lists and reads the members of tar, zip and Parquet files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pomona_fuzz::archive(data));
