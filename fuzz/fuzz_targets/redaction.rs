//! See `neurobridge_fuzz::redaction`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::redaction(bytes));
