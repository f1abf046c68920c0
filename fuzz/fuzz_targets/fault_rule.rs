//! See `neurobridge_fuzz::fault_rule`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::fault_rule(bytes));
