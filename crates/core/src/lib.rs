//! The vocabulary of neurobridge: what an event is, how it is stored, rendered and delivered, and what became of it.
//!
//! No sockets and no broker clients: everything here compiles and is tested alone.
//!
//! | on the way in | in the log | on the way out | all along |
//! |---|---|---|---|
//! | [`json`]: a scanner that builds nothing | [`record`]: an event in bytes | [`delivery`]: the loop of every sink | [`event`]: an event, its sequence, its fields |
//! | [`envelope`]: a frame's kind and fields | [`reader`]: a reader with a cursor | [`sink`]: what a sink has to be; [`connect`]: its steps | [`identity`]: who an event is |
//! | [`filter`], [`redact`] | | [`template`], [`cloudevents`]: messages | [`ledger`]: what became of each event |
//! | | [`epoch`]: which run gave a sequence | [`ack`], [`dead_letter`] | [`histogram`], [`units`], [`secret`], [`foreign_text`], [`address`], [`file`](mod@file), [`pem`], [`os_error`], [`clock`] |
//!
//! To write a sink, implement [`sink::Sink`] and hand it to [`delivery::deliver`] with a reader of the spool. For a sink of the
//! `neurobridge` program, implement [`sink_type::SinkType`] for its configuration as well.

pub mod ack;
pub mod address;
pub mod clock;
pub mod cloudevents;
pub mod connect;
pub mod dead_letter;
pub mod delivery;
pub mod envelope;
pub mod epoch;
pub mod event;
pub mod file;
pub mod filter;
pub mod foreign_text;
pub mod histogram;
pub mod identity;
pub mod json;
pub mod ledger;
pub mod os_error;
pub mod pem;
pub mod reader;
pub mod record;
pub mod redact;
pub mod secret;
pub mod sink;
pub mod sink_type;
pub mod strip;
pub mod template;
#[cfg(feature = "tls")]
pub mod tls;
pub mod units;
