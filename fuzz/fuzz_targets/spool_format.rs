//! The libFuzzer program for `neurobridge_fuzz::spool_format`, which tests the decoding of the spool's segment headers
//! and cursor slots.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::spool_format(bytes));
