//! Publishes neurobridge events to NATS.
//!
//! [`NatsSink`] is driven by [`neurobridge_core::delivery`]: it connects, publishes many at a time, and reports what
//! became of each event. Through JetStream an event is delivered when its stream acknowledges it; without, when the
//! server has taken it. Whose fault an error is stands in one place, `error`.
//!
//! A client serves for one connection: a client of NATS that comes back by itself sends on behind what was lost with the
//! old connection, and the order is gone. Here the delivery sends again from its cursor, over a new one.

mod auth;
mod chain;
mod check;
mod clients;
mod config;
mod connection;
mod destination;
mod dial;
mod encode;
mod error;
mod events;
mod headers;
mod in_flight;
mod keeper;
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
mod subject;
mod subjects;
mod tls;

pub use self::{
    config::{AuthConfig, DeadLetterConfig, MissingStream, Mode, NatsConfig, Order, Storage, StreamConfig},
    sink::NatsSink,
};
