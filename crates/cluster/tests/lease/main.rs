//! Tests the lease of a cluster in a real nats-server and a real Kafka.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod kafka;
mod member;
mod nats;
