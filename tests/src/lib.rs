//! What the end-to-end tests and the chores share: real brokers as child processes, their certificates, their
//! administration, and the rules by which a test finds a broker or is skipped by name.
//!
//! Everything here blocks the calling thread: the tests drive processes, not futures. A process started here dies
//! with the program that started it, whatever ends that program (see [`process`]).

pub mod audit;
pub mod bridge;
pub mod browser;
#[cfg(feature = "clients")]
pub mod certificates;
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
pub mod shared;
pub mod small_disk;
pub mod standing;
pub mod status;
pub mod terminal;
