//! See `neurobridge_fuzz::declaration`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::declaration(bytes));
