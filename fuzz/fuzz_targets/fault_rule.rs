//! The libFuzzer program for `neurobridge_fuzz::fault_rule`, which tests the parser of the simulator's fault rules.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neurobridge_fuzz::fault_rule(bytes));
