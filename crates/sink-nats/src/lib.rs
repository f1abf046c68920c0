//! Publishes neurobridge events to NATS.
//!
//! [`NatsSink`] is driven by [`neurobridge_core::delivery`]: it connects, publishes events, and reports the outcome of each
//! one. With JetStream an event is delivered when its stream acknowledges it, otherwise when the server has received it. The
//! module `error` is the one place that classifies errors as faults of a message or of the sink.
//!
//! A client is used for one connection only: after a reconnect by the client itself, later messages would be stored before
//! those that were lost with the old connection. Instead, the delivery publishes again from its cursor, over a new
//! connection.

mod auth;
mod backend;
mod chain;
mod check;
pub mod client;
mod clients;
mod config;
mod connection;
mod destination;
mod dial;
mod echo;
mod encode;
mod error;
mod events;
#[cfg(test)]
mod fake_server;
mod following;
mod headers;
mod in_flight;
mod limits;
mod payload;
mod probe;
mod receive_limit;
mod recovery;
mod routes;
mod sink;
mod sink_type;
mod sockets;
mod stream;
mod stream_reader;
mod subject;
mod subject_reader;
mod subjects;
mod tls;

pub use self::{
    config::{AuthConfig, DeadLetterConfig, MissingStream, Mode, NatsConfig, Order, Storage, StreamConfig},
    sink::NatsSink,
};
