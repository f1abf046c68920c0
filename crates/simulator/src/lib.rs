//! A simulator of the NeuroIO platform for tests, for measurements, and for trying out clients without an account.
//!
//! The simulator implements the protocol of the platform's public clients (the Python package `neuroio` 0.1.2 and
//! `@neuroio/websocket` 1.0.1 connect to it unchanged): the WebSocket feed at `/` and, on the same port, the REST
//! interface for past entries and tokens. It generates realistic entries from a seed, injects faults according to
//! [rules](FaultRule), and records the frames that it sent.
//!
//! Instead of NeuroIO, the simulator can play a *declared feed*: another WebSocket feed, whose protocol is described by a
//! declaration ([`Options::feed`]; the files in `config/feeds` are examples).
//!
//! ```
//! use neurobridge_simulator::{Options, Simulator};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let simulator = Simulator::bind(Options {
//!     rate: Some(100.0),
//!     faults: vec!["close=1001,connection=1,after=50".parse()?],
//!     ..Options::default()
//! })
//! .await?;
//! println!("ws://{}", simulator.local_addr());
//! let (handle, stop) = (simulator.handle(), CancellationToken::new());
//! let running = tokio::spawn(simulator.run(stop.clone()));
//!
//! assert_eq!(handle.counters().connections, 0);
//! stop.cancel();
//! running.await??;
//! # Ok(())
//! # }
//! ```
//!
//! # Delivery
//! All connections and all tokens share one sequence of entries, with ids from 1. NeuroIO has no replay: a connection
//! receives the entries that are created after its authentication. A declared feed with `resume` or `ack` also sends
//! earlier events: the events after the position that the client names, or the events without an acknowledgement.
//!
//! - With a [rate](Options::rate), the clock creates entries, starting with the first authenticated client. Entries
//!   that are created while no authenticated connection is open are never sent (the REST interface still returns them),
//!   unless [`hold`](Options::hold) is set. A slow reader receives its entries later and does not delay other
//!   connections.
//! - Without a rate, entries are created when a connection can send them, so none is lost between two connections. With
//!   several connections, each receives the same sequence, and the slowest sets the pace: no other connection is more
//!   than about a thousand entries ahead. Connections that a rule has made silent or slow do not set the pace.
//!
//! All connections receive the same events. With [`SpreadOptions`] each connection has its own delay, and its own order
//! within blocks.
//!
//! # Recognised entries
//! The platform recognises an entry whether a client is connected or not; with a rate, from the first authenticated
//! client on. `GET /v1/entries/` lists the recognised entries that [`RestOptions`] retains, and the file of
//! [`Options::recognised`] contains one line for each recognised entry, with the time of its recognition:
//! `{"id":1,"at":"2026-03-01T08:00:00.000000Z"}`, by a clock without [deviation](EntryOptions::clock_offset). A declared
//! feed has no `/v1/entries/`: if its declaration has a `backfill`, the simulator answers requests for that list of past
//! events.
//!
//! # Tokens
//! `POST /v1/tokens/` and `POST /v1/spaces/{id}/tokens` create a token, `DELETE /v1/tokens/{id}` deletes it, and
//! `GET /v1/whoami` returns its account and space. [`TokenOptions`] sets the lifetime of temporary tokens and the reaction
//! to their expiry.
//!
//! # The record
//! [`Options::record`] receives one line for each event frame, with exactly the bytes that were sent. An entry is
//! recorded once, when a socket accepts the last byte of its frame for the first time, however many connections receive
//! it. With one connection at a time, the lines are in sending order; with several, neighbouring lines may be out of
//! order. Deliberate copies (`duplicate`, `same-id`) are recorded as separate lines. Frames that are not events are not
//! recorded. A frame that the socket accepted may still be lost if the client closes the connection, or if the rule
//! `reset` does. After `close` and `cut` the frame arrives, provided that the client reads to the end.
//!
//! The record of a declared feed has one line for each event, without copies:
//! `{"number":1,"id":"x1","key":null,"body":…,"frame":…}`. `frame` is a frame with only this event, whereas the frame that
//! was sent may contain several events.

mod connection;
mod declared;
mod entries;
mod faults;
mod feed;
mod handle;
mod http;
mod iam;
mod journal;
mod options;
mod platform;
mod random;
mod recognised;
mod rest;
mod server;
mod tls;
mod wire;

pub use self::{
    declared::{DeclaredFeed, FeedError, Script},
    entries::{Entries, Entry, EntryOptions, EntryResult, MIN_FRAME_BYTES},
    faults::{Every, FaultRule, GRAMMAR, ParseFaultError, Reaction, RestFault},
    handle::Handle,
    iam::{MAX_PERMANENT_TOKENS, TokenEnd, TokenOptions},
    options::{MAX_FRAME_BYTES, Options, OptionsError, SpreadOptions, TlsFiles},
    platform::Counters,
    rest::{RestOptions, RestOrder, RestShape},
    server::{BindError, RunError, Simulator},
    tls::TlsError,
};
