//! Publishes neurobridge events to Apache Kafka.
//!
//! [`KafkaSink`] is driven by [`neurobridge_core::delivery`]: it connects, publishes through an idempotent producer
//! with `acks=all`, and reports what became of each event. Whose fault an error is stands in one place, `error`.

mod config;
mod connection;
mod context;
mod cursors;
mod encode;
mod error;
mod health;
mod positions;
mod producer;
mod properties;
mod reach;
mod recent_texts;
mod sink;
mod sink_type;
mod statistics;
mod tls;
mod topic;
mod topics;
mod transaction;

pub use self::{
    config::{
        Compression, DeadLetterConfig, Delivery, Format, KafkaConfig, MissingTopic, Oversize, SaslConfig,
        SaslMechanism, TlsConfig, TransactionConfig,
    },
    sink::KafkaSink,
};
