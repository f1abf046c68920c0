//! The Kafka sink against a real Kafka: authentication, topics, and the outcomes of events when authentication or topics change.

mod advertised;
mod advertised_partly;
mod frozen;
mod recipes;
mod recreated;
mod security;
pub(crate) mod support;
mod topics;
mod transactions;
