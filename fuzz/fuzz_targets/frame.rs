//! See `neurobridge_fuzz::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::frame(bytes));
