//! The Kafka sink against a real Kafka: who we are, what the topics are like, and what becomes of events when either
//! changes.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod security;
mod support;
mod topics;
mod transactions;
