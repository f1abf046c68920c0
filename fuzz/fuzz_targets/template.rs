//! The libFuzzer program for `neurobridge_fuzz::template`, which tests the parsing and rendering of templates.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::template(bytes));
