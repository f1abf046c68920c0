//! The NATS sink against a real nats-server: who we are, what streams are like, what is stored and in which order when
//! servers are killed, frozen, purged and written to by others.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod core_mode;
mod security;
mod streams;
mod strict;
mod support;
