//! The Kafka sink against a real Kafka: who we are, what the topics are like, and what becomes of events when either
//! changes.

mod advertised;
mod advertised_partly;
mod frozen;
mod recipes;
mod recreated;
mod security;
mod support;
mod topics;
mod transactions;
