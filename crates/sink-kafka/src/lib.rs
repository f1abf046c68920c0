//! Publishes neurobridge events to Apache Kafka.
//!
//! [`KafkaSink`] is driven by [`neurobridge_core::delivery`]: it connects, publishes through an idempotent producer
//! with `acks=all`, and reports what became of each event. Whose fault an error is stands in one place, `error`.

mod config;
mod connection;
mod context;
mod encode;
mod error;
mod health;
mod producer;
mod properties;
mod sink;
mod topics;

pub use self::{
    config::{
        Compression, DeadLetterConfig, Format, KafkaConfig, Oversize, SaslConfig, SaslMechanism, TlsConfig,
    },
    sink::KafkaSink,
};
