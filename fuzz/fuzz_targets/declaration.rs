//! The libFuzzer program for `neurobridge_fuzz::declaration`, which tests declarations of feeds and their interpretation
//! of frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::declaration(bytes));
