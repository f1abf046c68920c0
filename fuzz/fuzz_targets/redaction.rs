//! The libFuzzer program for `neurobridge_fuzz::redaction`, which tests redaction and pseudonymisation.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::redaction(bytes));
