//! The core of neurobridge: events, their storage, rendering and delivery, and the accounting of outcomes.
//!
//! This crate has no sockets and no broker clients: everything here compiles and is tested alone.
//!
//! | intake | log | delivery | everywhere |
//! |---|---|---|---|
//! | [`json`]: a scanner that builds no tree | [`record`]: the encoding of an event | [`delivery`]: the loop of every sink | [`event`]: an event, its sequence, its fields; [`path`] |
//! | [`frame_reader`], [`projection`], [`neuroio`]: kind and fields of a frame | [`reader`]: a reader with a cursor | [`sink`]: the trait of a sink; [`sink_config`]: keys that sinks share; [`connect`]: the connection steps | [`identity`]: the identity of an event |
//! | [`filter`] of [`condition`]s, [`redact`], [`event_buf`] | [`positions`]: the positions of the fields in a frame | [`template`], [`cloudevents`]: messages; [`strip`]: removal of pictures | [`ledger`]: the counts by outcome; [`labels`](mod@labels): those of metrics |
//! | | [`epoch`]: the openings of a log | [`ack`], [`dead_letter`], [`recreation`]; in a cluster [`copies`], [`lead`] | [`histogram`], [`units`], [`secret`], [`foreign_text`], [`address`], [`file`](mod@file), [`pem`], [`private_folder`], [`os_error`], [`clock`], [`backoff`], [`throttle`], [`suggest`] |
//!
//! To write a sink, implement [`sink::Sink`] and pass it to [`delivery::deliver`] with a reader of the spool.
//! For a sink of the `neurobridge` program, implement [`sink_type::SinkType`] for its configuration as well.

pub mod ack;
pub mod address;
pub mod backoff;
pub mod clock;
pub mod cloudevents;
pub mod condition;
pub mod connect;
pub mod copies;
pub mod dead_letter;
pub mod delivery;
pub mod epoch;
pub mod event;
pub mod event_buf;
pub mod file;
pub mod filter;
pub mod foreign_text;
pub mod frame_reader;
pub mod histogram;
pub mod identity;
pub mod json;
pub mod labels;
pub mod lead;
pub mod ledger;
pub mod neuroio;
pub mod os_error;
pub mod path;
pub mod pem;
pub mod positions;
pub mod private_folder;
pub mod projection;
pub mod reader;
pub mod record;
pub mod recreation;
pub mod redact;
pub mod secret;
pub mod sink;
pub mod sink_config;
pub mod sink_type;
pub mod strip;
pub mod suggest;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod throttle;
#[cfg(feature = "tls")]
pub mod tls;
pub mod units;
