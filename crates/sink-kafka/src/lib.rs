//! Publishes neurobridge events to Apache Kafka.
//!
//! [`KafkaSink`] is driven by [`neurobridge_core::delivery`]: it connects, publishes through an idempotent producer with
//! `acks=all`, and reports the outcome of each event. The module `error` is the one place that classifies errors as faults of a
//! message or of the sink.

mod background;
pub mod client;
mod config;
mod connection;
mod context;
mod cursors;
mod encode;
mod error;
mod following;
mod health;
mod positions;
mod producer;
mod properties;
mod reach;
mod sink;
mod sink_type;
mod statistics;
mod tls;
mod topic;
mod topics;
mod transaction;

pub use self::{
    config::{
        Compression, DeadLetterConfig, Delivery, KafkaConfig, MissingTopic, SaslConfig, SaslMechanism,
        TlsConfig, TransactionConfig,
    },
    sink::KafkaSink,
};
