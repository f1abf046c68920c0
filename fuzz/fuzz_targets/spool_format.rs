//! See `neurobridge_fuzz::spool_format`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::spool_format(bytes));
