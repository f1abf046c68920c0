//! Fuzz targets for whatever parses foreign bytes: each a function that takes any bytes and panics when something that must
//! hold does not.
//!
//! `cargo +nightly fuzz run frame fuzz/corpus/frame fuzz/seeds/frame` looks for such bytes, starting from the seeds.
//! `cargo test --manifest-path fuzz/Cargo.toml --no-default-features` runs every target over its seeds, over mutations of
//! them, and over random bytes, on a stable compiler.

mod fault_rule;
mod frame;
mod record;
mod redaction;
mod spool_format;
mod template;

pub use self::{
    fault_rule::fault_rule, frame::frame, record::record, redaction::redaction, spool_format::spool_format,
    template::template,
};

#[cfg(test)]
mod tests;
