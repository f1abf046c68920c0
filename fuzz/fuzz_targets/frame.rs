//! The libFuzzer program for `neurobridge_fuzz::frame`, which tests the classification of frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::frame(bytes));
