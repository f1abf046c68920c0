//! See `neurobridge_fuzz::template`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::template(bytes));
