//! The lease of a cluster in real brokers.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod kafka;
mod member;
mod nats;
