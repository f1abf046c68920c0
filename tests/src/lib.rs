//! Shared code of the end-to-end tests and the development tasks: real brokers as child processes, their certificates,
//! their administration, and the rules that decide whether a test uses a broker or is skipped by name.
//!
//! All functions block the calling thread, because the tests control processes instead of futures. A process started
//! here dies with the program that started it, however that program ends (see [`process`]).

pub mod audit;
pub mod bridge;
pub mod browser;
#[cfg(feature = "clients")]
pub mod certificates;
pub mod cluster;
pub mod configuration;
pub mod fingerprint;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod nats;
pub mod paths;
pub mod platform;
pub mod poll;
pub mod ports;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod reference;
pub mod relay;
pub mod running_broker;
pub mod shared;
pub mod sinks;
pub mod small_disk;
pub mod status;
pub mod tcp_server;
pub mod terminal;
