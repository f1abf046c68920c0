//! A client of the NeuroIO WebSocket event feed: connects, authenticates, sends pings, classifies frames, and
//! reconnects whenever the connection ends.
//!
//! - [`EventListener`] is for programs that need typed messages, by a handler or as a stream.
//! - [`Source`] is for programs that move many events: it sends batches, which a [`Batcher`] makes of the
//!   frames, through a bounded channel, keeps a ledger, and publishes its state and counters as
//!   [`SourceStats`].
//!
//! The protocol is known from the platform's public Python and JavaScript clients, their documentation and
//! their tests. Properties marked *assumed* are documented in none of them.

mod batch;
mod config;
mod connection;
mod error;
mod error_fields;
mod event;
mod frame;
mod heartbeat;
mod listener;
mod proxy;
mod source;
mod stats;
mod tls;
mod token;

use neurobridge_core::throttle;
pub use neurobridge_core::tls::TlsFiles;

pub use self::{
    batch::{Batcher, MessageBatch, Messages},
    config::{BackoffConfig, SourceConfig},
    error::SourceError,
    event::{Entry, Event, Liveness, Message, Mood, Named, PlatformError, Recognition},
    frame::{Content, Frame, MalformedReason},
    listener::{EventListener, EventStream, ListenError},
    source::Source,
    stats::{
        ConnectionCounts, ConnectionOutcome, Counts, DisconnectCounts, DisconnectReason, FrameCounts,
        FrameKind, Gap, GapCounts, GapOutcome, Label, SourceSnapshot, SourceState, SourceStats,
    },
    tls::TlsSetupError,
};

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
