//! The NeuroIO platform, simulated: for tests, for measurements, and to see events without an account.
//!
//! It speaks what the platform's public clients speak (the Python package `neuroio` 0.1.2 and `@neuroio/websocket` 1.0.1
//! connect to it unchanged): the WebSocket feed at `/`, and on the same port the REST interface for what was missed. It makes
//! realistic entries out of a seed, misbehaves by [rules](FaultRule), and writes down what it sent.
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
//! # Who gets what
//! There is one sequence of entries, with ids from 1, for all connections and all tokens, and no replay: a connection gets what
//! comes after it was authorised.
//!
//! - With a [rate](Options::rate) entries come by the clock, from the first authorised client on. What comes while no authorised
//!   connection is open is lost (the REST interface still has it), unless the options say [`hold`](Options::hold). A client that
//!   reads slowly gets its entries later; it holds nobody back.
//! - Without a rate entries come by being read: none is lost between two connections. With several connections each gets the same
//!   sequence, and the slowest sets the pace: no other is more than about a thousand entries ahead of it. Connections that a rule
//!   has made silent or slow are not waited for.
//!
//! # What is written down
//! [`Options::record`] gets a line for each event frame, its bytes as they were sent. An entry is written once, when a socket has
//! taken the last byte of its frame for the first time, whether one connection gets it or ten; with one connection at a time the
//! lines are in the order of sending, with several they may differ from it by what lies between the connections. Copies sent on
//! purpose (`duplicate`, `same-id`) are lines of their own. Frames that are no events are not written. What a socket has taken may
//! still be lost with a connection that the client, or the rule `reset`, breaks off; after `close` and `cut` it arrives, if the
//! client reads on to the end.

mod connection;
mod entries;
mod faults;
mod feed;
mod handle;
mod http;
mod journal;
mod options;
mod platform;
mod random;
mod rest;
mod server;
mod tls;
mod wire;

pub use self::{
    entries::{Entries, Entry, EntryResult, MIN_FRAME_BYTES},
    faults::{Every, FaultRule, GRAMMAR, ParseFaultError, Reaction},
    handle::Handle,
    options::{MAX_FRAME_BYTES, Options, OptionsError, TlsFiles},
    platform::Counters,
    rest::{MAX_PAGE, REST_WINDOW},
    server::{BindError, RunError, Simulator},
    tls::TlsError,
};
