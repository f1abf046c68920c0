//! A client of WebSocket event feeds, NeuroIO's or any feed with a declaration: connects, authenticates, sends pings,
//! classifies frames, and reconnects whenever the connection ends.
//!
//! - [`EventListener`] is for programs that need the messages of NeuroIO's feed as types, by a handler or as a stream.
//! - [`Source`] is for programs that move many events: it sends batches, which a [`Batcher`] makes of the
//!   events, through a bounded channel, counts the events in a ledger, and publishes its state and counters as
//!   [`SourceStats`].
//!
//! NeuroIO's protocol is known from the platform's public Python and JavaScript clients, their documentation and
//! their tests. Properties marked *assumed* are documented in none of them.

mod attempts;
mod backfill;
mod batch;
mod config;
mod connection;
mod connections;
mod endpoint;
mod error;
mod event;
mod handle;
mod heartbeat;
mod hold;
mod http_dialler;
mod listener;
mod proxy;
mod received;
mod secrets;
mod source;
mod stats;
mod stored;
mod tls;
mod token_from;

use neurobridge_core::throttle;
pub use neurobridge_core::tls::TlsFiles;
pub use neurobridge_protocol::{FeedEvent, MalformedReason};

pub use self::{
    backfill::BackfillConfig,
    batch::{Batcher, MessageBatch, Messages},
    config::{BackoffConfig, EventAttributes, MAX_READ_INTERVAL, SourceConfig},
    connection::http_date::parse_retry_after,
    connections::REPLACEMENT_OVERLAP,
    error::SourceError,
    event::{Entry, Event, Liveness, Message, Mood, Named, PlatformError, Recognition},
    handle::{Handle, InvalidUrl, TokenRequest, TokenState},
    hold::GapEnded,
    http_dialler::{HttpDialError, HttpDialler},
    listener::{EventListener, EventStream, ListenError},
    received::Received,
    secrets::{SecretsError, read_secrets},
    source::{Replacement, Source},
    stats::{
        ConnectionCounts, ConnectionOutcome, Counts, DisconnectCounts, DisconnectReason, FrameCounts,
        FrameKind, Gap, GapCounts, GapOutcome, Label, SourceSnapshot, SourceState, SourceStats,
    },
    stored::StoredPosition,
    tls::TlsSetupError,
    token_from::TokenFromConfig,
};

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
