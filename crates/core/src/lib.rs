//! The vocabulary of neurobridge.

pub mod ack;
pub mod cloudevents;
pub mod dead_letter;
pub mod delivery;
pub mod envelope;
pub mod event;
pub mod filter;
pub mod histogram;
pub mod identity;
pub mod json;
pub mod ledger;
pub mod reader;
pub mod record;
pub mod redact;
pub mod secret;
pub mod sink;
pub mod strip;
pub mod template;
pub mod units;
