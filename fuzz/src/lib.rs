//! Fuzz targets for all parsers of untrusted bytes. Each is a function that accepts any bytes, and panics when an invariant is
//! violated.
//!
//! `cargo +nightly fuzz run frame fuzz/corpus/frame fuzz/seeds/frame` searches for bytes with which the target `frame` panics,
//! starting from the seeds.
//! `cargo test --manifest-path fuzz/Cargo.toml --no-default-features` runs every target over its seeds, over mutations of
//! them, and over random bytes, on a stable compiler.

use neurobridge_core::{
    event::{Event, Origin, Sequence},
    positions::Positions,
};

mod declaration;
mod fault_rule;
mod frame;
mod record;
mod redaction;
mod spool_format;
mod template;

pub use self::{
    declaration::declaration, fault_rule::fault_rule, frame::frame, record::record, redaction::redaction,
    spool_format::spool_format, template::template,
};

/// Returns an event of NeuroIO with these positions in its frame.
fn event<'a>(positions: Positions<'a>, frame: &'a str) -> Event<'a> {
    Event {
        sequence: Sequence::FIRST,
        received_at: jiff::Timestamp::UNIX_EPOCH,
        source: "main",
        source_uri: "/neuroio/main",
        type_prefix: "com.neuroio.entry.",
        conflict: None,
        origin: Origin::Feed,
        positions,
        frame,
    }
}

#[cfg(test)]
mod tests;
