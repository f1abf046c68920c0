//! The Kafka sink against a real Kafka: authentication, topics, and the outcome of events when either changes.

mod advertised;
mod advertised_partly;
mod frozen;
mod recipes;
mod recreated;
mod security;
mod support;
mod topics;
mod transactions;
