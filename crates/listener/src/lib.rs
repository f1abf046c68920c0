//! A client of the NeuroIO WebSocket event feed: connects, authorises, pings, tells the kinds of frames apart, and
//! connects again whenever the connection ends.
//!
//! - [`EventListener`] is for programs that want typed messages, by a handler or as a stream.
//! - [`Source`] is for programs that move many events: it hands on what a [`Batcher`] makes of the frames through a bounded
//!   channel, keeps a ledger, and says of itself what there is to say in its [`SourceStats`].
//!
//! What is known of the protocol comes from the platform's public Python and JavaScript clients, their documentation
//! and their tests; what is marked *assumed* is stated by none of them.

mod backoff;
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
mod throttle;
mod tls;
mod token;

pub use tokio_tungstenite::tungstenite::Utf8Bytes;

pub use self::{
    batch::{Batcher, FrameBatch, Frames},
    config::{BackoffConfig, SourceConfig, TlsFiles},
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
