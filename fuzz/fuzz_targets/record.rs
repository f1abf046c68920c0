//! The libFuzzer program for `neurobridge_fuzz::record`, which tests the decoding of the spool's records.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::record(bytes));
